"""The script `promo`: what it says when something is missing, and that it does no work twice."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from infra.local.state import ROOT

TOOLS = ("awk", "cksum", "cut", "dirname", "mkdir", "sed", "tail", "cat", "sh", "env")


class Checkout:
    """A copy of the files the script reads, and a PATH with nothing on it but what a test puts there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "checkout"
        self.programs = folder / "bin"
        self.folder.mkdir()
        self.programs.mkdir()
        for name in ("promo", "pyproject.toml", "requirements.lock"):
            shutil.copy(ROOT / name, self.folder / name)
        for tool in TOOLS:
            (self.programs / tool).symlink_to(str(shutil.which(tool)))

    def put(self, name: str, script: str) -> None:
        (self.programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (self.programs / name).chmod(0o755)

    def run(self, *arguments: str, more: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        env = {"PATH": str(self.programs), "HOME": str(self.folder), **(more or {})}
        command = [str(self.folder / "promo"), *arguments]
        return subprocess.run(command, cwd="/", env=env, capture_output=True, text=True, check=False, timeout=50)


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_without_a_new_enough_python_it_says_so_in_one_line(checkout: Checkout) -> None:
    checkout.put("python3", "exit 1")  # an old one: the version check fails
    done = checkout.run("status")

    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "promo: Python 3.11 or newer is needed and not on PATH: install it, or name it in PROMO_PYTHON"
    )


def test_a_python_without_venv_is_told_with_its_remedy(checkout: Checkout) -> None:
    checkout.put("python3", 'case "$2" in *ensurepip*) exit 1;; esac')
    done = checkout.run("status")

    assert done.returncode == 1
    assert "apt install python3-venv" in done.stderr.splitlines()[-1]


def test_without_a_network_it_says_so_and_where_the_log_is(checkout: Checkout) -> None:
    checkout.put("python3", f'exec {sys.executable} "$@"')
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0", "PIP_CONFIG_FILE": os.devnull}
    done = checkout.run("status", more=nowhere)

    assert done.returncode == 1
    assert "cannot fetch packages: check the network" in done.stderr.splitlines()[-1]
    assert "No matching distribution found for uv==" in (checkout.folder / ".promo/bootstrap.log").read_text()


def installed(checkout: Checkout, groups: str) -> None:
    """A .venv whose stamp says what was installed, and whose python and uv tell how they were called."""
    binaries = checkout.folder / ".venv/bin"
    binaries.mkdir(parents=True)
    for name in ("python", "uv"):
        (binaries / name).write_text(f'#!/bin/sh\nprintf "%s\\n" "{name} $*"\n')
        (binaries / name).chmod(0o755)
    lock = subprocess.run(
        ["cksum", "requirements.lock", "pyproject.toml"],
        cwd=checkout.folder,
        capture_output=True,
        text=True,
        check=True,
    )
    (checkout.folder / ".venv/promo.stamp").write_text(f"{lock.stdout}{groups}\n")


def test_what_is_installed_is_not_installed_again(checkout: Checkout) -> None:
    installed(checkout, " local dev")

    assert checkout.run("check", "--flag", "two words").stdout == "python -m infra.local check --flag two words\n"
    assert checkout.run().stdout == "python -m infra.local\n"


def test_a_group_that_is_missing_is_installed_and_stamped(checkout: Checkout) -> None:
    installed(checkout, " local")
    checkout.put("go", "")  # else the group with Go would be wanted too
    done = checkout.run("test")

    assert done.stderr.startswith("promo: installing dev from the lock")
    assert (checkout.folder / ".promo/bootstrap.log").read_text().startswith("uv pip install -q")
    assert "--require-hashes" in (checkout.folder / ".promo/bootstrap.log").read_text()
    assert (checkout.folder / ".venv/promo.stamp").read_text().splitlines()[-1].split() == ["local", "dev"]


def test_tests_bring_a_go_where_there_is_neither_go_nor_etcd(checkout: Checkout) -> None:
    installed(checkout, " local")

    assert "installing dev observe from the lock" in checkout.run("test").stderr


def test_a_changed_lock_installs_again(checkout: Checkout) -> None:
    installed(checkout, " local")
    with (checkout.folder / "requirements.lock").open("a") as lock:
        lock.write("# changed\n")

    assert checkout.run("status").stderr.startswith("promo: installing local from the lock")
