"""The tail of a rebase: what was accepted while the rebase was made aside, done once more on its result.

An operation is taken over as it is if everything that it reads and changes is the same in both states: as
the device showed it, and as the rebase left it. So the call would have done and answered the same after the
rebase, and counts as made then. Whatever else the tail has is for another rebase to decide.

Of a directory its names count one by one: others may make and remove names beside those of the tail, and
times of directories are the last change's. A unit (`cache.rebase.units`) counts as a whole.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Final

from cache.namespace import (
    Create,
    Delete,
    Link,
    MalformedError,
    Namespace,
    Operation,
    OutOfDateError,
    Rename,
    RenameLeavingWhiteout,
    SetAttributes,
    Shadow,
    Unlink,
)
from cache.rebase.net_changes import Key, places
from cache.rebase.resolve import Changed
from cache.rebase.units import COMPANIONS, base_of, members
from cache.rebase.views import NamespaceView

_COMPANIONS: Final = "SELECT parent, name FROM dentry WHERE " + " OR ".join(
    f"substr(name, -{len(ending)}) = x'{ending.hex()}'" for ending in COMPANIONS
)


class OvertakenError(Exception):
    """The tail touches what is not the same after the rebase."""


class Tail:
    """See the module. `shadow`: as the rebase left it, which `take` changes, with what the device showed
    before; `changed`: by the rebase. `DisplacedError` of each call: nobody needs that shadow any more."""

    def __init__(self, shadow: Shadow[Namespace], changed: Changed) -> None:
        self._before, self._after = NamespaceView(shadow.before), NamespaceView(shadow.namespace)
        self._shadow = shadow
        self._others = {*changed.replaced, *changed.became}
        self._known_inodes: set[int] = set()
        """those that were found the same; the tail may have changed them since"""
        self._known_keys: set[Key] = set()
        self._find_units(shadow.before)
        self._find_units(shadow.namespace)

    def _find_units(self, namespace: Namespace) -> None:
        """Files may be written whose names nobody says: those of units that differ count as others."""
        found = namespace.synced_connection().execute(_COMPANIONS)
        for base in self._shadow.checked({(parent, base_of(name)) for parent, name in found}):
            unit = members(base)
            inodes = {view.entry(key) for key in unit for view in (self._before, self._after)}
            if any(self._before.entry(key) != self._after.entry(key) for key in unit) or not all(
                map(self._is_same_inode, inodes - {0})
            ):
                self._others |= inodes - {0}

    def take(self, operations: Sequence[Operation], written: Iterable[int]) -> None:
        """Do these too, which follow on those before; into the inodes `written` something was written that is
        in no extent yet. `OvertakenError`: some of it may have been done."""
        for operation in self._shadow.checked(operations):
            self._check(operation)
        for inode in self._shadow.checked(written):
            self._check_inode(inode)
        try:
            for operation in self._shadow.checked(operations):
                self._shadow.namespace.apply(operation)
        except (MalformedError, OutOfDateError) as error:
            raise OvertakenError(str(error)) from error

    def _check(self, operation: Operation) -> None:
        keys, inodes = _touched(operation)
        for key in keys:
            self._check_key(key)
        for inode in inodes:
            self._check_inode(inode)

    def _check_inode(self, inode: int) -> None:
        if inode not in self._known_inodes:
            if inode in self._others or not self._is_same_inode(inode):
                raise OvertakenError(f"inode {inode}")
            self._known_inodes.add(inode)

    def _check_key(self, key: Key) -> None:
        if key in self._known_keys:
            return
        if self._before.entry(key) != self._after.entry(key):
            raise OvertakenError(f"a name in directory {key[0]}")
        self._known_keys.add(key)
        unit = members((key[0], base_of(key[1])))
        if key[1].endswith(COMPANIONS) or any(
            view.entry(each) for each in unit[1:] for view in (self._before, self._after)
        ):
            for each in unit:
                self._check_key(each)
            for inode in {self._before.entry(each) for each in unit} - {0}:
                self._check_inode(inode)

    def _is_same_inode(self, inode: int) -> bool:
        """Whether an inode has the same in both states; or is in neither."""
        was, row = self._before.inode(inode), self._after.inode(inode)
        if was is None or row is None:
            return was is row
        if (was.mode, was.uid, was.gid) != (row.mode, row.uid, row.gid):
            return False
        if self._before.xattrs(inode) != self._after.xattrs(inode):
            return False
        if was.is_directory:
            return bool(was.nlink) == bool(row.nlink)
        facts = (was.nlink, was.rdev, was.size, was.target)
        if facts != (row.nlink, row.rdev, row.size, row.target):
            return False
        return places(self._before.extents(inode)) == places(self._after.extents(inode))


def _touched(operation: Operation) -> tuple[Collection[Key], Collection[int]]:
    """The names and inodes that an operation reads or changes. `OvertakenError`: it is none of a kind that is
    taken over."""
    o = operation
    if isinstance(o, Create | Link | Unlink):
        return [(o.parent, o.name)], [o.parent, o.inode]
    if isinstance(o, Rename):
        return _moved(o), [o.parent, o.new_parent, o.inode, o.replaced]
    if isinstance(o, RenameLeavingWhiteout):
        return _moved(o), [o.parent, o.new_parent, o.inode, o.replaced, o.whiteout]
    if isinstance(o, SetAttributes | Delete):
        return [], [o.inode]
    raise OvertakenError(type(o).__name__)


def _moved(operation: Rename | RenameLeavingWhiteout) -> list[Key]:
    o = operation
    return [(o.parent, o.name), (o.new_parent, o.new_name)]
