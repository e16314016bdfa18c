"""What happened on a drive, point by point: names that came, went and moved, contents, attributes.

A point is a recorded commit. Retention thins them, so a point may hold the changes of several commits; names
that came and went between two points are not told. Of a folder that came or went whole only the folder is
told, with the number of names inside.

The cost depends on the changes since the oldest of the points asked for, and on the names in the folders
above them, which are read once. Where files were changed in place, all names of the drive are read once for
their paths.

Read-only, on a connection of its own: it blocks, on any thread. It sees one state: that which was saved last.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from stat import S_ISDIR
from typing import Any, Final, NamedTuple

from cache.namespace import ROOT_INODE, Connection, open_database, sqlite_errors

ADDED: Final = "added"
REMOVED: Final = "removed"
RENAMED: Final = "renamed"
CONTENT: Final = "content"
ATTRIBUTES: Final = "attributes"

MOST_KEPT: Final = 10_000
"""Names that came, and as many that went, of one point; more are only counted. Folders are always kept."""
MOST_TOLD: Final = 1000
"""Changes of one point; more are only counted."""

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
_NAMES_OF: Final = (
    f"SELECT parent, name, inode, born, {_FOREVER}, 0 FROM dentry"
    " WHERE inode IN (SELECT value FROM json_each(:inodes))"
    " UNION ALL SELECT parent, name, inode, born, died, 0 FROM past_dentry"
    " WHERE died > :low AND born <= :high AND inode IN (SELECT value FROM json_each(:inodes))"
)
_NAMES_ABOVE: Final = f"""
WITH RECURSIVE above (inode, parent) AS MATERIALIZED (
    SELECT 0, value FROM json_each(:folders)
    UNION
    SELECT r.inode, r.parent FROM above AS a CROSS JOIN inode AS r ON r.inode = a.parent
    UNION
    SELECT r.inode, r.parent FROM above AS a CROSS JOIN past_inode AS r ON r.inode = a.parent
    WHERE r.died > :low
), parents (parent) AS MATERIALIZED (SELECT DISTINCT parent FROM above WHERE inode)
SELECT d.parent, d.name, d.inode, d.born, {_FOREVER}, 0
FROM parents AS p CROSS JOIN dentry AS d ON d.parent = p.parent
WHERE d.inode IN (SELECT inode FROM above)
UNION ALL
SELECT d.parent, d.name, d.inode, d.born, d.died, 0
FROM parents AS p CROSS JOIN past_dentry AS d ON d.parent = p.parent
WHERE d.died > :low AND d.inode IN (SELECT inode FROM above)
"""


class Happened(NamedTuple):
    """`path` from the drive's root, without a slash before it: as of the point, or of the one before if it
    was removed. `before`: the old path of a renamed one, else empty. `inside`: how many names came or went
    with a folder."""

    kind: str
    path: bytes
    before: bytes = b""
    inside: int = 0

    def is_below(self, folder: bytes) -> bool:
        """Whether it is the folder itself, or below it, or was."""
        return any(_is_below(path, folder) for path in (self.path, self.before))


class PointActivity(NamedTuple):
    """The changes of a point, sorted by path; `more`: the number of those that are left out."""

    commit: int
    changes: list[Happened]
    more: int


class _Name(NamedTuple):
    parent: int
    name: bytes
    inode: int
    born: int
    died: int
    mode: int

    @property
    def entry(self) -> tuple[int, bytes]:
        return self.parent, self.name


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


_Changed = tuple[str, list[_Name]]
"""The kind of change of an inode that was there at the point before, and the names that it has."""


@dataclass(slots=True)
class _Names:
    """Those that came, or those that went, of one point."""

    kept: list[_Name] = field(default_factory=list)
    files: int = 0
    left_out: Counter[int] = field(default_factory=Counter)
    """Their number by the folder that they were in."""

    def add(self, name: _Name) -> None:
        is_file = not S_ISDIR(name.mode)
        if is_file and self.files == MOST_KEPT:
            self.left_out[name.parent] += 1
        else:
            self.files += is_file
            self.kept.append(name)


def activity(path: str, folder: bytes, before: int, limit: int) -> list[PointActivity]:
    """Of the namespace at `path` the newest `limit` points before the commit `before`, the newest first, with
    the changes below `folder`, as it was called then (empty: the whole drive). Points without such a change
    are there too."""
    with sqlite_errors(path):
        connection = open_database(path, read_only=True)
        try:
            connection.execute("BEGIN")  # else each statement sees a state of its own
            return _Look(connection, before, limit).points(folder)
        finally:
            connection.close()


class _Look:
    def __init__(self, connection: Connection, before: int, limit: int) -> None:
        self._connection = connection
        found = [number for (number,) in connection.execute(_POINTS, (before, limit + 1))][::-1]
        self._low = found.pop(0) if len(found) > limit else 0
        self._numbers = found
        self._range = {"low": self._low, "high": found[-1] if found else 0}

    def points(self, folder: bytes) -> list[PointActivity]:
        points = self._points()
        parents = {parent for point in points for parent in point.parents()}
        folders = _Folders(self._connection, self._low, parents)
        return [point.told(folders, folder) for point in reversed(points)]

    def _points(self) -> list[_Point]:
        came: dict[int, _Names] = {number: _Names() for number in self._numbers}
        went: dict[int, _Names] = {number: _Names() for number in self._numbers}
        self._find_names(came, went)
        changed = self._changed()
        return [
            _Point(number, before, came[number], went[number], changed.get(number, []))
            for before, number in pairwise([self._low, *self._numbers])
        ]

    def _find_names(self, came: dict[int, _Names], went: dict[int, _Names]) -> None:
        for row in self._connection.execute(_NAMES, self._range):
            name = _Name(*row)
            born, died = self._point(name.born), self._point(name.died)
            if born != died:
                for point, names in ((born, came), (died, went)):
                    if point in names:
                        names[point].add(name)

    def _point(self, commit: int) -> int:
        """The point to which a commit belongs; of those before, and after, all points: none of them."""
        if commit <= self._low:
            return self._low
        place = bisect_left(self._numbers, commit)
        return self._numbers[place] if place < len(self._numbers) else _FOREVER

    def _changed(self) -> dict[int, list[_Changed]]:
        """By point."""
        found: list[tuple[int, str, int]] = []
        for values in self._connection.execute(_ROWS, self._range):
            row = _Row(*values)
            number = self._point(row.born)
            if number != self._point(row.died) and (kind := self._kind_of(row, number)):
                found.append((number, kind, row.inode))
        names = self._names_of({inode for _, _, inode in found})
        by_point: dict[int, list[_Changed]] = {}
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

    def _names_of(self, inodes: Collection[int]) -> dict[int, list[_Name]]:
        bindings = {"inodes": json.dumps([*inodes]), **self._range}
        return _by_inode(self._connection.execute(_NAMES_OF, bindings) if inodes else ())


class _Folders:
    """The paths of folders as of each point. Reads all names of the folders above them, once."""

    def __init__(self, connection: Connection, low: int, folders: Collection[int]) -> None:
        bindings = {"folders": json.dumps([*folders]), "low": low}
        self._names = _by_inode(connection.execute(_NAMES_ABOVE, bindings))
        self._paths: dict[tuple[int, int], bytes] = {}

    def path(self, name: _Name, commit: int) -> bytes:
        """Of the name as of the commit."""
        folder = self.folder(name.parent, commit)
        return folder + b"/" + name.name if folder else name.name

    def folder(self, inode: int, commit: int) -> bytes:
        """Of a folder as of a commit; empty: the drive's root."""
        key = inode, commit
        if key not in self._paths:
            self._paths[key] = b"/".join([*self._upwards(inode, commit)][::-1])
        return self._paths[key]

    def _upwards(self, inode: int, commit: int) -> Iterator[bytes]:
        while inode != ROOT_INODE:
            name = next(each for each in self._names[inode] if each.born <= commit < each.died)
            yield name.name
            inode = name.parent


