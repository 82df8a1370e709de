"""What a campaign allows: each refusal, discounts, and a batch of claims against a plain model of one at a time."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coupon import rules
from coupon.rules import (
    MONEY_MAX,
    UNITS_MAX,
    AlreadyCanceled,
    AlreadyIssued,
    Claim,
    Coupon,
    CouponExpired,
    CouponNotAvailable,
    CouponNotUsed,
    CouponStatus,
    DiscountType,
    Draft,
    Grant,
    MinimumOrderAmount,
    NotActive,
    Owned,
    Policy,
    PolicyStatus,
    Repeat,
    SoldOut,
    Terms,
    UserLimit,
)
from infra.caller import Caller, Command, Role
from infra.errors import Forbidden, NotFound, Refused, ValidationFailed

START = datetime(2026, 5, 1, 9, tzinfo=UTC)
END = START + timedelta(hours=1)
DURING = START + timedelta(minutes=1)
USER, STRANGER, SHOP = Caller("u-1", Role.USER), Caller("u-2", Role.USER), Caller("shop", Role.SERVICE)


def make_terms(
    id: int = 1,
    *,
    total: int = 10,
    limit: int = 1,
    type: DiscountType = DiscountType.FIXED_AMOUNT,
    value: int = 1_000,
    least: int = 0,
    cap: int | None = None,
) -> Terms:
    return Terms(
        id=id,
        title="Spring",
        description="",
        total_quantity=total,
        start_time=START,
        end_time=END,
        discount_type=type,
        discount_value=value,
        minimum_order_amount=least,
        maximum_discount_amount=cap,
        per_user_limit=limit,
        bonus_points=0,
        created_at=START,
    )


def make_claim(user: str = "u-1", *, command: int = 1, policy: int = 1, keyed: bool = True) -> Claim:
    id = UUID(int=command, version=5 if keyed else 4)
    return Claim(Command(Caller(user, Role.USER), id, b"\x01print"), policy, user)


def make_coupon(status: CouponStatus = CouponStatus.AVAILABLE, *, terms: Terms | None = None) -> Coupon:
    coupon = Coupon(
        id=31,
        user_id="u-1",
        status=CouponStatus.AVAILABLE,
        expiration_time=END,
        issued_at=START,
        user_seq=1,
        terms=terms or make_terms(),
    )
    if status in (CouponStatus.USED, CouponStatus.CANCELED):
        coupon = rules.use(coupon, caller=USER, order_id=900, order_amount=20_000, at=DURING).coupon
    if status is CouponStatus.CANCELED:
        coupon = rules.cancel(coupon, caller=USER, at=DURING).coupon
    return rules.expire(coupon) if status is CouponStatus.EXPIRED else coupon


def judge(policy: Policy, *, owned: int = 0, at: datetime = DURING) -> Grant | Refused:
    has = Owned(owned, 77) if owned else None
    return rules.issue(policy, policy.remaining, has, count(500), make_claim(), at)


def test_a_claim_gets_an_available_coupon_that_ends_with_its_policy() -> None:
    grant = judge(Policy(make_terms(limit=3), 4), owned=2)
    assert isinstance(grant, Grant)
    coupon = grant.coupon
    assert (coupon.id, coupon.user_id, coupon.user_seq, coupon.status) == (500, "u-1", 3, CouponStatus.AVAILABLE)
    assert (coupon.issued_at, coupon.expiration_time, coupon.final_amount) == (DURING, END, None)


@pytest.mark.parametrize(
    ("at", "status"),
    [
        (START - timedelta(microseconds=1), PolicyStatus.SCHEDULED),
        (START, PolicyStatus.ACTIVE),
        (END - timedelta(microseconds=1), PolicyStatus.ACTIVE),
        (END, PolicyStatus.ENDED),
    ],
)
def test_the_start_is_inside_the_window_and_the_end_outside(at: datetime, status: PolicyStatus) -> None:
    policy = Policy(make_terms(), 0)
    assert rules.policy_status(policy, at) is status
    assert isinstance(judge(policy, at=at), Grant if status is PolicyStatus.ACTIVE else NotActive)


def test_an_ended_policy_is_ended_even_when_it_is_sold_out() -> None:
    policy = Policy(make_terms(total=1), 1)
    assert rules.policy_status(policy, DURING) is PolicyStatus.SOLD_OUT
    assert rules.policy_status(policy, END) is PolicyStatus.ENDED


def test_before_the_start_the_refusal_says_when_to_come_back() -> None:
    early, late = judge(Policy(make_terms(), 0), at=START - timedelta(hours=1)), judge(Policy(make_terms(), 0), at=END)
    assert isinstance(early, NotActive)
    assert isinstance(late, NotActive)
    assert (early.facts, late.facts) == ({"retry_at": START}, {})


def test_sold_out_is_told_before_the_users_limit() -> None:
    refusal = judge(Policy(make_terms(total=1), 1), owned=1)
    assert isinstance(refusal, SoldOut)
    assert refusal.facts == {"available": 0, "requested": 1, "missing": 1}


def test_at_limit_one_the_refusal_names_the_coupon_and_is_final() -> None:
    refusal = judge(Policy(make_terms(limit=1), 1), owned=1)
    assert isinstance(refusal, AlreadyIssued)
    assert (refusal.facts, refusal.final) == ({"coupon_id": 77}, True)


def test_above_limit_one_it_is_the_users_limit() -> None:
    refusal = judge(Policy(make_terms(limit=2), 2), owned=2)
    assert isinstance(refusal, UserLimit)
    assert (refusal.facts, refusal.final) == ({"available": 0, "requested": 1, "missing": 1}, False)


def test_the_same_user_twice_in_one_batch_gets_one_coupon_whose_id_the_refusal_names() -> None:
    claims = [make_claim(command=1), make_claim(command=2)]
    first, second = rules.decide({1: Policy(make_terms(), 0)}, {}, count(500), claims, DURING)
    assert isinstance(first, Grant)
    assert isinstance(second, AlreadyIssued)
    assert second.facts == {"coupon_id": 500}


def test_a_command_that_stands_twice_in_a_batch_is_judged_once() -> None:
    claims = [make_claim(command=1), make_claim(command=1)]
    first, second = rules.decide({1: Policy(make_terms(limit=5), 0)}, {}, count(500), claims, DURING)
    assert isinstance(first, Grant)
    assert second == Repeat(claims[0])


def test_a_final_refusal_is_repeated_for_a_key_and_a_turning_one_is_judged_anew() -> None:
    has = {(1, "u-1"): Owned(1, 77)}
    claims = [make_claim(command=1), make_claim(command=1)]
    assert isinstance(rules.decide({1: Policy(make_terms(), 1)}, has, count(), claims, DURING)[1], Repeat)
    assert isinstance(rules.decide({1: Policy(make_terms(total=1), 1)}, has, count(), claims, DURING)[1], SoldOut)
    unkeyed = [make_claim(command=1, keyed=False), make_claim(command=1, keyed=False)]
    assert isinstance(rules.decide({1: Policy(make_terms(), 1)}, has, count(), unkeyed, DURING)[1], AlreadyIssued)


def test_an_error_in_one_claim_is_that_claims_alone() -> None:
    broken = replace(make_terms(2), start_time=None)  # type: ignore[arg-type]  # the point of the test
    policies = {1: Policy(make_terms(1), 0), 2: Policy(broken, 0)}
    claims = [make_claim("a", command=1), make_claim("b", command=2, policy=2), make_claim("c", command=3)]
    outcomes = rules.decide(policies, {}, count(500), claims, DURING)
    assert [type(each) for each in outcomes] == [Grant, TypeError, Grant]


def test_an_unknown_policy_is_not_found() -> None:
    (refusal,) = rules.decide({}, {}, count(), [make_claim(policy=7)], DURING)
    assert isinstance(refusal, NotFound)
    assert refusal.facts == {"resource": "Coupon policy", "id": 7}


def test_the_early_no_is_only_for_unknown_commands_of_a_policy_that_is_on_and_sold_out() -> None:
    gone, claim = Policy(make_terms(total=1), 1), make_claim()
    assert isinstance(rules.refuse_early(gone, set(), claim, DURING), SoldOut)
    assert rules.refuse_early(gone, {claim.command.command_id}, claim, DURING) is None
    assert rules.refuse_early(gone, set(), claim, END) is None
    assert rules.refuse_early(Policy(make_terms(total=2), 1), set(), claim, DURING) is None
    assert rules.refuse_early(None, set(), claim, None) is None


CLAIMS = st.lists(
    st.builds(
        lambda user, command, policy, keyed: make_claim(f"u-{user}", command=command, policy=policy, keyed=keyed),
        st.integers(1, 4),
        st.integers(1, 12),
        st.integers(1, 3),
        st.booleans(),
    ),
    max_size=30,
)


@given(
    claims=CLAIMS,
    totals=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    limits=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    issued=st.tuples(st.integers(0, 6), st.integers(0, 6)),
)
def test_a_batch_decides_as_if_its_claims_had_come_one_by_one(
    claims: list[Claim], totals: tuple[int, int], limits: tuple[int, int], issued: tuple[int, int]
) -> None:
    policies = {
        id: Policy(make_terms(id, total=total, limit=limit), min(before, total))
        for id, total, limit, before in zip((1, 2), totals, limits, issued, strict=True)
    }
    outcomes = rules.decide(policies, {}, count(500), claims, DURING)
    assert [_word(outcome) for outcome in outcomes] == list(_one_by_one(policies, claims))
    ids = [outcome.coupon.id for outcome in outcomes if isinstance(outcome, Grant)]
    assert ids == list(range(500, 500 + len(ids)))


def _one_by_one(policies: dict[int, Policy], claims: list[Claim]) -> Iterator[str]:
    """The spec's sentences, said as plainly as can be."""
    issued: list[tuple[int, str]] = []
    before = {id: policy.issued_quantity for id, policy in policies.items()}
    remembered: set[UUID] = set()
    for claim in claims:
        policy_id, command = claim.policy_id, claim.command
        if command.command_id in remembered:
            yield "Repeat"
            continue
        if policy_id not in policies:
            yield "NotFound"
            continue
        terms = policies[policy_id].terms
        mine = issued.count((policy_id, claim.user_id))
        if before[policy_id] + sum(id == policy_id for id, _ in issued) == terms.total_quantity:
            word = "SoldOut"
        elif mine == terms.per_user_limit:
            word = "AlreadyIssued" if terms.per_user_limit == 1 else "UserLimit"
        else:
            word = f"coupon {mine + 1}"
            issued.append((policy_id, claim.user_id))
        if word.startswith("coupon") or (word == "AlreadyIssued" and command.keyed):
            remembered.add(command.command_id)
        yield word


