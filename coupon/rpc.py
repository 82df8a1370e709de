"""The door of the coupon service: messages in, stories called, messages out."""

from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from coupon import look_up, messages
from coupon.cancel import cancel
from coupon.issue import Issuing
from coupon.policies import create_policy
from coupon.rules import CouponStatus, DiscountType, Draft
from coupon.settings import CouponSettings
from coupon.use import use
from infra.errors import ValidationFailed
from infra.outbox import Relay
from infra.postgres import Database
from infra.rpc import call
from infra.rpc.items import Items
from infra.rpc.server import Context
from infra.turns import Turns
from protos.coupon.v1 import coupon_pb2 as pb
from protos.coupon.v1.coupon_pb2_grpc import CouponServiceServicer

SERVICE = pb.DESCRIPTOR.services_by_name["CouponService"].full_name


class Coupons(CouponServiceServicer):
    """`promo.coupon.v1.CouponService`."""

    def __init__(self, database: Database, issuing: Issuing, relay: Relay, settings: CouponSettings) -> None:
        self._database, self._issuing, self._relay = database, issuing, relay
        self._turns = Turns()  # of coupons, and of new policies by their command
        self._issues = Items(f"{SERVICE}/IssueCoupon", settings)

    async def CreateCouponPolicy(self, request: pb.CreateCouponPolicyRequest, context: Context) -> pb.Policy:
        answer = await create_policy(
            self._database,
            self._turns,
            command=call.command_of(request),
            draft=_draft(request),
            deadline=call.current().deadline,
        )
        return call.message_of(pb.Policy, answer)

    async def GetCouponPolicy(self, request: pb.GetCouponPolicyRequest, context: Context) -> pb.Policy:
        call.caller_of(request.caller)
        return messages.policy_message(await look_up.get_policy(self._database, request.coupon_policy_id))

    async def ListCouponPolicies(
        self, request: pb.ListCouponPoliciesRequest, context: Context
    ) -> pb.ListCouponPoliciesResponse:
        call.caller_of(request.caller)
        policies, total = await look_up.list_policies(self._database, page=request.page, size=request.size)
        return pb.ListCouponPoliciesResponse(
            policies=map(messages.policy_message, policies), total=total, page=request.page, size=request.size
        )

    async def IssueCoupon(self, request: pb.IssueCouponRequest, context: Context) -> pb.Coupon:
        return await self._issue(request)

    async def BatchIssueCoupons(
        self, request: pb.BatchIssueCouponsRequest, context: Context
    ) -> pb.BatchIssueCouponsResponse:
        served = await self._issues.serve(request.items, self._issue)
        return pb.BatchIssueCouponsResponse(
            results=[
                pb.IssueCouponResult(coupon=each.message, status=each.status, replayed=each.replayed) for each in served
            ]
        )

    async def UseCoupon(self, request: pb.UseCouponRequest, context: Context) -> pb.Coupon:
        answer = await use(
            self._database,
            self._relay,
            self._turns,
            command=call.command_of(request),
            coupon_id=request.coupon_id,
            order_id=request.order_id if request.HasField("order_id") else None,
            order_amount=request.order_amount,
            deadline=call.current().deadline,
        )
        return call.message_of(pb.Coupon, answer)

    async def CancelCoupon(self, request: pb.CancelCouponRequest, context: Context) -> pb.Coupon:
        answer = await cancel(
            self._database,
            self._relay,
            self._turns,
            command=call.command_of(request),
            coupon_id=request.coupon_id,
            deadline=call.current().deadline,
        )
        return call.message_of(pb.Coupon, answer)

    async def GetCoupon(self, request: pb.GetCouponRequest, context: Context) -> pb.Coupon:
        caller = call.caller_of(request.caller)
        coupon = await look_up.get_coupon(self._database, caller=caller, coupon_id=request.coupon_id)
        return messages.coupon_message(coupon)

    async def GetUserCoupons(self, request: pb.GetUserCouponsRequest, context: Context) -> pb.GetUserCouponsResponse:
        coupons, total = await look_up.get_user_coupons(
            self._database,
            caller=call.caller_of(request.caller),
            user_id=request.user_id,
            status=_status(request),
            page=request.page,
            size=request.size,
        )
        return pb.GetUserCouponsResponse(
            coupons=map(messages.coupon_message, coupons), total=total, page=request.page, size=request.size
        )

    async def _issue(self, request: pb.IssueCouponRequest) -> pb.Coupon:
        answer = await self._issuing.issue(
            command=call.command_of(request),
            user_id=request.user_id,
            policy_id=request.coupon_policy_id,
            deadline=call.current().deadline,
        )
        return call.message_of(pb.Coupon, answer)


def _draft(request: pb.CreateCouponPolicyRequest) -> Draft:
    discount_type = messages.discount_type(request.discount_type)
    if discount_type is None:
        raise ValidationFailed({"discountType": f"must be one of {', '.join(DiscountType)}"})
    return Draft(
        title=request.title,
        description=request.description,
        total_quantity=request.total_quantity,
        start_time=_moment("startTime", request.start_time, given=request.HasField("start_time")),
        end_time=_moment("endTime", request.end_time, given=request.HasField("end_time")),
        discount_type=discount_type,
        discount_value=request.discount_value,
        minimum_order_amount=request.minimum_order_amount,
        maximum_discount_amount=request.maximum_discount_amount or None,  # a cap of 0 is none
        per_user_limit=request.per_user_limit,
        bonus_points=request.bonus_points,
    )


def _moment(field: str, message: Timestamp, *, given: bool) -> datetime:
    if not given:
        raise ValidationFailed({field: "is required"})
    try:
        return messages.moment(message)
    except ValueError:
        raise ValidationFailed({field: "must be a time of the years 1 to 9999"}) from None


def _status(request: pb.GetUserCouponsRequest) -> CouponStatus | None:
    if not request.HasField("status"):
        return None
    status = messages.coupon_status(request.status)
    if status is None:
        raise ValidationFailed({"status": f"must be one of {', '.join(CouponStatus)}"})
    return status