def _by_inode(rows: Iterable[tuple[Any, ...]]) -> dict[int, list[_Name]]:
    found: dict[int, list[_Name]] = {}
    for row in rows:
        name = _Name(*row)
        found.setdefault(name.inode, []).append(name)
    return found


def _kind(old: _Row, new: _Row) -> str:
    if S_ISDIR(new.mode):
        same = (old.mode, old.uid, old.gid) == (new.mode, new.uid, new.gid)
        return "" if same else ATTRIBUTES
    if (old.content, old.size, old.target) != (new.content, new.size, new.target):
        return CONTENT
    same = (old.mode, old.uid, old.gid, old.mtime_ns) == (new.mode, new.uid, new.gid, new.mtime_ns)
    return "" if same else ATTRIBUTES


def _is_below(path: bytes, folder: bytes) -> bool:
    return not folder or path == folder or path.startswith(folder + b"/")


class _Point:
    """One point, with the changes since the point before."""

    def __init__(self, number: int, before: int, came: _Names, went: _Names, changed: list[_Changed]) -> None:
        self._number = number
        self._before = before
        self._came = came
        self._went = went
        self._changed = changed

    def parents(self) -> Iterator[int]:
        """The folders whose paths are asked for."""
        for names in (self._came, self._went):
            yield from (name.parent for name in names.kept)
            yield from names.left_out
        yield from (name.parent for _, names in self._changed for name in names)

    def told(self, folders: _Folders, folder: bytes) -> PointActivity:
        """The changes below the folder."""
        changes = [change for change in self._told(folders) if change.is_below(folder)]
        changes.sort(key=lambda change: change.path)
        left_out = sum(
            count
            for names, commit in ((self._came, self._number), (self._went, self._before))
            for parent, count in names.left_out.items()
            if _is_below(folders.folder(parent, commit), folder)
        )
        return PointActivity(self._number, changes[:MOST_TOLD], len(changes[MOST_TOLD:]) + left_out)

    def _told(self, folders: _Folders) -> Iterator[Happened]:
        """In the order in which they say most of a path."""
        moved, added, removed = _paired(self._came.kept, self._went.kept)
        held, lost = ({name.entry for name in names.kept} for names in (self._came, self._went))
        for new, old in moved:
            yield Happened(RENAMED, folders.path(new, self._number), folders.path(old, self._before))
        for name, inside in _topmost(added, self._came.left_out):
            kind = CONTENT if name.entry in lost else ADDED
            yield Happened(kind, folders.path(name, self._number), inside=inside)
        for name, inside in _topmost(removed, self._went.left_out):
            if name.entry not in held:
                yield Happened(REMOVED, folders.path(name, self._before), inside=inside)
        fresh = {name.entry for name in added}
        for kind, names in self._changed:
            for name in names:
                if name.entry not in fresh:
                    yield Happened(kind, folders.path(name, self._number))


