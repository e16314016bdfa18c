"""Waits of calls that may take long, and that are cut off where nobody needs the answer any more.

A call waits here before it has changed anything, so that to cut it off leaves nothing half done: a read for
blocks, a change for room, an opening for the newest commit. It then fails with `AbandonedError`, as it would
if the store failed it.

Event-loop thread only.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Final

import trio

from cache.errors import AbandonedError

LOOK_SECONDS: Final = 0.2
"""The time between two looks at who waits, and from the first wait of some to the first look."""


class Wait:
    """One of a task. A class, as each read of what is not in memory has one, and a generator takes longer."""

    __slots__ = ("_scope", "_scopes", "_task")

    def __init__(self, scopes: dict[trio.lowlevel.Task, trio.CancelScope]) -> None:
        self._scopes = scopes

    def __enter__(self) -> None:
        self._task = trio.lowlevel.current_task()
        self._scope = self._scopes[self._task] = trio.CancelScope()
        self._scope.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del self._scopes[self._task]
        self._scope.__exit__(kind, error, trace)
        if self._scope.cancelled_caught:
            raise AbandonedError("who waited for it was killed") from None


class SlowWaits:
    """Those of one drive, of all its doors."""

    def __init__(self) -> None:
        self._scopes: dict[trio.lowlevel.Task, trio.CancelScope] = {}
        self._begun = trio.Event()

    def wait(self) -> Wait:
        """Around one wait of the calling task. `AbandonedError`: nobody needs the call any more."""
        self._begun.set()
        return Wait(self._scopes)

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
