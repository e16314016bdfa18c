"""Changes that are put off: deleting inodes that nobody holds any more, and access times.

Such a change is worth neither an operation of its own nor a commit. Many are accepted at once, before a cut
or soon after it.

Invariant: an inode without a name lives while somebody holds it or its frozen content is on its way. So does
a version of a conflict, until it is pinned (`cache.rebase.versions`).

Event-loop thread only.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import Final

import trio

from cache.errors import InputOutputError, NoSpaceLeftError
from cache.journal import FEW, Ledger, Trimming
from cache.namespace import Delete, SetAttributes
from cache.publish import Wake
from cache.rebase import is_version

AT_ONCE: Final = 256
"""Changes that were put off are accepted so many at once."""
CUTS_KEPT: Final = 256
"""As many as there are in a minute of four commits a second."""


class PutOff:
    """See the module. `wake`: the publisher's."""

    def __init__(
        self, ledger: Ledger, trimming: Trimming, wake: Wake, *, read_only: bool, is_shared: bool
    ) -> None:
        self._ledger = ledger
        self._trimming = trimming
        self._namespace = ledger.namespace
        self._dirty = ledger.dirty
        self._wake = wake
        self._read_only = read_only
        self._is_shared = is_shared
        self._closed = False
        self._held: dict[int, int] = {}
        self._unused: dict[int, None] = {}
        self.removed = 0
        """files that lost their last name because somebody removed it, since the drive was opened"""
        self.removed_at_cuts: deque[tuple[int, int]] = deque(maxlen=CUTS_KEPT)
        """of the newest cuts: the commit, and how many files were removed before it"""
        self.access_times: dict[int, int] = {}
        """by inode, of those that the namespace does not know"""

    def close(self) -> None:
        """Nothing is accepted any more."""
        self._closed = True

    def hold(self, inode: int, count: int = 1) -> None:
        """The inode is known to the kernel, or open: it lives, whatever happens to its names."""
        self._held[inode] = self._held.get(inode, 0) + count

    def holds(self, inode: int) -> bool:
        """Whether somebody holds the inode."""
        return inode in self._held

    def release(self, inode: int, count: int = 1) -> None:
        """The opposite of `hold`, as often."""
        left = self._held.get(inode, 0) - count
        if left > 0:
            self._held[inode] = left
            return
        self._held.pop(inode, None)
        self.delete_if_unused(inode)

    def delete_unused(self) -> None:
        """Delete the inodes that were let go of without a name, many at once: called soon after, and before a
        cut. Some may have been found again meanwhile. Where the disk is short of room, only a few."""
        if self._unused and not self._ledger.standing.is_aside:
            most = FEW if self._trimming.is_tight else len(self._unused)
            waiting = list(islice(self._unused, most))
            unused = [inode for inode in waiting if self._is_unused(inode)]
            for inode in waiting:
                del self._unused[inode]
            self._delete(unused)

    def delete_for_room(self) -> None:
        """Delete a few more with each change, where the disk is short of room."""
        if len(self._unused) >= FEW and self._trimming.is_tight:
            self.delete_unused()

    async def delete_slowly(self) -> None:
        """Delete the inodes that a tick left because the disk is short of room, until no more can be."""
        before = len(self._unused) + 1
        while 0 < len(self._unused) < before and self._trimming.is_tight:
            before = len(self._unused)
            await self._trimming.relieve()
            self.delete_unused()

    @property
    def any_unused(self) -> bool:
        """Whether `delete_unused` may have something to do."""
        return bool(self._unused)

    def delete_if_unused(self, inode: int) -> None:
        """Its last name has gone, or nobody holds it, or its content is not frozen any more: it may be its
        end, soon."""
        if self._is_unused(inode):
            self._unused[inode] = None
            if len(self._unused) >= AT_ONCE and not self._trimming.is_tight:
                self.delete_unused()

    def _is_unused(self, inode: int) -> bool:
        if inode in self._held or self._read_only or self._closed:
            return False
        row = self._namespace.inode(inode)
        if row is None or row.nlink > 0 or (self._is_shared and is_version(self._namespace, inode)):
            return False
        file = self._dirty.get(inode)
        return file is None or file.frozen is None

    def _delete(self, inodes: list[int]) -> None:
        for inode in inodes:
            self.access_times.pop(inode, None)
        try:
            self._ledger.accept_all([Delete(inode) for inode in inodes])
        except (NoSpaceLeftError, InputOutputError):
            # What the caller asked for is done; these are tried again, at the latest at the next open.
            self._unused |= dict.fromkeys(inodes)
        else:
            self._wake.set()

    async def before_cut(self) -> None:
        """Accept what was put off; the cut is made in the turn in which this returns."""
        await self.accept_times()
        self.removed_at_cuts.append((self._namespace.commit, self.removed))

    async def accept_times(self) -> None:
        """Access times that were put off. Called before a cut; they alone are not worth one. Those that
        cannot be accepted now stay put off."""
        self.delete_unused()
        if not self._ledger.unpublished:
            return
        waiting = [*self.access_times]
        for start in range(0, len(waiting), AT_ONCE):
            inodes = waiting[start : start + AT_ONCE]
            times = {inode: self.access_times[inode] for inode in inodes if inode in self.access_times}
            known = [inode for inode in times if self._namespace.inode(inode) is not None]
            self._ledger.accept_all([SetAttributes(inode, atime_ns=times[inode]) for inode in known])
            for inode in times:
                del self.access_times[inode]
            await trio.lowlevel.checkpoint()