def _word(outcome: Grant | Repeat | Exception) -> str:
    return f"coupon {outcome.coupon.user_seq}" if isinstance(outcome, Grant) else type(outcome).__name__


@given(
    type=st.sampled_from(DiscountType),
    value=st.integers(1, MONEY_MAX),
    cap=st.none() | st.integers(1, MONEY_MAX),
    amount=st.integers(0, MONEY_MAX),
)
def test_a_discount_is_whole_within_its_cap_and_never_above_the_order(
    type: DiscountType, value: int, cap: int | None, amount: int
) -> None:
    value = value if type is DiscountType.FIXED_AMOUNT else value % 100 + 1
    discount = rules.discount_of(make_terms(type=type, value=value, cap=cap), amount)
    limits = [amount, MONEY_MAX if cap is None else cap, value if type is DiscountType.FIXED_AMOUNT else amount]
    assert 0 <= discount <= min(limits)
    if type is DiscountType.PERCENTAGE:
        exact = discount * 100 <= amount * value < (discount + 1) * 100
        assert exact or discount == cap
    else:
        assert discount in limits


@pytest.mark.parametrize(
    ("terms", "amount", "discount"),
    [
        (make_terms(value=1_000), 20_000, 1_000),
        (make_terms(value=1_000), 999, 999),
        (make_terms(value=1_000), 0, 0),
        (make_terms(type=DiscountType.PERCENTAGE, value=10), 19_999, 1_999),
        (make_terms(type=DiscountType.PERCENTAGE, value=10, cap=500), 20_000, 500),
        (make_terms(type=DiscountType.PERCENTAGE, value=100), MONEY_MAX, MONEY_MAX),
        (make_terms(type=DiscountType.PERCENTAGE, value=1), 99, 0),
    ],
)
def test_discounts_as_the_spec_counts_them(terms: Terms, amount: int, discount: int) -> None:
    assert rules.discount_of(terms, amount) == discount


