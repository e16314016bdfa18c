"""Whether one process alone uses the mount: only for such a process may the event loop block.

A request says which process (to the kernel: thread) makes it, but for those about what is open: reads,
writes, listings, fsync and close of files and folders. Those are taken for requests of the process that
opened the file or folder, if one alone did.

Invariant: a process is alone once it made every request for `ALONE_NS`, and used only files and folders that
nobody else has open. In doubt it is not.

Event-loop thread only.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

ALONE_NS: Final = 50_000_000
_SEVERAL: Final = -1
"""In the place of a process: more than one."""
_UNKNOWN: Final = -2
"""Likewise: one that cannot be told from others."""


def _unknown() -> bool:
    """Nobody can tell: so there may be one."""
    return False


class Callers:
    """See the module."""

    __slots__ = ("_alone_since", "_opened", "is_line_empty", "process")

    def __init__(self) -> None:
        self.is_line_empty: Callable[[], bool] = _unknown
        """whether no request waits to be received"""
        self.process = _UNKNOWN
        """who made the last request that says so. The kernel says 0 for any that our namespace of processes
        does not have (pid_namespaces(7)): that may be several, so it is never the same one again"""
        self._alone_since = time.perf_counter_ns()
        self._opened: dict[int, tuple[int, int]] = {}
        """of each file and folder that is open: the process that opened it, and how often it is"""

    def called(self, process: int) -> None:
        """A request of another process than `process`."""
        self.process, self._alone_since = process or _UNKNOWN, time.perf_counter_ns()

    def opened(self, inode: int, process: int) -> None:
        """The process opened the file or folder."""
        before, count = self._opened.get(inode, (process, 0))
        self._opened[inode] = process if before == process else _SEVERAL, count + 1

    def closed(self, inode: int) -> None:
        """One of those who opened the file or folder has closed it."""
        self.used(inode)
        process, count = self._opened.get(inode, (_SEVERAL, 1))
        if count > 1:
            self._opened[inode] = process, count - 1
        else:
            self._opened.pop(inode, None)

    def used(self, inode: int) -> None:
        """Somebody used the file or folder, which need not be open."""
        opened = self._opened.get(inode)
        if opened is None or opened[0] != self.process:
            self._alone_since = time.perf_counter_ns()

    def is_alone(self, inode: int) -> bool:
        """Whether who asks for something of the file, which is open, is alone, and nobody is about to ask."""
        self.used(inode)
        return time.perf_counter_ns() - self._alone_since >= ALONE_NS and self.is_line_empty()
