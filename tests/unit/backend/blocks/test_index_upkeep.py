"""When the index is compared with the nodes again, and for how many."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from backend.blocks.index_reconciliation import IndexReconciliation, Progress, ReconcileReport
from backend.blocks.index_upkeep import AGAIN, IndexUpkeep
from backend.blocks.presence import Presence
from tests.memory_index import MemoryBlockIndex
from tests.memory_node import memory_nodes


class Slow(IndexReconciliation):
    """Takes a second; `runs` counts. It does not reach the nodes `away`."""

    def __init__(self) -> None:
        self.runs = 0
        self.away = ["node0"]

    async def run(self, progress: Progress | None = None) -> ReconcileReport:
        self.runs += 1
        await trio.sleep(1)
        return ReconcileReport(away=list(self.away))


@pytest.fixture
def slow() -> Slow:
    return Slow()


@pytest.fixture
def upkeep(slow: Slow) -> IndexUpkeep:
    return IndexUpkeep(slow, Presence(MemoryBlockIndex(2), 2), memory_nodes(6), lambda: None)


async def test_all_who_miss_a_block_share_one_comparison(
    slow: Slow, upkeep: IndexUpkeep, autojump_clock: trio.testing.MockClock
) -> None:
    """Regression: each of those who came while one was made had the nodes listed once more."""
    for runs in (1, 2):
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(upkeep.compare_for_block)
        await upkeep.compare_for_block()
        assert slow.runs == runs
        await trio.sleep(AGAIN + 1)


async def test_who_asks_for_a_comparison_has_one_of_his_own(
    slow: Slow, upkeep: IndexUpkeep, autojump_clock: trio.testing.MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(upkeep.compare)
        nursery.start_soon(upkeep.compare)
    assert slow.runs == 2
    assert upkeep.away == ("node0",)


async def test_a_node_that_comes_back_is_seen_also_after_comparisons_that_missed_none(
    slow: Slow, upkeep: IndexUpkeep, autojump_clock: trio.testing.MockClock
) -> None:
    """Regression: a comparison without nodes away, while `run` waited for some, had it wait for ever."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(upkeep.run)
        for away in ([], ["node0"]):
            await trio.testing.wait_all_tasks_blocked()
            slow.away = away
            await upkeep.compare()
        slow.away = []
        with trio.move_on_after(10 * AGAIN):
            while upkeep.away:
                await trio.sleep(0.1)
        nursery.cancel_scope.cancel()
    assert upkeep.away == ()
