"""The waterfall, line by line."""

from infra.local.spans import Span, descendants, orphans
from infra.local.waterfall import render

MS = 1_000_000


def span(span_id: str, parent_id: str, name: str, start_ms: float, end_ms: float, **more: str) -> Span:
    service = more.get("service", "gateway")
    start, end = int(start_ms * MS), int(end_ms * MS)
    return Span(span_id, parent_id, service, name, 10**18 + start, 10**18 + end, error=more.get("error"))


TRACE = [
    span("1", "", "POST /things", 0, 20),
    span("3", "2", "Things/Make", 4, 18, service="things"),
    span("2", "1", "Things/Make", 2, 19),
    span("5", "3", "COMMIT", 12, 17.5, service="things", error="40001"),
    span("4", "3", "BEGIN", 5, 5.25, service="things"),
    span("6", "3", "process thing.made", 30, 40, service="point-service"),
]


def test_a_trace_is_one_tree_over_its_services_in_the_order_of_time() -> None:
    assert render("4bf9", TRACE, bar_width=20) == [
        "trace 4bf9  6 spans, 3 services, 40.0 ms",
        "│██████████          │   20.0 ms  gateway        POST /things",
        "│ ████████           │   17.0 ms  gateway          Things/Make",
        "│  ███████           │   14.0 ms  things             Things/Make",
        "│  █                 │    250 µs  things               BEGIN",
        "│      ███           │    5.5 ms  things               COMMIT  ✗ 40001",
        "│               █████│   10.0 ms  point-service        process thing.made",
    ]


def test_a_span_whose_parent_is_missing_is_shown_and_marked() -> None:
    lost = [span("1", "", "root", 0, 2000), span("9", "8", "lost", 1000, 1001), span("10", "9", "below", 1000, 1001)]

    assert orphans(lost) == [lost[1]]
    assert render("t", lost, bar_width=4) == [
        "trace t  3 spans, 1 services, 2.00 s",
        "│████│    2.00 s  gateway  root",
        "│  █ │    1.0 ms  gateway  ┄ lost",
        "│  █ │    1.0 ms  gateway    below",
    ]


def test_an_instant_at_the_very_end_still_has_a_cell() -> None:
    lines = render("t", [span("1", "", "root", 0, 1), span("2", "1", "end", 1, 1)], bar_width=4)

    assert lines[2] == "│   █│      0 µs  gateway    end"


def test_no_spans_is_said() -> None:
    assert render("t", []) == ["trace t: no spans"]


def test_descendants_are_all_spans_below() -> None:
    assert {found.name for found in descendants(TRACE, TRACE[2])} == {
        "Things/Make",
        "BEGIN",
        "COMMIT",
        "process thing.made",
    }
