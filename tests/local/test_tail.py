"""What `promo events tail` makes of a record."""

from types import SimpleNamespace

from infra.local.tail import parse


def record(value: bytes | None, headers: list[tuple[str, bytes]]) -> SimpleNamespace:
    return SimpleNamespace(
        topic="thing.made", partition=1, offset=2, key=b"7", value=value, headers=headers, timestamp=1_700_000_000_000
    )


def test_an_event_is_told_with_its_id_its_time_and_its_trace() -> None:
    headers = [
        ("ce_id", b"some-id"),
        ("ce_time", b"2026-01-01T00:00:00Z"),
        ("traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    ]
    event = parse(record(b'{"id":"7"}', headers))

    assert (event.event_id, event.time, event.key, event.value) == ("some-id", "2026-01-01T00:00:00Z", "7", {"id": "7"})
    assert event.trace_id == "4bf92f3577b34da6a3ce929d0e0e4736"


def test_a_record_of_somebody_else_is_shown_as_it_is() -> None:
    event = parse(record(b"\xff no json", [("traceparent", b"junk")]))

    assert event.value == "� no json"
    assert (event.trace_id, event.event_id, event.time) == ("", "", "2023-11-14T22:13:20+00:00")


def test_a_tombstone_has_no_value() -> None:
    assert parse(record(None, [])).value is None
