"""One page of SQL per service: every statement has a name, a constant summary for traces, and its text."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

NAME = re.compile(r"^-- (\w+) --$", re.MULTILINE)
SUMMARY = re.compile(r"^-- summary: (\S.*)$", re.MULTILINE)
OPERATION = re.compile(r"^-- operation: (\S.*)$", re.MULTILINE)
COMMENT = re.compile(r"^\s*--.*\n?", re.MULTILINE)


@dataclass(frozen=True, eq=False, slots=True)
class Query:
    """One statement. `summary` is its low-cardinality span name: keyword, then table ("INSERT coupons").

    `operation` is what searches by moment call it: "pg.query " and the summary, unless the page says otherwise.
    """

    name: str
    text: str
    summary: str
    operation: str

    @property
    def keyword(self) -> str:
        """The first word of the summary: INSERT."""
        return self.summary.partition(" ")[0]

    @property
    def collection(self) -> str:
        """The rest of it, mostly a table: coupons. Empty for BEGIN and the like."""
        return self.summary.partition(" ")[2]


def statement(text: str, *, name: str = "statement", summary: str = "SQL", operation: str = "") -> Query:
    """A statement that stands on no page: the transaction's own, and what a test writes down."""
    return Query(name, text, summary, operation or f"pg.query {summary}")


def load_queries(page: Path) -> Mapping[str, Query]:
    """The statements of one `queries.sql`, by name.

    A block is `-- name --`, `-- summary: INSERT coupons`, perhaps `-- operation: db.seat.mark-sold`, comments, SQL.

    :raises ValueError: a block has no summary or no SQL, a name comes twice, or text stands before the first name.
    """
    before, *parts = NAME.split(page.read_text(encoding="utf-8"))
    if COMMENT.sub("", before).strip():
        raise ValueError(f"{page}: SQL before the first name")
    queries: dict[str, Query] = {}
    for name, block in zip(parts[::2], parts[1::2], strict=True):
        summary, text = SUMMARY.search(block), COMMENT.sub("", block).strip()
        if summary is None or not text or name in queries:
            raise ValueError(f"{page}: {name} has no summary or no SQL, or comes twice")
        operation = OPERATION.search(block)
        queries[name] = statement(
            text, name=name, summary=summary[1].strip(), operation=operation[1].strip() if operation else ""
        )
    return queries
