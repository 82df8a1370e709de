"""`promo check`: lint, types, architecture, contracts, generated files. A line a step, the output of what fails."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import google.rpc

from infra.local.state import ROOT

BIN = Path(sys.executable).parent
PACKAGES = ("gateway", "coupon", "point", "timesale", "infra", "tests")
GOOGLE_APIS = Path(google.rpc.__path__[0]).parents[1]  # where `google/rpc/status.proto` can be included from
# Events are read by others: their files may not even move.
EVENTS_CONFIG = """
version: v2
modules: [{path: ., includes: [protos]}, {path: .promo/googleapis}]
breaking: {use: [FILE], ignore: [.promo/googleapis, protos/caller, protos/coupon, protos/point, protos/timesale]}
"""
YAML_RULES = (
    "{extends: default, rules: {line-length: {max: 160}, document-start: disable, truthy: {check-keys: false}}}"
)
SIDE_BY_SIDE = 2
SECONDS_MAX = 600
# What squawk finds in every first migration, and why it is no finding here.
MIGRATION_RULES_OFF = {
    "ban-drop-table": "the half after migrate:down",
    "ban-drop-domain": "the same",
    "ban-drop-function": "the same",
    "ban-create-domain-with-constraint": "user_key and minor are one idea each, checked wherever they stand",
    "prefer-bigint-over-int": "counts are bounded by a constraint; ids are bigint",
    "prefer-robust-stmts": "the runner applies each file in a transaction, once",
    "require-concurrent-index-creation": "the same; an index on a live table is a file of its own",
    "require-lock-timeout": "the runner sets it",
    "require-statement-timeout": "the runner sets it",
}


@dataclass(frozen=True)
class Done:
    """The outcome of a step: what is wrong (empty: nothing), and a note for a person."""

    wrong: str
    note: str = ""


@dataclass(frozen=True)
class Step:
    name: str
    run: Callable[[], Done]


def check(say: Callable[[str], None]) -> bool:
    """Run every step, two at a time. Whether all passed."""
    with ThreadPoolExecutor(SIDE_BY_SIDE) as threads:
        passed = [threads.submit(_report, step, say) for step in steps()]
        return all([step.result() for step in passed])


def steps() -> list[Step]:
    """All steps, the slowest first."""
    packages = [name for name in PACKAGES if (ROOT / name).is_dir()]
    return [
        Step("mypy", lambda: _tool("mypy", *packages)),
        Step("lint-imports", lambda: _tool("lint-imports", "--no-cache")),
        Step("generated code", generated_code),
        Step("buf lint", lambda: _buf("lint")),
        Step("buf format", lambda: _buf("format", "-d", "--exit-code", "--path", "protos")),
        Step("buf breaking", buf_breaking),
        Step("ruff check", lambda: _tool("ruff", "check", ".")),
        Step("ruff format", lambda: _tool("ruff", "format", "--check", ".")),
        Step("yamllint", lambda: _tool("yamllint", "--strict", "-d", YAML_RULES, *_tracked("*.yml", "*.yaml"))),
        Step("squawk", migrations),
    ]


def generated_code() -> Done:
    """Generate all protobuf code anew and compare it with what is committed."""
    protos = _tracked("*.proto")
    with tempfile.TemporaryDirectory() as fresh:
        failed = generate(protos, Path(fresh)).wrong
        if failed:
            return Done(failed)
        made = {path.relative_to(fresh).as_posix(): path.read_text() for path in Path(fresh).rglob("*_pb2*")}
    committed = set(_tracked("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi"))
    wrong = [f"{path}: not generated from a proto" for path in sorted(committed - made.keys())]
    wrong += [f"{path}: not committed" for path in sorted(made.keys() - committed)]
    wrong += [
        f"{path}: differs from its proto" for path in sorted(committed & made.keys()) if _read(path) != made[path]
    ]
    return Done("\n".join(wrong), f"{len(made)} files")


def generate(protos: Sequence[str], folder: Path) -> Done:
    """Import path = file path, so everything is generated from the root; stubs only for files with a service."""
    plain = ["--python_out", "--mypy_out"]
    services = [path for path in protos if "\nservice " in _read(path)]
    protoc = [sys.executable, "-m", "grpc_tools.protoc", "-I", ".", "-I", str(GOOGLE_APIS)]
    done = _run([*protoc, *(f"{out}={folder}" for out in plain), *protos])
    if done.wrong or not services:
        return done
    return _run([*protoc, f"--grpc_python_out={folder}", f"--mypy_grpc_out={folder}", *services])


def buf_breaking() -> Done:
    """Nobody who speaks the last tag's contracts breaks, or, without a tag, the commit before's."""
    tag = _git("describe", "--tags", "--abbrev=0")
    base = tag or _git("rev-parse", "--verify", "-q", "HEAD~1")
    if not base:
        return Done("", "no commit before this one")
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        if not _git("archive", f"--output={tree / 'tree.tar'}", base, "protos", "buf.yaml"):
            shutil.unpack_archive(tree / "tree.tar", tree, filter="data")
        _copy_google_apis(tree)
        internal = _buf("breaking", "--against", folder)
        events = _buf("breaking", "--against", folder, "--config", EVENTS_CONFIG, "--against-config", EVENTS_CONFIG)
    return Done("\n".join(filter(None, (internal.wrong, events.wrong))), f"against {tag or base[:7]}")


def migrations() -> Done:
    """Lint the SQL of the migrations."""
    return _tool(
        "squawk",
        "--assume-in-transaction",
        "--pg-version=15",
        f"--exclude={','.join(MIGRATION_RULES_OFF)}",
        *_tracked("*/migrations/*.sql"),
    )


def _report(step: Step, say: Callable[[str], None]) -> bool:
    begin = time.monotonic()
    done = step.run()
    mark = "✗" if done.wrong else "✓"
    say(f"{mark} {step.name:<16} {time.monotonic() - begin:5.1f} s  {done.note}".rstrip())
    if done.wrong:
        say(done.wrong)
    return not done.wrong


def _buf(*arguments: str) -> Done:
    _copy_google_apis(ROOT)
    return _tool("buf", *arguments)


def _copy_google_apis(tree: Path) -> None:
    """buf runs offline: what our protos import of Google's is copied to where buf.yaml looks for it."""
    copy = tree / ".promo" / "googleapis" / "google" / "rpc" / "status.proto"
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(GOOGLE_APIS / "google/rpc/status.proto", copy)


def _git(*arguments: str) -> str:
    """What git prints; empty when it fails."""
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def _tool(name: str, *arguments: str) -> Done:
    return _run([str(BIN / name), *arguments])


def _run(command: Sequence[str]) -> Done:
    env = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}  # protoc looks for its plugins there
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=SECONDS_MAX, check=False)
    output = (done.stdout + done.stderr).strip()
    return Done((output or f"exit code {done.returncode}") if done.returncode else "")


def _tracked(*patterns: str) -> list[str]:
    """The files of the checkout that git knows, or would take."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return sorted(path for path in set(listed) if (ROOT / path).exists())


def _read(path: str) -> str:
    return (ROOT / path).read_text()