def _paired(
    came: list[_Name], went: list[_Name]
) -> tuple[list[tuple[_Name, _Name]], list[_Name], list[_Name]]:
    """The names that moved (the new one, the old one), those that only came, and those that only went. Names
    that went and came again for the same inode did neither."""
    same = {name[:3] for name in came} & {name[:3] for name in went}
    gone: dict[int, list[_Name]] = {}
    for name in went:
        if name[:3] not in same:
            gone.setdefault(name.inode, []).append(name)
    moved: list[tuple[_Name, _Name]] = []
    added: list[_Name] = []
    for name in came:
        if name[:3] not in same:
            if gone.get(name.inode):
                moved.append((name, gone[name.inode].pop()))
            else:
                added.append(name)
    return moved, added, [name for names in gone.values() for name in names]


def _topmost(names: list[_Name], left_out: Counter[int]) -> Iterator[tuple[_Name, int]]:
    """The names that are in none of the folders among them, each with the number of names below it. Those in
    the folders are counted so, and are taken out of `left_out`."""
    whole = {name.inode: name for name in names if S_ISDIR(name.mode)}
    inside: Counter[int] = Counter()
    for name in names:
        if name.parent in whole:
            inside[_top(name.parent, whole)] += 1
    for parent in [parent for parent in left_out if parent in whole]:
        inside[_top(parent, whole)] += left_out.pop(parent)
    return ((name, inside[name.inode]) for name in names if name.parent not in whole)


def _top(folder: int, whole: dict[int, _Name]) -> int:
    while whole[folder].parent in whole:
        folder = whole[folder].parent
    return folder
