"""What is deployed elsewhere agrees with what runs here: names, ports, topics, probes, grace periods."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.local.platform import DEAD_LETTERS, OPERATIONS, PROCESSES, TOPICS, Process
from infra.run import WATCHDOG_SECONDS
from infra.settings import Settings
from tests.house.env_example import PROCESSES as SETTINGS

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "infra/deploy/compose"
KUBERNETES = ROOT / "infra/deploy/kubernetes"


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((COMPOSE / "compose.yml").read_text())
    return loaded


def manifests(name: str) -> dict[str, dict[str, Any]]:
    return {each["kind"]: each for each in yaml.safe_load_all((KUBERNETES / f"{name}.yaml").read_text())}


def known(process: Process) -> set[str]:
    return {name.upper() for name in SETTINGS[process.name].model_fields}


def test_the_compose_file_obeys_its_schema() -> None:
    checker = Path(sys.executable).parent / "check-jsonschema"
    command = [str(checker), "--builtin-schema", "vendor.compose-spec", str(COMPOSE / "compose.yml")]
    subprocess.run(command, check=True, capture_output=True)


def test_each_image_is_pinned_to_a_version() -> None:
    images = [each["image"] for each in compose()["services"].values() if "build" not in each]
    assert all(re.fullmatch(r"[a-z/-]+:\d+\.\d+[\w.-]*", image) for image in images), images


@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: process.name)
def test_compose_sets_only_what_the_process_knows(process: Process) -> None:
    service = compose()["services"][process.name]
    assert service["command"] == [process.name, "serve"]
    assert set(service["environment"]) <= known(process)
    assert service["environment"]["DATABASE_URL"].endswith(f"/{process.database}")
    assert int(service["stop_grace_period"].removesuffix("s")) > Settings().drain_seconds + WATCHDOG_SECONDS


def test_compose_makes_the_databases_and_the_topics() -> None:
    assert set(re.findall(r"CREATE DATABASE (\w+)", (COMPOSE / "databases.sql").read_text())) == {
        process.database for process in PROCESSES
    }
    script = (COMPOSE / "topics.sh").read_text()
    named = set(re.findall(r"\b[a-z]+\.[a-z]+\b", script[script.index("for topic in") : script.index("; do")]))
    assert named == set(TOPICS)
    assert f'make "$topic{DEAD_LETTERS}" 3' in script


def test_the_image_holds_the_list_of_known_settings() -> None:
    assert "COPY .env.example" in (COMPOSE / "Dockerfile").read_text()


@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: process.name)
def test_kubernetes_agrees_with_the_process(process: Process) -> None:
    pod = manifests(process.name)["Deployment"]["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert container["args"] == [process.name, "serve"]
    assert {each["name"] for each in container["env"]} <= known(process)
    assert {each["containerPort"] for each in container["ports"]} == set(process.ports.values())
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "operations"}
    assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "operations"}
    assert pod["terminationGracePeriodSeconds"] > Settings().drain_seconds + WATCHDOG_SECONDS
    assert pod["enableServiceLinks"] is False
    assert manifests(process.name)["Service"]["spec"]["ports"][0]["port"] == process.ports[process.public]
    assert process.ports[OPERATIONS] in {each["containerPort"] for each in container["ports"]}


@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: process.name)
def test_kubernetes_settings_are_known_to_every_process(process: Process) -> None:
    settings = yaml.safe_load((KUBERNETES / "settings.yaml").read_text())["data"]
    others = {name for each in SETTINGS.values() for name in map(str.upper, each.model_fields)}
    assert set(settings) <= others
