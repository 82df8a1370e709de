"""What clients may send, and what they are told when it is something else."""

from typing import Any

import pytest

from gateway.fields import Nothing, Page
from gateway.reader import Reader, read_path
from gateway.routes.auth import Registration
from gateway.routes.coupons import NewCoupon, NewPolicy
from gateway.routes.orders import NewOrder
from gateway.routes.points import Earning
from gateway.routes.timesales import NewProduct, NewTimeSale, TimeSalePage
from infra.errors import ValidationFailed

ORDER = Reader(NewOrder)
POLICY = (
    b'{"title":"Spring","description":"","totalQuantity":10,"startTime":"2026-05-01T09:00:00Z",'
    b'"endTime":"2026-06-01T02:00:00+02:00","discountType":"FIXED","discountValue":%s}'
)


def refused(reader: Reader[Any], raw: bytes) -> dict[str, str]:
    with pytest.raises(ValidationFailed) as caught:
        reader.body(raw)
    return caught.value.fields


@pytest.mark.parametrize(
    "odd",
    [
        b"1.5",
        b'"1e3"',
        b"1e3",
        b"true",
        b"9223372036854775808",
        b"NaN",
        b"-1",
        b"0",
        b"[]",
        b"{}",
        b"null",
        b'"007"',
        b'" 7"',
        b'"7\\n"',
        '"７"'.encode(),
        b"Infinity",
        b"1e400",
    ],
)
def test_an_odd_id_is_refused_with_what_would_be_right(odd: bytes) -> None:
    fields = refused(ORDER, b'{"timeSaleId":%s,"quantity":1}' % odd)
    assert fields == {"timeSaleId": "must be an id: a whole number from 1 to 9223372036854775807, as text or number"}


@pytest.mark.parametrize(
    "odd",
    [b"1.5", b"1.0", b'"5"', b"1e3", b"true", b"9223372036854775808", b"NaN", b"-5", b"0", b"1000000001", b"null"],
)
def test_an_odd_quantity_is_refused_with_what_would_be_right(odd: bytes) -> None:
    fields = refused(ORDER, b'{"timeSaleId":"1","quantity":%s}' % odd)
    assert fields == {"quantity": "must be a whole number from 1 to 1000000000"}


@pytest.mark.parametrize("money", [b"9007199254740992", b"-1", b"0.5", b'"10"'])
def test_money_is_a_whole_number_up_to_2_to_the_53(money: bytes) -> None:
    reader = Reader(NewProduct)
    assert reader.body(b'{"name":"x","price":9007199254740991}').price == 2**53 - 1
    assert refused(reader, b'{"name":"x","price":%s}' % money) == {
        "price": "must be a whole number from 0 to 9007199254740991"
    }


def test_ids_are_accepted_as_text_and_as_numbers() -> None:
    texts = ORDER.body(b'{"timeSaleId":"9223372036854775807","quantity":1}')
    numbers = ORDER.body(b'{"timeSaleId":9223372036854775807,"quantity":1}')
    assert texts == numbers


@pytest.mark.parametrize(
    ("given", "read"), [(b'"u-1"', "u-1"), (b"17", "17"), (b"-5", "-5"), (b'"a@b.c:d_e"', "a@b.c:d_e")]
)
def test_a_user_id_is_opaque_text_and_a_number_becomes_its_text(given: bytes, read: str) -> None:
    assert ORDER.body(b'{"timeSaleId":1,"quantity":1,"userId":%s}' % given).user_id == read


@pytest.mark.parametrize("given", [b'""', b'"a b"', b"1.5", b"true", '"ü"'.encode(), b'"' + b"a" * 65 + b'"', b'"a/b"'])
def test_another_user_id_is_refused(given: bytes) -> None:
    assert "userId" in refused(ORDER, b'{"timeSaleId":1,"quantity":1,"userId":%s}' % given)


@pytest.mark.parametrize(
    "odd",
    [
        b"2026-05-01T09:00:00",
        b"2026-05-01",
        b"2026-02-30T09:00:00Z",
        b"1777618800",
        b"2026-05-01T25:00:00Z",
        b"0001-01-01T00:00:00+01:00",
        b"now",
    ],
)
def test_a_time_without_offset_or_that_never_was_is_refused(odd: bytes) -> None:
    body = (POLICY % b"5").replace(b"2026-05-01T09:00:00Z", odd)
    assert refused(Reader(NewPolicy), body) == {
        "startTime": "must be an RFC 3339 time with its offset, like 2026-05-01T09:00:00Z"
    }


def test_times_of_any_offset_are_read_in_utc() -> None:
    policy = Reader(NewPolicy).body(POLICY % b"5")
    assert policy.end_time.isoformat() == "2026-06-01T00:00:00+00:00"


def test_fixed_means_fixed_amount_and_absent_fields_have_their_defaults() -> None:
    policy = Reader(NewPolicy).body(POLICY % b'5,"perUserLimit":null,"maximumDiscountAmount":0')
    assert (policy.discount_type, policy.per_user_limit, policy.bonus_points) == ("FIXED_AMOUNT", 1, 0)
    assert policy.maximum_discount_amount is None


def test_a_percentage_above_100_and_a_window_that_ends_before_it_starts_are_refused() -> None:
    body = (POLICY % b"101").replace(b'"FIXED"', b'"PERCENTAGE"')
    assert refused(Reader(NewPolicy), body) == {"discountValue": "must be a whole number from 1 to 100 for PERCENTAGE"}
    backwards = (POLICY % b"5").replace(b"2026-06-01T02:00:00+02:00", b"2026-05-01T09:00:00Z")
    assert refused(Reader(NewPolicy), backwards) == {"endTime": "must be after startTime"}


