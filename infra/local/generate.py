"""`promo generate`: the generated files, made anew; `promo check` compares them with what is committed."""

import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import google.rpc

from infra.local.failures import Failed
from infra.local.state import ROOT
from infra.local.tools import Done, run, start, tracked

GOOGLE_APIS = Path(google.rpc.__path__[0]).parents[1]  # where `google/rpc/status.proto` can be included from
# Documents that a process of the platform prints itself.
DOCUMENTS = {
    "gateway/openapi.json": ("gateway", "openapi"),
    "protos/events/asyncapi.yaml": ("infra.local.asyncapi",),
}


def generate(say: Callable[[str], None]) -> None:
    """Write all generated files.

    :raises Failed: a generator said no.
    """
    protos = tracked("*.proto")
    if wrong := protoc(protos, ROOT).wrong:
        raise Failed(wrong)
    say(f"code of {len(protos)} protos")
    for path, command in DOCUMENTS.items():
        (ROOT / path).write_text(_document(command))
        say(path)


def generated_code() -> Done:
    """What of the protobuf code differs from its protos."""
    with tempfile.TemporaryDirectory() as fresh:
        if wrong := protoc(tracked("*.proto"), Path(fresh)).wrong:
            return Done(wrong)
        made = {path.relative_to(fresh).as_posix(): path.read_text() for path in Path(fresh).rglob("*_pb2*")}
    committed = set(tracked("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi"))
    wrongs = [f"{path}: not generated from a proto" for path in sorted(committed - made.keys())]
    wrongs += [f"{path}: not committed" for path in sorted(made.keys() - committed)]
    wrongs += [
        f"{path}: differs from its proto" for path in sorted(committed & made.keys()) if _read(path) != made[path]
    ]
    return Done("\n".join(wrongs), f"{len(made)} files")


def generated_documents() -> Done:
    """What of the documents differs from what the code says."""
    try:
        wrongs = [f"{path}: run ./promo generate" for path, made in DOCUMENTS.items() if _read(path) != _document(made)]
    except Failed as failed:
        return Done(str(failed))
    return Done("\n".join(wrongs), f"{len(DOCUMENTS)} files")


def protoc(protos: Sequence[str], folder: Path) -> Done:
    """Import path = file path, so everything is generated from the root; stubs only for files with a service."""
    services = [path for path in protos if "\nservice " in _read(path)]
    compiler = [sys.executable, "-m", "grpc_tools.protoc", "-I", ".", "-I", str(GOOGLE_APIS)]
    done = run([*compiler, f"--python_out={folder}", f"--mypy_out={folder}", *protos])
    if done.wrong or not services:
        return done
    return run([*compiler, f"--grpc_python_out={folder}", f"--mypy_grpc_out={folder}", *services])


def _document(command: Sequence[str]) -> str:
    done = start([sys.executable, "-m", *command])
    if done.returncode:
        raise Failed(f"python -m {' '.join(command)}: {(done.stdout + done.stderr).strip()}")
    return done.stdout


def _read(path: str) -> str:
    return (ROOT / path).read_text()
