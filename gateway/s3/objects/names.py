"""Names of objects in the live tree: where an object is, and which operations make, move or remove one.

Invariants:
1. Everything here is synchronous: what is found and the operations that are planned on it are of one moment,
   if they are accepted in it (`Drive.accept_together`).
2. A folder with the attribute `IMPLIED` was made by a PUT. It goes with the last object below it. If nothing
   but the body of its own name is left in it, it becomes a file again.
3. A folder of the mount never goes by itself. While it is empty, or has a claim, it is the object `name/`.
4. Symbolic links, devices and the like are no objects and are never followed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from stat import S_IFDIR, S_ISGID
from typing import Final

from cache.drive import Drive
from cache.errors import StaleError
from cache.namespace import Create, InodeRow, Link, Operation, RemoveXattr, Rename, SetXattr, Unlink
from cache.tree import CLAIM, noting_foreign
from gateway.s3.key_paths import SELF, path_of
from gateway.s3.objects.errors import S3Error
from gateway.s3.objects.record import IMPLIED

FOLDER_MODE: Final = S_IFDIR | 0o755
FILE_MODE: Final = 0o644

Step = tuple[int, bytes, int]
"""(folder, name in it, folder that has this name)"""


@dataclass(frozen=True, slots=True)
class Found:
    """An object that is there. It is the file `inode` by `name` in `parent`; or the folder `inode`, for a
    marker without a body, and then these are the folder's own. `trail`: the folders that lead there."""

    parent: int
    name: bytes
    inode: int
    is_folder: bool
    trail: tuple[Step, ...]


@dataclass(slots=True)
class Batch:
    """Operations that are accepted together. `unnamed`: inodes that lost a name. `folders`: those that the
    batch found or makes, by a path that its user knows."""

    now: int
    operations: list[Operation] = field(default_factory=list)
    names: list[tuple[int, bytes]] = field(default_factory=list)
    unnamed: list[int] = field(default_factory=list)
    folders: dict[tuple[bytes, ...], int] = field(default_factory=dict)

    def unlink(self, parent: int, name: bytes, inode: int) -> None:
        self.operations.append(Unlink(parent, name, inode, self.now))
        self.names.append((parent, name))
        self.unnamed.append(inode)

    def link(self, inode: int, parent: int, name: bytes) -> None:
        self.operations.append(Link(inode, parent, name, self.now))
        self.names.append((parent, name))

    def move(self, parent: int, name: bytes, inode: int, new_parent: int, new_name: bytes) -> None:
        self.operations.append(Rename(parent, name, new_parent, new_name, inode, 0, False, self.now))
        self.names += [(parent, name), (new_parent, new_name)]

    def set_attribute(self, inode: int, name: bytes, value: bytes) -> None:
        self.operations.append(SetXattr(inode, name, value, self.now))

    def remove_attribute(self, inode: int, name: bytes) -> None:
        self.operations.append(RemoveXattr(inode, name, self.now))