def test_an_unknown_field_is_refused_by_name_with_the_known_ones() -> None:
    fields = refused(ORDER, b'{"timeSaleId":1,"quantity":1,"qty":2}')
    assert fields == {"qty": "is not known here; known: timeSaleId, userId, quantity"}


def test_admission_is_refused_naming_the_field() -> None:
    body = (
        b'{"productId":1,"quantity":1,"discountPrice":1,"startAt":"2026-05-01T09:00:00Z","endAt":"2026-05-02T09:00:00Z"'
        b',"admission":{"ratePerMinute":1,"maxActive":1,"sessionSeconds":10}}'
    )
    assert list(refused(Reader(NewTimeSale), body)) == ["admission"]


def test_a_body_full_of_nonsense_gets_a_short_answer() -> None:
    raw = b'{"' + b"x" * 5000 + b'":1,' + b",".join(b'"f%d":1' % number for number in range(5000)) + b"}"
    fields = refused(ORDER, raw)
    assert len(fields) == 20
    assert max(map(len, fields)) == 100


def test_all_wrong_fields_are_named_at_once() -> None:
    assert refused(ORDER, b'{"quantity":0}') == {
        "timeSaleId": "is required: an id: a whole number from 1 to 9223372036854775807, as text or number",
        "quantity": "must be a whole number from 1 to 1000000000",
    }


@pytest.mark.parametrize(
    "raw", [b"", b"{", b"\xff", b"{'a':1}", b"[" * 30_000, b'{"a":"\\ud800"}', b'{"a":' + b"9" * 5000 + b"}"]
)
def test_what_is_no_json_is_told_so_with_the_remedy(raw: bytes) -> None:
    assert refused(ORDER, raw)["body"].endswith("; send one JSON object")


@pytest.mark.parametrize("raw", [b"[]", b"1", b'"x"', b"null"])
def test_json_that_is_no_object_is_told_so(raw: bytes) -> None:
    assert refused(ORDER, raw)["body"].endswith("; it must be a JSON object")


@pytest.mark.parametrize("name", [b"a\\u0000b", b"   ", b"", b"x" * 201])
def test_a_name_is_neither_blank_nor_long_nor_holds_nul(name: bytes) -> None:
    assert refused(Reader(NewProduct), b'{"name":"%s","price":1}' % name) == {
        "name": "must be a text of 1 to 200 characters, not blank"
    }


@pytest.mark.parametrize(
    "email",
    [
        "ada",
        "ada@",
        "@b.c",
        "a b@c.de",
        "a@b",
        "a@b.c\n",
        "ü@b.de",
        "a@b..de",
        ".a@b.de",
        "a.@b.de",
        "a@-b.de",
        "x" * 250 + "@b.de",
        "a\x00@b.de",
    ],
)
def test_what_is_no_e_mail_is_refused(email: str) -> None:
    raw = Registration.model_construct(email=email, name="Ada", password="12345678").model_dump_json().encode()
    assert list(refused(Reader(Registration), raw)) == ["email"]


def test_an_e_mail_is_lower_cased() -> None:
    raw = b'{"email":"Ada@Example.COM","name":"Ada","password":"12345678"}'
    assert Reader(Registration).body(raw).email == "ada@example.com"


def test_earning_needs_a_user_while_others_may_leave_it_out() -> None:
    assert "userId" in refused(Reader(Earning), b'{"amount":1,"description":""}')
    assert Reader(NewCoupon).body(b'{"couponPolicyId":1}').user_id is None


def test_a_page_has_defaults_and_an_unknown_parameter_is_refused_by_name() -> None:
    page = Reader(Page).query(b"")
    assert (page.page, page.size) == (0, 10)
    with pytest.raises(ValidationFailed) as caught:
        Reader(TimeSalePage).query(b"stauts=ACTIVE")
    assert caught.value.fields == {"stauts": "is not known here; known: page, size, status"}


def test_where_no_parameter_is_known_a_query_is_ignored() -> None:
    assert Reader(Nothing).query(b"x=/health&x=2") == Nothing()


@pytest.mark.parametrize(
    "raw",
    [
        b"size=0",
        b"size=101",
        b"size=1e1",
        b"size=%2010",
        b"size=",
        b"size=-1",
        b"size=010",
        b"size=1&size=2",
        b"size=%D9%A1",
    ],
)
def test_an_odd_size_is_refused(raw: bytes) -> None:
    with pytest.raises(ValidationFailed) as caught:
        Reader(Page).query(raw)
    assert list(caught.value.fields) == ["size"]


def test_a_status_is_one_of_its_words() -> None:
    assert Reader(TimeSalePage).query(b"status=SOLD_OUT").status == "SOLD_OUT"
    with pytest.raises(ValidationFailed) as caught:
        Reader(TimeSalePage).query(b"status=sold_out")
    assert caught.value.fields == {"status": "must be one of SCHEDULED, ACTIVE, SOLD_OUT, ENDED"}


@pytest.mark.parametrize("wrong", ["0", "-1", "abc", "9223372036854775808", "1.0", "", "01"])
def test_a_path_id_is_a_positive_64_bit_number(wrong: str) -> None:
    assert read_path({"id": "7"}) == {"id": 7}
    with pytest.raises(ValidationFailed) as caught:
        read_path({"id": wrong})
    assert list(caught.value.fields) == ["id"]
