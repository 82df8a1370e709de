"""What a claim on a sale gets: the sale, its stock, what the buyer has and the time in, the decision out."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from datetime import datetime
from uuid import UUID

from infra.errors import NotFound, Refused, ValidationFailed
from timesale.rules.words import (
    MONEY_MAX,
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


def status_at(sale: Sale | SaleTerms, at: datetime) -> SaleStatus:
    """The status by the clock and the counters. Start inclusive, end exclusive; ENDED beats SOLD_OUT."""
    if at >= sale.end_at:
        return SaleStatus.ENDED
    if at < sale.start_at:
        return SaleStatus.SCHEDULED
    sold_out = isinstance(sale, Sale) and sale.stock.remaining == 0
    return SaleStatus.SOLD_OUT if sold_out else SaleStatus.ACTIVE


def passages(before: SaleStatus, after: SaleStatus) -> tuple[SaleStatus, ...]:
    """The statuses a sale enters on its way; each is told once. One sold out before its start was told starts first."""
    if before is after:
        return ()
    if before is SaleStatus.SCHEDULED and after is SaleStatus.SOLD_OUT:
        return (SaleStatus.ACTIVE, SaleStatus.SOLD_OUT)
    return (after,)


def decide(
    sales: Mapping[int, Sale], units: Mapping[tuple[int, str], int], claims: Sequence[Claim], at: datetime
) -> tuple[list[Purchase | Exception], dict[int, Sale]]:
    """Each claim's outcome, in arrival order on what the earlier ones left, and the sales that moved, as they are then.

    `units` is what each (sale, user) has before. A repeat of a command that bought here gets the same Purchase, whose
    `claim` is then another's. What goes wrong in one claim is that claim's alone.
    """
    stocks = {sale.id: sale.stock for sale in sales.values()}
    owned = dict(units)
    made: dict[UUID, Purchase] = {}
    outcomes: list[Purchase | Exception] = []
    for claim in claims:
        outcome: Purchase | Exception | None = made.get(claim.command.command_id)
        if outcome is None:
            buyer = (claim.time_sale_id, claim.user_id)
            outcome = _judge(sales.get(claim.time_sale_id), stocks, claim, owned.get(buyer, 0), at)
            if isinstance(outcome, Purchase):
                made[claim.command.command_id] = outcome
                owned[buyer] = owned.get(buyer, 0) + claim.quantity
                stocks[claim.time_sale_id] = stocks[claim.time_sale_id].sell(claim.quantity)
        outcomes.append(outcome)
    return outcomes, {id: _moved(sales[id], stock, at) for id, stock in stocks.items() if stock != sales[id].stock}


def _judge(
    sale: Sale | None, stocks: Mapping[int, Stock], claim: Claim, owned: int, at: datetime
) -> Purchase | Exception:
    try:
        if sale is None:
            return NotFound("Time sale", claim.time_sale_id)
        return order(sale, stocks[sale.id], claim, owned=owned, at=at)
    except Exception as error:
        return error


def _moved(sale: Sale, stock: Stock, at: datetime) -> Sale:
    after = replace(sale, stock=replace(stock, version=stock.version + 1))
    return replace(after, status=status_at(after, at))


def order(sale: Sale, stock: Stock, claim: Claim, *, owned: int, at: datetime) -> Purchase | Refused:
    """What the claim buys from `stock`, or why it buys nothing. `owned`: units the user has in this sale."""
    total_price = sale.discount_price * claim.quantity
    if total_price > MONEY_MAX:
        return ValidationFailed({"quantity": f"makes a total price of {total_price}; the largest is {MONEY_MAX}"})
    if at < sale.start_at:
        return NotActive(retry_at=sale.start_at)
    if at >= sale.end_at:
        return NotActive()
    if stock.remaining == 0:
        return SoldOut(**_measured(0, claim.quantity))
    if stock.remaining < claim.quantity:
        return InsufficientStock(**_measured(stock.remaining, claim.quantity))
    if sale.per_user_limit is not None and owned + claim.quantity > sale.per_user_limit:
        return UserLimit(**_measured(max(0, sale.per_user_limit - owned), claim.quantity))
    return Purchase(claim, stock.last_queue_number + 1, sale.discount_price, total_price, sale.reward_points)


def refuse_early(sale: Sale | None, known: Set[UUID], claim: Claim, at: datetime | None) -> SoldOut | None:
    """SoldOut if the claim can be answered so without a lock; None leaves it to the batch, which knows more."""
    if sale is None or at is None or claim.command.command_id in known:
        return None
    outcome = order(sale, sale.stock, claim, owned=0, at=at)
    return outcome if isinstance(outcome, SoldOut) else None


def _measured(available: int, requested: int) -> dict[str, int]:
    return {"available": available, "requested": requested, "missing": requested - available}
