"""The inodes of a drive as they are now, who holds them, and the way in for every change.

Invariants:
1. Calls that only look are synchronous and never wait for a node. Calls that change are async,
   because they wait while the journal is full, for a bounded time; normally they do not give up control
   at all, and from the check to the acceptance they never do.
2. An inode without a name lives while somebody holds it or its frozen content is on its way.

Event-loop thread only.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from itertools import islice
from stat import S_IFLNK, S_IFMT
from typing import Final

import trio

from cache.attributes import Attributes, Entry
from cache.errors import (
    DriveFullError,
    InputOutputError,
    InvalidArgumentError,
    NameTooLongError,
    NoEntryError,
    NoSpaceLeftError,
    NotDirectoryError,
    ReadOnlyFileSystemError,
    StaleError,
)
from cache.file_clock import FileClock
from cache.journal import FEW, DirtyFile, Ledger, Need, Trimming
from cache.namespace import MAX_NAME, Delete, InodeRow, Operation
from cache.publish import Publisher
from cache.sync import AttributesChanged, Broadcast, Change, NameChanged
from cache.tree.access import AccessLists

BLOCK_SIZE: Final = 4096
PATIENCE: Final = 5.0
"""Seconds that a change waits for room at most. A dozen pages that the kernel writes back at once trickle in
so at some 2 MB/s while the nodes are away, until the journal has twice its size."""
_WAIT: Final = {Need.GROW: 1, Need.CHANGE: 1, Need.FREE: 3}
"""Beyond so many times what makes writers wait, whoever has this need waits; one more, and it is refused."""
AT_ONCE: Final = 256
"""Changes that were put off are accepted so many at once."""


class Inodes:
    """See the module. What `cache.tree.inode_attributes` and `cache.tree.tree` build upon."""

    publisher: Publisher
    """set by `cache.opening.open_drive` before anything runs"""

    trimming: Trimming
    """set by who is made of this"""

    def __init__(self, ledger: Ledger, journal_limit: int, read_only: bool) -> None:
        self.ledger = ledger
        self._namespace = ledger.namespace
        self._dirty = ledger.dirty
        self._journal_limit = journal_limit
        self._read_only = read_only
        self._closing = False
        self._access_lists = AccessLists(self._namespace)
        self._held: dict[int, int] = {}
        self._unused: dict[int, None] = {}
        self._access_times: dict[int, int] = {}
        self._clock = FileClock()
        self.changes = Broadcast()
        """what doors are told that they did not do themselves"""

    def now(self) -> int:
        """What the kernel would stamp a file with now (`cache.file_clock`)."""
        return self._clock.now()

    # Looking

    def _row(self, inode: int) -> InodeRow:
        row = self._namespace.inode(inode)
        if row is None:
            raise StaleError(f"inode {inode} is gone")
        return row

    def _directory(self, inode: int) -> InodeRow:
        row = self._row(inode)
        if not row.is_directory:
            raise NotDirectoryError(f"inode {inode} is not a directory")
        return row

    def attributes(self, inode: int) -> Attributes:
        """stat(2). `StaleError` if the inode is gone."""
        return self._attributes(self._row(inode))

    def _attributes(self, row: InodeRow) -> Attributes:
        inode = row.inode
        size, allocated, mtime_ns, ctime_ns = row.size, row.allocated, row.mtime_ns, row.ctime_ns
        file = self._dirty.get(inode)
        if file is not None:
            size, allocated, mtime_ns, ctime_ns = _with_layers(row, file)
        atime_ns = self._access_times.get(inode, row.atime_ns) if self._access_times else row.atime_ns
        blocks = (min(allocated, size + BLOCK_SIZE) + 511) // 512
        return Attributes(
            inode, row.mode, row.nlink, row.uid, row.gid, row.rdev, size, blocks, atime_ns, mtime_ns, ctime_ns
        )

    def size(self, inode: int) -> int:
        """The file's size, dirty data included."""
        row = self._row(inode)
        layer = self._dirty.top(inode)
        return row.size if layer is None else layer.size(row.size)

    def lookup(self, parent: int, name: bytes) -> Attributes:
        """The inode of a name; `.` and `..` too. `NoEntryError`, `NotDirectoryError`,
        `NameTooLongError`."""
        if name in (b".", b".."):
            directory = self._directory(parent)
            return self._attributes(directory if name == b"." else self._row(directory.parent))
        entry = self._namespace.entry(parent, name)
        if entry is None:
            self._directory(parent)
            check_length(name)
            raise NoEntryError(f"no such name in {parent}")
        return self._attributes(self._row(entry.inode))

    def entries(self, directory: int, after_cookie: int, limit: int) -> list[Entry]:
        """Up to `limit` entries whose cookie is greater than `after_cookie`, in their order; without
        `.` and `..`. A listing that goes on by cookies meets every entry that was there all the
        time exactly once, whatever else changes."""
        self._directory(directory)
        found = self._namespace.entries(directory, after_cookie, limit)
        return [Entry(item.name, item.cookie, self._attributes(self._row(item.inode))) for item in found]

    def next_cookie(self, directory: int) -> int:
        """Greater than the cookies of all entries, and not greater than those of entries to come."""
        return self._directory(directory).next_cookie

    def parent(self, directory: int) -> Attributes:
        """What `..` is."""
        return self._attributes(self._row(self._directory(directory).parent))

    def read_link(self, inode: int) -> bytes:
        """A symbolic link's target."""
        row = self._row(inode)
        if S_IFMT(row.mode) != S_IFLNK:
            raise InvalidArgumentError(f"inode {inode} is not a symbolic link")
        return row.target

    # Holding

    def hold(self, inode: int, count: int = 1) -> None:
        """The inode is known to the kernel, or open: it lives, whatever happens to its names."""
        self._held[inode] = self._held.get(inode, 0) + count

    def release(self, inode: int, count: int = 1) -> None:
        """The opposite of `hold`, as often."""
        left = self._held.get(inode, 0) - count
        if left > 0:
            self._held[inode] = left
            return
        self._held.pop(inode, None)
        if self._is_unused(inode):
            self._unused[inode] = None
            if len(self._unused) >= AT_ONCE and not self.trimming.is_tight:
                self.delete_unused()

    def delete_unused(self) -> None:
        """Delete the inodes that were let go of without a name, many at once: called soon after, and before a
        cut. Some may have been found again meanwhile. Where the disk is short of room, only a few."""
        if self._unused:
            most = FEW if self.trimming.is_tight else len(self._unused)
            waiting = list(islice(self._unused, most))
            for inode in waiting:
                del self._unused[inode]
            self._delete([inode for inode in waiting if self._is_unused(inode)])

    @property
    def any_unused(self) -> bool:
        """Whether `delete_unused` may have something to do."""
        return bool(self._unused)

    def _delete_if_unused(self, inode: int) -> None:
        if self._is_unused(inode):
            self._delete([inode])

    def _is_unused(self, inode: int) -> bool:
        if inode in self._held or self._read_only or self._closing:
            return False
        row = self._namespace.inode(inode)
        if row is None or row.nlink > 0:
            return False
        file = self._dirty.get(inode)
        return file is None or file.frozen is None

    def _delete(self, inodes: list[int]) -> None:
        for inode in inodes:
            self._access_times.pop(inode, None)
        try:
            self._accept_all([Delete(inode) for inode in inodes])
        except (NoSpaceLeftError, InputOutputError):
            # What the caller asked for is done; these are tried again, at the latest at the next open.
            self._unused |= dict.fromkeys(inodes)

    # Accepting changes

    def _accept(self, operation: Operation) -> None:
        self.ledger.accept(operation)
        self.publisher.wake()

    def _accept_all(self, operations: Sequence[Operation]) -> None:
        """Together, or nothing of it."""
        if len(operations) == 1:
            self.ledger.accept(operations[0])
        elif operations:
            self.ledger.accept_all(operations)
        self.publisher.wake()

    async def _room(self, need: Need, size: int = 0) -> None:
        """Return when a change of so many bytes can be accepted; refuse when it cannot, or the drive cannot
        be written. Whoever waits is answered after `PATIENCE` seconds, as nobody can be killed while the
        kernel waits for the answer: let in beyond what should be, if memory and journal can bear it."""
        self._check_writable()
        if len(self._unused) >= FEW and self.trimming.is_tight:
            self.delete_unused()
        if self.trimming.is_crowded:
            await self.trimming.relieve()
        if self._has_to_wait(need):
            await self._wait_for_publisher(need)
        if not self.ledger.has_local_room(need):
            raise NoSpaceLeftError(
                f"the disk that holds {os.path.dirname(self._namespace.path)} is nearly full: make room there"
            )
        if not self.ledger.room.allows(need, size):
            await self._make_room(need, size)

    def _has_to_wait(self, need: Need) -> bool:
        return self.publisher.is_over(_WAIT[need])

    def _check_writable(self) -> None:
        if self._read_only:
            raise ReadOnlyFileSystemError("the drive is mounted read-only")
        if self.publisher.fenced:
            raise ReadOnlyFileSystemError(self.publisher.problem)
        if self._closing:
            raise InputOutputError("the drive is being closed")

    async def _wait_for_publisher(self, need: Need) -> None:
        """The journal or memory is full: until there is less in it."""
        publisher = self.publisher
        with trio.move_on_after(PATIENCE):
            while publisher.is_over(_WAIT[need]):
                publisher.wake()
                if publisher.refusal is not None and need is not Need.FREE:
                    raise type(publisher.refusal)(publisher.problem)
                await self._wait_for_news()
        if publisher.is_over(_WAIT[need] + 1):
            raise NoSpaceLeftError(publisher.problem or "the journal is full, and storing it takes long")

    async def _make_room(self, need: Need, size: int) -> None:
        """Have what was accepted stored, which may take less than it seemed, and the nodes measured."""
        room = self.ledger.room
        room.waiting += 1
        try:
            with trio.move_on_after(PATIENCE):
                while not room.allows(need, size) and self._may_find_room():
                    room.look_soon()
                    self.publisher.wake()
                    await self._wait_for_news()
        finally:
            room.waiting -= 1
        if not room.allows(need, size):
            raise DriveFullError("the drive is full: delete something and give its space back (drivefs gc)")

    def _may_find_room(self) -> bool:
        room = self.ledger.room
        if room.is_known(trio.current_time()):
            return False
        return room.unstored <= 0 or not self.publisher.problem

    async def _wait_for_news(self) -> None:
        async with self.ledger.freed:
            await self.ledger.freed.wait()
        self._check_writable()

    async def accept_together(self, make: Callable[[], list[Operation]]) -> None:
        """All that `make` gives, in one commit, or nothing of it, also after a crash. `make` is called when
        there is room, and decides on the state that it then finds: what it raises is raised, and nothing
        has changed. `NoSpaceLeftError`: the same."""
        await self._room(Need.CHANGE)
        self.ledger.accept_all(make())
        self.publisher.wake()

    def allocate_number(self) -> int:
        """A new inode number, for `accept_together`."""
        return self._namespace.allocate_inode()

    def live_row(self, inode: int) -> InodeRow:
        """The row, to be read at once. `StaleError`."""
        return self._row(inode)

    async def tell_of_name(self, parent: int, name: bytes, replaced: int) -> None:
        """After `accept_together` gave a name to another inode: what had it may go, and doors are told."""
        changes: list[Change] = [NameChanged(parent, name), AttributesChanged(parent)]
        if replaced:
            self._delete_if_unused(replaced)
            changes.append(AttributesChanged(replaced))
        await self.changes.tell(changes)


def _with_layers(row: InodeRow, file: DirtyFile) -> tuple[int, int, int, int]:
    """(size, allocated, mtime, ctime) of a dirty file."""
    allocated = row.allocated + file.data_bytes
    layer = file.top
    if layer is None:
        return row.size, allocated, row.mtime_ns, row.ctime_ns
    mtime_ns = row.mtime_ns if layer.mtime_ns is None else layer.mtime_ns
    ctime_ns = row.ctime_ns if layer.ctime_ns is None else layer.ctime_ns
    return layer.size(row.size), allocated, mtime_ns, ctime_ns


def check_length(name: bytes) -> None:
    if len(name) > MAX_NAME:
        raise NameTooLongError("a name is at most 255 bytes")
