"""Telling the kernel what it may not remember any more: what the drive changed from another side.

Invariants:
1. pyfuse3's session is not used after `close` returned, unless a call has been stuck in the kernel for
   `PATIENCE` seconds: a notice waits as long as somebody is in the middle of something in that folder, and he
   may wait for an answer that nobody gives any more.
2. Who is too late is told nothing and loses nothing: the kernel forgets a mount that is gone.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from threading import Condition
from typing import Final

import pyfuse3
import trio

PATIENCE: Final = 2.0
_LIMIT: Final = 8


class KernelNotices:
    """See the module. `tell` and `close` on trio's thread."""

    def __init__(self) -> None:
        self._limiter = trio.CapacityLimiter(_LIMIT)
        self._changed = Condition()
        self._closed = False
        self._under_way = 0

    async def tell(self, parent: int, name: bytes, replaced: int) -> None:
        """The kernel forgets the name, and the attributes of both inodes (`replaced` 0: there is none)."""
        # It may need our own loop to go on, so whoever does not wait any longer leaves it alone.
        await trio.to_thread.run_sync(
            self._tell, parent, name, replaced, abandon_on_cancel=True, limiter=self._limiter
        )

    def _tell(self, parent: int, name: bytes, replaced: int) -> None:
        with self._changed:
            if self._closed:
                return
            self._under_way += 1
        try:
            _forget(parent, name, replaced)
        finally:
            with self._changed:
                self._under_way -= 1
                self._changed.notify_all()

    async def close(self) -> None:
        """Nothing is told any more; returns when nothing is under way. Not cancelled. Idempotent."""
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._wait_until_idle)

    def _wait_until_idle(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.wait_for(lambda: not self._under_way, PATIENCE)


def _forget(parent: int, name: bytes, replaced: int) -> None:
    calls: list[Callable[[], None]] = [
        lambda: pyfuse3.invalidate_entry(parent, name),
        lambda: pyfuse3.invalidate_inode(parent, attr_only=True),
    ]
    if replaced:
        calls.append(lambda: pyfuse3.invalidate_inode(replaced, attr_only=True))
    for call in calls:
        try:
            call()
        except OSError as error:
            if error.errno != errno.ENOENT:  # it remembered nothing
                raise
