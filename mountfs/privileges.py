"""Set-user-ID and set-group-ID: when a file loses them because somebody changes it.

With FUSE_HANDLE_KILLPRIV_V2 (linux/fuse.h) the kernel leaves that to the file system. In return it asks for
`security.capability` not before each write(2) but once, which makes small writes as fast as the page cache.
The rules are those of chown(2), truncate(2), write(2) and inode(7): a new owner or group takes the bits away
from any file; new content or another size does, unless the caller has CAP_FSETID (capabilities(7)).

The kernel says with each request whether the caller has it; pyfuse3 does not pass that on, so /proc is asked.
A write does not even say who makes it. But where a file has such a bit, the kernel asks for
`security.capability` in the name of the writer, in the same call and before each write that it sends on. If
the file is open for writing then and the asking process may not keep the bits, they are taken away at once.
exec asks too, but cannot run a file that is open for writing. What the kernel writes back later from its
cache was written with the right to it, or before the bits were set. A process that only reads the capability,
while the file is open for writing, takes the bits away too: the safe side.
"""

from __future__ import annotations

import re
import stat
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Final

from pyfuse3 import RequestContext

from cache.attributes import AttributeChange

CAPABILITY: Final = b"security.capability"
_CAP_FSETID: Final = 1 << 4
_EFFECTIVE: Final = re.compile(r"^CapEff:\s*([0-9a-f]+)$", re.MULTILINE)


def without_privileges(mode: int) -> int:
    """The mode that is left. A set-group-ID where the group may not execute is no privilege (inode(7))."""
    if stat.S_ISDIR(mode):
        return mode
    return mode & ~(stat.S_ISUID | (stat.S_ISGID if mode & stat.S_IXGRP else 0))


def keeps_them(context: RequestContext) -> bool:
    """Whether the caller has CAP_FSETID. Only root is believed: in a user namespace of their own everybody
    has all capabilities."""
    if context.uid:
        return False
    try:
        found = _EFFECTIVE.search(Path(f"/proc/{context.pid}/status").read_text())
    except OSError:  # the process has ended, or is in a namespace that we do not see
        return True
    return found is None or bool(int(found[1], 16) & _CAP_FSETID)


def truncation(mode: int, now: int, context: RequestContext) -> AttributeChange:
    """The change that opening with O_TRUNC makes, `now`. The kernel leaves it all to us
    (FUSE_ATOMIC_O_TRUNC), also the times of a file that was empty already."""
    return reduced(AttributeChange(size=0, mtime_ns=now, ctime_ns=now), mode, context)


def reduced(change: AttributeChange, mode: int, context: RequestContext) -> AttributeChange:
    """The change that the kernel asks for of a file of that mode, with what it takes away."""
    left = without_privileges(mode)
    if left == mode or (not _is_chown(change) and keeps_them(context)):
        return change
    return replace(change, mode=left)


def may_reduce(change: AttributeChange) -> bool:
    """Whether a change takes the bits away from a file that has them, or could."""
    return change.mode is None and (change.size is not None or _is_chown(change))


def _is_chown(change: AttributeChange) -> bool:
    """Nothing but a change time is what is left of chown(path, -1, -1)."""
    others = (change.size, change.atime_ns, change.mtime_ns)
    return change.uid is not None or change.gid is not None or others == (None, None, None)


class Writers:
    """The number of times that each file is open for writing."""

    def __init__(self) -> None:
        self._opened: Counter[int] = Counter()

    def opened(self, inode: int) -> None:
        """One descriptor more can write."""
        self._opened[inode] += 1

    def closed(self, inode: int) -> bool:
        """One less; whether it was the last."""
        self._opened[inode] -= 1
        if self._opened[inode]:
            return False
        del self._opened[inode]
        return True

    def opened_now(self) -> list[int]:
        """Those that are open for writing."""
        return [*self._opened]

    def is_about_to_take(self, inode: int, mode: int, context: RequestContext) -> bool:
        """Whether the bits are to go now that the kernel asks for the capability in somebody's name."""
        return inode in self._opened and without_privileges(mode) != mode and not keeps_them(context)
