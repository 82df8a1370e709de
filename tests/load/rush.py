"""A rush on a running platform: `python -m tests.load.rush`, after `./promo up`.

Many users order from one sale through the gateway; then the same on the same Postgres by a lock for each request.
Exit code 1 when not exactly what was on offer was sold, a queue number is missing, or an invariant is broken.
"""

import argparse
import asyncio
import contextlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvloop

from infra.local.api import Api
from infra.local.failures import Failed
from infra.local.state import Run, State
from infra.local.tokens import mint, mint_many
from infra.local.verbs import ask_workers
from tests.load import row_lock
from tests.load.wire import Answer, post, send_all

WARM_ORDERS = 200


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.load.rush", description=__doc__.partition("\n")[0])
    parser.add_argument("--orders", type=int, default=10_000, help="how many, each by another user")
    parser.add_argument("--stock", type=int, default=1_000)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    try:
        result = uvloop.run(rush(State.of_this_checkout().run(), given.orders, given.stock, given.connections))
    except Failed as failed:
        sys.exit(f"rush: {failed}")
    print(json.dumps(result) if given.json else as_text(result))
    sys.exit(1 if result["faults"] else 0)


async def rush(run: Run, orders: int, stock: int, connections: int) -> dict[str, Any]:
    """Both ways, one after the other."""
    ours = await _ours(run, orders, stock, connections)
    outcomes, seconds = await row_lock.sell(run.urls["postgres"], orders, stock, connections)
    theirs = {"answers": dict(outcomes), "seconds": round(seconds, 2), "ratePerSecond": round(orders / seconds)}
    invariants = await asyncio.to_thread(ask_workers, run, ["invariants", "--json"])
    broken = [each["name"] for answer in invariants for each in answer.parsed()["broken"]]
    return {**ours, "brokenInvariants": broken, "faults": ours["faults"] + broken, "rowLock": theirs}


async def _ours(run: Run, orders: int, stock: int, connections: int) -> dict[str, Any]:
    admin = mint(run.token_secret, "admin-1", "admin")
    address = urlsplit(run.urls["api"])
    host, port = str(address.hostname), int(address.port or 80)
    crowd = f"load-{time.time_ns():x}"
    tokens = mint_many(run.token_secret, crowd, "user", orders + WARM_ORDERS)
    async with Api(run.urls["api"]) as api:
        warm, sale = await _make_sale(api, admin, WARM_ORDERS), await _make_sale(api, admin, stock)
        path, name = f"{address.path}/orders", f"{host}:{port}"
        asks = [post(path, name, token, {"timeSaleId": sale, "quantity": 1}) for token in tokens[:orders]]
        first = [post(path, name, token, {"timeSaleId": warm, "quantity": 1}) for token in tokens[orders:]]
        await send_all(host, port, first, connections)
        begin, cpu = time.perf_counter(), _cpu_seconds(run)
        answers = await send_all(host, port, asks, connections)
        seconds = time.perf_counter() - begin
        spent = {name: round((after - cpu[name]) / orders * 1e6) for name, after in _cpu_seconds(run).items()}
        shown = (await api.get(f"/time-sales/{sale}", admin)).expect()
    faults = _faults(answers, stock, shown["remainingQuantity"])
    return {
        "orders": orders,
        "stock": stock,
        "connections": connections,
        "answers": dict(Counter(answer.code for answer in answers).most_common()),
        "seconds": round(seconds, 2),
        "ratePerSecond": round(orders / seconds),
        "p50Ms": _percentile_ms(answers, 50),
        "p99Ms": _percentile_ms(answers, 99),
        "cpuMicrosecondsPerOrder": spent,
        "faults": faults,
    }


def _faults(answers: Sequence[Answer], stock: int, remaining: int) -> list[str]:
    """What must not be, in words."""
    found = []
    codes = Counter(answer.code for answer in answers)
    sold = min(stock, len(answers))
    if codes != Counter({"OK": sold, "SOLD_OUT": len(answers) - sold}):
        found.append(f"expected {sold} OK and {len(answers) - sold} SOLD_OUT")
    if sorted(answer.told["queueNumber"] for answer in answers if answer.code == "OK") != list(range(1, sold + 1)):
        found.append(f"the queue numbers are not 1 to {sold}")
    if remaining != stock - sold:
        found.append(f"{remaining} units remain")
    return found


def _cpu_seconds(run: Run) -> dict[str, float]:
    """What each part of the platform has computed so far; nothing where the system does not say."""
    found = {}
    for part in run.parts:
        with contextlib.suppress(OSError):
            told = Path(f"/proc/{part.pid}/stat").read_text().rpartition(")")[2].split()
            found[part.name] = (int(told[11]) + int(told[12])) / os.sysconf("SC_CLK_TCK")
    return found


def _percentile_ms(answers: Sequence[Answer], percent: int) -> float:
    ordered = sorted(answer.seconds for answer in answers)
    return round(ordered[min(len(ordered) * percent // 100, len(ordered) - 1)] * 1000, 1)


async def _make_sale(api: Api, admin: str, stock: int) -> str:
    product = (await api.post("/products", admin, {"name": "Lamp", "price": 10_000})).expect()
    now = datetime.now(UTC)
    wanted = {
        "productId": product["id"],
        "quantity": stock,
        "discountPrice": 7_000,
        "startAt": (now - timedelta(minutes=1)).isoformat(),
        "endAt": (now + timedelta(hours=1)).isoformat(),
    }
    return str((await api.post("/time-sales", admin, wanted)).expect()["id"])


def as_text(result: dict[str, Any]) -> str:
    """The result for a person."""
    plain, costs = result["rowLock"], result["cpuMicrosecondsPerOrder"]
    lines = [
        f"{result['orders']} orders by as many users, {result['stock']} units, {result['connections']} connections",
        f"answers        {', '.join(f'{count} {code}' for code, count in result['answers'].items())}",
        f"queue numbers  1 to {min(result['stock'], result['orders'])}" if not result["faults"] else "",
        f"platform       {result['ratePerSecond']} a second; p50 {result['p50Ms']} ms, p99 {result['p99Ms']} ms",
        f"CPU per order  {', '.join(f'{name} {spent} us' for name, spent in costs.items() if spent)}" if costs else "",
        f"row lock       {plain['ratePerSecond']} a second, straight on the same Postgres, without HTTP and events",
        "invariants     all hold" if not result["brokenInvariants"] else "",
        *(f"fault          {fault}" for fault in result["faults"]),
    ]
    return "\n".join(filter(None, lines))


if __name__ == "__main__":
    main()
