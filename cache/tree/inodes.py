"""The inodes of a drive as they are now, dirty content included. Nothing here changes anything.

Calls are synchronous and never wait for a node. Event-loop thread only.
"""

from __future__ import annotations

from stat import S_IFLNK, S_IFMT
from typing import Final

from cache.attributes import Attributes, Entry
from cache.errors import (
    InvalidArgumentError,
    NameTooLongError,
    NoEntryError,
    NotDirectoryError,
    StaleError,
)
from cache.journal import DirtyFile, Ledger
from cache.namespace import MAX_NAME, DentryRow, InodeRow
from cache.tree.put_off import PutOff

BLOCK_SIZE: Final = 4096


class Inodes:
    """See the module. `put_off` has access times that the namespace does not know."""

    def __init__(self, ledger: Ledger, put_off: PutOff) -> None:
        self._namespace = ledger.namespace
        self._dirty = ledger.dirty
        self._access_times = put_off.access_times

    def row(self, inode: int) -> InodeRow:
        """The row, to be read at once. `StaleError`."""
        row = self._namespace.inode(inode)
        if row is None:
            raise StaleError(f"inode {inode} is gone")
        return row

    def directory(self, inode: int) -> InodeRow:
        """The same of a directory. `NotDirectoryError`."""
        row = self.row(inode)
        if not row.is_directory:
            raise NotDirectoryError(f"inode {inode} is not a directory")
        return row

    def attributes(self, inode: int) -> Attributes:
        """stat(2). `StaleError` if the inode is gone."""
        return self.attributes_of(self.row(inode))

    def attributes_of(self, row: InodeRow) -> Attributes:
        """The same, of a row that was just found."""
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
        row = self.row(inode)
        layer = self._dirty.top(inode)
        return row.size if layer is None else layer.size(row.size)

    def lookup(self, parent: int, name: bytes) -> Attributes:
        """The inode of a name; `.` and `..` too. `NoEntryError`, `NotDirectoryError`,
        `NameTooLongError`."""
        if name in (b".", b".."):
            directory = self.directory(parent)
            return self.attributes_of(directory if name == b"." else self.row(directory.parent))
        entry = self._namespace.entry(parent, name)
        if entry is None:
            self.directory(parent)
            check_length(name)
            raise NoEntryError(f"no such name in {parent}")
        return self.attributes_of(self.row(entry.inode))

    def entries(self, directory: int, after_cookie: int, limit: int) -> list[Entry]:
        """Up to `limit` entries whose cookie is greater than `after_cookie`, in their order; without
        `.` and `..`. A listing that goes on by cookies meets every entry that was there all the
        time exactly once, whatever else changes."""
        self.directory(directory)
        found = self._namespace.entries(directory, after_cookie, limit)
        return [Entry(item.name, item.cookie, self.attributes_of(self.row(item.inode))) for item in found]

    def names(self, directory: int, after_cookie: int, end: int) -> list[tuple[bytes, int]]:
        """All (name, cookie) with `after_cookie` < cookie < `end`, in the order of cookies."""
        self.directory(directory)
        rows = self._namespace.entries(directory, after_cookie, end - after_cookie)
        return [(row.name, row.cookie) for row in rows if row.cookie < end]

    def entries_by_name(self, directory: int, start: bytes, end: bytes, limit: int) -> list[DentryRow]:
        """At most `limit` names in [start, end), in the order of bytes, each to be read at once."""
        self.directory(directory)
        return self._namespace.entries_by_name(directory, start, end, limit)

    def next_cookie(self, directory: int) -> int:
        """Greater than the cookies of all entries, and not greater than those of entries to come."""
        return self.directory(directory).next_cookie

    def parent(self, directory: int) -> Attributes:
        """The attributes of `..`."""
        return self.attributes_of(self.row(self.directory(directory).parent))

    def read_link(self, inode: int) -> bytes:
        """A symbolic link's target."""
        row = self.row(inode)
        if S_IFMT(row.mode) != S_IFLNK:
            raise InvalidArgumentError(f"inode {inode} is not a symbolic link")
        return row.target


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
    """`NameTooLongError`"""
    if len(name) > MAX_NAME:
        raise NameTooLongError("a name is at most 255 bytes")
