"""Views: one state of a drive to be looked at, the namespace itself or another one that differs by net
changes.

Rows are read at once and never changed. Event-loop thread only.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Final, Protocol, TypeVar

from cache.namespace import MAX_SIZE, Extent, InodeRow, Namespace
from cache.rebase.net_changes import Key, NetChanges, Pair

T = TypeVar("T")
_ALL: Final = 1 << 62
_NAMES_OF: Final = (
    "SELECT parent, name, inode FROM dentry WHERE inode IN (SELECT value FROM json_each(?))"
    " ORDER BY parent, name"
)


class View(Protocol):
    """A state of the drive."""

    def inode(self, number: int) -> InodeRow | None:
        """The row, or None if there is none."""

    def entry(self, key: Key) -> int:
        """The inode of that name, 0 if there is none."""

    def entries(self, directory: int) -> dict[bytes, int]:
        """All names in a directory, with their inodes."""

    def xattrs(self, inode: int) -> dict[bytes, bytes]:
        """All extended attributes of an inode."""

    def extents(self, inode: int) -> list[Extent]:
        """All extents of an inode, sorted."""


class NamespaceView:
    """The live state of a namespace."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self.inode = namespace.inode

    def entry(self, key: Key) -> int:
        found = self._namespace.entry(*key)
        return 0 if found is None else found.inode

    def entries(self, directory: int) -> dict[bytes, int]:
        return {row.name: row.inode for row in self._namespace.entries(directory, 0, _ALL)}

    def xattrs(self, inode: int) -> dict[bytes, bytes]:
        found = {name: self._namespace.xattr(inode, name) for name in self._namespace.xattr_names(inode)}
        return {name: value for name, value in found.items() if value is not None}

    def extents(self, inode: int) -> list[Extent]:
        return self._namespace.extents(inode, 0, MAX_SIZE)

    def names_of(self, inodes: Collection[int]) -> dict[int, list[Key]]:
        """The names of inodes, sorted. Reads all names of the drive: to be asked once for many."""
        found: dict[int, list[Key]] = {inode: [] for inode in inodes}
        if inodes:
            rows = self._namespace.synced_connection().execute(_NAMES_OF, (json.dumps(list(inodes)),))
            for parent, name, inode in rows:
                found[inode].append((parent, name))
        return found


class Overlay:
    """A state that differs from the one `under` it by net changes: as before them or (`is_after`) after."""

    def __init__(self, under: View, changes: NetChanges, *, is_after: bool) -> None:
        self._under = under
        self._changes = changes
        self._is_after = is_after

    def _of(self, pair: Pair[T]) -> T:
        return pair.after if self._is_after else pair.before

    def inode(self, number: int) -> InodeRow | None:
        pair = self._changes.inodes.get(number)
        return self._under.inode(number) if pair is None else self._of(pair)

    def entry(self, key: Key) -> int:
        pair = self._changes.names.get(key)
        return self._under.entry(key) if pair is None else self._of(pair)

    def entries(self, directory: int) -> dict[bytes, int]:
        names = self._under.entries(directory)
        for name in self._changes.in_folder.get(directory, ()):
            names[name] = self._of(self._changes.names[directory, name])
        return {name: inode for name, inode in names.items() if inode}

    def xattrs(self, inode: int) -> dict[bytes, bytes]:
        values: dict[bytes, bytes | None] = dict(self._under.xattrs(inode))
        for name in self._changes.xattrs_of.get(inode, ()):
            values[name] = self._of(self._changes.xattrs[inode, name])
        return {name: value for name, value in values.items() if value is not None}

    def extents(self, inode: int) -> list[Extent]:
        found, pair = self._under.extents(inode), self._changes.extents.get(inode)
        if pair is None:
            return found
        others = {extent.offset for extent in (pair.before if self._is_after else pair.after)}
        return sorted([*(each for each in found if each.offset not in others), *self._of(pair)])
