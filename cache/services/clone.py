"""Instant copies: a file or tree as of a commit, made again under a name, by references to the same blocks.

Invariants:
1. No data is read or written: the new inodes' extents name blocks that rows as of a recorded commit name.
   When the operations are accepted that commit is still retained, so the blocks are stored.
2. All operations are one batch: one record of the journal, in one commit. Whoever looks sees nothing of it,
   or all, also after the process was killed or the disk was full in the middle.
3. Names, attributes, extended attributes and hard links inside the tree are as they were; inode numbers,
   change and creation times are new.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

import trio

from cache.drive import Drive
from cache.errors import (
    DirectoryError,
    ExistsError,
    InvalidArgumentError,
    NoEntryError,
    NotDirectoryError,
    NotEmptyError,
)
from cache.namespace import (
    MAX_SIZE,
    Create,
    Extent,
    InodeRow,
    Link,
    Operation,
    RemoveXattr,
    SetAttributes,
    SetExtents,
    SetXattr,
    Unlink,
    encode,
)
from cache.tree import noting_foreign

MOST_BLOCKS: Final = 1 << 18
MOST_BYTES: Final = 16 << 20
"""Of encoded operations: a record of the journal and a commit hold more, but the record has the lengths of
the operations too, and the commit other things."""
_PAGE: Final = 256
NO_MARK: Final[Mapping[bytes, bytes | None]] = {}


def ignore(_inode: int) -> None:
    """Nobody needs to know."""


class Clone:
    """A plan to make the inode `source` as of `commit` once more: `name` in the live directory `parent`, with
    `mark`, extended attributes in the place of those of these names. None takes the one of `source` away."""

    def __init__(
        self,
        drive: Drive,
        commit: int,
        source: int,
        parent: int,
        name: bytes,
        mark: Mapping[bytes, bytes | None] = NO_MARK,
    ) -> None:
        self._drive = drive
        self._past = drive.past
        self._commit = commit
        self._source = source
        self._parent = parent
        self._name = name
        self._mark = mark
        self._now = drive.now()
        self._made: dict[int, int] = {}
        self._operations: list[Operation] = []
        self._directories: list[Operation] = []
        self._blocks: set[bytes] = set()
        self._bytes = 0

    async def perform(self, *, replace: bool, accepted: Callable[[int], None] = ignore) -> int:
        """Do it; the number of files and folders that were made. `accepted` is told what was made of `source`
        before anybody else can see it. An empty folder that has the name gives way
        to a folder, and with `replace` a file to a file. `ExistsError`, `NotEmptyError`, `NoEntryError` (the
        folder was removed), ...: nothing has changed."""
        source = self._past.row(self._source, self._commit)
        self._replaced(source, replace)
        await self._plan(source)
        replaced = 0

        def make() -> list[Operation]:
            nonlocal replaced
            replaced = self._replaced(source, replace)
            if not self._past.time_of(self._commit):
                raise NoEntryError("the state to copy from was forgotten meanwhile")
            gives_way = [Unlink(self._parent, self._name, replaced, self._now)] if replaced else []
            foreign = noting_foreign(self._drive.ledger.namespace, self._parent, self._name, self._now)
            return [*gives_way, *self._operations, *reversed(self._directories), *foreign]

        await self._drive.accept_together(make)
        accepted(self._made[self._source])
        await self._drive.tell_of_name(self._parent, self._name, replaced)
        return len(self._made)

    def _replaced(self, source: InodeRow, replace: bool) -> int:
        """The inode that has the name now and may be replaced; 0 if there is none."""
        require_folder(self._drive, self._parent)
        try:
            present = self._drive.lookup(self._parent, self._name)
        except NoEntryError:
            return 0
        row = self._drive.live_row(present.inode)
        if row.is_directory:
            if not source.is_directory:
                raise DirectoryError("a folder has this name now")
            if row.size:
                raise NotEmptyError("a folder that is not empty has this name now")
        elif source.is_directory:
            raise NotDirectoryError("a file has this name now")
        elif not replace:
            raise ExistsError("a file has this name already")
        return row.inode

    # Planning

    async def _plan(self, source: InodeRow) -> None:
        self._add_inode(source, self._parent, self._name)
        made = self._made[source.inode]
        for name, value in self._mark.items():
            self._add(
                RemoveXattr(made, name, self._now)
                if value is None
                else SetXattr(made, name, value, self._now)
            )
        waiting = [source.inode] if source.is_directory else []
        while waiting:
            directory = waiting.pop()
            for entry_name, row in self._entries(directory):
                self._add_inode(row, self._made[directory], entry_name)
                if row.is_directory:
                    waiting.append(row.inode)
            await trio.lowlevel.checkpoint()

    def _entries(self, directory: int) -> Iterator[tuple[bytes, InodeRow]]:
        after = 0
        while entries := self._past.entries(directory, self._commit, after, _PAGE):
            for entry in entries:
                yield entry.name, self._past.row(entry.inode, self._commit)
            after = entries[-1].cookie

    def _add_inode(self, row: InodeRow, parent: int, name: bytes) -> None:
        known = self._made.get(row.inode)
        if known is not None:
            self._add(Link(known, parent, name, self._now))
            return
        inode = self._made[row.inode] = self._drive.allocate_number()
        self._add(Create(parent, name, inode, row.mode, row.uid, row.gid, row.rdev, row.target, self._now))
        for xattr in self._past.xattr_names(row.inode, self._commit):
            value = self._past.get_xattr(row.inode, xattr, self._commit)
            self._add(SetXattr(inode, xattr, value, self._now))
        if row.is_regular:
            self._add_content(row, inode)
        size = row.size if row.is_regular else None
        times = SetAttributes(
            inode, size=size, atime_ns=row.mtime_ns, mtime_ns=row.mtime_ns, ctime_ns=self._now
        )
        # A folder's time changes with every name that is made in it, so it is set when all are.
        self._add(times, self._directories if row.is_directory else self._operations)

    def _add_content(self, row: InodeRow, inode: int) -> None:
        if not row.content_commit:
            return
        extents = self._past.extents(row.inode, self._commit, 0, MAX_SIZE)
        if extents:
            self._blocks.update(extent.block for extent in extents)
            self._add(SetExtents(inode, 0, _covered(extents), tuple(extent[:4] for extent in extents)))

    def _add(self, operation: Operation, to: list[Operation] | None = None) -> None:
        (self._operations if to is None else to).append(operation)
        self._bytes += len(encode(operation))
        if self._bytes > MOST_BYTES or len(self._blocks) > MOST_BLOCKS:
            raise InvalidArgumentError("too much for one step; take the folders in it one by one")


def require_folder(drive: Drive, inode: int) -> None:
    """`NoEntryError` if that was removed. It may be there still, as somebody has it open: a name in it is no
    valid operation."""
    if not drive.live_row(inode).nlink:
        raise NoEntryError("the folder was removed meanwhile")


def _covered(extents: list[Extent]) -> tuple[tuple[int, int], ...]:
    """The ranges of the extents, joined where they touch."""
    ranges: list[tuple[int, int]] = []
    for extent in extents:
        end = extent.offset + extent.length
        if ranges and ranges[-1][1] == extent.offset:
            ranges[-1] = (ranges[-1][0], end)
        else:
            ranges.append((extent.offset, end))
    return tuple(ranges)
