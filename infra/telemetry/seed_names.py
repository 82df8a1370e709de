"""`SPAN_NAMES=seed`: the names and tags of the tracing guide the platform grew from, beside the standard ones.

Metrics never change. A span's seed name is its `promo.operation`.
"""

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.util.types import AttributeValue

from infra.telemetry import names

OLD_TAGS = {
    names.HTTP_REQUEST_METHOD: "http.method",
    names.HTTP_RESPONSE_STATUS_CODE: "http.status_code",
    names.URL_PATH: "http.url",
    names.CACHE_HIT: "cache.hit",
    "promo.user.id": "coupon.userId",
    "promo.policy.id": "coupon.policyId",
    "promo.order.amount": "order.amount",
}
OPERATION_TYPES = {"coupon.issue": "coupon_issuance"}


class SeedNames(SpanProcessor):
    """Hands the next processor each span under its old name, with old tags beside the new ones.

    It does so when a span ends: doors learn its route and status late, and an ended span takes no more attributes.
    """

    def __init__(self, following: SpanProcessor) -> None:
        self._following = following

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        self._following.on_start(span, parent_context)

    def on_end(self, span: ReadableSpan) -> None:
        self._following.on_end(renamed(span))

    def shutdown(self) -> None:
        self._following.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._following.force_flush(timeout_millis)


def renamed(span: ReadableSpan) -> ReadableSpan:
    """The span as the tracing guide shows it."""
    attributes: dict[str, AttributeValue] = dict(span.attributes or {})
    operation = str(attributes.get(names.OPERATION, span.name))
    attributes |= {OLD_TAGS[name]: value for name, value in attributes.items() if name in OLD_TAGS}
    if operation in OPERATION_TYPES:
        attributes["operation.type"] = OPERATION_TYPES[operation]
    return ReadableSpan(
        name=operation,
        context=span.context,
        parent=span.parent,
        resource=span.resource,
        attributes=attributes,
        events=span.events,
        links=span.links,
        kind=span.kind,
        status=span.status,
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )
