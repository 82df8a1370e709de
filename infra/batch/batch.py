"""Group commit. When no transaction runs in a lane, the next starts at once with whatever waits; else claims queue.

A claim whose transaction failed gets what its SQLSTATE asks for: the whole again, again at once, or halved until the
bad claim stands alone. A caller that leaves cancels nobody's transaction.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextvars import Context
from time import perf_counter
from typing import Generic

from infra import telemetry
from infra.batch.claim import Claim, Demand, Group, Groups, Result, describe_run, leader_of
from infra.batch.lanes import Lane, Lanes
from infra.errors import DeadlineExceeded, Overloaded, Unavailable
from infra.postgres import Failure, blocked, classify, error_type, sqlstate
from infra.settings import WorkerSettings
from infra.telemetry import StatusCode, instruments, metrics, names

AT_ONCE_MAX = 3  # runs; a command that is still in the way then is in this very batch twice
PAUSE_DOUBLINGS_MAX = 5


class BatchFailed(Exception):
    """The whole transaction failed by a bug of ours, which is the cause."""


class Batch(Generic[Demand, Result]):
    """`work` opens its own transaction and returns, after the commit, one result per demand, in their order.

    A result that is an exception is raised to that one's caller. `work` may be run again with the same demands.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[Sequence[Demand]], Awaitable[Sequence[Result | Exception]]],
        *,
        settings: WorkerSettings,
        lanes_max: int | None = None,
    ) -> None:
        """`name` labels metrics and spans; at most `lanes_max` + 1 transactions run at a time."""
        self._name, self._span_name, self._work = name, f"batch {name}", work
        self._lanes: Lanes[Demand, Result] = Lanes(lanes_max or settings.batch_lanes_max)
        self._size_max, self._queue_max = settings.batch_size_max, settings.batch_queue_max
        self._pause, self._drain = settings.batch_retry_seconds, settings.batch_drain_seconds
        self._margin = settings.batch_deadline_margin_ms / 1000
        self._stopping = False
        self._empty = asyncio.Event()
        self._sizes = instruments.BATCH_SIZE.labels(name)
        self._waits = instruments.BATCH_WAIT_SECONDS.labels(name)
        self._commits = instruments.BATCH_COMMIT_SECONDS.labels(name)
        self._rejected = instruments.BATCH_REJECTED.labels(name)
        instruments.BATCH_QUEUE_DEPTH.labels(name).set_function(lambda: self._lanes.depth)

    async def submit(self, key: int, demand: Demand, *, deadline: float) -> Result:
        """Have `demand` decided, together with others; `key` is the id of the row it is about.

        `deadline` is an instant of the loop's clock. What is under way at that time goes on: ask by command id.

        :raises Overloaded: the queue is full. :raises DeadlineExceeded: no result in time.
        :raises Unavailable: Postgres is not there, or the row stayed locked, for as long as the deadline allows.
        """
        loop = asyncio.get_running_loop()
        if self._stopping:
            raise Unavailable()
        if self._lanes.depth >= self._queue_max:
            self._rejected.inc()
            raise Overloaded()
        claim: Claim[Demand, Result] = Claim(key, demand, deadline, loop)
        claim.trace(self._span_name)
        self._lanes.add(claim)
        try:
            async with asyncio.timeout_at(deadline):
                return await claim.future
        except TimeoutError:
            if not claim.future.cancelled():
                raise  # the result itself was one
            raise DeadlineExceeded() from None

    async def run(self) -> None:
        """Serve the lanes until cancelled; then refuse what comes and finish what waits, for a bounded time."""
        async with asyncio.TaskGroup() as tasks:
            # An empty context: a lane that began inside a request would keep that request's span for life.
            lanes = [*self._lanes.usual, self._lanes.apart]
            serving = [tasks.create_task(self._serve(lane), context=Context()) for lane in lanes]
            try:
                await asyncio.Event().wait()
            finally:
                await self._finish()
                for task in serving:
                    task.cancel()

    async def _finish(self) -> None:
        self._stopping = True
        try:
            async with asyncio.timeout(self._drain):
                while self._lanes.depth:
                    self._empty.clear()
                    await self._empty.wait()
        except TimeoutError:
            pass  # who still waits is told Unavailable by its lane

    async def _serve(self, lane: Lane[Demand, Result]) -> None:
        try:
            while True:
                if not (lane.queue or lane.apart):
                    self._lanes.find_work(lane)
                await lane.filled.wait()
                await self._carry_out(lane, lane.take(self._size_max))
                lane.rest()
        finally:
            for claim in lane.queue:
                self._settle(claim, Unavailable())

    async def _carry_out(self, lane: Lane[Demand, Result], claims: Group[Demand, Result]) -> None:
        """Run these claims until each is settled, or waits in another lane."""
        groups = [claims]
        try:
            while groups:
                group = groups[0] = self._in_time(groups[0])
                further = await self._attempt(lane, group) if group else []
                groups[:1] = further
        finally:  # cancelled: nobody knows whether the last run committed
            for group in groups:
                for claim in group:
                    self._settle(claim, Unavailable())

    def _in_time(self, claims: Sequence[Claim[Demand, Result]]) -> Group[Demand, Result]:
        """Those whose callers wait and can still be answered; the others are dropped before any lock."""
        latest = asyncio.get_running_loop().time() + self._margin
        if all(claim.deadline > latest and not claim.future.done() for claim in claims):
            return list(claims)
        kept = []
        for claim in claims:
            if claim.future.done() and claim.deadline > latest:
                claim.left()
                self._done(claim)
            elif claim.deadline <= latest:
                self._settle(claim, DeadlineExceeded())
            else:
                kept.append(claim)
        return kept

    async def _attempt(self, lane: Lane[Demand, Result], group: Group[Demand, Result]) -> Groups[Demand, Result]:
        """One transaction for the group. What is returned is to be run next, in that order."""
        started = perf_counter()
        try:
            results = await self._run_once(group)
        except Exception as error:
            return await self._after(lane, group, error, perf_counter() - started)
        for claim, result in zip(group, results, strict=True):
            self._settle(claim, result)
        if lane.apart:
            self._lanes.bring_back(group[0].key)
        return []

    async def _run_once(self, group: Group[Demand, Result]) -> list[Result | Exception]:
        started = perf_counter()  # uvloop's clock stands still for a millisecond
        leader = leader_of(group)
        self._begin(group, started)
        demands = [claim.demand for claim in group]
        try:
            if leader is None or leader.span is None:
                results = list(await self._work(demands))
            else:
                with telemetry.attached(telemetry.context_of(leader.span)):
                    results = list(await self._work(demands))
        finally:
            seconds = perf_counter() - started
            self._commits.observe(seconds)
            if leader is not None:
                describe_run(group, leader, started, seconds)
        if len(results) != len(group):
            raise BatchFailed(f"{self._name}: {len(results)} results for {len(group)} demands")
        return results

    def _begin(self, group: Group[Demand, Result], started: float) -> None:
        self._sizes.observe(len(group))
        observe = self._waits.observe
        for claim in group:
            claim.attempt += 1
            if claim.span is None:
                observe(started - claim.entered)
            else:
                metrics.observe(self._waits, started - claim.entered, claim.span)

    async def _after(
        self, lane: Lane[Demand, Result], group: Group[Demand, Result], error: Exception, took: float
    ) -> Groups[Demand, Result]:
        """What the failure of a run asks for: the groups to run next."""
        failure = classify(error)
        if failure is Failure.AGAIN:
            return await self._again(lane, group, error, took)
        if failure is Failure.AGAIN_AT_ONCE and group[0].attempt < AT_ONCE_MAX:
            return self._rerun(group, error, [group])
        if len(group) == 1:
            self._settle(group[0], error)  # of the claim that stands alone the constraint's name decides
            return []
        if failure is Failure.BUG and sqlstate(error) is not None:  # a statement of ours is wrong for everybody
            for claim in group:
                failed = BatchFailed(self._name)
                failed.__cause__ = error
                self._settle(claim, failed)
            return []
        middle = len(group) // 2
        return self._rerun(group, error, [group[:middle], group[middle:]])

    async def _again(
        self, lane: Lane[Demand, Result], group: Group[Demand, Result], error: Exception, took: float
    ) -> Groups[Demand, Result]:
        """The whole once more while the deadlines allow; a row that is locked by others holds up only itself."""
        stuck = blocked(error)
        if stuck and len(rows := list(dict.fromkeys(claim.key for claim in group))) > 1:
            half = set(rows[: len(rows) // 2])
            split = [[claim for claim in group if (claim.key in half) is first] for first in (True, False)]
            return self._rerun(group, error, split)
        pause = self._pause * 2 ** min(group[0].attempt - 1, PAUSE_DOUBLINGS_MAX)
        self._give_up_late(group, error, pause + took)  # the next run may take as long
        if not group:
            return []
        self._rerun(group, error, [])
        if not stuck:
            await asyncio.sleep(pause)
            return [group]
        self._lanes.set_apart(group)
        group.clear()  # they wait in the other lane
        if lane.apart and lane.is_alone:
            await asyncio.sleep(pause)
        return []

    def _give_up_late(self, group: Group[Demand, Result], error: Exception, seconds: float) -> None:
        """Tell those Unavailable whose deadline comes before another run of so many seconds could end."""
        latest = asyncio.get_running_loop().time() + seconds + self._margin
        late = [claim for claim in group if claim.deadline <= latest]
        group[:] = [claim for claim in group if claim.deadline > latest]
        for claim in late:
            unavailable = Unavailable()
            unavailable.__cause__ = error
            self._settle(claim, unavailable)

    def _rerun(
        self, group: Group[Demand, Result], error: Exception, groups: Groups[Demand, Result]
    ) -> Groups[Demand, Result]:
        """Count it, and close the spans of the failed run: the leader's is an error, because its statements are."""
        kind = error_type(error)
        instruments.BATCH_RETRIES.labels(self._name, kind).inc()
        leader = leader_of(group)
        if leader is not None and leader.span is not None:
            leader.span.set_attribute(names.ERROR_TYPE, kind)
            leader.span.set_status(StatusCode.ERROR, kind)
        for claim in group:
            claim.go_again(self._span_name)
        return groups

    def _settle(self, claim: Claim[Demand, Result], result: Result | Exception) -> None:
        claim.settle(result)
        self._done(claim)

    def _done(self, claim: Claim[Demand, Result]) -> None:
        self._lanes.done(claim)
        if self._stopping and not self._lanes.depth:
            self._empty.set()
