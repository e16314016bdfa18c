"""Standing still: what waits while a state is made that is to follow on the present one.

Changes that are accepted meanwhile are made on that state too, at its end (`cache.journal.rebasing`). The
drive's own, which nobody asked for, wait; all do while `is_still`. Those that cannot wait are accepted all
the same. Event-loop thread only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio


class Standing:
    """See the module."""

    def __init__(self) -> None:
        self._over: trio.Event | None = None
        """set when such a state is not made any more"""
        self.is_still = False
        """whether all changes are to wait"""

    @property
    def is_aside(self) -> bool:
        """Whether such a state is made: the drive's own changes are to wait."""
        return self._over is not None

    @contextmanager
    def aside(self, *, is_still: bool) -> Iterator[None]:
        """While it lasts `is_aside` holds, and `is_still` as said. One at a time."""
        self._over = over = trio.Event()
        self.is_still = is_still
        try:
            yield
        finally:
            self._over, self.is_still = None, False
            over.set()

    async def moving(self) -> None:
        """Return in a turn in which changes need not wait; at once if that is now."""
        while self.is_still:
            await self._ended()

    async def alone(self) -> None:
        """Return in a turn in which the drive's own changes need not wait; at once if that is now."""
        while self.is_aside:
            await self._ended()

    async def _ended(self) -> None:
        assert self._over is not None
        await self._over.wait()
