"""What the pages name is there, and nothing names a machine it was written on."""

import re
from posixpath import dirname, normpath

import pytest
from typer.main import get_command

from infra.local.__main__ import app
from tests.house.sources import PACKAGES, WORKERS, exists, files, text

PAGES = files("*.md")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
NAME = r"[A-Za-z0-9_.<>{}*,-]+"
PATH = re.compile(rf"`((?:{NAME}/)+(?:{NAME})?|{NAME}\.(?:py|md|proto|sql|lua|yaml|yml|toml|lock|json|jars|sh))`")
COMMAND = re.compile(r"\./promo ([a-z]+)(?: ([a-z|]+)(?= |\)|`|$))?")
OPTION = re.compile(r"(--[a-z][a-z-]+)")
# A machine's own folders, at the beginning of a path. A container's and the system's are nobody's own.
MACHINE = re.compile(r"(?<![\w.$}/:-])/(?:(?:work|root|home|Users|mnt|private)\b|tmp/[a-z]/)")
REGISTRY = re.compile(
    r"\b(?:pypi|python[h]osted|maven|npmjs)\.(?:org|com)\b|proxy[.]golang|artifactory|(?<!UV_DEFAULT_)INDEX_URL\s*=",
    re.IGNORECASE,
)
HARMLESS = {
    "tests/house/test_docs.py": "the patterns themselves",
    "tests/unit/test_settings.py": "HOME of nobody, to show that a foreign name is nobody's business",
    "tests/local/test_lock.py": "says what the lock must not name",
}
# Words with a slash or an ending that are no paths of ours.
NO_PATHS = {"application/json", "application/problem+json", "openapi.json"}


def named_paths(page: str) -> set[str]:
    """Paths a page names in backticks. A name with a placeholder or a star stands for many."""
    return {path for path in PATH.findall(text(page)) if not re.search(r"[<>{}*]", path) and path not in NO_PATHS}


def is_there(page: str, path: str) -> bool:
    """Beside the page, from the root, or, as a bare name of a room, in every worker."""
    rooms = [f"{worker}/{path}" for worker in WORKERS]
    return (
        exists(normpath(f"{dirname(page) or '.'}/{path}"))
        or exists(path)
        or exists(f"infra/local/{path}")
        or ("/" not in path.rstrip("/") and any(exists(room) for room in (*rooms, f"gateway/{path}")))
    )


@pytest.mark.parametrize("page", PAGES)
def test_every_relative_link_leads_to_something(page: str) -> None:
    links = [link.split("#")[0] for link in LINK.findall(text(page)) if "://" not in link and not link.startswith("#")]
    assert [link for link in links if not exists(normpath(f"{dirname(page) or '.'}/{link}"))] == []


@pytest.mark.parametrize("page", PAGES)
def test_every_path_a_page_names_is_there(page: str) -> None:
    assert sorted(path for path in named_paths(page) if not path.startswith("/") and not is_there(page, path)) == []


def test_every_test_the_page_of_tests_names_is_there() -> None:
    named = re.findall(r"`([a-z0-9_]+/[a-z0-9_]+\.py)::([a-z0-9_]+)`", text("tests/README.md"))
    assert len(named) > 100
    assert [f"{path}::{name}" for path, name in named if not is_test(f"tests/{path}", name)] == []


def is_test(path: str, name: str) -> bool:
    return exists(path) and re.search(rf"^(async )?def test_{name}\(", text(path), re.MULTILINE) is not None


def test_every_decision_is_in_the_list_of_decisions() -> None:
    listed = set(LINK.findall(text("infra/decisions/README.md")))
    pages = {path.split("/")[-1] for path in files("infra/decisions/[0-9]*.md")}
    assert pages
    assert pages == {link for link in listed if link[0].isdigit()}


def commands() -> dict[str, set[str]]:
    """Every command and the names of its own commands."""
    root = get_command(app)
    return {name: set(getattr(command, "commands", {})) for name, command in root.commands.items()}  # type: ignore[attr-defined]  # typer says Command, and it is a group


@pytest.mark.parametrize("page", PAGES)
def test_every_command_a_page_names_is_one(page: str) -> None:
    known = commands()
    for command, after in COMMAND.findall(text(page)):
        assert command in known, command
        if known[command] and after:
            assert set(after.split("|")) <= known[command], f"{command} {after}"


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_every_option_a_page_names_is_one_of_its_command(page: str) -> None:
    root = get_command(app)
    for line in re.findall(r"\./promo [^`\n]*", text(page)):
        name = line.split()[1]
        command = root.commands[name]  # type: ignore[attr-defined]  # as above
        inner = getattr(command, "commands", {}).values()
        known = {option for each in (command, *inner) for one in each.params for option in one.opts}
        words = line.split("#")[0]
        assert set(OPTION.findall(words)) <= known | {"--full"}, line


def test_every_command_shows_an_example() -> None:
    root = get_command(app)
    shown = [*root.commands.items()]  # type: ignore[attr-defined]  # as above
    shown += [item for _, command in shown for item in getattr(command, "commands", {}).items()]
    leaves = {name: command for name, command in shown if not hasattr(command, "commands")}
    assert [name for name, command in leaves.items() if "Example: ./promo" not in (command.help or "")] == []


def test_nothing_names_a_machine_or_a_registry() -> None:
    found = []
    for path in files():
        if path in HARMLESS or path.endswith((".sum", ".jars")):
            continue
        for number, line in enumerate(text(path).splitlines(), 1):
            if MACHINE.search(line) or REGISTRY.search(line):
                found.append(f"{path}:{number} {line.strip()[:100]}")
    assert found == []


@pytest.mark.parametrize("folder", [*(package for package in PACKAGES if package != "infra"), "infra/deploy", "tests"])
def test_every_part_has_its_page(folder: str) -> None:
    assert exists(f"{folder}/README.md")
