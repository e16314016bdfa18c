"""Rows of the namespace as Python objects, and their order of columns in SQL.

The live rows that `Namespace` hands out are the very objects that its reducer changes: callers
only read them, and keep none across an await (a later operation changes it, or a cache drops it).
All numbers are signed 64-bit integers; all times are nanoseconds since 1970.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from operator import attrgetter
from stat import S_IFDIR, S_IFMT, S_IFREG
from typing import Any, Final, NamedTuple

FIRST_COOKIE: Final = 16
"""Readdir cookies below are free for '.', '..' and whatever a door adds."""

MAX_EXTENT: Final = 4 << 20
"""No extent reaches over the end of the longest block; range queries rely on it."""

PERMISSION_BITS: Final = 0o7777


@dataclass(slots=True)
class InodeRow:
    """A row of `inode` (columns: `cache.namespace_schema`)."""

    inode: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    size: int
    allocated: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    btime_ns: int
    target: bytes
    parent: int
    content: int
    next_cookie: int
    born: int

    @property
    def is_directory(self) -> bool:
        return self.mode & S_IFMT_MASK == S_IFDIR

    @property
    def is_regular(self) -> bool:
        return self.mode & S_IFMT_MASK == S_IFREG


S_IFMT_MASK: Final = S_IFMT(0o177777)


@dataclass(slots=True)
class DentryRow:
    """A row of `dentry`: `name` (raw bytes) in the directory `parent` is `inode`."""

    parent: int
    name: bytes
    inode: int
    cookie: int
    born: int


class Extent(NamedTuple):
    """`length` bytes at `offset` of a file are those at `block_offset` of `block`; true since commit
    `born`."""

    offset: int
    length: int
    block: bytes
    block_offset: int
    born: int


class Statistics(NamedTuple):
    """Totals of the live state. `bytes` sums the sizes of regular files (holes count, orphans
    count), `allocated` what their extents cover; both may exceed 64 bits."""

    inodes: int
    entries: int
    bytes: int
    allocated: int


INODE_COLUMNS: Final = tuple(field.name for field in fields(InodeRow))
DENTRY_COLUMNS: Final = tuple(field.name for field in fields(DentryRow))
PAST_INODE_COLUMNS: Final = tuple(name for name in INODE_COLUMNS if name != "atime_ns")
"""The past keeps no atime: it is no part of a version (`docs/format/namespace.md`)."""

inode_values: Callable[[InodeRow], tuple[Any, ...]] = attrgetter(*INODE_COLUMNS)
past_inode_values: Callable[[InodeRow], tuple[Any, ...]] = attrgetter(*PAST_INODE_COLUMNS)
dentry_values: Callable[[DentryRow], tuple[Any, ...]] = attrgetter(*DENTRY_COLUMNS)
