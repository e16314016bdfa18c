"""The moment of the next cut: how long what was accepted waits for more that goes into the same commit.

A drive that one device writes makes few, large commits. Where several devices write, the others wait for each
change, and conflict with a change that they do not know. There a change is published soon after it was
accepted, or after its file was closed. Publishing then takes half of the time at most, unless it takes long:
a narrow line is not left idle for as long as it was busy.

Event-loop thread.
"""

from __future__ import annotations

from typing import Final

import trio

from cache.journal import Ledger
from cache.publish.cut_rule import Intervals
from cache.publish.pressure import Pressure
from cache.publish.wake import Wake

GLANCE: Final = 0.005
"""Seconds between two looks at whether a cut is pressing: a look for each change would cost a tenth of it."""

LONGEST_PAUSE: Final = 0.5
"""Seconds after a commit at most, however long publishing it took."""


class Due:
    """See the module. `wake`: set when something was accepted or a file was closed. `is_shared`: others write
    the drive too."""

    def __init__(
        self,
        ledger: Ledger,
        intervals: Intervals,
        wake: Wake,
        pressure: Pressure,
        *,
        is_shared: bool,
    ) -> None:
        self._ledger = ledger
        self._intervals = intervals
        self._wake = wake
        self._pressure = pressure
        self._is_shared = is_shared
        self.took = 0.0
        """seconds that publishing took the last time"""

    async def wait(self) -> None:
        """Until a commit is to be made or, if one is pending, to be finished."""
        while not self._ledger.unpublished and not self._pressure.blocks_writers:
            self._wake.clear()
            await self._wake.wait()
        if self._ledger.pending is None:
            with trio.move_on_after(self._intervals.commit):
                await (self._soon() if self._is_shared else self._when_pressed())

    async def _when_pressed(self) -> None:
        while not self._pressure.calls_for_cut:
            self._wake.clear()
            await self._wake.wait()
            await trio.sleep(GLANCE)

    async def _soon(self) -> None:
        """The wake stays set from one commit to the next for what came while the first was on its way."""
        await self._wake.wait()
        await trio.sleep(max(self._intervals.shared, min(self.took, LONGEST_PAUSE)))
        self._wake.clear()
