"""Emission: the operations that bring the published state to what a plan says.

The order: removed files lose their names; what comes is placed, the highest first; removed folders go, the
deepest first; contents and attributes follow, and the times of folders last. If a name that is needed is
still had by another, that one waits under a name of its own in its folder: nobody sees it, as all is one
commit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

from cache.namespace import (
    MAX_SIZE,
    ROOT_INODE,
    Create,
    Delete,
    Extent,
    Link,
    Operation,
    Rename,
    SetAttributes,
    SetExtents,
    SetXattr,
    Unlink,
)
from cache.rebase.net_changes import Key, places
from cache.rebase.plan import Made, Plan, Situation

_WAITING = b".waiting-%d"


class Emission:
    """`operations` once."""

    def __init__(self, situation: Situation, plan: Plan) -> None:
        self._s = situation
        self._plan = plan
        self._operations: list[Operation] = []
        self._waiting: dict[Key, Key] = {}
        """the names of the head that were left for others, and where their inodes wait"""
        self._had: dict[int, list[Key]] = defaultdict(list)
        """by inode, the names that it is to lose"""
        self._gone = {*plan.vacated.values()} - {*plan.placed.values()}
        self._born: set[int] = set()
        self._touched: set[int] = set()
        """folders in which names changed"""

    def operations(self) -> list[Operation]:
        """All of them, in order."""
        for key, inode in sorted(self._plan.vacated.items()):
            self._had[inode].append(key)
        placed = sorted(self._plan.placed.items(), key=lambda item: (self._depth(item[0][0]), item[0]))
        self._unlink_files({inode for _, inode in placed})
        for key, inode in placed:
            self._place(inode, key)
        self._remove_the_rest()
        self._make_nameless()
        self._operations += map(Delete, self._plan.ended)
        self._fill()
        return self._operations

    def _depth(self, folder: int) -> int:
        """Of a directory in the tree that is made."""
        depth = 0
        while folder != ROOT_INODE:
            folder, depth = self._folder_of(folder), depth + 1
        return depth

    def _folder_of(self, folder: int) -> int:
        if names := self._plan.names.get(folder):
            return names[0][0]
        row = self._s.head.inode(folder)
        assert row is not None, f"directory {folder} has no place"
        return row.parent

    # Names

    def _unlink_files(self, coming: set[int]) -> None:
        for inode, keys in sorted(self._had.items()):
            row = self._s.head.inode(inode)
            assert row is not None
            if inode not in coming and not row.is_directory:
                for key in keys:
                    self._unlink(inode, key)
                self._end(inode, row.nlink - len(keys))
                keys.clear()

    def _unlink(self, inode: int, key: Key) -> None:
        self._touched.add(key[0])
        self._operations.append(Unlink(*self._waiting.pop(key, key), inode, self._time(inode)))

    def _end(self, inode: int, names: int) -> None:
        if not names and self._s.local.inode(inode) is None:
            self._operations.append(Delete(inode))

    def _time(self, inode: int) -> int:
        """The change time that the inode has here, or there."""
        row = self._s.local.inode(inode) or self._s.head.inode(inode)
        made = self._plan.made.get(inode)
        row = made.row if made is not None else row
        return 0 if row is None else row.ctime_ns

    def _place(self, inode: int, key: Key) -> None:
        self._clear(key)
        self._touched.add(key[0])
        made = self._plan.made.get(inode)
        if made is not None and inode not in self._born:
            self._operations.append(_create(made, key))
            self._born.add(inode)
        elif self._had[inode]:
            old = self._had[inode].pop(0)
            self._touched.add(old[0])
            source = self._waiting.pop(old, old)
            self._operations.append(Rename(*source, *key, inode, 0, False, self._time(inode)))
        else:
            self._operations.append(Link(inode, *key, self._time(inode)))

    def _clear(self, key: Key) -> None:
        """Whatever has the name, and is to lose it, waits under another."""
        inode = self._plan.vacated.get(key)
        if inode is None or key not in self._had[inode] or key in self._waiting:
            return
        waiting = (key[0], _WAITING % len(self._operations))
        self._operations.append(Rename(*key, *waiting, inode, 0, False, self._time(inode)))
        self._waiting[key] = waiting

    def _remove_the_rest(self) -> None:
        """Folders, and names of files that have others."""
        rest = [(key, inode) for inode, keys in self._had.items() for key in keys]
        for key, inode in sorted(rest, key=lambda each: (-self._head_depth(each[0][0]), each)):
            row = self._s.head.inode(inode)
            assert row is not None
            self._unlink(inode, key)
            if row.is_directory:
                self._end(inode, 0)

    def _head_depth(self, folder: int) -> int:
        depth, row = 0, self._s.head.inode(folder)
        while row is not None and row.parent != row.inode:
            depth, row = depth + 1, self._s.head.inode(row.parent)
        return depth

    def _make_nameless(self) -> None:
        """Files that somebody has open and that have no name any more."""
        for inode, made in sorted(self._plan.made.items()):
            if inode not in self._born:
                key = (ROOT_INODE, _WAITING % len(self._operations))
                self._operations += [_create(made, key), Unlink(*key, inode, made.row.ctime_ns)]
                self._touched.add(ROOT_INODE)

    # Contents and attributes

    def _fill(self) -> None:
        for inode, made in sorted(self._plan.made.items()):
            self._operations += _filling(inode, made)
        for inode in sorted(self._plan.contents):
            self._operations += self._content(inode)
        self._operations += self._plan.xattrs
        for _, operation in sorted(self._plan.fields.items()):
            self._operations.append(operation)
        self._operations += self._folder_times()

    def _content(self, inode: int) -> list[Operation]:
        """The part of the file that differs from the base, whose content the head has."""
        mine, head, pair = (
            self._s.local.inode(inode),
            self._s.head.inode(inode),
            self._s.ours.extents.get(inode),
        )
        assert mine is not None
        assert head is not None
        found: list[Operation] = []
        if mine.size != head.size:
            found.append(SetAttributes(inode, size=mine.size))
        if pair is not None:
            cleared = _ranges([*pair.before, *pair.after])
            found.append(SetExtents(inode, head.content_commit, cleared, tuple(places(pair.after))))
        return found

    def _folder_times(self) -> list[Operation]:
        """A folder in which this device changed names has the times that it has here; one that only the
        rebase touched keeps those that it had."""
        found: list[Operation] = []
        for folder in sorted(self._touched | self._plan.made.keys()):
            made, head = self._plan.made.get(folder), self._s.head.inode(folder)
            row = head if made is None else made.row
            ours = self._s.ours.inodes.get(folder)
            if ours is not None and ours.after is not None:
                row = ours.after
            if row is not None and row.is_directory and folder not in self._gone:
                found.append(SetAttributes(folder, mtime_ns=row.mtime_ns, ctime_ns=row.ctime_ns))
        return found


def _create(made: Made, key: Key) -> Create:
    row = made.row
    return Create(*key, row.inode, row.mode, row.uid, row.gid, row.rdev, row.target, row.btime_ns)


def _filling(inode: int, made: Made) -> list[Operation]:
    """All that a new inode has beside its names."""
    row = made.row
    found: list[Operation] = [
        SetXattr(inode, name, made.xattrs[name], row.ctime_ns) for name in sorted(made.xattrs)
    ]
    times = SetAttributes(inode, atime_ns=row.atime_ns, mtime_ns=row.mtime_ns, ctime_ns=row.ctime_ns)
    found.append(replace(times, size=row.size) if row.is_regular else times)
    if made.extents:
        extents = tuple(places(made.extents))
        found.append(SetExtents(inode, 0, _ranges(made.extents), extents))
    return found


def _ranges(extents: Iterable[Extent]) -> tuple[tuple[int, int], ...]:
    """The ranges that the extents cover, joined."""
    found: list[tuple[int, int]] = []
    for offset, length, *_ in sorted(extents):
        end = min(offset + length, MAX_SIZE)
        if found and found[-1][1] >= offset:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((offset, end))
    return tuple(found)
