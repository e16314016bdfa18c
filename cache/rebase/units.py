"""Units: a database and the files that SQLite keeps beside it, which are only worth something together.

If others changed any file of a unit, and this device any, the published unit stays whole, and the local one
goes whole to one conflict name: a database with another's write-ahead log is none
(sqlite.org/howtocorrupt.html).
"""

from __future__ import annotations

from typing import Final

from cache.rebase.net_changes import Key, NetChanges
from cache.rebase.placing import Placing
from cache.rebase.plan import Plan, Row, Situation, is_alive, made_of

COMPANIONS: Final = (b"-wal", b"-shm", b"-journal")
_ENDINGS: Final = (b"", *COMPANIONS)


class Units:
    """`find` once, then `place` once. Nobody else decides of the inodes in `decided`."""

    def __init__(self, situation: Situation, plan: Plan, placing: Placing) -> None:
        self._s = situation
        self._plan = plan
        self._placing = placing
        self._apart: list[Key] = []
        """the names of the databases whose units were changed on both sides"""
        self.decided: set[int] = set()

    def find(self) -> None:
        """The units that both sides changed. Reads all names of the drive if there are contents that only one
        of the names can say the unit of."""
        s = self._s
        ours = {*self._contents(s.ours), *s.dirty}
        theirs = self._contents(s.theirs)
        if not (ours or s.ours.names) or not (theirs or s.theirs.names):
            return
        names = s.head.names_of({inode for inode in ours | theirs if is_alive(s.head, inode)})
        for base in sorted(self._bases(s.ours, ours, names) & self._bases(s.theirs, theirs, names)):
            if self._is_unit(base) and not self._is_same(base):
                self._apart.append(base)
                self.decided |= self._inodes(base)

    def _contents(self, changes: NetChanges) -> set[int]:
        """The files that were there before and have another content."""
        return {inode for inode in (*changes.inodes, *changes.extents) if changes.is_content_changed(inode)}

    def _bases(self, changes: NetChanges, contents: set[int], names: dict[int, list[Key]]) -> set[Key]:
        """The names of the databases to whose units the names belong that changed, or whose contents did."""
        keys = {*changes.names}
        for inode in contents:
            keys.update(names.get(inode, ()), self._s.theirs.gone.get(inode, ()))
        return {(key[0], base_of(key[1])) for key in keys}

    def _is_unit(self, base: Key) -> bool:
        """Whether there is a database, and a companion, on either side, and all are files of one name."""
        views = (self._s.base, self._s.local, self._s.head)
        found = [{view.entry(key): view for view in views if view.entry(key)} for key in members(base)]
        rows = [view.inode(inode) for each in found for inode, view in each.items()]
        are_files = all(row is not None and row.is_regular and row.nlink == 1 for row in rows)
        return are_files and bool(found[0]) and any(found[1:])

    def _is_same(self, base: Key) -> bool:
        """Whether the unit is the same here and there."""
        for key in members(base):
            mine, there = self._s.local.entry(key), self._s.head.entry(key)
            if bool(mine) != bool(there):
                return False
            is_changed = mine in self._s.dirty or self._s.ours.is_content_changed(mine)
            is_one = mine == there and not is_changed and not self._s.theirs.is_content_changed(mine)
            if mine and not is_one and not self._s.is_same_content(mine, there):
                return False
        return True

    def _inodes(self, base: Key) -> set[int]:
        """The local files of the unit, and those that this device removed from it. One that it moved away is
        a file of its own."""
        mine = {self._s.local.entry(key) for key in members(base)}
        was = {self._s.base.entry(key) for key in members(base)}
        return (mine | {inode for inode in was if not is_alive(self._s.local, inode)}) - {0}

    def place(self) -> None:
        """Give the local units their names."""
        for folder, name in self._apart:
            base = self._placing.number_of(folder), name
            self._plan.decide(Row.UNIT, self._s.local.entry((folder, name)), base)
            is_taken = any(self._plan.entry(self._s.head, key) for key in members(base))
            is_version = is_taken and self._placing.is_quiet(base)
            if is_taken and not is_version:
                base = self._placing.free_unit(base, self._newest((folder, name)), _ENDINGS)
            for ending in _ENDINGS:
                inode = self._s.local.entry((folder, name + ending))
                if inode:
                    key = base[0], base[1] + ending
                    self._place_one(inode, key, name + ending, is_version=is_version)

    def _newest(self, base: Key) -> int:
        """The time of the newest content of the unit on this device."""
        rows = [self._s.local.inode(self._s.local.entry(key)) for key in members(base)]
        return max((row.mtime_ns for row in rows if row is not None), default=0)

    def _place_one(self, inode: int, key: Key, name: bytes, *, is_version: bool) -> None:
        is_new = self._s.base.inode(inode) is None
        number = inode if is_new else self._s.number()
        self._plan.made[number] = made_of(self._s.local, inode, number)
        self._plan.moved[inode] = number
        if is_version:
            self._placing.keep_version(number, key)
            return
        self._plan.place(key, number)
        if key[1] != name:
            self._placing.mark(number, name)


def base_of(name: bytes) -> bytes:
    """The name of the database that a file of that name would belong to; the name itself for others."""
    ending = next((each for each in COMPANIONS if name.endswith(each) and name != each), b"")
    return name.removesuffix(ending)


def members(base: Key) -> list[Key]:
    """The names of a unit, that of the database first."""
    return [(base[0], base[1] + ending) for ending in _ENDINGS]
