"""Coupon policies and coupons."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from gateway.endpoint import Ask, timestamp
from gateway.fields import Amount, Body, Id, Money, Nothing, NullAs, Page, Quantity, Time, UserId, choice, text
from infra.errors import ValidationFailed
from protos.coupon.v1 import coupon_pb2 as pb

PERCENT_MAX = 100


class NewPolicy(Body):
    """The rules of a campaign."""

    title: Annotated[str, text(1, 200)] = Field(examples=["Spring sale"])
    description: Annotated[str, text(0, 2000)] = Field(examples=["10 % off everything"])
    total_quantity: Quantity = Field(examples=[1000])
    start_time: Time
    end_time: Time = Field(examples=["2026-06-01T00:00:00Z"])
    discount_type: Annotated[str, choice("FIXED_AMOUNT", "PERCENTAGE", aliases={"FIXED": "FIXED_AMOUNT"})] = Field(
        examples=["PERCENTAGE"]
    )
    discount_value: Amount = Field(examples=[10])
    minimum_order_amount: Annotated[Money, NullAs(0)] = Field(0, examples=[10000])
    maximum_discount_amount: Money | None = Field(None, examples=[5000])
    per_user_limit: Annotated[Quantity, NullAs(1)] = Field(1, examples=[1])
    bonus_points: Annotated[Money, NullAs(0)] = Field(0, examples=[50])

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        if self.start_time >= self.end_time:
            raise ValidationFailed({"endTime": "must be after startTime"})
        if self.discount_type == "PERCENTAGE" and self.discount_value > PERCENT_MAX:
            raise ValidationFailed({"discountValue": "must be a whole number from 1 to 100 for PERCENTAGE"})
        if self.maximum_discount_amount == 0:  # a cap of 0 is none
            self.maximum_discount_amount = None
        return self


class NewCoupon(Body):
    """Whose coupon, under which policy."""

    user_id: UserId | None = None
    coupon_policy_id: Id = Field(examples=["7"])


class Use(Body):
    """The order a coupon is used on."""

    order_id: Id | None = Field(None, examples=["900"])
    order_amount: Money = Field(examples=[20000])


class CouponPage(Page):
    """Which coupons, and which part of the list."""

    status: Annotated[str, choice("AVAILABLE", "USED", "EXPIRED", "CANCELED")] | None = None


def create_policy(ask: Ask[NewPolicy]) -> pb.CreateCouponPolicyRequest:
    """Create a coupon policy."""
    body = ask.given
    return pb.CreateCouponPolicyRequest(
        **ask.command(),
        title=body.title,
        description=body.description,
        total_quantity=body.total_quantity,
        start_time=timestamp(body.start_time),
        end_time=timestamp(body.end_time),
        discount_type=pb.DiscountType.Value(f"DISCOUNT_TYPE_{body.discount_type}"),
        discount_value=body.discount_value,
        minimum_order_amount=body.minimum_order_amount,
        maximum_discount_amount=body.maximum_discount_amount,
        per_user_limit=body.per_user_limit,
        bonus_points=body.bonus_points,
    )


def get_policy(ask: Ask[Nothing]) -> pb.GetCouponPolicyRequest:
    """Read a coupon policy."""
    return pb.GetCouponPolicyRequest(caller=ask.caller_message(), coupon_policy_id=ask.id)


def list_policies(ask: Ask[Page]) -> pb.ListCouponPoliciesRequest:
    """List coupon policies, newest first."""
    return pb.ListCouponPoliciesRequest(caller=ask.caller_message(), page=ask.given.page, size=ask.given.size)


def issue(ask: Ask[NewCoupon]) -> pb.IssueCouponRequest:
    """Issue a coupon."""
    return pb.IssueCouponRequest(**ask.command(), user_id=ask.user_id, coupon_policy_id=ask.given.coupon_policy_id)


def use(ask: Ask[Use]) -> pb.UseCouponRequest:
    """Use a coupon on an order."""
    return pb.UseCouponRequest(
        **ask.command(), coupon_id=ask.id, order_id=ask.given.order_id, order_amount=ask.given.order_amount
    )


def cancel(ask: Ask[Nothing]) -> pb.CancelCouponRequest:
    """Cancel a used coupon."""
    return pb.CancelCouponRequest(**ask.command(), coupon_id=ask.id)


def get(ask: Ask[Nothing]) -> pb.GetCouponRequest:
    """Read a coupon."""
    return pb.GetCouponRequest(caller=ask.caller_message(), coupon_id=ask.id)


def list_of_user(ask: Ask[CouponPage]) -> pb.GetUserCouponsRequest:
    """List a user's coupons, newest first."""
    status = ask.given.status
    return pb.GetUserCouponsRequest(
        caller=ask.caller_message(),
        user_id=ask.user_id,
        status=None if status is None else pb.CouponStatus.Value(f"COUPON_STATUS_{status}"),
        page=ask.given.page,
        size=ask.given.size,
    )
