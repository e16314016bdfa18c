"""When the next cut is due."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import pytest
import trio
import trio.testing

from cache.journal import Ledger
from cache.publish.cut_rule import Intervals
from cache.publish.due import LONGEST_PAUSE, Due
from cache.publish.pressure import Pressure
from cache.publish.wake import Wake

Clock = trio.testing.MockClock


@dataclass
class Facts:
    """The ledger's, as far as they count."""

    unpublished: bool = True
    pending: object | None = None


@dataclass
class Pressing:
    """The pressure, as somebody says that it is."""

    calls_for_cut: bool = False
    blocks_writers: bool = False


class Rig:
    def __init__(self, *, is_shared: bool) -> None:
        self.facts = Facts()
        self.wake = Wake()
        self.pressure = Pressing()
        self.due = Due(
            cast(Ledger, self.facts),
            Intervals(commit=5, shared=0.01),
            self.wake,
            cast(Pressure, self.pressure),
            is_shared=is_shared,
        )

    async def seconds(self) -> float:
        """Until the next one is due."""
        began = trio.current_time()
        await self.due.wait()
        return trio.current_time() - began


async def test_a_single_device_collects(autojump_clock: Clock) -> None:
    rig = Rig(is_shared=False)
    rig.wake.set()
    assert await rig.seconds() == pytest.approx(5)
    rig.pressure.calls_for_cut = True
    assert await rig.seconds() == pytest.approx(0)


async def test_with_others_it_is_due_soon_after_something_was_accepted(
    autojump_clock: Clock,
) -> None:
    shared = Rig(is_shared=True)
    shared.wake.set()
    assert await shared.seconds() == pytest.approx(0.01)


async def test_what_stays_open_is_not_looked_at_all_the_time(autojump_clock: Clock) -> None:
    """A file that is open and dirty is unpublished for as long as it is."""
    shared = Rig(is_shared=True)
    shared.wake.set()
    await shared.seconds()
    assert await shared.seconds() == pytest.approx(5)


async def test_what_comes_while_a_commit_is_on_its_way_is_in_the_next(
    autojump_clock: Clock,
) -> None:
    shared = Rig(is_shared=True)
    shared.wake.set()
    await shared.seconds()
    shared.wake.set()
    assert await shared.seconds() == pytest.approx(0.01)


async def test_publishing_takes_half_of_the_time_at_most(autojump_clock: Clock) -> None:
    shared = Rig(is_shared=True)
    shared.due.took = 0.3
    shared.wake.set()
    assert await shared.seconds() == pytest.approx(0.3)


async def test_what_comes_after_a_long_upload_does_not_wait_as_long(autojump_clock: Clock) -> None:
    """Regression: over a line of 10 Mbit/s a small change after a large one waited for five seconds."""
    shared = Rig(is_shared=True)
    shared.due.took = 60
    shared.wake.set()
    assert await shared.seconds() == pytest.approx(LONGEST_PAUSE)


async def test_a_pending_commit_is_finished_at_once(autojump_clock: Clock) -> None:
    shared = Rig(is_shared=True)
    shared.facts.pending = object()
    assert await shared.seconds() == pytest.approx(0)
