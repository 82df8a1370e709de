"""`SPAN_NAMES=seed`: the names and tags of the tracing guide the platform grew from, beside the standard ones.

Metrics never change. A span's seed name is its `promo.operation`.
"""

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.util.types import AttributeValue

from infra.telemetry import names

# Attributes known when a span ends are copied then, those known at its start at its start.
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
    """Renames spans at their start and copies tags under their old names."""

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        operation = (span.attributes or {}).get(names.OPERATION)
        if isinstance(operation, str):
            span.update_name(operation)
            if operation in OPERATION_TYPES:
                span.set_attribute("operation.type", OPERATION_TYPES[operation])

    def _on_ending(self, span: Span) -> None:
        # The last moment at which a span takes attributes: what doors learn late (the status) is there by now.
        old: dict[str, AttributeValue] = {
            OLD_TAGS[name]: value for name, value in (span.attributes or {}).items() if name in OLD_TAGS
        }
        if names.OPERATION in (span.attributes or {}):
            span.update_name(str((span.attributes or {})[names.OPERATION]))
        span.set_attributes(old)

    def on_end(self, span: ReadableSpan) -> None:
        """Nothing: an ended span is read-only."""
