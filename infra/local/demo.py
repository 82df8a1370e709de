"""`promo demo`: a flash sale. Many buyers rush a few coupons and a few units at once."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from infra.local.api import Answer, Api
from infra.local.failures import CallFailed
from infra.local.flow import welcome_policy
from infra.local.state import Run
from infra.local.tokens import mint

AT_ONCE_MAX = 64
PRICE, DISCOUNT_PRICE, REWARD_PERCENT = 10_000, 7_000, 5
UNANSWERED = "NO ANSWER"


@dataclass
class Rush:
    """What the buyers of one thing got."""

    name: str
    on_offer: int
    codes: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "")

    def note(self, answer: Answer | None, seconds: float) -> None:
        """Count one answer; None is a call that got none."""
        self.codes[UNANSWERED if answer is None else answer.code] += 1
        self.seconds.append(seconds)
        if answer is not None and seconds > self.slowest[0]:
            self.slowest = (seconds, answer.trace_id)

    def percentile_ms(self, percent: float) -> float:
        ordered = sorted(self.seconds)
        return ordered[min(int(len(ordered) * percent / 100), len(ordered) - 1)] * 1000 if ordered else 0.0


@dataclass(frozen=True)
class Result:
    """A finished sale: both rushes, their wall time, and what the platform says it gave away."""

    coupons: Rush
    orders: Rush
    seconds: float
    issued: int
    sold: int

    @property
    def slowest_trace(self) -> str:
        return max(self.coupons.slowest, self.orders.slowest)[1]

    def faults(self) -> list[str]:
        """What must never be, in words."""
        found = []
        for rush, given in ((self.coupons, self.issued), (self.orders, self.sold)):
            if given > rush.on_offer:
                found.append(f"{rush.name}: {given} given away, {rush.on_offer} were on offer")
            if given < rush.codes["OK"]:
                found.append(f"{rush.name}: {rush.codes['OK']} buyers were told yes, {given} were given away")
        return found

    def as_dict(self) -> dict[str, Any]:
        return {
            "seconds": round(self.seconds, 3),
            "slowestTrace": self.slowest_trace,
            "faults": self.faults(),
            **{rush.name: _rush_dict(rush) for rush in (self.coupons, self.orders)},
        }

    def as_text(self) -> list[str]:
        """The result for a person."""
        calls = len(self.coupons.seconds) + len(self.orders.seconds)
        lines = [f"{calls} requests in {self.seconds:.1f} s, {calls / self.seconds:.0f} a second", ""]
        for rush, given in ((self.coupons, self.issued), (self.orders, self.sold)):
            told = ", ".join(f"{count} {code}" for code, count in rush.codes.most_common())
            lines.append(f"{rush.name:<8} {given} of {rush.on_offer} given away; answers: {told}")
            times = "  ".join(f"p{percent} {rush.percentile_ms(percent):.0f} ms" for percent in (50, 95, 99))
            lines.append(f"{'':<8} {times}")
        return lines + self.faults()


async def flash_sale(run: Run, buyers: int, coupons: int, stock: int, say: Callable[[str], None]) -> Result:
    """Create a policy and a sale and let `buyers` rush both.

    :raises CallFailed: the sale could not be made or read.
    """
    admin = mint(run.token_secret, "admin-1", "admin")
    crowd = f"{time.time_ns():x}"
    async with Api(run.urls["api"]) as api:
        policy = (await api.post("/coupon-policies", admin, welcome_policy(total=coupons, title="Flash sale"))).expect()
        sale = await _make_sale(api, admin, stock)
        say(f"{buyers} buyers rush {coupons} coupons and {stock} units")
        rushes = Rush("coupons", coupons), Rush("orders", stock)
        at_once = asyncio.Semaphore(AT_ONCE_MAX)
        begin = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            for number in range(buyers):
                token = mint(run.token_secret, f"buyer-{crowd}-{number}", "user")
                tasks.create_task(_buy(api, at_once, token, policy["id"], sale["id"], rushes))
        seconds = time.monotonic() - begin
        policy = (await api.get(f"/coupon-policies/{policy['id']}", admin)).expect()
        sale = (await api.get(f"/time-sales/{sale['id']}", admin)).expect()
    return Result(*rushes, seconds, policy["issuedQuantity"], stock - sale["remainingQuantity"])


async def _make_sale(api: Api, admin: str, stock: int) -> dict[str, Any]:
    product = (await api.post("/products", admin, {"name": "Lamp", "price": PRICE})).expect()
    now = datetime.now(UTC)
    wanted = {
        "productId": product["id"],
        "quantity": stock,
        "discountPrice": DISCOUNT_PRICE,
        "startAt": (now - timedelta(minutes=1)).isoformat(),
        "endAt": (now + timedelta(hours=1)).isoformat(),
        "rewardPoints": REWARD_PERCENT,
    }
    return (await api.post("/time-sales", admin, wanted)).expect()


async def _buy(
    api: Api, at_once: asyncio.Semaphore, token: str, policy_id: str, sale_id: str, rushes: Sequence[Rush]
) -> None:
    """One buyer: a coupon, then a unit."""
    coupons, orders = rushes
    for rush, path, body in (
        (coupons, "/coupons/issue", {"couponPolicyId": policy_id}),
        (orders, "/orders", {"timeSaleId": sale_id, "quantity": 1}),
    ):
        async with at_once:
            begin = time.monotonic()
            try:
                answer = await api.post(path, token, body)
            except CallFailed:
                answer = None
            rush.note(answer, time.monotonic() - begin)


def _rush_dict(rush: Rush) -> dict[str, Any]:
    times = {f"p{percent}Ms": round(rush.percentile_ms(percent), 1) for percent in (50, 95, 99)}
    return {"onOffer": rush.on_offer, "answers": dict(rush.codes), **times}
