"""What a log line carries, and what it never does."""

import io
import logging
from collections.abc import Iterator

import orjson
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from infra import logs, telemetry
from infra.settings import Settings
from infra.telemetry import redact
from infra.telemetry.instruments import LOG_LINES
from tests.fixtures.tracing import Spans

CANARY = "c4n4ry"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJjNG40cnkifQ.c4n4ryc4n4ry"
SECRETS = [
    "Authorization",
    "password",
    "user_password",
    "accessToken",
    "SERVICE_TOKEN_SECRET",
    "cookie",
    "sentry_dsn",
    "email",
]


class Lines(io.BytesIO):
    """What was logged."""

    def parsed(self) -> list[dict[str, object]]:
        return [orjson.loads(line) for line in self.getvalue().splitlines()]

    def last(self) -> dict[str, object]:
        return self.parsed()[-1]


@pytest.fixture
def lines() -> Iterator[Lines]:
    """JSON lines of a block, and the logging of before afterwards."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    kept = structlog.get_config()
    found = Lines()
    logs.configure(Settings(service_name="coupon-service", log_level="DEBUG"), stream=found)
    yield found
    structlog.configure(**kept)
    root.handlers[:] = before
    root.setLevel(level)
    logging.captureWarnings(False)


def fresh(name: str = "test") -> structlog.typing.FilteringBoundLogger:
    return logs.get_logger(name)


def test_a_line_is_json_with_service_level_and_time(lines: Lines) -> None:
    fresh().info("coupon.issued", coupon_id=7)
    line = lines.last()
    said = {"source": "test", "event": "coupon.issued", "coupon_id": 7}
    assert {**line, "time": ""} == {**said, "level": "info", "service": "coupon-service", "time": ""}
    assert str(line["time"]).endswith("Z")


def test_a_line_inside_a_span_carries_its_ids(lines: Lines, spans: Spans) -> None:
    with telemetry.root("work") as span:
        fresh().info("work.done")
        logging.getLogger("aiokafka.test").warning("from a library")
    context = span.get_span_context()
    for line in lines.parsed():
        assert line["trace_id"] == f"{context.trace_id:032x}"
        assert line["span_id"] == f"{context.span_id:016x}"


def test_a_line_outside_a_span_has_no_ids(lines: Lines) -> None:
    fresh().info("work.done")
    assert "trace_id" not in lines.last()


def test_a_line_carries_the_request_id(lines: Lines) -> None:
    token = logs.request_id.set("abc")
    fresh().info("work.done")
    logs.request_id.reset(token)
    assert lines.last()["request_id"] == "abc"


def test_an_exception_is_three_fields(lines: Lines) -> None:
    try:
        raise ValueError(f"no: bearer {CANARY} of a@{CANARY}.example")
    except ValueError:
        fresh().exception("work.failed")
    line = lines.last()
    assert line["level"] == "error"
    assert line["exception.type"] == "ValueError"
    assert "Traceback" in str(line["exception.stacktrace"])
    # The stack shows the line of code, which holds the name of the constant and not its value.
    assert CANARY not in lines.getvalue().decode()


def test_libraries_log_the_same_way(lines: Lines) -> None:
    logging.getLogger("some.library").error("lost %s", "it", exc_info=ValueError("boom"))
    line = lines.last()
    assert line["event"] == "lost it"
    assert line["source"] == "some.library"
    assert line["exception.type"] == "ValueError"


def test_a_library_that_repeats_itself_is_heard_once(lines: Lines) -> None:
    for number in range(50):
        logging.getLogger("aiokafka.producer").error("no broker %s", number)
    logging.getLogger("aiokafka.producer").error("something else")
    assert [line["event"] for line in lines.parsed()] == ["no broker 0", "something else"]


def test_the_level_is_a_setting() -> None:
    out = Lines()
    kept, root = structlog.get_config(), logging.getLogger()
    before = root.handlers[:]
    try:
        logs.configure(Settings(log_level="WARNING"), stream=out)
        fresh().info("quiet")
        logging.getLogger("some.library").info("quiet")
        fresh().warning("loud")
        assert [line["event"] for line in out.parsed()] == ["loud"]
    finally:
        structlog.configure(**kept)
        root.handlers[:] = before


def test_the_console_form_shows_the_trace(lines: Lines, spans: Spans) -> None:
    logs.configure(Settings(log_format="console"), stream=lines)
    with telemetry.root("work") as span:
        fresh().info("coupon.issued", coupon_id=7)
    text = lines.getvalue().decode()
    assert f"INFO    coupon.issued trace={span.get_span_context().trace_id:032x}" in text
    assert "coupon_id=7" in text


def test_facts_of_a_request_reach_its_wide_line() -> None:
    facts = logs.begin_facts()
    logs.add_facts(user_id="7")
    assert facts == {"user_id": "7"}


values = st.recursive(
    st.one_of(st.text(max_size=20), st.integers(), st.booleans(), st.none(), st.binary(max_size=20)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)),
    max_leaves=8,
)
secret_texts = st.one_of(
    st.just(JWT),
    st.just(f"Bearer {CANARY}"),
    st.just(f"{CANARY}@mail.example"),
    st.just(f"postgresql://promo:{CANARY}@127.0.0.1:5432/coupon_db"),
    st.just(f"redis://:{CANARY}@localhost:6379"),
)
words = st.text(alphabet="az09 é漢.-_/:,;", max_size=10).map(lambda word: f" {word} ")


@st.composite
def hidden(draw: st.DrawFn) -> dict[str, object]:
    """A log line's fields with a secret somewhere inside: under a telling key, or in a text."""
    leaf: object
    if draw(st.booleans()):
        leaf = {
            draw(st.sampled_from(SECRETS)): draw(st.sampled_from([CANARY, [CANARY], {"x": CANARY}, CANARY.encode()]))
        }
    else:
        leaf = draw(words) + draw(secret_texts) + draw(words)
    for _ in range(draw(st.integers(0, 3))):
        wrapped: object = [draw(values), leaf] if draw(st.booleans()) else {"around": leaf, "beside": draw(values)}
        leaf = wrapped
    return {"event": "x", "field": leaf}


@given(hidden())
def test_a_secret_never_leaves(line: dict[str, object]) -> None:
    assert CANARY not in str(redact.mapping(line))


@given(st.text(alphabet="0123456789abcdef-", max_size=40), st.integers())
def test_ids_and_numbers_stay(text: str, number: int) -> None:
    assert redact.mapping({"coupon_id": number, "trace": text}) == {"coupon_id": number, "trace": text}


@pytest.mark.parametrize("evil", ["a" * 200_000, "a@" * 60_000, "eyJ" * 60_000, "bearer " * 30_000, "://" * 60_000])
def test_a_long_text_is_cut_and_costs_little(evil: str) -> None:
    assert len(redact.text(evil)) <= redact.TEXT_MAX * 4


def test_deep_nesting_ends() -> None:
    deep: object = CANARY
    for _ in range(100):
        deep = [deep]
    assert CANARY not in str(redact.value(deep))


def test_lines_are_counted_by_level(lines: Lines) -> None:
    before = LOG_LINES.labels("warning")._value.get()
    fresh().warning("x")
    assert LOG_LINES.labels("warning")._value.get() == before + 1
