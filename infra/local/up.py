"""`promo up`: start, drive one flow, stay, stop."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping

from infra.local.api import Api
from infra.local.failures import CallFailed, StartFailed
from infra.local.flow import is_whole, issue_and_earn
from infra.local.plan import given_settings, make_plan
from infra.local.ports import reserved
from infra.local.stack import Stack
from infra.local.state import ROOT, Run, State
from infra.local.supervisor import Supervisor
from infra.local.tokens import mint
from infra.local.traces import fetch_whole
from infra.local.waterfall import render

REMAINS_SECONDS = 20.0
POLL_SECONDS = 0.1
TRACE_SECONDS = 15.0
FIRST_TRIES = 5  # caches and pools are cold, and the machine may be busy
USERS = {"admin": "admin-1", "user": "alice", "service": "shop-1"}  # the ready-made tokens, by role

Say = Callable[[str], None]


async def up(counts: Mapping[str, int], state: State, say: Say) -> bool:
    """Run the platform until a signal comes; a second signal ends everything by force. Whether it was ever ready.

    :raises StartFailed: it did not start, or a part of it keeps ending.
    """
    begin, ready = time.monotonic(), False
    with contextlib.ExitStack() as kept:
        kept.enter_context(state.held())
        await _end_remains(state.last_run(), say)
        plan = make_plan(counts, given_settings(os.environ, ROOT))
        kept.enter_context(reserved(plan.ports))
        stack = Stack(plan, state, say)
        async with until_signal(stack.supervisor, say):
            await stack.start()
            say(f"{'platform':<12} ready in {time.monotonic() - begin:4.1f} s")
            await _first_flow(state, say)
            stack.write_down(ready=True)
            ready = True
            say("\nrunning until Ctrl-C")
            await stack.supervisor.watch()
    return ready


@contextlib.asynccontextmanager
async def until_signal(supervisor: Supervisor, say: Say) -> AsyncIterator[None]:
    """A block that the first signal leaves and after which everything is ended; a second signal ends it by force."""
    block = asyncio.current_task()
    leaving = False

    def on_signal() -> None:
        if leaving:
            say("ending everything by force")
            supervisor.kill()
        elif block is not None:
            block.cancel()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, on_signal)
    try:
        yield
    except asyncio.CancelledError:
        if block is not None:
            block.uncancel()  # the signal: leaving is what was asked for
    finally:
        leaving = True
        say("stopping")
        await supervisor.stop()


async def _first_flow(state: State, say: Say) -> None:
    """One request through everything, its trace, and what a person needs to go on.

    :raises StartFailed: an answer was an error, or the event did not take effect.
    """
    run = state.run()
    tokens = {role: mint(run.token_secret, user, role) for role, user in USERS.items()}
    try:
        async with Api(run.urls["api"], tries=FIRST_TRIES) as api:
            trace_id = await issue_and_earn(api, tokens["admin"], tokens["user"], USERS["user"], say)
    except CallFailed as error:
        raise StartFailed(f"the first request failed: {error}") from error
    if traces := run.urls.get("traces"):
        spans = await fetch_whole(traces, trace_id, is_whole, seconds=TRACE_SECONDS)
        say("\n" + "\n".join(render(trace_id, spans)))
    say("")
    for name, url in run.urls.items():
        say(f"{name:<12} {url}")
    for role, token in tokens.items():
        say(f"{role:<12} {USERS[role]}: {token}")


async def _end_remains(last: Run | None, say: Say) -> None:
    """Wait for the children of a supervisor that was killed; they were told to end, and are ended if they do not."""
    until = time.monotonic() + REMAINS_SECONDS
    told = False
    while left := [part for part in (last.parts if last else ()) if part.is_alive()]:
        if not told:
            say(f"waiting for what the last run left: {', '.join(part.name for part in left)}")
            told = True
        if time.monotonic() > until:
            for part in left:
                os.killpg(part.pid, signal.SIGKILL)
        await asyncio.sleep(POLL_SECONDS)
