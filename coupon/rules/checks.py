"""What a demand may hold, and who may make it. Fields are named as REST clients write them."""

from coupon.rules.words import MONEY_MAX, UNITS_MAX, DiscountType, Draft
from infra.caller import Caller, Role
from infra.checks import ID_MAX, between, refuse, text
from infra.errors import Forbidden

TITLE_LENGTH_MAX = 200
DESCRIPTION_LENGTH_MAX = 2000
PERCENT_MAX = 100


def check_may_manage(caller: Caller) -> None:
    """:raises Forbidden: unless the caller is an operator."""
    if caller.role is not Role.ADMIN:
        raise Forbidden()


def check_may_claim(caller: Caller, user_id: str) -> None:
    """:raises Forbidden: for another user's coupon, and for machine clients, which collect none."""
    if caller.role is Role.SERVICE or not caller.may_act_for(user_id):
        raise Forbidden()


def check_may_read(caller: Caller, user_id: str) -> None:
    """:raises Forbidden: when the coupon or the list belongs to another user."""
    if not caller.may_act_for(user_id):
        raise Forbidden()


def check_draft(draft: Draft) -> None:
    """:raises ValidationFailed: A window in the past is allowed: such a policy is born ended."""
    is_percentage = draft.discount_type is DiscountType.PERCENTAGE
    cap = draft.maximum_discount_amount
    refuse(
        {
            "title": "must not be blank" if not draft.title.strip() else text(draft.title, TITLE_LENGTH_MAX),
            "description": text(draft.description, DESCRIPTION_LENGTH_MAX),
            "totalQuantity": between(draft.total_quantity, 1, UNITS_MAX),
            "endTime": None if draft.start_time < draft.end_time else "must be after startTime",
            "discountValue": between(draft.discount_value, 1, PERCENT_MAX if is_percentage else MONEY_MAX),
            "minimumOrderAmount": between(draft.minimum_order_amount, 0, MONEY_MAX),
            "maximumDiscountAmount": None if cap is None else between(cap, 1, MONEY_MAX),
            "perUserLimit": between(draft.per_user_limit, 1, UNITS_MAX),
            "bonusPoints": between(draft.bonus_points, 0, MONEY_MAX),
        }
    )


def check_use(order_id: int | None, order_amount: int) -> None:
    """:raises ValidationFailed: for an order id that is none, or an amount outside 0 to 2^53-1."""
    refuse(
        {
            "orderId": None if order_id is None else between(order_id, 1, ID_MAX),
            "orderAmount": between(order_amount, 0, MONEY_MAX),
        }
    )