class Names:
    """See the module. Event-loop thread."""

    def __init__(self, drive: Drive) -> None:
        self._drive = drive
        self._namespace = drive.ledger.namespace

    def child(self, directory: int, name: bytes) -> InodeRow | None:
        """The inode of the name, to be looked at at once."""
        entry = self._namespace.entry(directory, name)
        return None if entry is None else self._namespace.inode(entry.inode)

    def served(self, root: int) -> InodeRow:
        """The folder that a door serves, to have a name made in it. `StaleError` if it was removed: it may be
        there still, nameless, as somebody has it open, and a name in it is no valid operation."""
        row = self._drive.live_row(root)
        if not row.nlink:
            raise StaleError("the folder that is served was removed")
        return row

    def attribute(self, inode: int, name: bytes) -> bytes | None:
        return self._namespace.xattr(inode, name)

    def body_of(self, directory: int) -> InodeRow | None:
        """The file with the body of the object that has this folder's name."""
        row = self.child(directory, SELF)
        return row if row is not None and row.is_regular else None

    def is_marker(self, row: InodeRow) -> bool:
        """Whether the folder itself is an object (its `.s3~e` aside): it has a claim, or the mount made it
        and it is empty."""
        if self.attribute(row.inode, CLAIM) is not None:
            return True
        return self.attribute(row.inode, IMPLIED) is None and not self._count(row)

    def _count(self, row: InodeRow) -> int:
        """Entries beside the body of the folder's own name."""
        if row.size != 1:
            return row.size
        return 0 if self.body_of(row.inode) is not None else 1

    def locate(self, bucket: int, key: bytes) -> Found | None:
        """The object of that key; None if there is none."""
        *folders, leaf = path_of(key)
        directory, trail = bucket, []
        for name in folders:
            row = self.child(directory, name)
            if row is None or not row.is_directory:
                return None
            trail.append((directory, name, row.inode))
            directory = row.inode
        return self._leaf(directory, leaf, tuple(trail)) or self._marker(key, tuple(trail))

    def _leaf(self, directory: int, leaf: bytes, trail: tuple[Step, ...]) -> Found | None:
        row = self.child(directory, leaf)
        if row is None:
            return None
        if row.is_regular:
            return Found(directory, leaf, row.inode, False, trail)
        body = self.body_of(row.inode) if row.is_directory else None
        if body is None:
            return None
        return Found(row.inode, SELF, body.inode, False, (*trail, (directory, leaf, row.inode)))

    def _marker(self, key: bytes, trail: tuple[Step, ...]) -> Found | None:
        if not key.endswith(b"/") or not trail:
            return None
        parent, name, inode = trail[-1]
        row = self._namespace.inode(inode)
        if row is None or not self.is_marker(row):
            return None
        return Found(parent, name, inode, True, trail[:-1])

    # Planning

    def put(self, batch: Batch, bucket: int, key: bytes, inode: int) -> None:
        """The file `inode`, which has no name, becomes the object; it has none now (`remove`d, or moved)."""
        *folders, leaf = path_of(key)
        directory, is_new = self.folders(batch, bucket, folders)
        row = None if is_new else self.child(directory, leaf)
        if row is not None and row.is_directory:
            directory, leaf = row.inode, SELF
            row = self.child(directory, leaf)
            if row is not None and row.is_directory:
                raise S3Error("InvalidRequest", "the mount has a folder where the object's body belongs")
        if row is not None and not self._goes(batch, directory, leaf):
            batch.unlink(directory, leaf, row.inode)
        batch.link(inode, directory, leaf)
        batch.operations += noting_foreign(self._namespace, directory, leaf, batch.now)

    def put_marker(self, batch: Batch, bucket: int, key: bytes, record: bytes) -> int:
        """The folder of that name becomes the object `key`, which ends with a slash and is no object now; its
        inode."""
        folder, _ = self.folders(batch, bucket, path_of(key)[:-1])
        batch.set_attribute(folder, CLAIM, record)
        return folder

    @staticmethod
    def _goes(batch: Batch, parent: int, name: bytes) -> bool:
        """Whether an operation of the batch has taken the name away."""
        return (parent, name) in batch.names

    def folders(self, batch: Batch, top: int, names: Sequence[bytes]) -> tuple[int, bool]:
        """The folder at these names below `top`, and whether the batch makes it. What is missing is made; a
        file that is in the way becomes the body in a folder of its name."""
        directory, is_new = top, False
        above = self._namespace.inode(top)
        assert above is not None
        for name in names:
            row = None if is_new or self._goes(batch, directory, name) else self.child(directory, name)
            if row is not None and row.is_directory:
                directory, above = row.inode, row
                continue
            if row is not None:
                batch.unlink(directory, name, row.inode)
            folder = self.make_folder(batch, directory, name, above)
            batch.set_attribute(folder, IMPLIED, b"")
            if row is not None:
                batch.link(row.inode, folder, SELF)
            directory, is_new = folder, True
        return directory, is_new

    def make_folder(
        self, batch: Batch, directory: int, name: bytes, above: InodeRow, mode: int = FOLDER_MODE
    ) -> int:
        """A new folder, with the owner of `above`, the nearest that is there already."""
        inode = self._drive.allocate_number()
        mode |= above.mode & S_ISGID
        made = Create(directory, name, inode, mode, above.uid, above.gid, 0, b"", batch.now)
        batch.operations.append(made)
        batch.operations += noting_foreign(self._namespace, directory, name, batch.now)
        batch.names.append((directory, name))
        return inode

    def remove(self, batch: Batch, found: Found, *, prune: bool = True) -> None:
        """The object goes, and with `prune` the implied folders that nothing is left in."""
        if found.is_folder:
            if self.attribute(found.inode, CLAIM) is not None:
                batch.remove_attribute(found.inode, CLAIM)
            if prune:
                self.prune_folder(batch, found)
            return
        batch.unlink(found.parent, found.name, found.inode)
        if prune:
            self.prune(batch, found.trail, found.name)

    def prune_folder(self, batch: Batch, found: Found) -> None:
        """The marker `found`, a folder, is none any more: if there is nothing in it, it goes."""
        row = self._namespace.inode(found.inode)
        assert row is not None
        if not self._count(row):
            self._take_away(batch, (found.parent, found.name, found.inode), row)
            if not row.size:
                self.prune(batch, found.trail, found.name)

    def _take_away(self, batch: Batch, step: Step, row: InodeRow) -> None:
        """The folder goes; the body of its own name, if it has one, gets that name."""
        parent, name, inode = step
        body = self.body_of(inode) if row.size else None
        if body is not None:
            batch.unlink(inode, SELF, body.inode)
        batch.unlink(parent, name, inode)
        if body is not None:
            batch.link(body.inode, parent, name)

    def prune(self, batch: Batch, trail: Sequence[Step], gone: bytes, count: int = 1) -> None:
        """The name `gone`, and `count` of all, have left the last folder of the trail: what is implied and
        empty then goes."""
        for step in reversed(trail):
            parent, name, inode = step
            row = self._namespace.inode(inode)
            if row is None or self.attribute(inode, CLAIM) is not None:
                return
            if self.attribute(inode, IMPLIED) is None:
                return
            left = row.size - count
            if left == 1 and gone != SELF and self.body_of(inode) is not None:
                self._take_away(batch, step, row)
                return
            if left > 0:
                return
            batch.unlink(parent, name, inode)
            gone, count = name, 1
