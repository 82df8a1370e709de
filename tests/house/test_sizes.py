"""A function fits on a screen, a file on a few, and whoever silences a rule says which and why."""

import ast
import re

import pytest

from tests.house.sources import PACKAGES, files, python, text, tree

FUNCTION_LINES_MAX = 40
FILE_LINES_MAX = 300
OURS = python(*PACKAGES)
SUPPRESSION = re.compile(r"#\s*(noqa|type:\s*ignore|pragma:|nosec|pylint:|ruff:|mypy:)")
EXPLAINED = re.compile(
    r"#\s(?:noqa: [A-Z]+\d+(?:, [A-Z]+\d+)*|type: ignore\[[a-z-]+(?:, [a-z-]+)*\])\s+(?:- |# )?[`(]?\w[^#]{5,}"
)


def test_no_file_is_longer_than_a_few_screens() -> None:
    assert {path: lines for path in OURS if (lines := text(path).count("\n")) > FILE_LINES_MAX} == {}


def test_no_function_is_longer_than_a_screen() -> None:
    assert [
        f"{path}:{node.lineno} {node.name} has {lines} lines"
        for path in OURS
        for node in ast.walk(tree(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (lines := (node.end_lineno or 0) - node.lineno + 1) > FUNCTION_LINES_MAX
    ] == []


def test_every_suppression_names_its_rule_and_its_reason() -> None:
    assert [
        f"{path}:{number} {line.strip()}"
        for path in python(*PACKAGES, "tests")
        if path != "tests/house/test_sizes.py"
        for number, line in enumerate(text(path).splitlines(), 1)
        if SUPPRESSION.search(line) and not EXPLAINED.search(line)
    ] == []


@pytest.mark.parametrize(
    ("line", "good"),
    [
        ("x = 1  # noqa: S311 - jitter, no secret", True),
        ("x = 1  # type: ignore[arg-type]  # the cases are wrong on purpose", True),
        ("x = 1  # noqa", False),
        ("x = 1  # noqa: S311", False),
        ("x = 1  # type: ignore", False),
        ("x = 1  # type: ignore[arg-type]", False),
    ],
)
def test_a_suppression_without_rule_or_reason_is_seen(line: str, good: bool) -> None:
    assert SUPPRESSION.search(line)
    assert bool(EXPLAINED.search(line)) is good


def test_no_room_is_a_lumber_room() -> None:
    lumber = re.compile(r"(^|/)(utils?|helpers?|common|managers?|misc|base)(\.py$|/)")
    assert [path for path in files("*.py") if lumber.search(path)] == []
