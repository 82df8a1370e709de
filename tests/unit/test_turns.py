"""Turns: one at a time per key, in order, without forgetting to give back."""

import asyncio

import pytest

from infra.errors import DeadlineExceeded
from infra.turns import Turns


def soon(seconds: float = 5.0) -> float:
    return asyncio.get_running_loop().time() + seconds


async def test_a_key_is_held_by_one_at_a_time_in_arrival_order_and_others_are_free() -> None:
    turns, story = Turns(), list[str]()

    async def work(key: int, name: str) -> None:
        async with turns.take(key, deadline=soon()):
            story.append(f"{name} in")
            await asyncio.sleep(0)
            story.append(f"{name} out")

    await asyncio.gather(work(1, "a"), work(1, "b"), work(2, "x"), work(1, "c"))
    assert [line for line in story if line[0] != "x"] == ["a in", "a out", "b in", "b out", "c in", "c out"]
    assert story.index("x in") < story.index("a out")
    assert not turns._locks
    assert not turns._users


async def test_a_turn_that_does_not_come_in_time_is_a_deadline_exceeded() -> None:
    turns = Turns()
    async with turns.take(1, deadline=soon()):
        with pytest.raises(DeadlineExceeded):
            async with turns.take(1, deadline=soon(0.01)):
                raise AssertionError
    assert not turns._locks
    assert not turns._users


async def test_who_fails_or_leaves_gives_the_turn_back() -> None:
    turns = Turns()
    with pytest.raises(ZeroDivisionError):
        async with turns.take(1, deadline=soon()):
            raise ZeroDivisionError
    async with turns.take(1, deadline=soon()):

        async def wait() -> None:
            async with turns.take(1, deadline=soon()):
                raise AssertionError

        waiting = asyncio.create_task(wait())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
    async with turns.take(1, deadline=soon()):
        pass
    assert not turns._locks
    assert not turns._users
