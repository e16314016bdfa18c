"""The tree: changing the names of a drive, by POSIX rules.

Invariants:
1. A call either raises a `FileSystemError` and has changed nothing, or its change is journaled and
   applied when it returns. What is valid is decided here; the reducer never refuses.
2. A call waits for room, and then accepts. The second part is a call of its own (`accept_`), for who says
   only then which inode is meant: a rebase may give it another number while the call waits.

Event-loop thread only. Permissions are the door's business (the kernel's `default_permissions`).
"""

from __future__ import annotations

from collections.abc import Sequence
from stat import S_IFLNK, S_IFREG, S_ISDIR, S_ISGID
from typing import Final

from cache.attributes import Attributes
from cache.errors import (
    DirectoryError,
    ExistsError,
    InvalidArgumentError,
    NameTooLongError,
    NoEntryError,
    NotDirectoryError,
    NotEmptyError,
    NotPermittedError,
    TooManyLinksError,
)
from cache.journal import Ledger, Need
from cache.namespace import (
    MAX_SYMLINK,
    Create,
    DentryRow,
    InodeRow,
    Link,
    Operation,
    Rename,
    RenameLeavingWhiteout,
    Unlink,
)
from cache.sync import AttributesChanged, Broadcast, Change, NameChanged
from cache.tree.access import AccessLists
from cache.tree.foreign_names import noting_foreign
from cache.tree.inodes import Inodes, check_length
from cache.tree.intake import Intake
from cache.tree.put_off import PutOff

MAX_LINKS: Final = (1 << 31) - 1
_SLASH, _NUL = b"/\0"
"""Numbers, as in `cache.namespace.form`."""


