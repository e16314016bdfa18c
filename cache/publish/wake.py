"""The event that wakes the publisher: something was accepted.

It is an object of its own, because parts that accept changes are built before the publisher.
"""

from __future__ import annotations

import trio


class Wake:
    """See the module. Event-loop thread."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = trio.Event()

    def set(self) -> None:
        """Cheap; called at every change."""
        if not self._event.is_set():
            self._event.set()

    def clear(self) -> None:
        """Only what is set from now on counts."""
        self._event = trio.Event()

    async def wait(self) -> None:
        """Until it is set."""
        await self._event.wait()
