"""What is told of a call that leaves: its client span and its metric."""

import grpc
from opentelemetry.trace import NonRecordingSpan, StatusCode
from prometheus_client import Histogram

from infra import logs, telemetry
from infra.errors import Refused
from infra.rpc.status import CROSSINGS, UpstreamFailed
from infra.telemetry import instruments, names
from infra.telemetry.metrics import observe

OK = grpc.StatusCode.OK.name
CANCELLED = grpc.StatusCode.CANCELLED.name


class Outgoing:
    """One method as its callers see it. `name` is `package.Service/Method`.

    Without `own_spans` the stock instrumentation makes the spans and carries the trace.
    """

    def __init__(self, name: str, *, own_spans: bool = True) -> None:
        self.name = name
        self._own_spans = own_spans
        self._attributes = {
            names.RPC_SYSTEM_NAME: "grpc",
            names.RPC_METHOD: name,
            names.OPERATION: f"gRPC {name.rpartition('.')[2]}",
        }
        self._seconds: dict[tuple[str, str, str], Histogram] = {}

    def open(self, context: telemetry.Context | None = None) -> telemetry.Span:
        """The call's span, under the current one or that of `context`; `close` ends it."""
        if not self._own_spans:
            return NonRecordingSpan(telemetry.current_span().get_span_context())
        return telemetry.start_span(self.name, telemetry.SpanKind.CLIENT, context=context, attributes=self._attributes)

    def metadata(self, token: str, span: telemetry.Span) -> tuple[tuple[str, str], ...]:
        """What travels beside a request: the service token, the request id, the trace context."""
        request_id = logs.request_id.get()
        named = (("x-request-id", request_id),) if request_id else ()
        carried = telemetry.inject(span).items() if self._own_spans else ()
        return (("authorization", token), *named, *carried)

    def close(
        self,
        span: telemetry.Span,
        seconds: float,
        address: str,
        *,
        code: str = OK,
        error: Exception | None = None,
    ) -> None:
        """The call ended with this gRPC code; `error` is what the caller is told, if it is not the answer."""
        fault = code if _is_fault(code, error) else ""
        child = self._seconds.get((code, fault, address))
        if child is None:
            child = instruments.RPC_CLIENT_SECONDS.labels(self.name, code, fault, address)
            self._seconds[code, fault, address] = child
        observe(child, seconds, span)
        if span.is_recording():
            span.set_attribute(names.RPC_RESPONSE_STATUS_CODE, code)
            if isinstance(error, Refused):
                span.set_attribute(names.REFUSAL_CODE, error.code)
            if fault:
                span.set_attribute(names.ERROR_TYPE, fault)
                span.set_status(StatusCode.ERROR, fault)
            if address:
                host, _, port = address.rpartition(":")
                span.set_attributes({names.SERVER_ADDRESS: host, names.SERVER_PORT: int(port)})
        span.end()


def code_of(error: Refused | UpstreamFailed) -> str:
    """The gRPC status an error stands for."""
    code = error.code if isinstance(error, UpstreamFailed) else CROSSINGS[error.kind].code
    return code.name


def _is_fault(code: str, error: Exception | None) -> bool:
    """Red is what failed here: a refusal is an answer, and a caller who left broke nothing."""
    if error is None:
        return False
    return not isinstance(error, Refused) or CROSSINGS[error.kind].client_fault
