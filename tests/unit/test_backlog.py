"""Which records may be worked on, which wait, and which offset is safe."""

from random import Random
from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from infra.consumer.backlog import Backlog, Entry
from infra.kafka import Place

T = Place("t", 0)


def raw(offset: int, key: bytes | None = b"k", partition: int = 0) -> Any:
    return SimpleNamespace(
        topic="t", partition=partition, offset=offset, key=key, value=b"{}", headers=[], timestamp=1_700_000_000_000
    )


def offsets_of(entries: list[Entry]) -> list[int]:
    return [entry.raw.offset for entry in entries]


def fresh(backlog: Backlog) -> list[Entry]:
    groups = backlog.take(0.0)
    return groups[0] if groups else []


def test_the_offset_is_that_of_the_oldest_unfinished_record() -> None:
    backlog = Backlog("")
    first, second, third = backlog.add([raw(5), raw(6), raw(7)])
    backlog.done(second)
    assert backlog.offsets() == {T: 5}
    backlog.done(first)
    assert backlog.offsets() == {T: 7}
    backlog.done(third)
    assert backlog.offsets() == {T: 8}
    backlog.stored({T: 8})
    assert backlog.offsets() == {}


def test_later_records_of_a_failed_key_wait_behind_it_and_others_do_not() -> None:
    backlog = Backlog("")
    failed, other, later = backlog.add([raw(0, b"a"), raw(1, b"b"), raw(2, b"a")])
    backlog.wait(failed, due=5.0)
    assert not backlog.may_run(later)
    assert backlog.may_run(other)
    backlog.add([raw(3, b"a"), raw(4, b"b")])
    assert offsets_of(fresh(backlog)) == [1, 4]
    assert [offsets_of(group) for group in backlog.take(5.0)] == [[1, 4], [0]]
    backlog.done(failed)
    assert offsets_of(fresh(backlog)) == [1, 4, 2, 3]


def test_records_without_a_key_do_not_wait_for_each_other() -> None:
    backlog = Backlog("")
    failed, other = backlog.add([raw(0, None), raw(1, None)])
    backlog.wait(failed, due=5.0)
    assert backlog.may_run(other)


def test_the_same_key_on_another_partition_is_another_key() -> None:
    backlog = Backlog("")
    failed, other = backlog.add([raw(0), raw(0, partition=1)])
    backlog.wait(failed, due=5.0)
    assert backlog.may_run(other)


def test_a_record_that_comes_twice_is_no_trouble() -> None:
    backlog = Backlog("")
    (first,) = backlog.add([raw(0)])
    (again,) = backlog.add([raw(0)])
    backlog.done(first)
    backlog.done(again)
    assert backlog.offsets() == {T: 1}
    assert len(backlog) == 0


@given(
    polls=st.lists(st.lists(st.sampled_from([b"a", b"b", b"c"]), max_size=5), max_size=8),
    chance=st.randoms(use_true_random=True),
)
def test_whatever_fails_each_key_is_finished_in_its_order(polls: list[list[bytes]], chance: Random) -> None:
    backlog, finished, offset, now = Backlog(""), [], 0, 0.0
    while polls or len(backlog):
        for key in polls.pop() if polls else []:
            backlog.add([raw(offset, key)])
            offset += 1
        for group in backlog.take(now):
            for entry in group:
                if not backlog.may_run(entry):
                    continue
                if chance.random() < 0.3:
                    backlog.wait(entry, now + chance.randrange(3))
                else:
                    backlog.done(entry)
                    finished.append((entry.raw.key, entry.raw.offset))
        now += 1.0
    for key in (b"a", b"b", b"c"):
        of_key = [number for each, number in finished if each == key]
        assert of_key == sorted(of_key)
    assert len(finished) == offset
    assert offset == 0 or backlog.offsets() == {T: offset}
