"""Pages of SQL: every statement has a name, a summary and a text."""

from pathlib import Path

import pytest

from infra.postgres import load_queries

PAGE = """\
-- lock_sale --
-- summary: SELECT sales
-- Locks and nothing else.
SELECT id -- by its id
FROM sales WHERE id = $1 FOR NO KEY UPDATE

-- mark_sold --
-- summary: UPDATE holds
-- operation: db.seat.mark-sold
UPDATE holds SET status = 'CONFIRMED'
"""


def page(folder: Path, text: str) -> Path:
    path = folder / "queries.sql"
    path.write_text(text)
    return path


def test_a_page_gives_its_statements_by_name(tmp_path: Path) -> None:
    queries = load_queries(page(tmp_path, PAGE))
    assert list(queries) == ["lock_sale", "mark_sold"]
    lock, mark = queries.values()
    assert lock.text == "SELECT id -- by its id\nFROM sales WHERE id = $1 FOR NO KEY UPDATE"
    assert (lock.summary, lock.keyword, lock.collection) == ("SELECT sales", "SELECT", "sales")
    assert (lock.operation, mark.operation) == ("pg.query SELECT sales", "db.seat.mark-sold")


@pytest.mark.parametrize(
    "text",
    [
        "-- nameless --\nSELECT 1",
        "-- empty --\n-- summary: SELECT x\n-- only words",
        "SELECT 1\n" + PAGE,
        PAGE + PAGE,
    ],
)
def test_a_page_that_is_not_whole_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match=r"queries\.sql"):
        load_queries(page(tmp_path, text))
