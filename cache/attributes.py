"""Values that `Drive` takes and returns: attributes, entries, totals. They are plain and safe to keep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

CLAIM: Final = b"drivefs.claim"
"""Extended attribute of a file: a door's statement of its bytes (`cache.tree.content_claims`)."""
CHANGED: Final = b"drivefs.changed"
"""Beside a claim: it does not hold any more."""


@dataclass(slots=True)
class Attributes:
    """An inode as stat(2) shows it. Times in nanoseconds since 1970, `blocks` of 512 bytes."""

    inode: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    size: int
    blocks: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int


@dataclass(frozen=True, slots=True)
class AttributeChange:
    """The attributes to set; None leaves one. `mode` is the permission bits (the type cannot change)."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
    ctime_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """A directory's entry. `cookie` grows along a listing, is never used twice in a directory, and
    is where a listing goes on."""

    name: bytes
    cookie: int
    attributes: Attributes


@dataclass(frozen=True, slots=True)
class FileSystemStatistics:
    """As statvfs(3) shows it; `blocks`, `free` and `available` in units of `block_size`."""

    block_size: int
    blocks: int
    free: int
    available: int
    inodes: int
    free_inodes: int
    name_max: int
