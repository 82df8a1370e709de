"""The same job has the same room everywhere, and what crosses a border is declared."""

import re
from pathlib import Path

import asyncpg
import pytest
from prometheus_client.core import Metric

from infra.errors import Refused
from infra.migrate import migrate
from infra.telemetry import metrics
from tests.conftest import MakeDatabase
from tests.house.sources import WORKERS, exists, files, import_everything, text

ROOMS = (
    *("__main__.py", "settings.py", "rpc.py", "store.py", "events.py", "messages.py", "metrics.py", "invariants.py"),
    *("look_up.py", "sql/queries.sql", "sql/migrations", "README.md"),
)
SCRIPTS = files("*.lua")
MIGRATIONS = files("*/sql/**/*.sql")
PARTS = "|".join(("http", "rpc", "db", "messaging", "process", "python", "promo"))
# Prometheus has one unit for each thing that is measured.
ODD_UNITS = re.compile(r"_(ms|milliseconds|microseconds|minutes|hours|days|kb|kilobytes|mb|megabytes|percent)(_|$)")
HISTOGRAM_UNITS = ("_seconds", "_size", "_bytes")
LABELS_THAT_ARE_IDS = {
    "time_sale_id": "of the sales that are on, as many as a setting allows",
    "messaging_destination_partition_id": "a topic has few",
}


@pytest.mark.parametrize("worker", WORKERS)
def test_every_worker_has_the_same_rooms(worker: str) -> None:
    assert [room for room in ROOMS if not exists(f"{worker}/{room}")] == []
    assert exists(f"{worker}/rules.py") != exists(f"{worker}/rules/__init__.py")


def test_every_script_says_what_it_takes_and_returns() -> None:
    assert len(SCRIPTS) >= 4
    for path in SCRIPTS:
        header = re.match(r"(?:--.*\n)+", text(path))
        assert header, f"{path} has no header"
        assert {word for word in ("KEYS[", "ARGV[") if word not in header[0]} == set(), path
        assert re.search(r"^-- Returns\b", header[0], re.MULTILINE), path


def test_every_script_has_one_loader() -> None:
    code = "".join(text(path) for path in files("*.py") if not path.startswith("tests/"))
    assert [path for path in SCRIPTS if code.count(Path(path).name) != 1] == []


def test_every_migration_can_be_applied_and_is_numbered_without_gaps() -> None:
    folders: dict[str, list[str]] = {}
    for path in MIGRATIONS:
        folders.setdefault(str(Path(path).parent), []).append(Path(path).name)
    for folder, names in folders.items():
        assert [name[:5] for name in sorted(names)] == [f"{n:04}_" for n in range(1, len(names) + 1)], folder
    assert [path for path in MIGRATIONS if "-- migrate:up" not in text(path)] == []


async def test_no_migration_waits_for_ever(make_database: MakeDatabase, tmp_path: Path) -> None:
    folder = tmp_path / "shop" / "sql" / "migrations"
    folder.mkdir(parents=True)
    seen = "CREATE TABLE seen AS SELECT current_setting(name) AS value FROM unnest(ARRAY['{}', '{}']) AS name"
    (folder / "0001_seen.sql").write_text(f"-- migrate:up\n{seen.format('lock_timeout', 'statement_timeout')}")
    url = await make_database()
    await migrate(url, [folder])
    conn = await asyncpg.connect(url)
    try:
        limits = [row["value"] for row in await conn.fetch("SELECT value FROM seen")]
    finally:
        await conn.close()
    assert len(limits) == 2
    assert "0" not in limits


def families() -> list[Metric]:
    import_everything()
    declared = [each for each in metrics.REGISTRY.collect() if not each.name.startswith("test_")]
    assert len(declared) > 60
    return declared


def test_every_metric_is_declared_once_and_says_what_it_is() -> None:
    names = [each.name for each in families()]
    assert len(names) == len(set(names))
    assert [each.name for each in families() if not re.fullmatch(rf"({PARTS})_[a-z0-9_]+", each.name)] == []
    ours = [each for each in families() if not each.name.startswith(("process_", "python_"))]
    assert [each.name for each in ours if not re.fullmatch(r"[A-Z0-9].+\.", each.documentation)] == []


def test_every_metric_has_the_one_unit_of_what_it_measures() -> None:
    assert [each.name for each in families() if ODD_UNITS.search(each.name)] == []
    assert [
        each.name for each in families() if each.type == "histogram" and not each.name.endswith(HISTOGRAM_UNITS)
    ] == []
    assert [each.name for each in families() if each.type == "counter" and each.name.endswith("_total")] == []


def test_no_label_is_the_id_of_a_thing_or_a_person() -> None:
    import_everything()
    labels = {
        label
        for collector in metrics.REGISTRY._collector_to_names
        for label in getattr(collector, "_labelnames", ())
        if re.search(r"(^|_)(id|user|key|email|trace)$", label)
    }
    assert labels - LABELS_THAT_ARE_IDS.keys() == set()


def test_every_refusal_has_its_kind_and_a_code_in_capitals() -> None:
    import_everything()
    left, odd = [*Refused.__subclasses__()], []
    while left:
        each = left.pop()
        left += each.__subclasses__()
        if each.__module__.startswith("tests."):
            continue
        if not (
            hasattr(each, "kind") and re.fullmatch(r"[A-Z]+(_[A-Z]+)*", getattr(each, "code", "")) and each.__doc__
        ):
            odd.append(each.__qualname__)
    assert odd == []
