"""Large writes let other requests go first (`PollingLoop.turn`), except requests that must come after them.

The kernel itself keeps nearly all of that order: it waits for the answers to its writes before it truncates,
syncs or closes, and before it sends the attributes that a program sets (fs/fuse/dir.c, `fuse_setattr`). It
does not wait when it writes the times of a changed file back (fs/fuse/inode.c, `fuse_write_inode`, called by
syncfs(2) and by the periodic write-back). A write that is handled after such a request would replace these
times by its own, for good.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import trio

LARGE: Final = 64 * 1024
"""So much the kernel writes back, or a program that expects to wait."""


async def _at_once() -> None:
    """Nobody goes first."""


class LargeWrites:
    """Those that were received and are not applied. `turn` returns when others have gone first. On the event
    loop's thread only."""

    def __init__(self) -> None:
        self.turn: Callable[[], Awaitable[None]] = _at_once
        self._received: dict[int, list[trio.Event]] = {}
        """by inode, for each write what tells that it is applied or has failed"""

    @asynccontextmanager
    async def in_turn(self, inode: int) -> AsyncIterator[None]:
        """Around a large write of the file."""
        over = trio.Event()
        writes = self._received.setdefault(inode, [])
        writes.append(over)
        try:
            await self.turn()
            yield
        finally:
            over.set()
            writes.remove(over)
            if not writes:
                del self._received[inode]

    def are_waiting(self, inode: int) -> bool:
        """Whether `wait_for` would wait."""
        return inode in self._received

    async def wait_for(self, inode: int) -> None:
        """Return when all of the file that were received before the call are applied or have failed."""
        for over in tuple(self._received.get(inode, ())):
            await over.wait()
