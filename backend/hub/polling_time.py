"""The time that polls are given, which ends for all of them when the process is to end. asyncio's thread."""

from __future__ import annotations

from weakref import WeakSet

import anyio


class PollingTime:
    """See the module."""

    def __init__(self) -> None:
        self._scopes: WeakSet[anyio.CancelScope] = WeakSet()
        self._most: float | None = None

    def of(self, seconds: float) -> anyio.CancelScope:
        """A block that is left when so many seconds are over, or as `end` says; to be entered at once."""
        scope = anyio.move_on_after(seconds if self._most is None else min(seconds, self._most))
        self._scopes.add(scope)
        return scope

    def end(self, seconds: float) -> None:
        """Let all go within so many seconds, one after the other: they come back elsewhere, and not all at
        once. None gets more from now on."""
        self._most, now, scopes = seconds, anyio.current_time(), list(self._scopes)
        for number, scope in enumerate(scopes):
            scope.deadline = min(scope.deadline, now + seconds * number / len(scopes))
