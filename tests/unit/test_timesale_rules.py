"""What a sale allows: each refusal, the states, and a batch of claims against a plain model of one claim at a time."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.caller import Caller, Command, Role
from infra.errors import Forbidden, NotFound, Refused, ValidationFailed
from timesale import rules
from timesale.rules import (
    MONEY_MAX,
    UNITS_MAX,
    Claim,
    InsufficientStock,
    NotActive,
    Purchase,
    Sale,
    SaleStatus,
    SaleTerms,
    SoldOut,
    Stock,
    UserLimit,
)

START = datetime(2026, 5, 1, 9, tzinfo=UTC)
END = START + timedelta(hours=1)
DURING = START + timedelta(minutes=1)


def make_sale(id: int = 1, *, units: int = 10, price: int = 100, limit: int | None = None) -> Sale:
    return Sale(
        id=id,
        product_id=1,
        quantity=units,
        discount_price=price,
        start_at=START,
        end_at=END,
        status=SaleStatus.ACTIVE,
        created_at=START,
        per_user_limit=limit,
        reward_points=5,
        stock=Stock(remaining=units, held=0, sold=0, last_queue_number=0, version=0),
    )


def make_claim(quantity: int = 1, *, user: str = "u-1", command: int = 1, sale: int = 1) -> Claim:
    caller = Caller(user, Role.USER)
    return Claim(Command(caller, UUID(int=command), b"\x01print"), sale, user, quantity)


def judge(sale: Sale, claim: Claim, *, owned: int = 0, at: datetime = DURING) -> Purchase | Refused:
    return rules.order(sale, sale.stock, claim, owned=owned, at=at)


def test_an_order_takes_the_next_queue_number_at_the_sale_price() -> None:
    sale = replace(make_sale(price=700), stock=Stock(5, 0, 5, 16, 9))
    purchase = judge(sale, make_claim(2))
    assert isinstance(purchase, Purchase)
    assert (purchase.queue_number, purchase.unit_price, purchase.total_price) == (17, 700, 1400)


@pytest.mark.parametrize(
    ("at", "status"),
    [
        (START - timedelta(microseconds=1), SaleStatus.SCHEDULED),
        (START, SaleStatus.ACTIVE),
        (END - timedelta(microseconds=1), SaleStatus.ACTIVE),
        (END, SaleStatus.ENDED),
    ],
)
def test_the_start_is_inside_the_window_and_the_end_outside(at: datetime, status: SaleStatus) -> None:
    assert rules.status_at(make_sale(), at) is status
    outcome = judge(make_sale(), make_claim(), at=at)
    assert isinstance(outcome, Purchase if status is SaleStatus.ACTIVE else NotActive)


def test_sold_out_is_a_state_of_the_window_and_ended_beats_it() -> None:
    sale = replace(make_sale(), stock=Stock(0, 0, 10, 10, 10))
    assert rules.status_at(sale, START - timedelta(1)) is SaleStatus.SCHEDULED
    assert rules.status_at(sale, DURING) is SaleStatus.SOLD_OUT
    assert rules.status_at(sale, END) is SaleStatus.ENDED


def test_before_the_start_the_refusal_says_when_to_retry_and_after_the_end_it_does_not() -> None:
    early, late = judge(make_sale(), make_claim(), at=START - timedelta(1)), judge(make_sale(), make_claim(), at=END)
    assert isinstance(early, NotActive)
    assert early.facts == {"retry_at": START}
    assert isinstance(late, NotActive)
    assert late.facts == {}


def test_stock_refusals_are_measured() -> None:
    empty = judge(replace(make_sale(), stock=Stock(0, 0, 10, 10, 10)), make_claim(3))
    short = judge(replace(make_sale(), stock=Stock(2, 0, 8, 8, 8)), make_claim(3))
    assert isinstance(empty, SoldOut)
    assert empty.facts == {"available": 0, "requested": 3, "missing": 3}
    assert isinstance(short, InsufficientStock)
    assert short.facts == {"available": 2, "requested": 3, "missing": 1}


def test_the_limit_counts_units_and_the_refusal_says_how_many_are_left_to_the_user() -> None:
    sale = make_sale(limit=5)
    assert isinstance(judge(sale, make_claim(2), owned=3), Purchase)
    refusal = judge(sale, make_claim(3), owned=3)
    assert isinstance(refusal, UserLimit)
    assert refusal.facts == {"available": 2, "requested": 3, "missing": 1}


def test_the_checks_answer_in_their_order() -> None:
    nothing_goes = replace(make_sale(limit=1), stock=Stock(0, 0, 10, 10, 10))
    assert isinstance(judge(nothing_goes, make_claim(2), owned=1, at=END), NotActive)
    assert isinstance(judge(nothing_goes, make_claim(2), owned=1), SoldOut)
    short = replace(nothing_goes, stock=Stock(1, 0, 9, 9, 9))
    assert isinstance(judge(short, make_claim(2), owned=1), InsufficientStock)
    assert isinstance(judge(make_sale(limit=1), make_claim(2), owned=1), UserLimit)


def test_a_total_price_that_no_json_number_holds_is_no_valid_request() -> None:
    most = MONEY_MAX // 1000
    assert isinstance(judge(make_sale(units=1000, price=most), make_claim(1000)), Purchase)
    outcome = judge(make_sale(units=1000, price=most + 1), make_claim(1000))
    assert isinstance(outcome, ValidationFailed)
    assert set(outcome.fields) == {"quantity"}


def test_a_claim_on_no_sale_is_not_found_and_spoils_no_other() -> None:
    outcomes, moved = rules.decide({1: make_sale()}, {}, [make_claim(sale=9), make_claim(command=2)], DURING)
    assert isinstance(outcomes[0], NotFound)
    assert isinstance(outcomes[1], Purchase)
    assert moved[1].stock == Stock(remaining=9, held=0, sold=1, last_queue_number=1, version=1)


def test_a_crash_in_one_claim_is_that_claims_alone() -> None:
    broken = replace(make_claim(command=1), quantity=None)  # type: ignore[arg-type]  # what no door lets through
    outcomes, moved = rules.decide({1: make_sale()}, {}, [broken, make_claim(command=2)], DURING)
    assert isinstance(outcomes[0], TypeError)
    assert isinstance(outcomes[1], Purchase)
    assert moved[1].stock.sold == 1


def test_the_same_command_twice_in_a_batch_buys_once() -> None:
    first, again = make_claim(command=1), make_claim(command=1)
    outcomes, moved = rules.decide({1: make_sale(limit=1)}, {}, [first, again], DURING)
    assert outcomes[0] is outcomes[1]
    assert moved[1].stock.sold == 1


def test_a_command_refused_in_a_batch_is_judged_anew_when_it_comes_again() -> None:
    claims = [make_claim(11, command=1), make_claim(1, command=1)]
    outcomes, _ = rules.decide({1: make_sale(units=10)}, {}, claims, DURING)
    assert isinstance(outcomes[0], InsufficientStock)
    assert isinstance(outcomes[1], Purchase)


def test_a_batch_that_sells_nothing_moves_no_sale() -> None:
    assert rules.decide({1: make_sale()}, {}, [make_claim(11)], DURING)[1] == {}


def test_the_last_unit_turns_the_sale_sold_out() -> None:
    _, moved = rules.decide({1: make_sale(units=1)}, {}, [make_claim()], DURING)
    assert moved[1].status is SaleStatus.SOLD_OUT


CLAIMS = st.lists(
    st.builds(
        make_claim,
        st.integers(1, 4),
        user=st.sampled_from(["u-1", "u-2", "u-3"]),
        command=st.integers(1, 8),
        sale=st.integers(1, 3),
    ),
    max_size=30,
)
SALES = st.tuples(
    *(st.builds(make_sale, st.just(id), units=st.integers(1, 12), limit=st.none() | st.integers(1, 6)) for id in (1, 2))
)
UNITS = st.dictionaries(st.tuples(st.integers(1, 2), st.sampled_from(["u-1", "u-2", "u-3"])), st.integers(0, 6))
MOMENTS = st.sampled_from([START - timedelta(1), START, DURING, END])


@given(sales=SALES, units=UNITS, claims=CLAIMS, at=MOMENTS)
def test_a_batch_decides_like_one_claim_at_a_time(
    sales: tuple[Sale, Sale], units: dict[tuple[int, str], int], claims: list[Claim], at: datetime
) -> None:
    outcomes, moved = rules.decide({sale.id: sale for sale in sales}, units, claims, at)
    left = {sale.id: sale.quantity for sale in sales}
    owned, queue, bought = dict(units), dict.fromkeys(left, 0), dict[UUID, str]()
    expected = []
    for claim in claims:
        sale = next((sale for sale in sales if sale.id == claim.time_sale_id), None)
        key = (claim.time_sale_id, claim.user_id)
        if claim.command.command_id in bought:
            expected.append(bought[claim.command.command_id])
        elif sale is None:
            expected.append("NOT_FOUND")
        elif at != START and at != DURING:
            expected.append("NOT_ACTIVE")
        elif left[sale.id] < claim.quantity:
            expected.append("INSUFFICIENT_STOCK" if left[sale.id] else "SOLD_OUT")
        elif sale.per_user_limit and owned.get(key, 0) + claim.quantity > sale.per_user_limit:
            expected.append("USER_LIMIT")
        else:
            left[sale.id] -= claim.quantity
            queue[sale.id] += 1
            owned[key] = owned.get(key, 0) + claim.quantity
            bought[claim.command.command_id] = f"{sale.id}#{queue[sale.id]}"
            expected.append(bought[claim.command.command_id])
    assert [word(outcome) for outcome in outcomes] == expected
    for sale in sales:
        after = moved.get(sale.id, sale).stock
        assert (after.remaining, after.sold) == (left[sale.id], sale.quantity - left[sale.id])
        assert (after.last_queue_number, after.version) == (queue[sale.id], int(queue[sale.id] > 0))


def word(outcome: Purchase | Exception) -> str:
    if isinstance(outcome, Purchase):
        return f"{outcome.claim.time_sale_id}#{outcome.queue_number}"
    assert isinstance(outcome, Refused)
    return outcome.code


@pytest.mark.parametrize(
    ("before", "after", "passages"),
    [
        ("ACTIVE", "ACTIVE", ()),
        ("SCHEDULED", "ACTIVE", ("ACTIVE",)),
        ("SCHEDULED", "SOLD_OUT", ("ACTIVE", "SOLD_OUT")),
        ("SCHEDULED", "ENDED", ("ENDED",)),
        ("ACTIVE", "SOLD_OUT", ("SOLD_OUT",)),
        ("SOLD_OUT", "ENDED", ("ENDED",)),
    ],
)
def test_each_passage_of_a_sale_is_named_once(before: str, after: str, passages: tuple[str, ...]) -> None:
    assert rules.passages(SaleStatus(before), SaleStatus(after)) == passages


def test_an_early_no_is_only_for_unknown_commands_on_a_sale_that_is_sold_out() -> None:
    sale, claim = replace(make_sale(), stock=Stock(0, 0, 10, 10, 10)), make_claim()
    assert isinstance(rules.refuse_early(sale, set(), claim, DURING), SoldOut)
    assert rules.refuse_early(sale, {claim.command.command_id}, claim, DURING) is None
    assert rules.refuse_early(sale, set(), claim, END) is None
    assert rules.refuse_early(None, set(), claim, DURING) is None
    assert rules.refuse_early(make_sale(units=1), set(), make_claim(2), DURING) is None


def make_terms(**changes: object) -> SaleTerms:
    terms = SaleTerms(1, 100, 700, START, END, None, 0)
    return replace(terms, **changes)  # type: ignore[arg-type]  # the fields of the case


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"quantity": 0}, "quantity"),
        ({"quantity": UNITS_MAX + 1}, "quantity"),
        ({"discount_price": -1}, "discountPrice"),
        ({"discount_price": MONEY_MAX + 1}, "discountPrice"),
        ({"end_at": START}, "endAt"),
        ({"per_user_limit": 0}, "perUserLimit"),
        ({"reward_points": -1}, "rewardPoints"),
        ({"reward_points": 101}, "rewardPoints"),
    ],
)
def test_terms_out_of_range_are_named(changes: dict[str, object], field: str) -> None:
    with pytest.raises(ValidationFailed) as refused:
        rules.check_sale(make_terms(**changes))
    assert set(refused.value.fields) == {field}


def test_a_sale_may_not_cost_more_than_its_product() -> None:
    product = rules.Product(1, "Mug", 699, "", START)
    with pytest.raises(ValidationFailed) as refused:
        rules.check_discount(make_terms(), product)
    assert set(refused.value.fields) == {"discountPrice"}
    rules.check_discount(make_terms(), replace(product, price=700))


@pytest.mark.parametrize(
    ("name", "price", "description", "fields"),
    [
        (" ", 1, "", {"name"}),
        ("x" * 201, 1, "", {"name"}),
        ("a\x00b", 1, "a\x00b", {"name", "description"}),
        ("Mug", -1, "x" * 2001, {"price", "description"}),
        ("Mug", MONEY_MAX + 1, "", {"price"}),
    ],
)
def test_a_product_out_of_range_is_refused(name: str, price: int, description: str, fields: set[str]) -> None:
    with pytest.raises(ValidationFailed) as refused:
        rules.check_product(name, price, description)
    assert set(refused.value.fields) == fields


@pytest.mark.parametrize("user_id", ["", "x" * 65, "a b", "a\n", "ü", "a/b"])
def test_what_is_no_user_id_is_refused(user_id: str) -> None:
    with pytest.raises(ValidationFailed):
        rules.check_order(user_id, 1)


def test_users_order_for_themselves_admins_for_anyone_machines_for_nobody() -> None:
    rules.check_may_order(Caller("u-1", Role.USER), "u-1")
    rules.check_may_order(Caller("boss", Role.ADMIN), "u-1")
    for stranger in (Caller("u-2", Role.USER), Caller("u-1", Role.SERVICE)):
        with pytest.raises(Forbidden):
            rules.check_may_order(stranger, "u-1")
