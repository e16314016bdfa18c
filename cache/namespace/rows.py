"""Rows of the namespace as Python objects, and their order of columns in SQL.

The live rows that `Namespace` hands out are the very objects that its reducer changes: callers
only read them, and keep none across an await (a later operation changes it, or a cache drops it).
All numbers are signed 64-bit integers, but for the times: nanoseconds since 1970, `OLDEST_TIME` to
`NEWEST_TIME`, which SQL keeps modulo 2^64 (`stored_time`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from operator import attrgetter
from stat import S_IFDIR, S_IFMT, S_IFREG
from typing import Any, Final, NamedTuple

from cache.namespace.operations import OLDEST_TIME

FIRST_COOKIE: Final = 16
"""Readdir cookies below are free for '.', '..' and whatever a door adds."""

MAX_EXTENT: Final = 4 << 20
"""No extent reaches over the end of the longest block; range queries rely on it."""

PERMISSION_BITS: Final = 0o7777

_MODULUS: Final = 1 << 64
_LARGEST_STORED: Final = (1 << 63) - 1


@dataclass(slots=True)
class InodeRow:
    """A row of `inode` (columns: `cache.namespace.schema`). `content_commit` (in SQL `content`) is the commit
    of the last SetExtents; 0: none yet."""

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
    content_commit: int
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
    """Totals of the live state. `files` are the inodes that are no directories. `bytes` sums the sizes of
    regular files (holes and orphans count), `allocated` what their extents cover; both may exceed 64 bits."""

    inodes: int
    files: int
    entries: int
    bytes: int
    allocated: int


_INODE_FIELDS: Final = tuple(field.name for field in fields(InodeRow))
INODE_COLUMNS: Final = tuple("content" if name == "content_commit" else name for name in _INODE_FIELDS)
DENTRY_COLUMNS: Final = tuple(field.name for field in fields(DentryRow))
PAST_INODE_COLUMNS: Final = tuple(name for name in INODE_COLUMNS if name != "atime_ns")
"""The past keeps no atime: it is no part of a version (`docs/format/namespace.md`)."""

dentry_values: Callable[[DentryRow], tuple[Any, ...]] = attrgetter(*DENTRY_COLUMNS)
_inode_columns: Callable[[InodeRow], tuple[Any, ...]] = attrgetter(*_INODE_FIELDS)
_past_inode_columns: Callable[[InodeRow], tuple[Any, ...]] = attrgetter(
    *(name for name in _INODE_FIELDS if name != "atime_ns")
)


def stored_time(time_ns: int) -> int:
    """As SQL keeps it: a signed 64-bit integer, equal modulo 2^64. Times after 2262 are negative there."""
    return time_ns if time_ns <= _LARGEST_STORED else time_ns - _MODULUS


def loaded_time(stored: int) -> int:
    """The time that `stored_time` was given: of the values that are equal modulo 2^64, the one not before
    1901."""
    return stored if stored >= OLDEST_TIME else stored + _MODULUS


def inode_values(row: InodeRow) -> tuple[Any, ...]:
    """The row as SQL keeps it, in the order of `INODE_COLUMNS`."""
    return _inode_columns(_stored(row))


def past_inode_values(row: InodeRow) -> tuple[Any, ...]:
    """The row as SQL keeps it, in the order of `PAST_INODE_COLUMNS`."""
    return _past_inode_columns(_stored(row))


def inode_row(values: Sequence[Any]) -> InodeRow:
    """The row that SQL keeps as `values`, in the order of `INODE_COLUMNS`."""
    row = InodeRow(*values)
    if min(row.atime_ns, row.mtime_ns, row.ctime_ns, row.btime_ns) < OLDEST_TIME:
        return _with_times(row, loaded_time)
    return row


def _stored(row: InodeRow) -> InodeRow:
    if max(row.atime_ns, row.mtime_ns, row.ctime_ns, row.btime_ns) > _LARGEST_STORED:
        return _with_times(row, stored_time)
    return row


def _with_times(row: InodeRow, change: Callable[[int], int]) -> InodeRow:
    """A copy with other times: rare, so that all other rows cost one comparison."""
    return replace(
        row,
        atime_ns=change(row.atime_ns),
        mtime_ns=change(row.mtime_ns),
        ctime_ns=change(row.ctime_ns),
        btime_ns=change(row.btime_ns),
    )
