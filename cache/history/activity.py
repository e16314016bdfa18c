"""What happened on a drive, point by point: names that came, went and moved, contents, attributes.

A point is a recorded commit. Retention thins them, so a point may hold the changes of several commits; names
that came and went between two points are not told. Of a folder that came or went whole only the folder is
told, with the number of names inside.

The cost depends on the changes since the oldest of the points asked for. Where files were changed in place,
all names of the drive are read once for their paths.

Read-only, on a connection of its own: it blocks, on any thread. It sees the state that was saved last.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import Counter
from collections.abc import Container
from dataclasses import dataclass, field
from itertools import pairwise
from stat import S_ISDIR
from typing import Final, NamedTuple

from cache.namespace import ROOT_INODE, Connection, open_database, sqlite_errors

ADDED: Final = "added"
REMOVED: Final = "removed"
RENAMED: Final = "renamed"
CONTENT: Final = "content"
ATTRIBUTES: Final = "attributes"

MOST_KEPT: Final = 10_000
"""Names that came, and as many that went, of one point; more are only counted. Folders are always kept."""

_FOREVER: Final = (1 << 63) - 1
_POINTS: Final = "SELECT number FROM commits WHERE number < ? ORDER BY number DESC LIMIT ?"
_MODE: Final = (
    "coalesce((SELECT mode FROM inode WHERE inode = d.inode),"
    " (SELECT mode FROM past_inode WHERE inode = d.inode LIMIT 1), 0)"
)
_NAMES: Final = (
    f"SELECT parent, name, inode, born, {_FOREVER}, {_MODE} FROM dentry AS d"
    " WHERE born > :low AND born <= :high UNION ALL"
    f" SELECT parent, name, inode, born, died, {_MODE} FROM past_dentry AS d"
    " WHERE died > :low AND born <= :high"
)
_COLUMNS: Final = "inode, mode, uid, gid, size, mtime_ns, target, content, born"
_ROWS: Final = (
    f"SELECT {_COLUMNS}, {_FOREVER} FROM inode WHERE born > :low AND born <= :high UNION ALL"
    f" SELECT {_COLUMNS}, died FROM past_inode WHERE died > :low AND born > :low AND born <= :high"
)
_ROW_AT: Final = (
    f"SELECT {_COLUMNS}, died FROM past_inode WHERE inode = ? AND born <= ? AND died > ?"
    " ORDER BY born DESC LIMIT 1"
)
_PARENT_AT: Final = (
    "SELECT parent FROM inode WHERE inode = :inode AND born <= :commit UNION ALL"
    " SELECT parent FROM past_inode WHERE inode = :inode AND born <= :commit AND died > :commit"
)
_NAME_AT: Final = (
    "SELECT name FROM dentry WHERE parent = :parent AND inode = :inode AND born <= :commit UNION ALL"
    " SELECT name FROM past_dentry"
    " WHERE parent = :parent AND inode = :inode AND born <= :commit AND died > :commit"
)
_NAMES_OF: Final = (
    f"SELECT parent, name, inode, born, {_FOREVER}, 0 FROM dentry"
    " WHERE inode IN (SELECT value FROM json_each(:inodes))"
    " UNION ALL SELECT parent, name, inode, born, died, 0 FROM past_dentry"
    " WHERE died > :low AND born <= :high AND inode IN (SELECT value FROM json_each(:inodes))"
)


class Happened(NamedTuple):
    """`path` from the drive's root, without a slash before it: as of the point, or of the one before if it
    was removed. `before`: the old path of a renamed one, else empty. `inside`: how many names came or went
    with a folder."""

    kind: str
    path: bytes
    before: bytes = b""
    inside: int = 0


class PointActivity(NamedTuple):
    """The changes of a point, sorted by path. `uncounted`: names that came or went besides them."""

    commit: int
    changes: list[Happened]
    uncounted: int


class _Name(NamedTuple):
    parent: int
    name: bytes
    inode: int
    born: int
    died: int
    mode: int


class _Row(NamedTuple):
    inode: int
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    target: bytes
    content: int
    born: int
    died: int


@dataclass(slots=True)
class _Names:
    """Those that came, or those that went, of one point."""

    kept: list[_Name] = field(default_factory=list)
    folders: dict[int, _Name] = field(default_factory=dict)
    files: int = 0
    left_out: Counter[int] = field(default_factory=Counter)
    """Their number by the folder that they were in."""

    def add(self, name: _Name) -> None:
        if S_ISDIR(name.mode):
            self.folders[name.inode] = name
        elif self.files < MOST_KEPT:
            self.files += 1
            self.kept.append(name)
        else:
            self.left_out[name.parent] += 1

    def leave_out_same(self, others: _Names) -> None:
        """Names that went and came again for the same inode did neither."""
        mine, theirs = ({name[:3] for name in names.all()} for names in (self, others))
        same = mine & theirs
        for names in (self, others) if same else ():
            names.kept = [name for name in names.kept if name[:3] not in same]
            names.folders = {inode: name for inode, name in names.folders.items() if name[:3] not in same}

    def all(self) -> list[_Name]:
        return [*self.kept, *self.folders.values()]

    def inside(self, whole: dict[int, _Name], moved: Container[int]) -> Counter[int]:
        """The number of names below each topmost folder of `whole`, without those of `moved` inodes; they are
        left out no more."""
        found: Counter[int] = Counter()
        for name in self.all():
            if name.parent in whole and name.inode not in moved:
                found[_top(name.parent, whole)] += 1
        for parent in [parent for parent in self.left_out if parent in whole]:
            found[_top(parent, whole)] += self.left_out.pop(parent)
        return found


def _top(folder: int, whole: dict[int, _Name]) -> int:
    while whole[folder].parent in whole:
        folder = whole[folder].parent
    return folder


def activity(path: str, before: int, limit: int) -> list[PointActivity]:
    """Of the namespace at `path` the newest `limit` points below the commit `before`, the newest first; those
    without a change of a name, a content or an attribute are there too."""
    with sqlite_errors(path):
        connection = open_database(path, read_only=True)
        try:
            return _Look(connection, before, limit).points()
        finally:
            connection.close()


class _Look:
    def __init__(self, connection: Connection, before: int, limit: int) -> None:
        self._connection = connection
        found = [number for (number,) in connection.execute(_POINTS, (before, limit + 1))][::-1]
        self._low = found.pop(0) if len(found) > limit else 0
        self._numbers = found
        self._range = {"low": self._low, "high": found[-1] if found else 0}
        self._folders: dict[tuple[int, int], bytes | None] = {}

    def points(self) -> list[PointActivity]:
        if not self._numbers:
            return []
        came, went = self._names()
        changed = self._changed()
        before = dict(pairwise([self._low, *self._numbers]))
        return [
            _Point(self, number, last, came[number], went[number]).told(changed.get(number, []))
            for last, number in reversed(before.items())
        ]

    def _names(self) -> tuple[dict[int, _Names], dict[int, _Names]]:
        """By point those that came and those that went."""
        came: dict[int, _Names] = {number: _Names() for number in self._numbers}
        went: dict[int, _Names] = {number: _Names() for number in self._numbers}
        for row in self._connection.execute(_NAMES, self._range):
            name = _Name(*row)
            born, died = self._point(name.born), self._point(name.died)
            if born != died:
                for point, names in ((born, came), (died, went)):
                    if point in names:
                        names[point].add(name)
        return came, went

    def _point(self, commit: int) -> int:
        """The point to which a commit belongs; of those before, and after, all points: none of them."""
        if commit <= self._low:
            return self._low
        place = bisect_left(self._numbers, commit)
        return self._numbers[place] if place < len(self._numbers) else _FOREVER

    def _changed(self) -> dict[int, list[tuple[str, list[_Name]]]]:
        """By point the kind and the names of each inode that was there at the point before."""
        found: list[tuple[int, str, int]] = []
        for values in self._connection.execute(_ROWS, self._range):
            row = _Row(*values)
            number = self._point(row.born)
            if number != self._point(row.died) and (kind := self._kind_of(row, number)):
                found.append((number, kind, row.inode))
        names = self._names_of({inode for _, _, inode in found})
        by_point: dict[int, list[tuple[str, list[_Name]]]] = {}
        for number, kind, inode in found:
            alive = [name for name in names.get(inode, []) if name.born <= number < name.died]
            by_point.setdefault(number, []).append((kind, alive))
        return by_point

    def _kind_of(self, row: _Row, number: int) -> str:
        """Empty: the inode was not there at the point before, or nothing changed that is told."""
        place = bisect_left(self._numbers, number)
        last = self._numbers[place - 1] if place else self._low
        old = self._connection.execute(_ROW_AT, (row.inode, last, last)).fetchone()
        return "" if old is None else _kind(_Row(*old), row)

    def _names_of(self, inodes: set[int]) -> dict[int, list[_Name]]:
        found: dict[int, list[_Name]] = {}
        bindings = {"inodes": json.dumps([*inodes]), **self._range}
        for row in self._connection.execute(_NAMES_OF, bindings) if inodes else ():
            name = _Name(*row)
            found.setdefault(name.inode, []).append(name)
        return found

    # Paths

    def path(self, name: _Name, commit: int) -> bytes | None:
        """As of the commit; None: the folder was not there."""
        return self._path(name.parent, name.name, commit)

    def _path(self, parent: int, name: bytes, commit: int) -> bytes | None:
        folder = self._folder(parent, commit)
        return None if folder is None else (folder + b"/" + name if folder else name)

    def _folder(self, inode: int, commit: int) -> bytes | None:
        if inode == ROOT_INODE:
            return b""
        key = inode, commit
        if key not in self._folders:
            self._folders[key] = self._found_folder(inode, commit)
        return self._folders[key]

    def _found_folder(self, inode: int, commit: int) -> bytes | None:
        bindings = {"inode": inode, "commit": commit}
        (parent,) = self._connection.execute(_PARENT_AT, bindings).fetchone() or (None,)
        if parent is None:
            return None
        found = self._connection.execute(_NAME_AT, {"parent": parent, **bindings}).fetchone()
        return None if found is None else self._path(parent, found[0], commit)


def _kind(old: _Row, new: _Row) -> str:
    if S_ISDIR(new.mode):
        same = (old.mode, old.uid, old.gid) == (new.mode, new.uid, new.gid)
        return "" if same else ATTRIBUTES
    if (old.content, old.size, old.target) != (new.content, new.size, new.target):
        return CONTENT
    same = (old.mode, old.uid, old.gid, old.mtime_ns) == (new.mode, new.uid, new.gid, new.mtime_ns)
    return "" if same else ATTRIBUTES


class _Point:
    """One point, with the names that came, and those that went, since the point before."""

    def __init__(self, look: _Look, number: int, before: int, came: _Names, went: _Names) -> None:
        self._look = look
        self._number = number
        self._before = before
        self._came = came
        self._went = went
        self._came.leave_out_same(went)
        self._new = {name.inode: name for name in came.all()}
        self._gone = {name.inode: name for name in went.all()}
        self._told: dict[bytes, Happened] = {}

    def told(self, changed: list[tuple[str, list[_Name]]]) -> PointActivity:
        """All changes, with those of inodes that were there before (kind, names)."""
        self._tell_new()
        self._tell_lost()
        for kind, names in changed:
            for name in names:
                self._tell(kind, self._look.path(name, self._number))
        uncounted = sum(self._came.left_out.values()) + sum(self._went.left_out.values())
        return PointActivity(self._number, [self._told[path] for path in sorted(self._told)], uncounted)

    def _tell(self, kind: str, path: bytes | None, before: bytes = b"", inside: int = 0) -> None:
        """The first change told of a path says most."""
        if path is not None:
            self._told.setdefault(path, Happened(kind, path, before, inside))

    def _tell_new(self) -> None:
        added = {inode: name for inode, name in self._came.folders.items() if inode not in self._gone}
        lost = {(name.parent, name.name) for name in self._went.all()}
        inside = self._came.inside(added, self._gone)
        for name in self._came.all():
            path = self._look.path(name, self._number)
            old = self._gone.get(name.inode)
            if old is not None:
                self._tell(RENAMED, path, self._look.path(old, self._before) or b"")
            elif (name.parent, name.name) in lost:
                self._tell(CONTENT, path)
            elif name.parent not in added:
                self._tell(ADDED, path, inside=inside[name.inode])

    def _tell_lost(self) -> None:
        removed = {inode: name for inode, name in self._went.folders.items() if inode not in self._new}
        held = {(name.parent, name.name) for name in self._came.all()}
        inside = self._went.inside(removed, self._new)
        for name in self._went.all():
            is_told = name.inode in self._new or (name.parent, name.name) in held
            if not is_told and name.parent not in removed:
                self._tell(REMOVED, self._look.path(name, self._before), inside=inside[name.inode])
