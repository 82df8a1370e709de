"""What a demand may hold, and who may make it. Fields are named as REST clients write them."""

import re
from collections.abc import Mapping

from infra.caller import Caller, Role
from infra.errors import Forbidden, ValidationFailed
from timesale.rules.words import MONEY_MAX, UNITS_MAX, Product, SaleTerms

NAME_LENGTH_MAX = 200
DESCRIPTION_LENGTH_MAX = 2000
PAGE_SIZE_MAX = 100

_USER_ID = re.compile(r"[A-Za-z0-9_.:@-]{1,64}")


def check_may_manage(caller: Caller) -> None:
    """:raises Forbidden: unless the caller is an operator."""
    if caller.role is not Role.ADMIN:
        raise Forbidden()


def check_may_order(caller: Caller, user_id: str) -> None:
    """:raises Forbidden: for another user's order, and for machine clients, which buy nothing."""
    if caller.role is Role.SERVICE or not caller.may_act_for(user_id):
        raise Forbidden()


def check_may_read(caller: Caller, user_id: str) -> None:
    """:raises Forbidden: when the order or the list belongs to another user."""
    if not caller.may_act_for(user_id):
        raise Forbidden()


def check_user(user_id: str) -> None:
    """:raises ValidationFailed: for what is no user id."""
    _refuse({"userId": _user(user_id)})


def check_order(user_id: str, quantity: int) -> None:
    """:raises ValidationFailed: for what is no user id, or a quantity outside 1 to 10^9."""
    _refuse({"userId": _user(user_id), "quantity": _between(quantity, 1, UNITS_MAX)})


def check_product(name: str, price: int, description: str) -> None:
    """:raises ValidationFailed: for a blank or long text, or a price outside 0 to 2^53-1."""
    _refuse(
        {
            "name": "must not be blank" if not name.strip() else _text(name, NAME_LENGTH_MAX),
            "price": _between(price, 0, MONEY_MAX),
            "description": _text(description, DESCRIPTION_LENGTH_MAX),
        }
    )


def check_sale(terms: SaleTerms) -> None:
    """:raises ValidationFailed: A window in the past is allowed: such a sale is born ended."""
    _refuse(
        {
            "quantity": _between(terms.quantity, 1, UNITS_MAX),
            "discountPrice": _between(terms.discount_price, 0, MONEY_MAX),
            "endAt": None if terms.start_at < terms.end_at else "must be after startAt",
            "perUserLimit": None if terms.per_user_limit is None else _between(terms.per_user_limit, 1, UNITS_MAX),
            "rewardPoints": _between(terms.reward_points, 0, 100),
        }
    )


def check_discount(terms: SaleTerms, product: Product) -> None:
    """:raises ValidationFailed: when the sale's price is above the product's."""
    if terms.discount_price > product.price:
        raise ValidationFailed({"discountPrice": f"must not be above the product's price of {product.price}"})


def check_page(page: int, size: int) -> None:
    """:raises ValidationFailed: pages count from 0, a page has 1 to 100 rows."""
    _refuse({"page": None if page >= 0 else "must be 0 or more", "size": _between(size, 1, PAGE_SIZE_MAX)})


def _refuse(fields: Mapping[str, str | None]) -> None:
    wrong = {field: message for field, message in fields.items() if message is not None}
    if wrong:
        raise ValidationFailed(wrong)


def _user(user_id: str) -> str | None:
    return None if _USER_ID.fullmatch(user_id) else "must be 1-64 characters of A-Z a-z 0-9 _ . : @ -"


def _between(number: int, least: int, most: int) -> str | None:
    return None if least <= number <= most else f"must be an integer from {least} to {most}"


def _text(text: str, length_max: int) -> str | None:
    if "\x00" in text:
        return "must not hold a NUL character"
    return None if len(text) <= length_max else f"must have at most {length_max} characters"
