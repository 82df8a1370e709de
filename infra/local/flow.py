"""One real flow through the whole platform: a coupon is issued and its bonus arrives as points."""

import asyncio
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from infra.local.api import Answer, Api
from infra.local.failures import StartFailed
from infra.local.spans import Span, descendants, orphans

BONUS = 50
BONUS_SECONDS = 20.0
POLL_SECONDS, POLL_SECONDS_MAX = 0.05, 1.0
LAST_CONSUMER = "process coupon.issued"


async def issue_and_earn(api: Api, admin: str, user: str, user_id: str, say: Callable[[str], None]) -> str:
    """Create a policy, issue a coupon under it and wait for the bonus. Returns the trace id of the issue.

    :raises CallFailed: an answer was an error.
    :raises StartFailed: the bonus did not arrive in time.
    """
    policy = (await api.post("/coupon-policies", admin, welcome_policy())).expect()
    before = await balance(api, user, user_id)
    begin = time.monotonic()
    issued = await api.post("/coupons/issue", user, {"couponPolicyId": policy["id"]})
    coupon = issued.expect()
    say(f"coupon {coupon['id']} issued to {user_id} in {_ms(begin)}")
    pause = POLL_SECONDS
    while await balance(api, user, user_id) < before + BONUS:
        if time.monotonic() > begin + BONUS_SECONDS:
            raise StartFailed(f"the bonus of coupon {coupon['id']} did not arrive in {BONUS_SECONDS:.0f} s")
        await asyncio.sleep(pause)
        pause = min(pause * 2, POLL_SECONDS_MAX)  # a user may ask a hundred times a minute
    say(f"{BONUS} points earned through the event, {_ms(begin)} after the request")
    return issued.trace_id


def welcome_policy(*, total: int = 1000, title: str = "Welcome") -> dict[str, Any]:
    """A policy that runs now and gives a bonus."""
    now = datetime.now(UTC)
    return {
        "title": title,
        "description": "1,000 off, with bonus points",
        "totalQuantity": total,
        "startTime": (now - timedelta(minutes=1)).isoformat(),
        "endTime": (now + timedelta(days=1)).isoformat(),
        "discountType": "FIXED_AMOUNT",
        "discountValue": 1000,
        "bonusPoints": BONUS,
    }


async def balance(api: Api, token: str, user_id: str) -> int:
    """The user's points.

    :raises CallFailed: the answer was an error.
    """
    answer: Answer = await api.get(f"/points/users/{user_id}/balance", token)
    return int(answer.expect()["balance"])


def is_whole(spans: Sequence[Span]) -> bool:
    """Whether the trace reaches from the request to the last write of the consumer, with no span missing between."""
    consumers = [span for span in spans if span.name == LAST_CONSUMER]
    committed = any(below.name == "COMMIT" for span in consumers for below in descendants(spans, span))
    return committed and not orphans(spans)


def _ms(begin: float) -> str:
    return f"{(time.monotonic() - begin) * 1000:.0f} ms"
