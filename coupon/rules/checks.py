"""What a demand may hold, and who may make it. Fields are named as REST clients write them."""

import re
from collections.abc import Mapping

from coupon.rules.words import MONEY_MAX, UNITS_MAX, DiscountType, Draft
from infra.caller import Caller, Role
from infra.errors import Forbidden, ValidationFailed

TITLE_LENGTH_MAX = 200
DESCRIPTION_LENGTH_MAX = 2000
PERCENT_MAX = 100
PAGE_SIZE_MAX = 100
ID_MAX = 2**63 - 1

_USER_ID = re.compile(r"[A-Za-z0-9_.:@-]{1,64}")


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


def check_user(user_id: str) -> None:
    """:raises ValidationFailed: for what is no user id."""
    if not _USER_ID.fullmatch(user_id):
        raise ValidationFailed({"userId": "must be 1-64 characters of A-Z a-z 0-9 _ . : @ -"})


def check_draft(draft: Draft) -> None:
    """:raises ValidationFailed: A window in the past is allowed: such a policy is born ended."""
    is_percentage = draft.discount_type is DiscountType.PERCENTAGE
    cap = draft.maximum_discount_amount
    _refuse(
        {
            "title": "must not be blank" if not draft.title.strip() else _text(draft.title, TITLE_LENGTH_MAX),
            "description": _text(draft.description, DESCRIPTION_LENGTH_MAX),
            "totalQuantity": _between(draft.total_quantity, 1, UNITS_MAX),
            "endTime": None if draft.start_time < draft.end_time else "must be after startTime",
            "discountValue": _between(draft.discount_value, 1, PERCENT_MAX if is_percentage else MONEY_MAX),
            "minimumOrderAmount": _between(draft.minimum_order_amount, 0, MONEY_MAX),
            "maximumDiscountAmount": None if cap is None else _between(cap, 1, MONEY_MAX),
            "perUserLimit": _between(draft.per_user_limit, 1, UNITS_MAX),
            "bonusPoints": _between(draft.bonus_points, 0, MONEY_MAX),
        }
    )


def check_use(order_id: int | None, order_amount: int) -> None:
    """:raises ValidationFailed: for an order id that is none, or an amount outside 0 to 2^53-1."""
    _refuse(
        {
            "orderId": None if order_id is None else _between(order_id, 1, ID_MAX),
            "orderAmount": _between(order_amount, 0, MONEY_MAX),
        }
    )


def check_page(page: int, size: int) -> None:
    """:raises ValidationFailed: pages count from 0, a page has 1 to 100 rows."""
    _refuse({"page": None if page >= 0 else "must be 0 or more", "size": _between(size, 1, PAGE_SIZE_MAX)})


def _refuse(fields: Mapping[str, str | None]) -> None:
    wrong = {field: message for field, message in fields.items() if message is not None}
    if wrong:
        raise ValidationFailed(wrong)


def _between(number: int, least: int, most: int) -> str | None:
    return None if least <= number <= most else f"must be an integer from {least} to {most}"


def _text(text: str, length_max: int) -> str | None:
    if "\x00" in text:
        return "must not hold a NUL character"
    return None if len(text) <= length_max else f"must have at most {length_max} characters"
