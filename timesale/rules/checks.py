"""What a demand may hold, and who may make it. Fields are named as REST clients write them."""

from infra.caller import Caller, Role
from infra.checks import between, refuse, text, user
from infra.errors import Forbidden, ValidationFailed
from timesale.rules.words import MONEY_MAX, UNITS_MAX, Product, SaleTerms

NAME_LENGTH_MAX = 200
DESCRIPTION_LENGTH_MAX = 2000


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


def check_order(user_id: str, quantity: int) -> None:
    """:raises ValidationFailed: for what is no user id, or a quantity outside 1 to 10^9."""
    refuse({"userId": user(user_id), "quantity": between(quantity, 1, UNITS_MAX)})


def check_product(name: str, price: int, description: str) -> None:
    """:raises ValidationFailed: for a blank or long text, or a price outside 0 to 2^53-1."""
    refuse(
        {
            "name": "must not be blank" if not name.strip() else text(name, NAME_LENGTH_MAX),
            "price": between(price, 0, MONEY_MAX),
            "description": text(description, DESCRIPTION_LENGTH_MAX),
        }
    )


def check_sale(terms: SaleTerms) -> None:
    """:raises ValidationFailed: A window in the past is allowed: such a sale is born ended."""
    refuse(
        {
            "quantity": between(terms.quantity, 1, UNITS_MAX),
            "discountPrice": between(terms.discount_price, 0, MONEY_MAX),
            "endAt": None if terms.start_at < terms.end_at else "must be after startAt",
            "perUserLimit": None if terms.per_user_limit is None else between(terms.per_user_limit, 1, UNITS_MAX),
            "rewardPoints": between(terms.reward_points, 0, 100),
        }
    )


def check_discount(terms: SaleTerms, product: Product) -> None:
    """:raises ValidationFailed: when the sale's price is above the product's."""
    if terms.discount_price > product.price:
        raise ValidationFailed({"discountPrice": f"must not be above the product's price of {product.price}"})
