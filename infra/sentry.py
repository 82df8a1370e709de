"""Error reports: each bug is one report with the ids of the trace; refusals and what is merely away make none.

Without `SENTRY_DSN` nothing is imported and nothing is sent.
"""

from typing import TYPE_CHECKING, Any

from infra.settings import Settings
from infra.telemetry import redact

if TYPE_CHECKING:
    from sentry_sdk.types import Event, Hint

FLUSH_SECONDS = 2.0


class _Started:
    on: bool = False


def start(settings: Settings, *, version: str = "", transport: Any = None) -> None:
    """Report errors to the settings' DSN, if there is one. `transport` replaces the sending (tests)."""
    if not settings.sentry_dsn:
        return
    import sentry_sdk
    from sentry_sdk.integrations.dedupe import DedupeIntegration
    from sentry_sdk.integrations.excepthook import ExcepthookIntegration
    from sentry_sdk.integrations.logging import LoggingIntegration, ignore_logger
    from sentry_sdk.integrations.otlp import OTLPIntegration

    sentry_sdk.init(
        settings.sentry_dsn,
        release=version or None,
        environment=settings.environment,
        server_name=settings.service_name,
        traces_sample_rate=None,
        # send_default_pii stays unset: off is its default, and naming it is deprecated.
        include_local_variables=False,  # they hold what a request holds
        before_send=_scrub,
        default_integrations=False,
        auto_enabling_integrations=False,
        # The propagator stays W3C's: Sentry's own would break our hops. Log lines are no reports: a bug is told once.
        integrations=[
            OTLPIntegration(setup_otlp_traces_exporter=False, setup_propagator=False),
            LoggingIntegration(event_level=None),
            ExcepthookIntegration(),
            DedupeIntegration(),
        ],
        **({"transport": transport} if transport is not None else {}),
    )
    ignore_logger("grpc._cython.cygrpc")
    _Started.on = True


def capture(error: BaseException, **tags: str | int) -> None:
    """Report a bug, inside the span it happened in; `tags` say where (topic, partition, offset, group, task)."""
    if not _Started.on:
        return
    import sentry_sdk

    with sentry_sdk.new_scope() as scope:
        for name, value in tags.items():
            scope.set_tag(name, str(value))
        sentry_sdk.capture_exception(error)


def flush() -> None:
    """Send what is queued, for at most two seconds."""
    if not _Started.on:
        return
    import sentry_sdk

    sentry_sdk.flush(FLUSH_SECONDS)


def _scrub(event: "Event", hint: "Hint") -> "Event":
    """No secret leaves the process, whatever a message or a header holds."""
    clean: Event = redact.mapping(event)  # type: ignore[assignment]  # the same keys, cleaner values
    return clean
