"""Net changes: how a state of a namespace differs from what it was as of an earlier commit.

They are read from the rows: a live row born later is how it is, a past row that died later is how it was. So
a name or a content that came and went in between does not count. Nothing here changes a row.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from cache.namespace import INODE_COLUMNS, Connection, Extent, InodeRow, inode_row

Key = tuple[int, bytes]
"""A name: the directory's inode, and the name in it."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Pair(Generic[T]):
    """A value as of the earlier commit, and as it is now."""

    before: T
    after: T


@dataclass(frozen=True, slots=True)
class NetChanges:
    """Only what differs is here. A missing row is None, a missing name inode 0. `extents`: by inode, those
    rows that are no more, and those that are new."""

    inodes: Mapping[int, Pair[InodeRow | None]]
    names: Mapping[Key, Pair[int]]
    xattrs: Mapping[tuple[int, bytes], Pair[bytes | None]]
    extents: Mapping[int, Pair[list[Extent]]]
    gone: Mapping[int, set[Key]] = field(init=False)
    """by inode, the names that it does not have any more"""
    come: Mapping[int, set[Key]] = field(init=False)
    """by inode, the names that it has now"""
    in_folder: Mapping[int, list[bytes]] = field(init=False)
    """by directory, the names in it that differ"""
    xattrs_of: Mapping[int, list[bytes]] = field(init=False)
    """by inode, the names of its extended attributes that differ"""

    def __post_init__(self) -> None:
        gone, come = defaultdict[int, set[Key]](set), defaultdict[int, set[Key]](set)
        in_folder = defaultdict[int, list[bytes]](list)
        for key, pair in self.names.items():
            in_folder[key[0]].append(key[1])
            if pair.before:
                gone[pair.before].add(key)
            if pair.after:
                come[pair.after].add(key)
        xattrs_of = defaultdict[int, list[bytes]](list)
        for inode, name in self.xattrs:
            xattrs_of[inode].append(name)
        object.__setattr__(self, "xattrs_of", dict(xattrs_of))
        object.__setattr__(self, "gone", dict(gone))
        object.__setattr__(self, "come", dict(come))
        object.__setattr__(self, "in_folder", dict(in_folder))

    def is_content_changed(self, inode: int) -> bool:
        """Whether the bytes of an inode that was there before differ, as far as extents and size say."""
        rows = self.inodes.get(inode)
        if rows is None or rows.before is None or not rows.before.is_regular:
            return False
        extents = self.extents.get(inode)
        is_other = extents is not None and places(extents.before) != places(extents.after)
        return is_other or (rows.after is not None and rows.after.size != rows.before.size)


def places(extents: Iterable[Extent]) -> list[tuple[int, int, bytes, int]]:
    """The extents as an operation has them, joined where one goes on in the block of the one before: equal
    for equal contents of the same blocks, however they were cut."""
    found: list[tuple[int, int, bytes, int]] = []
    for offset, length, block, block_offset, _ in sorted(extents):
        if found:
            start, before, same, inside = found[-1]
            if (start + before, same, inside + before) == (offset, block, block_offset):
                found[-1] = (start, before + length, block, inside)
                continue
        found.append((offset, length, block, block_offset))
    return found


def changes_since(connection: Connection, base: int) -> NetChanges:
    """The net changes since commit `base`, of a namespace whose `synced_connection` this is. What was true
    as of `base` must not have been forgotten."""
    return NetChanges(
        _inodes(connection, base),
        _names(connection, base),
        _xattrs(connection, base),
        _extents(connection, base),
    )


_COLUMNS = ", ".join(INODE_COLUMNS)
_PAST_COLUMNS = ", ".join("mtime_ns" if name == "atime_ns" else name for name in INODE_COLUMNS)
_DIED = "WHERE died > ? AND born <= ?"


def _inodes(connection: Connection, base: int) -> dict[int, Pair[InodeRow | None]]:
    was = (inode_row(row) for row in _past(connection, f"SELECT {_PAST_COLUMNS} FROM past_inode", base))
    now = (inode_row(row) for row in _live(connection, f"SELECT {_COLUMNS} FROM inode", base))
    before, after = {row.inode: row for row in was}, {row.inode: row for row in now}
    return {inode: Pair(before.get(inode), after.get(inode)) for inode in before.keys() | after.keys()}


def _names(connection: Connection, base: int) -> dict[Key, Pair[int]]:
    was = _past(connection, "SELECT parent, name, inode FROM past_dentry", base)
    now = _live(connection, "SELECT parent, name, inode FROM dentry", base)
    before, after = ({(parent, name): inode for parent, name, inode in rows} for rows in (was, now))
    pairs = {key: Pair(before.get(key, 0), after.get(key, 0)) for key in before.keys() | after.keys()}
    return {key: pair for key, pair in pairs.items() if pair.before != pair.after}


def _xattrs(connection: Connection, base: int) -> dict[tuple[int, bytes], Pair[bytes | None]]:
    was = _past(connection, "SELECT inode, name, value FROM past_xattr", base)
    now = _live(connection, "SELECT inode, name, value FROM xattr", base)
    before, after = ({(inode, name): value for inode, name, value in rows} for rows in (was, now))
    pairs = {key: Pair(before.get(key), after.get(key)) for key in before.keys() | after.keys()}
    return {key: pair for key, pair in pairs.items() if pair.before != pair.after}


def _extents(connection: Connection, base: int) -> dict[int, Pair[list[Extent]]]:
    found = defaultdict[int, Pair[list[Extent]]](lambda: Pair([], []))
    columns = "inode, offset, length, block, block_offset, born"
    for inode, *extent in _past(connection, f"SELECT {columns} FROM past_extent", base):
        found[inode].before.append(Extent(*extent))
    for inode, *extent in _live(connection, f"SELECT {columns} FROM extent", base):
        found[inode].after.append(Extent(*extent))
    return dict(found)


def _past(connection: Connection, select: str, base: int) -> Iterable[tuple[Any, ...]]:
    return connection.execute(f"{select} {_DIED}", (base, base))


def _live(connection: Connection, select: str, base: int) -> Iterable[tuple[Any, ...]]:
    return connection.execute(f"{select} WHERE born > ?", (base,))
