"""`promo check` names what is wrong with generated code."""

import subprocess
from pathlib import Path

import pytest

from infra.local import generate as generating
from infra.local import tools
from infra.local.generate import generated_code, protoc

PROTO = 'syntax = "proto3";\npackage some.v1;\nmessage Thing { string id = 1; }\n'
SERVICE = "service Things { rpc Make(Thing) returns (Thing); }\n"


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small repository with one proto and no generated code."""
    subprocess.run(["git", "init", "-q", "."], cwd=tmp_path, check=True)
    (tmp_path / "protos").mkdir()
    (tmp_path / "protos/thing.proto").write_text(PROTO)
    monkeypatch.setattr(generating, "ROOT", tmp_path)
    monkeypatch.setattr(tools, "ROOT", tmp_path)
    return tmp_path


def generate(tree: Path) -> None:
    assert protoc(["protos/thing.proto"], tree).wrong == ""


def test_code_that_was_never_generated_is_named(tree: Path) -> None:
    assert generated_code().wrong.splitlines() == [
        "protos/thing_pb2.py: not committed",
        "protos/thing_pb2.pyi: not committed",
    ]


def test_code_that_is_fresh_is_right_and_a_service_has_its_stubs(tree: Path) -> None:
    (tree / "protos/thing.proto").write_text(PROTO + SERVICE)
    generate(tree)

    assert generated_code() == tools.Done("", "4 files")


def test_code_that_is_older_than_its_proto_is_named(tree: Path) -> None:
    generate(tree)
    (tree / "protos/thing.proto").write_text(PROTO.replace("string id", "int64 id"))

    assert "protos/thing_pb2.py: differs from its proto" in generated_code().wrong


def test_code_without_a_proto_is_named(tree: Path) -> None:
    generate(tree)
    (tree / "protos/gone_pb2.py").write_text("")

    assert generated_code().wrong == "protos/gone_pb2.py: not generated from a proto"


def test_a_proto_that_is_wrong_is_shown_as_the_compiler_says_it(tree: Path) -> None:
    (tree / "protos/thing.proto").write_text("nonsense")

    assert "thing.proto:1:1" in generated_code().wrong