class Tree:
    """See the module."""

    def __init__(
        self, ledger: Ledger, inodes: Inodes, intake: Intake, put_off: PutOff, changes: Broadcast
    ) -> None:
        self._namespace = ledger.namespace
        self._dirty = ledger.dirty
        self._inodes = inodes
        self._intake = intake
        self._put_off = put_off
        self._changes = changes
        self._access_lists = AccessLists(ledger.namespace)

    async def make_node(
        self,
        parent: int,
        name: bytes,
        mode: int,
        rdev: int,
        uid: int,
        gid: int,
        umask: int | None = None,
    ) -> Attributes:
        """A new regular file, directory, FIFO, socket or device. In a set-group-ID directory it takes
        the directory's group, and a directory the bit too (stat(2), inode(7)). Where the directory has a
        default access list, that has its say instead of the umask (acl(5), "OBJECT CREATION"); without a
        umask the mode is final."""
        await self._intake.room(Need.CHANGE)
        return self.accept_node(parent, name, mode, rdev, uid, gid, umask)

    def accept_node(
        self,
        parent: int,
        name: bytes,
        mode: int,
        rdev: int,
        uid: int,
        gid: int,
        umask: int | None = None,
    ) -> Attributes:
        """The same, in a turn in which there was room (`Need.CHANGE`)."""
        directory = self._new_name(parent, name)
        if directory.mode & S_ISGID:
            gid = directory.gid
            if S_ISDIR(mode):
                mode |= S_ISGID
        inode, now = self._namespace.allocate_inode(), self._intake.now()
        lists: list[Operation] = []
        if umask is not None:
            mode, lists = self._access_lists.of_new(parent, inode, mode, umask, S_ISDIR(mode), now)
        made = Create(parent, name, inode, mode, uid, gid, rdev, b"", now)
        self._intake.accept_all([made, *lists, *self._foreign(parent, name, now)])
        return self._inodes.attributes(inode)

    async def make_nameless(self, directory: int, mode: int, uid: int, gid: int) -> int:
        """A new regular file without a name, held once: nobody but the caller sees it. It goes when it is
        released, and with this process, unless a `Link` gave it a name (`accept_together`). One batch gives
        it a name that nobody has in `directory`, and takes that away."""
        await self._intake.room(Need.CHANGE)
        inode, now = self._namespace.allocate_inode(), self._intake.now()
        name = b".nameless-%d" % inode
        while self._namespace.entry(directory, name) is not None:
            name += b"~"
        self._new_name(directory, name)
        made = Create(directory, name, inode, S_IFREG | mode, uid, gid, 0, b"", now)
        self._intake.accept_all([made, Unlink(directory, name, inode, now)])
        self._put_off.hold(inode)
        return inode

    async def symlink(self, parent: int, name: bytes, target: bytes, uid: int, gid: int) -> Attributes:
        """A new symbolic link."""
        await self._intake.room(Need.CHANGE, len(target))
        return self.accept_symlink(parent, name, target, uid, gid)

    def accept_symlink(self, parent: int, name: bytes, target: bytes, uid: int, gid: int) -> Attributes:
        """The same, in a turn in which there was room for the target (`Need.CHANGE`)."""
        if not target:
            raise NoEntryError("an empty symbolic link")
        if len(target) > MAX_SYMLINK:
            raise NameTooLongError("a symbolic link's target is at most 4095 bytes")
        directory = self._new_name(parent, name)
        group = directory.gid if directory.mode & S_ISGID else gid
        inode, now = self._namespace.allocate_inode(), self._intake.now()
        made = Create(parent, name, inode, S_IFLNK | 0o777, uid, group, 0, target, now)
        self._intake.accept_all([made, *self._foreign(parent, name, now)])
        return self._inodes.attributes(inode)

    def _new_name(self, parent: int, name: bytes) -> InodeRow:
        """The directory, if `name` can be made in it."""
        _check_name(name)
        directory = self._inodes.directory(parent)
        if self._namespace.entry(parent, name) is not None:
            raise ExistsError("the name exists")
        if directory.nlink == 0:
            raise NoEntryError("the directory was removed")
        return directory

    async def link(self, inode: int, parent: int, name: bytes) -> Attributes:
        """One more name for a file."""
        await self._intake.room(Need.CHANGE)
        return self.accept_link(inode, parent, name)

    def accept_link(self, inode: int, parent: int, name: bytes) -> Attributes:
        """The same, in a turn in which there was room (`Need.CHANGE`)."""
        row = self._inodes.row(inode)
        if row.is_directory:
            raise NotPermittedError("a directory has one name only")
        self._new_name(parent, name)
        if row.nlink == 0:
            raise NoEntryError("the file was removed")
        if row.nlink >= MAX_LINKS:
            raise TooManyLinksError("too many links")
        now = self._intake.now()
        self._intake.accept_all([Link(inode, parent, name, now), *self._foreign(parent, name, now)])
        return self._inodes.attributes(inode)

    def _foreign(self, parent: int, name: bytes, now: int) -> list[Operation]:
        return noting_foreign(self._namespace, parent, name, now)

    def _entry(self, parent: int, name: bytes) -> tuple[DentryRow, InodeRow]:
        check_length(name)
        entry = self._namespace.entry(parent, name)
        if entry is None:
            self._inodes.directory(parent)
            raise NoEntryError(f"no such name in {parent}")
        return entry, self._inodes.row(entry.inode)

    async def unlink(self, parent: int, name: bytes) -> None:
        """Remove a name that is not a directory's."""
        await self._intake.room(Need.FREE)
        self.accept_unlink(parent, name)

    def accept_unlink(self, parent: int, name: bytes) -> None:
        """The same, in a turn in which there was room (`Need.FREE`)."""
        _, row = self._entry(parent, name)
        if row.is_directory:
            raise DirectoryError("is a directory")
        is_last = row.nlink == 1
        self._intake.accept(Unlink(parent, name, row.inode, self._intake.now()))
        self._put_off.removed += is_last
        self._put_off.delete_if_unused(row.inode)

    async def remove_directory(self, parent: int, name: bytes) -> None:
        """Remove an empty directory."""
        await self._intake.room(Need.FREE)
        self.accept_removal(parent, name)

    def accept_removal(self, parent: int, name: bytes) -> None:
        """The same, in a turn in which there was room (`Need.FREE`)."""
        if name == b".":
            raise InvalidArgumentError("cannot remove .")
        if name == b"..":
            raise NotEmptyError("cannot remove ..")
        _, row = self._entry(parent, name)
        if not row.is_directory:
            raise NotDirectoryError("not a directory")
        if row.size > 0:
            raise NotEmptyError("the directory is not empty")
        self._intake.accept(Unlink(parent, name, row.inode, self._intake.now()))
        self._put_off.delete_if_unused(row.inode)

    async def rename(
        self,
        parent: int,
        name: bytes,
        new_parent: int,
        new_name: bytes,
        *,
        no_replace: bool = False,
        exchange: bool = False,
        whiteout: tuple[int, int] | None = None,
    ) -> None:
        """rename(2), renameat2(2) with RENAME_NOREPLACE, RENAME_EXCHANGE, or RENAME_WHITEOUT (`whiteout`: the
        user and group that the whiteout is to have, unless the directory hands its group on)."""
        await self._intake.room(Need.FREE)
        self.accept_rename(
            parent, name, new_parent, new_name, no_replace=no_replace, exchange=exchange, whiteout=whiteout
        )

    def accept_rename(
        self,
        parent: int,
        name: bytes,
        new_parent: int,
        new_name: bytes,
        *,
        no_replace: bool,
        exchange: bool,
        whiteout: tuple[int, int] | None,
    ) -> None:
        """The same, in a turn in which there was room (`Need.FREE`)."""
        if exchange and (no_replace or whiteout is not None):
            raise InvalidArgumentError("EXCHANGE excludes NOREPLACE and WHITEOUT")
        _, row = self._entry(parent, name)
        _check_name(new_name)
        if self._inodes.directory(new_parent).nlink == 0:
            raise NoEntryError("the directory was removed")
        target = self._namespace.entry(new_parent, new_name)
        replaced = None if target is None else self._inodes.row(target.inode)
        self._check_rename(row, parent, new_parent, replaced, no_replace, exchange)
        if replaced is not None and replaced.inode == row.inode:
            return
        names = parent, name, new_parent, new_name, row.inode, 0 if replaced is None else replaced.inode
        foreign = self._foreign(new_parent, new_name, self._intake.now())
        self._intake.accept_all([self._renaming(names, exchange, whiteout), *foreign])
        self._dirty.settle(row.inode)
        if replaced is not None and not exchange:
            self._put_off.delete_if_unused(replaced.inode)

    def _renaming(
        self, names: tuple[int, bytes, int, bytes, int, int], exchange: bool, whiteout: tuple[int, int] | None
    ) -> Operation:
        now = self._intake.now()
        if whiteout is None:
            return Rename(*names, exchange, now)
        directory, (uid, gid) = self._inodes.row(names[0]), whiteout
        group = directory.gid if directory.mode & S_ISGID else gid
        return RenameLeavingWhiteout(*names, self._namespace.allocate_inode(), uid, group, now)

    def _check_rename(
        self,
        row: InodeRow,
        parent: int,
        new_parent: int,
        replaced: InodeRow | None,
        no_replace: bool,
        exchange: bool,
    ) -> None:
        if replaced is None:
            if exchange:
                raise NoEntryError("nothing to exchange with")
        elif no_replace:
            raise ExistsError("the name exists")
        elif not exchange and replaced.inode != row.inode:
            if row.is_directory and not replaced.is_directory:
                raise NotDirectoryError("a directory cannot replace a file")
            if replaced.is_directory and not row.is_directory:
                raise DirectoryError("a file cannot replace a directory")
            if replaced.is_directory and replaced.size > 0:
                raise NotEmptyError("the directory is not empty")
        if row.is_directory:
            self._check_not_inside(row.inode, new_parent)
        if exchange and replaced is not None and replaced.is_directory:
            self._check_not_inside(replaced.inode, parent)

    def _check_not_inside(self, inode: int, directory: int) -> None:
        """A directory cannot move below itself."""
        while directory != self._inodes.directory(directory).parent:
            if directory == inode:
                raise InvalidArgumentError("a directory cannot be moved into itself")
            directory = self._inodes.directory(directory).parent

    async def tell_of_name(self, parent: int, name: bytes, replaced: int) -> None:
        """After `accept_together` gave a name to another inode: what had it may go, and doors are told."""
        await self.tell_of_names([(parent, name)], [replaced] if replaced else [])

    async def tell_of_names(self, names: Sequence[tuple[int, bytes]], unnamed: Sequence[int]) -> None:
        """The same of several; `unnamed` lost a name."""
        changes: list[Change] = [NameChanged(parent, name) for parent, name in names]
        changed = dict.fromkeys([*(parent for parent, _ in names), *unnamed])
        changes += map(AttributesChanged, changed)
        self._put_off.removed += min(self._gone(names), sum(map(self._is_nameless_file, unnamed)))
        for inode in unnamed:
            self._put_off.delete_if_unused(inode)
        await self._changes.tell(changes)

    def _gone(self, names: Sequence[tuple[int, bytes]]) -> int:
        """The number of the names that are not there any more."""
        return sum(self._namespace.entry(*name) is None for name in names)

    def _is_nameless_file(self, inode: int) -> bool:
        row = self._namespace.inode(inode)
        return row is not None and not row.nlink and not row.is_directory


def _check_name(name: bytes) -> None:
    check_length(name)
    if name in (b".", b".."):
        raise ExistsError("the name exists")
    if not name or _SLASH in name or _NUL in name:
        raise InvalidArgumentError("a name is not empty and holds neither / nor NUL")
