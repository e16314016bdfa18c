"""Notices to the kernel of what it must forget: what the drive changed without a request of the kernel.

Invariants:
1. pyfuse3's session is not used after `close` returned, unless a call has been stuck in the kernel for
   `PATIENCE` seconds: a notice waits as long as somebody is in the middle of something in that folder, and he
   may wait for an answer that nobody gives any more.
2. A notice after the end is dropped and nothing is lost: the kernel forgets a mount that is gone.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Sequence
from threading import Condition
from typing import Final

import pyfuse3
import trio

from cache.sync import AttributesChanged, Change, ContentChanged, NameChanged

PATIENCE: Final = 2.0
AT_ONCE: Final = 8
"""Notices that may be under way: one may wait for somebody, others need not wait for it."""

_REMEMBERS_NOTHING: Final = (errno.ENOENT, errno.ENOSYS)
"""The kernel does not know the name or inode; or it has not even begun, and said which version it is."""

log = logging.getLogger(__name__)


class KernelNotices:
    """See the module. `tell` and `close` on trio's thread."""

    def __init__(self) -> None:
        self._limiter = trio.CapacityLimiter(AT_ONCE)
        self._changed = Condition()
        self._closed = False
        self._under_way = 0

    async def tell(self, changes: Sequence[Change]) -> None:
        """The kernel forgets what has changed. The content of a file that is open must not be among it: with
        its write-back cache the kernel would mix old and new bytes. `ExceptionGroup`: of some it could not be
        told; of all others it was."""
        # It may need our own loop to go on, so whoever does not wait any longer leaves it alone.
        await trio.to_thread.run_sync(self._tell, changes, abandon_on_cancel=True, limiter=self._limiter)

    def _tell(self, changes: Sequence[Change]) -> None:
        with self._changed:
            if self._closed:
                return
            self._under_way += 1
        try:
            _forget_all(changes)
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


def _forget_all(changes: Sequence[Change]) -> None:
    failures: list[Exception] = []
    for change in changes:
        try:
            _forget(change)
        except Exception as error:
            failures.append(error)
    if failures:
        raise ExceptionGroup("the kernel could not be told", failures)


def _forget(change: Change) -> None:
    try:
        if isinstance(change, NameChanged):
            pyfuse3.invalidate_entry(change.parent, change.name)
        elif isinstance(change, AttributesChanged):
            pyfuse3.invalidate_inode(change.inode, attr_only=True)
        elif isinstance(change, ContentChanged):
            pyfuse3.invalidate_inode(change.inode, attr_only=False)
        else:
            log.warning("the mount may show old names and attributes for a while: changes came too fast")
    except OSError as error:
        if error.errno not in _REMEMBERS_NOTHING:
            raise
