"""Waits of calls that may take long, and that are cut off where nobody needs the answer any more.

A call waits here before it has changed anything, so that to cut it off leaves nothing half done: a read for
blocks, a change for room. It then fails with `AbandonedError`, as it would if the store failed it.

Event-loop thread only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import trio

from cache.errors import AbandonedError

LOOK_SECONDS: Final = 0.2
"""The time between two looks at who waits, and the least time that a wait takes before it is cut off."""


class SlowWaits:
    """Those of one drive, of all its doors."""

    def __init__(self) -> None:
        self._scopes: dict[trio.lowlevel.Task, trio.CancelScope] = {}
        self._begun = trio.Event()

    @contextmanager
    def wait(self) -> Iterator[None]:
        """Around one wait of the calling task. `AbandonedError`: nobody needs the call any more."""
        task = trio.lowlevel.current_task()
        with trio.CancelScope() as scope:
            self._scopes[task] = scope
            self._begun.set()
            try:
                yield
            finally:
                del self._scopes[task]
        if scope.cancelled_caught:
            raise AbandonedError("who waited for it was killed")

    async def cut_off(self, is_abandoned: Callable[[trio.lowlevel.Task], bool]) -> None:
        """Look at the tasks that wait, as long as there are any, and cut off those of which `is_abandoned`
        says so; until cancelled."""
        while True:
            await self._begun.wait()
            await trio.sleep(LOOK_SECONDS)
            for task, scope in tuple(self._scopes.items()):
                if is_abandoned(task):
                    scope.cancel()
            if not self._scopes:
                self._begun = trio.Event()
