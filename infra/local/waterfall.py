"""A trace as a waterfall in the terminal: spans in, lines of text out."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from infra.local.spans import Span, orphans

BAR_WIDTH = 40
NAME_WIDTH = 60
CUT = "…"


def render(trace_id: str, spans: Sequence[Span], *, bar_width: int = BAR_WIDTH) -> list[str]:
    """One line for each span: when it ran, how long, in which service, its name indented under its parent's.

    A span whose parent is missing stands at the left with a dotted line before its name; `✗` marks an error.
    """
    if not spans:
        return [f"trace {trace_id}: no spans"]
    begin, end = min(span.start_ns for span in spans), max(span.end_ns for span in spans)
    services = list(dict.fromkeys(span.service for span in spans))
    service_width = max(map(len, services))
    head = f"trace {trace_id}  {len(spans)} spans, {len(services)} services, {_time(end - begin)}"
    lost = {span.span_id for span in orphans(spans)}
    lines = [
        f"{_bar(span, begin, end, bar_width)} {_time(span.duration_ns):>9}  {span.service:<{service_width}}  "
        f"{'  ' * depth}{'┄ ' if span.span_id in lost else ''}{_name(span)}".rstrip()
        for span, depth in _walk(spans, lost)
    ]
    return [head, *lines]


def _walk(spans: Sequence[Span], lost: set[str]) -> Iterator[tuple[Span, int]]:
    """Depth first, siblings by their start; without recursion, for a trace may be deep."""
    children: Mapping[str, list[Span]] = defaultdict(list)
    for span in spans:
        children["" if span.span_id in lost else span.parent_id].append(span)
    for siblings in children.values():
        siblings.sort(key=lambda span: (span.start_ns, span.span_id))
    waiting = [(span, 0) for span in reversed(children[""])]
    while waiting:
        span, depth = waiting.pop()
        yield span, depth
        waiting.extend((child, depth + 1) for child in reversed(children[span.span_id]))


def _bar(span: Span, begin: int, end: int, width: int) -> str:
    """The span's place in the trace's time, at least one cell wide."""
    total = max(end - begin, 1)
    left = min(int((span.start_ns - begin) * width / total), width - 1)
    filled = max(1, min(round(span.duration_ns * width / total), width - left))
    return "│" + " " * left + "█" * filled + " " * (width - left - filled) + "│"


def _time(nanoseconds: int) -> str:
    """A duration as people read it."""
    if nanoseconds < 1_000_000:
        return f"{nanoseconds / 1_000:.0f} µs"
    if nanoseconds < 1_000_000_000:
        return f"{nanoseconds / 1_000_000:.1f} ms"
    return f"{nanoseconds / 1_000_000_000:.2f} s"


def _name(span: Span) -> str:
    name = span.name if len(span.name) <= NAME_WIDTH else span.name[: NAME_WIDTH - 1] + CUT
    return name if span.error is None else f"{name}  ✗ {span.error}"
