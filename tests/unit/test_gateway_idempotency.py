"""Keys, command ids and fingerprints."""

import contextlib
import json
import unicodedata
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import idempotency
from gateway.reader import Reader
from gateway.routes.coupons import NewPolicy
from gateway.routes.orders import NewOrder
from gateway.routes.timesales import NewProduct
from infra.errors import ValidationFailed

ORDER, PRODUCT, POLICY = Reader(NewOrder), Reader(NewProduct), Reader(NewPolicy)
TEXT = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), min_size=1).filter(str.strip)


def print_of(reader: Reader[Any], body: Mapping[str, object], **path: int) -> bytes:
    return idempotency.fingerprint(path, reader.body(json.dumps(body).encode()).__dict__)


@pytest.mark.parametrize("header", ["a", "~" * 255, "!#$%", 'a"b', "550e8400-e29b-41d4-a716-446655440000"])
def test_a_key_is_visible_ascii_and_the_same_bare_or_quoted(header: str) -> None:
    assert idempotency.read_key(header) == idempotency.read_key(f'"{header}"') == header


@pytest.mark.parametrize("header", ["", '""', '"', "a b", "a\tb", "ü", "~" * 256, '"abc', "\x7f", "\x00", " "])
def test_another_key_is_refused(header: str) -> None:
    with pytest.raises(ValidationFailed) as caught:
        idempotency.read_key(header)
    assert list(caught.value.fields) == ["Idempotency-Key"]


@given(st.text(max_size=300))
def test_whatever_the_header_it_is_read_or_refused(header: str) -> None:
    with contextlib.suppress(ValidationFailed):
        assert 1 <= len(idempotency.read_key(header)) <= 255


def test_the_same_key_names_the_same_command_for_the_same_caller_and_route_alone() -> None:
    mine = idempotency.command_id("u-1", "POST", "/api/v1/orders", "k")
    assert mine == idempotency.command_id("u-1", "POST", "/api/v1/orders", "k")
    others = {
        idempotency.command_id("u-2", "POST", "/api/v1/orders", "k"),
        idempotency.command_id("u-1", "DELETE", "/api/v1/orders", "k"),
        idempotency.command_id("u-1", "POST", "/api/v1/coupons/issue", "k"),
        idempotency.command_id("u-1", "POST", "/api/v1/orders", "K"),
    }
    assert mine not in others
    assert len(others) == 4


def test_a_clients_key_and_our_own_command_are_told_apart_by_version() -> None:
    assert idempotency.command_id("u", "POST", "/", "k").version == 5
    assert idempotency.command_id("u", "POST", "/", None).version == 4
    assert idempotency.command_id("u", "POST", "/", None) != idempotency.command_id("u", "POST", "/", None)


def test_command_ids_never_change_over_releases() -> None:
    assert str(idempotency.command_id("u-1", "POST", "/api/v1/orders", "k")) == "d47ecec8-38d9-5a53-a84e-e09e0d28cab2"


@given(sale=st.integers(1, 2**63 - 1), quantity=st.integers(1, 10**9), shuffled=st.randoms())
def test_a_fingerprint_sees_neither_key_order_nor_the_form_of_an_id(sale: int, quantity: int, shuffled) -> None:  # type: ignore[no-untyped-def]  # hypothesis' random has no public type
    plain = {"timeSaleId": sale, "quantity": quantity, "userId": 5}
    pairs = [("timeSaleId", str(sale)), ("quantity", quantity), ("userId", "5")]
    shuffled.shuffle(pairs)
    assert print_of(ORDER, plain) == print_of(ORDER, dict(pairs))


@given(a=st.tuples(st.integers(1, 50), st.integers(1, 50)), b=st.tuples(st.integers(1, 50), st.integers(1, 50)))
def test_fingerprints_are_equal_exactly_when_the_demands_are(a: tuple[int, int], b: tuple[int, int]) -> None:
    prints = [print_of(ORDER, {"timeSaleId": sale, "quantity": quantity}) for sale, quantity in (a, b)]
    assert (prints[0] == prints[1]) == (a == b)


@given(name=TEXT)
def test_a_fingerprint_sees_no_difference_between_composed_and_decomposed_text(name: str) -> None:
    composed, decomposed = (unicodedata.normalize(form, name)[:200] for form in ("NFC", "NFD"))
    if unicodedata.normalize("NFC", decomposed) != composed or not composed.strip() or not decomposed.strip():
        return  # cut in the middle of a character
    assert print_of(PRODUCT, {"name": composed, "price": 1}) == print_of(PRODUCT, {"name": decomposed, "price": 1})


def test_a_fingerprint_sees_defaults_aliases_and_times_as_what_they_mean() -> None:
    said = {
        "title": "t", "description": "", "totalQuantity": 1, "startTime": "2026-05-01T09:00:00Z",
        "endTime": "2026-05-02T09:00:00Z", "discountType": "FIXED_AMOUNT", "discountValue": 5,
        "perUserLimit": 1, "bonusPoints": 0, "minimumOrderAmount": 0, "maximumDiscountAmount": None,
    }  # fmt: skip
    meant = {
        "title": "t", "description": "", "totalQuantity": 1, "startTime": "2026-05-01T11:00:00+02:00",
        "endTime": "2026-05-02T09:00:00.000z", "discountType": "FIXED", "discountValue": 5,
    }  # fmt: skip
    assert print_of(POLICY, said) == print_of(POLICY, meant)


def test_a_path_parameter_is_part_of_the_demand() -> None:
    body = {"timeSaleId": 1, "quantity": 1}
    assert print_of(ORDER, body, id=1) != print_of(ORDER, body, id=2)


def test_a_fingerprint_has_its_version_first() -> None:
    found = print_of(ORDER, {"timeSaleId": 1, "quantity": 1})
    assert (len(found), found[0]) == (33, 1)
