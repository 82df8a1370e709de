"""`promo check`: lint, types, architecture, contracts, generated files. A line a step, the output of what fails."""

import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from infra.local.generate import GOOGLE_APIS, generated_code, generated_documents
from infra.local.state import ROOT
from infra.local.tools import Done, tool, tracked

PACKAGES = ("gateway", "coupon", "point", "timesale", "infra", "tests")
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
        Step("mypy", lambda: tool("mypy", *packages)),
        Step("lint-imports", lambda: tool("lint-imports", "--no-cache")),
        Step("generated code", generated_code),
        Step("documents", generated_documents),
        Step("buf lint", lambda: _buf("lint")),
        Step("buf format", lambda: _buf("format", "-d", "--exit-code", "--path", "protos")),
        Step("buf breaking", buf_breaking),
        Step("ruff check", lambda: tool("ruff", "check", ".")),
        Step("ruff format", lambda: tool("ruff", "format", "--check", ".")),
        Step("yamllint", lambda: tool("yamllint", "--strict", "-d", YAML_RULES, *tracked("*.yml", "*.yaml"))),
        Step("squawk", migrations),
    ]


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
    return tool(
        "squawk",
        "--assume-in-transaction",
        "--pg-version=15",
        f"--exclude={','.join(MIGRATION_RULES_OFF)}",
        *tracked("*/migrations/*.sql"),
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
    return tool("buf", *arguments)


def _copy_google_apis(tree: Path) -> None:
    """buf runs offline: what our protos import of Google's is copied to where buf.yaml looks for it."""
    copy = tree / ".promo" / "googleapis" / "google" / "rpc" / "status.proto"
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(GOOGLE_APIS / "google/rpc/status.proto", copy)


def _git(*arguments: str) -> str:
    """What git prints; empty when it fails."""
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""
