"""Spans as the query API tells them (OTLP JSON), and what can be asked of a trace."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ERROR = 2  # the status code of OTLP


@dataclass(frozen=True)
class Span:
    """One span; times in nanoseconds since the epoch, `parent_id` empty for a root."""

    span_id: str
    parent_id: str
    service: str
    name: str
    start_ns: int
    end_ns: int
    error: str | None = None
    links: tuple[str, ...] = ()

    @property
    def duration_ns(self) -> int:
        return self.end_ns - self.start_ns


def parse(answer: Mapping[str, Any]) -> list[Span]:
    """The spans of an answer of `/api/v3/traces/{id}`, by their start."""
    found = [
        _span(service, span)
        for resource in answer.get("result", {}).get("resourceSpans", ())
        for service in [_service(resource)]
        for scope in resource.get("scopeSpans", ())
        for span in scope.get("spans", ())
    ]
    return sorted({span.span_id: span for span in found}.values(), key=lambda span: (span.start_ns, span.span_id))


def orphans(spans: Sequence[Span]) -> list[Span]:
    """Spans whose parent has not arrived (yet)."""
    known = {span.span_id for span in spans}
    return [span for span in spans if span.parent_id and span.parent_id not in known]


def descendants(spans: Sequence[Span], ancestor: Span) -> Iterator[Span]:
    """All spans below `ancestor`."""
    for span in spans:
        if span.parent_id == ancestor.span_id:
            yield span
            yield from descendants(spans, span)


def _service(resource: Mapping[str, Any]) -> str:
    for attribute in resource.get("resource", {}).get("attributes", ()):
        if attribute["key"] == "service.name":
            return str(attribute["value"].get("stringValue", "?"))
    return "?"


def _span(service: str, span: Mapping[str, Any]) -> Span:
    status = span.get("status", {})
    return Span(
        span_id=span["spanId"],
        parent_id=span.get("parentSpanId", ""),
        service=service,
        name=span["name"],
        start_ns=int(span["startTimeUnixNano"]),
        end_ns=int(span["endTimeUnixNano"]),
        error=str(status.get("message", "")) if status.get("code") in (ERROR, "STATUS_CODE_ERROR") else None,
        links=tuple(link["spanId"] for link in span.get("links", ())),
    )
