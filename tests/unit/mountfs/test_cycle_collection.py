"""mountfs.cycle_collection: when all objects are looked at."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest
import trio
import trio.testing

from mountfs.cycle_collection import LONGEST_SECONDS, LOOK_SECONDS, YOUNG, collect_cycles_when_idle


class Cycle:
    """Refers to itself: only a collection frees it."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0


def old_cycle() -> weakref.ref[Cycle]:
    """Garbage that was not seen to be it while it was young."""
    cycle = Cycle()
    gc.collect(1)
    return weakref.ref(cycle)


def make_objects() -> list[list[int]]:
    return [[number] for number in range(20 * YOUNG[0] * YOUNG[1])]


def full_collections() -> int:
    return int(gc.get_stats()[2]["collections"])


async def test_the_interpreter_leaves_old_objects_alone(nursery: trio.Nursery) -> None:
    nursery.start_soon(collect_cycles_when_idle, lambda: 0.0)
    await trio.testing.wait_all_tasks_blocked()
    before = full_collections()
    kept = [make_objects() for _ in range(5)]
    assert full_collections() == before
    assert len(kept) == 5


async def test_garbage_goes_when_nobody_waits(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(collect_cycles_when_idle, lambda: 2.0)
        await trio.testing.wait_all_tasks_blocked()
        garbage = old_cycle()
        assert garbage() is not None
        await trio.sleep(LOOK_SECONDS + 1)
        assert garbage() is None
        nursery.cancel_scope.cancel()


async def test_a_mount_that_is_never_idle_is_held_up_seldom(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(collect_cycles_when_idle, lambda: 0.5)
        await trio.testing.wait_all_tasks_blocked()
        garbage = old_cycle()
        await trio.sleep(LONGEST_SECONDS - 1)
        assert garbage() is not None
        await trio.sleep(LOOK_SECONDS + 1)
        assert garbage() is None
        nursery.cancel_scope.cancel()


async def test_nothing_is_done_while_nothing_happens(autojump_clock: trio.testing.MockClock) -> None:
    gc.collect()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(collect_cycles_when_idle, lambda: 1e9)
        await trio.testing.wait_all_tasks_blocked()
        before = full_collections()
        await trio.sleep(2 * LONGEST_SECONDS + 1)
        assert full_collections() == before
        kept = make_objects()
        await trio.sleep(LOOK_SECONDS)
        assert full_collections() == before + 1
        assert kept
        nursery.cancel_scope.cancel()