def test_a_use_keeps_the_order_the_amounts_and_the_time() -> None:
    decision = rules.use(make_coupon(), caller=USER, order_id=900, order_amount=20_000, at=DURING)
    coupon = decision.coupon
    assert decision.refusal is None
    assert (coupon.status, coupon.order_id, coupon.used_at) == (CouponStatus.USED, 900, DURING)
    assert (coupon.order_amount, coupon.discount_amount, coupon.final_amount) == (20_000, 1_000, 19_000)


@pytest.mark.parametrize("status", [CouponStatus.USED, CouponStatus.CANCELED])
def test_a_coupon_is_used_once(status: CouponStatus) -> None:
    before = make_coupon(status)
    decision = rules.use(before, caller=USER, order_id=901, order_amount=20_000, at=END)
    assert isinstance(decision.refusal, CouponNotAvailable)
    assert decision.coupon is before


def test_an_overdue_coupon_is_refused_and_becomes_expired() -> None:
    decision = rules.use(make_coupon(), caller=USER, order_id=None, order_amount=1, at=END)
    assert isinstance(decision.refusal, CouponExpired)
    assert (decision.coupon.status, decision.coupon.expired_at) == (CouponStatus.EXPIRED, END)
    again = rules.use(decision.coupon, caller=USER, order_id=None, order_amount=1, at=END)
    assert isinstance(again.refusal, CouponExpired)
    assert again.coupon is decision.coupon


