"""The lock and the jars: exact, hashed, and without the host they came from."""

import re
from pathlib import Path

import pytest

from infra.local.failures import StartFailed
from infra.local.servers.kafka import JARS, fetch_jars
from infra.local.state import ROOT

COORDINATE = "org.some:thing:1.0"


def jar(cache: Path, content: bytes) -> Path:
    """A jar that was fetched into `cache` before."""
    file = cache / "org/some/thing/1.0/thing-1.0.jar"
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    return file


def test_the_lock_names_no_host() -> None:
    lock = (ROOT / "requirements.lock").read_text()

    assert "://" not in lock
    assert "--index" not in lock


def test_everything_in_the_lock_is_exact_and_hashed() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    requirements = re.split(r"\n(?=[a-z0-9])", lock.strip())

    assert len(requirements) > 100
    assert [
        one for one in requirements if not re.match(r"[a-z0-9._\[\]-]+==\S+", one) or "--hash=sha256:" not in one
    ] == []


def test_every_jar_of_kafka_has_its_checksum() -> None:
    lines = JARS.read_text().splitlines()

    assert len(lines) == 46
    assert [line for line in lines if not re.fullmatch(r"[\w.-]+:[\w.-]+:[\w.-]+ [0-9a-f]{64}", line)] == []
    assert sum(line.startswith("org.apache.kafka:kafka_2.13:4.3.1 ") for line in lines) == 1


def test_a_jar_that_is_the_locked_one_is_taken_from_the_cache(tmp_path: Path) -> None:
    file = jar(tmp_path, b"some")
    line = f"{COORDINATE} a6b46dd0d1ae5e86cbc8f37e75ceeb6760230c1ca4ffbcb0c97b96dd7d9c464b"

    assert fetch_jars([line], tmp_path) == [file]


def test_a_tampered_jar_is_deleted_and_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = jar(tmp_path, b"tampered")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # fetching it again fails at once

    with pytest.raises(StartFailed):
        fetch_jars([f"{COORDINATE} a6b46dd0d1ae5e86cbc8f37e75ceeb6760230c1ca4ffbcb0c97b96dd7d9c464b"], tmp_path)
    assert not file.exists()


def test_without_a_network_the_remedy_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")

    with pytest.raises(StartFailed, match=r"cannot fetch Kafka from Maven Central.*set KAFKA_BROKERS"):
        fetch_jars([f"{COORDINATE} {'0' * 64}"], tmp_path)