def test_a_small_order_is_told_what_is_missing() -> None:
    before = make_coupon(terms=make_terms(least=10_000))
    decision = rules.use(before, caller=USER, order_id=None, order_amount=9_999, at=DURING)
    assert isinstance(decision.refusal, MinimumOrderAmount)
    assert decision.refusal.facts == {"available": 9_999, "requested": 10_000, "missing": 1}
    assert decision.coupon is before
    assert rules.use(before, caller=USER, order_id=None, order_amount=10_000, at=DURING).refusal is None


def test_a_stranger_changes_nothing_and_does_not_even_expire_the_coupon() -> None:
    before = make_coupon()
    decision = rules.use(before, caller=STRANGER, order_id=None, order_amount=1, at=END)
    assert isinstance(decision.refusal, Forbidden)
    assert decision.coupon is before
    assert isinstance(rules.cancel(before, caller=STRANGER, at=DURING).refusal, Forbidden)
    assert rules.use(before, caller=SHOP, order_id=None, order_amount=1, at=DURING).refusal is None


def test_only_a_used_coupon_is_canceled_and_keeps_its_order() -> None:
    coupon = rules.cancel(make_coupon(CouponStatus.USED), caller=USER, at=END).coupon
    assert (coupon.status, coupon.canceled_at) == (CouponStatus.CANCELED, END)
    assert (coupon.order_id, coupon.order_amount, coupon.discount_amount) == (900, 20_000, 1_000)
    assert isinstance(rules.cancel(coupon, caller=USER, at=END).refusal, AlreadyCanceled)
    for status in (CouponStatus.AVAILABLE, CouponStatus.EXPIRED):
        assert isinstance(rules.cancel(make_coupon(status), caller=USER, at=END).refusal, CouponNotUsed)


def test_a_read_sees_an_overdue_coupon_as_expired() -> None:
    coupon = make_coupon()
    assert rules.seen_at(coupon, END - timedelta(microseconds=1)) is coupon
    assert rules.seen_at(coupon, END) == rules.expire(coupon)
    used = make_coupon(CouponStatus.USED)
    assert rules.seen_at(used, END) is used


DRAFT = Draft(
    title="Spring",
    description="",
    total_quantity=1,
    start_time=START,
    end_time=END,
    discount_type=DiscountType.PERCENTAGE,
    discount_value=100,
    minimum_order_amount=0,
    maximum_discount_amount=None,
    per_user_limit=1,
    bonus_points=0,
)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("title", ["", " ", "x" * 201, "a\x00b"]),
        ("description", ["x" * 2001, "\x00"]),
        ("total_quantity", [0, -1, UNITS_MAX + 1]),
        ("end_time", [START, START - timedelta(days=1)]),
        ("discount_value", [0, -1, 101]),
        ("minimum_order_amount", [-1, MONEY_MAX + 1]),
        ("maximum_discount_amount", [-1, MONEY_MAX + 1]),
        ("per_user_limit", [0, UNITS_MAX + 1]),
        ("bonus_points", [-1, MONEY_MAX + 1]),
    ],
)
def test_a_draft_that_makes_no_sense_is_refused_by_field(field: str, values: list[object]) -> None:
    rules.check_draft(DRAFT)
    head, *tail = field.split("_")
    for value in values:
        with pytest.raises(ValidationFailed) as refused:
            rules.check_draft(replace(DRAFT, **{field: value}))  # type: ignore[arg-type]  # the values vary in type
        assert list(refused.value.fields) == [head + "".join(part.capitalize() for part in tail)]


def test_who_may_do_what() -> None:
    admin = Caller("root", Role.ADMIN)
    rules.check_may_manage(admin)
    rules.check_may_claim(admin, "u-1")
    rules.check_may_claim(USER, "u-1")
    rules.check_may_read(SHOP, "u-1")
    for caller in (USER, SHOP):
        with pytest.raises(Forbidden):
            rules.check_may_manage(caller)
    with pytest.raises(Forbidden):
        rules.check_may_claim(STRANGER, "u-1")
    with pytest.raises(Forbidden):
        rules.check_may_claim(SHOP, "shop")
    with pytest.raises(Forbidden):
        rules.check_may_read(STRANGER, "u-1")


@pytest.mark.parametrize(("page", "size"), [(-1, 10), (0, 0), (0, 101)])
def test_a_page_outside_its_bounds_is_refused(page: int, size: int) -> None:
    with pytest.raises(ValidationFailed):
        rules.check_page(page, size)


def test_odd_numbers_are_refused() -> None:
    for order_id, amount in ((0, 1), (-1, 1), (None, -1), (None, MONEY_MAX + 1)):
        with pytest.raises(ValidationFailed):
            rules.check_use(order_id, amount)
    for user_id in ("", "a b", "x" * 65, "u-1\n"):
        with pytest.raises(ValidationFailed):
            rules.check_user(user_id)
