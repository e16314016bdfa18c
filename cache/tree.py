"""The tree: names, attributes and holds of a drive, by POSIX rules. The larger half of `Drive`.

Invariants:
1. A call either raises a `FileSystemError` and has changed nothing, or its change is journaled and
   applied when it returns. What is valid is decided here; the reducer never refuses.
2. Calls that only look are synchronous and never wait for a node. Calls that change are async,
   because they wait while the journal is full; normally they do not give up control at all, and
   from the check to the acceptance they never do.
3. An inode without a name lives while somebody holds it or its frozen content is on its way.

Event-loop thread only. Permissions are the door's business (the kernel's `default_permissions`).
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from stat import S_IFLNK, S_IFMT, S_ISDIR, S_ISGID
from typing import Final

import trio

from cache.access import LISTS, AccessLists
from cache.attributes import AttributeChange, Attributes, Entry
from cache.dirty import DirtyFile
from cache.errors import (
    AttributeTooBigError,
    DirectoryError,
    ExistsError,
    FileTooBigError,
    InputOutputError,
    InvalidArgumentError,
    NameTooLongError,
    NoAttributeError,
    NoEntryError,
    NoSpaceLeftError,
    NotDirectoryError,
    NotEmptyError,
    NotPermittedError,
    NotSupportedError,
    ReadOnlyFileSystemError,
    StaleError,
    TooManyLinksError,
)
from cache.ledger import Ledger
from cache.operations import (
    MAX_NAME,
    MAX_SIZE,
    MAX_SYMLINK,
    NEWEST_TIME,
    OLDEST_TIME,
    Create,
    Delete,
    Link,
    Operation,
    RemoveXattr,
    Rename,
    RenameLeavingWhiteout,
    SetAttributes,
    SetXattr,
    Unlink,
)
from cache.publisher import Publisher
from cache.rows import DentryRow, InodeRow

MAX_LINKS: Final = (1 << 31) - 1
MAX_XATTR_NAME: Final = 255
MAX_XATTR_VALUE: Final = 64 << 10
XATTR_NAMESPACES: Final = (b"user.", b"trusted.", b"security.", *LISTS)
RELATIVE_ATIME_NS: Final = 24 * 3600 * 10**9
BLOCK_SIZE: Final = 4096
_WRITE_BACK_NS: Final = 60 * 10**9
"""The kernel writes back what is older than 30 s (vm.dirty_expire_centisecs)."""


async def _nobody_to_tell(parent: int, name: bytes, replaced: int) -> None:
    await trio.lowlevel.checkpoint()


class Tree:
    """See the module."""

    publisher: Publisher
    """set by `cache.opening.open_drive` before anything runs"""

    changed_from_inside: Callable[[int, bytes, int], Awaitable[None]] = staticmethod(_nobody_to_tell)
    """The one place that tells the door of what it did not do itself: the name `name` in `parent` is another
    inode now, and took the place of `replaced` (0: of none). Set by the door, which may remember others."""

    def __init__(self, ledger: Ledger, journal_limit: int, read_only: bool) -> None:
        self.ledger = ledger
        self._namespace = ledger.namespace
        self._dirty = ledger.dirty
        self._journal_limit = journal_limit
        self._read_only = read_only
        self._closing = False
        self._access_lists = AccessLists(self._namespace)
        self._held: dict[int, int] = {}
        self._access_times: dict[int, int] = {}

    # Looking

    def _row(self, inode: int) -> InodeRow:
        row = self._namespace.inode(inode)
        if row is None:
            raise StaleError(f"inode {inode} is gone")
        return row

    def _directory(self, inode: int) -> InodeRow:
        row = self._row(inode)
        if not row.is_directory:
            raise NotDirectoryError(f"inode {inode} is not a directory")
        return row

    def attributes(self, inode: int) -> Attributes:
        """stat(2). `StaleError` if the inode is gone."""
        return self._attributes(self._row(inode))

    def _attributes(self, row: InodeRow) -> Attributes:
        inode = row.inode
        size, allocated, mtime_ns, ctime_ns = row.size, row.allocated, row.mtime_ns, row.ctime_ns
        file = self._dirty.get(inode)
        if file is not None:
            size, allocated, mtime_ns, ctime_ns = _with_layers(row, file)
        atime_ns = self._access_times.get(inode, row.atime_ns) if self._access_times else row.atime_ns
        blocks = (min(allocated, size + BLOCK_SIZE) + 511) // 512
        return Attributes(
            inode, row.mode, row.nlink, row.uid, row.gid, row.rdev, size, blocks, atime_ns, mtime_ns, ctime_ns
        )

    def size(self, inode: int) -> int:
        """The file's size, dirty data included."""
        row = self._row(inode)
        layer = self._dirty.top(inode)
        return row.size if layer is None else layer.size(row.size)

    def lookup(self, parent: int, name: bytes) -> Attributes:
        """The inode of a name; `.` and `..` too. `NoEntryError`, `NotDirectoryError`,
        `NameTooLongError`."""
        if name in (b".", b".."):
            directory = self._directory(parent)
            return self._attributes(directory if name == b"." else self._row(directory.parent))
        entry = self._namespace.entry(parent, name)
        if entry is None:
            self._directory(parent)
            _check_length(name)
            raise NoEntryError(f"no such name in {parent}")
        return self._attributes(self._row(entry.inode))

    def entries(self, directory: int, after_cookie: int, limit: int) -> list[Entry]:
        """Up to `limit` entries whose cookie is greater than `after_cookie`, in their order; without
        `.` and `..`. A listing that goes on by cookies meets every entry that was there all the
        time exactly once, whatever else changes."""
        self._directory(directory)
        found = self._namespace.entries(directory, after_cookie, limit)
        return [Entry(item.name, item.cookie, self._attributes(self._row(item.inode))) for item in found]

    def parent(self, directory: int) -> Attributes:
        """What `..` is."""
        return self._attributes(self._row(self._directory(directory).parent))

    def read_link(self, inode: int) -> bytes:
        """A symbolic link's target."""
        row = self._row(inode)
        if S_IFMT(row.mode) != S_IFLNK:
            raise InvalidArgumentError(f"inode {inode} is not a symbolic link")
        return row.target

    # Holding

    def hold(self, inode: int, count: int = 1) -> None:
        """The inode is known to the kernel, or open: it lives, whatever happens to its names."""
        self._held[inode] = self._held.get(inode, 0) + count

    def release(self, inode: int, count: int = 1) -> None:
        """The opposite of `hold`, as often."""
        left = self._held.get(inode, 0) - count
        if left > 0:
            self._held[inode] = left
            return
        self._held.pop(inode, None)
        self._delete_if_unused(inode)

    def _delete_if_unused(self, inode: int) -> None:
        if inode in self._held or self._read_only or self._closing:
            return
        row = self._namespace.inode(inode)
        if row is None or row.nlink > 0:
            return
        file = self._dirty.get(inode)
        if file is not None and file.frozen is not None:
            return
        self._access_times.pop(inode, None)
        # What the caller asked for is done; an inode that cannot be deleted now is at the next open.
        with suppress(NoSpaceLeftError, InputOutputError):
            self._accept(Delete(inode))

    # Changing names

    def _accept(self, operation: Operation) -> None:
        self.ledger.accept(operation)
        self.publisher.wake()

    def _accept_all(self, operations: Sequence[Operation]) -> None:
        """Together, or nothing of it."""
        if len(operations) == 1:
            self.ledger.accept(operations[0])
        elif operations:
            self.ledger.accept_all(operations)
        self.publisher.wake()

    async def _room(self) -> None:
        """Wait while the journal is full; refuse when the drive cannot be written."""
        if self._read_only:
            raise ReadOnlyFileSystemError("the drive is mounted read-only")
        publisher = self.publisher
        while publisher.blocked and not publisher.fenced and not self._closing:
            publisher.wake()
            if publisher.refusal is not None:
                raise type(publisher.refusal)(publisher.problem)
            async with self.ledger.freed:
                await self.ledger.freed.wait()
        if publisher.fenced:
            raise ReadOnlyFileSystemError(publisher.problem)
        if self._closing:
            raise InputOutputError("the drive is being closed")

    async def accept_together(self, make: Callable[[], list[Operation]]) -> None:
        """All that `make` gives, in one commit, or nothing of it, also after a crash. `make` is called when
        there is room, and decides on the state that it then finds: what it raises is raised, and nothing
        has changed. `NoSpaceLeftError`: the same."""
        await self._room()
        self.ledger.accept_all(make())
        self.publisher.wake()

    def allocate_number(self) -> int:
        """A new inode number, for `accept_together`."""
        return self._namespace.allocate_inode()

    def live_row(self, inode: int) -> InodeRow:
        """The row, to be read at once. `StaleError`."""
        return self._row(inode)

    async def replaced_from_inside(self, parent: int, name: bytes, replaced: int) -> None:
        """After `accept_together` gave a name to another inode: what had it may go, and the door is told."""
        if replaced:
            self._delete_if_unused(replaced)
        await self.changed_from_inside(parent, name, replaced)

    async def make_node(
        self, parent: int, name: bytes, mode: int, rdev: int, uid: int, gid: int, umask: int = 0
    ) -> Attributes:
        """A new regular file, directory, FIFO, socket or device. In a set-group-ID directory it takes
        the directory's group, and a directory the bit too (stat(2), inode(7)). Where the directory has a
        default access list, that has its say instead of the umask (acl(5), "OBJECT CREATION")."""
        await self._room()
        directory = self._new_name(parent, name)
        if directory.mode & S_ISGID:
            gid = directory.gid
            if S_ISDIR(mode):
                mode |= S_ISGID
        inode, now = self._namespace.allocate_inode(), time.time_ns()
        mode, lists = self._access_lists.of_new(parent, inode, mode, umask, S_ISDIR(mode), now)
        self._accept_all([Create(parent, name, inode, mode, uid, gid, rdev, b"", now), *lists])
        return self.attributes(inode)

    async def symlink(self, parent: int, name: bytes, target: bytes, uid: int, gid: int) -> Attributes:
        """A new symbolic link."""
        if not target:
            raise NoEntryError("an empty symbolic link")
        if len(target) > MAX_SYMLINK:
            raise NameTooLongError("a symbolic link's target is at most 4095 bytes")
        await self._room()
        directory = self._new_name(parent, name)
        group = directory.gid if directory.mode & S_ISGID else gid
        inode = self._namespace.allocate_inode()
        self._accept(Create(parent, name, inode, S_IFLNK | 0o777, uid, group, 0, target, time.time_ns()))
        return self.attributes(inode)

    def _new_name(self, parent: int, name: bytes) -> InodeRow:
        """The directory, if `name` can be made in it."""
        _check_name(name)
        directory = self._directory(parent)
        if self._namespace.entry(parent, name) is not None:
            raise ExistsError("the name exists")
        if directory.nlink == 0:
            raise NoEntryError("the directory was removed")
        return directory

    async def link(self, inode: int, parent: int, name: bytes) -> Attributes:
        """One more name for a file."""
        await self._room()
        row = self._row(inode)
        if row.is_directory:
            raise NotPermittedError("a directory has one name only")
        self._new_name(parent, name)
        if row.nlink == 0:
            raise NoEntryError("the file was removed")
        if row.nlink >= MAX_LINKS:
            raise TooManyLinksError("too many links")
        self._accept(Link(inode, parent, name, time.time_ns()))
        return self.attributes(inode)

    def _entry(self, parent: int, name: bytes) -> tuple[DentryRow, InodeRow]:
        _check_length(name)
        entry = self._namespace.entry(parent, name)
        if entry is None:
            self._directory(parent)
            raise NoEntryError(f"no such name in {parent}")
        return entry, self._row(entry.inode)

    async def unlink(self, parent: int, name: bytes) -> None:
        """Remove a name that is not a directory's."""
        await self._room()
        _, row = self._entry(parent, name)
        if row.is_directory:
            raise DirectoryError("is a directory")
        self._accept(Unlink(parent, name, row.inode, time.time_ns()))
        self._delete_if_unused(row.inode)

    async def remove_directory(self, parent: int, name: bytes) -> None:
        """Remove an empty directory."""
        await self._room()
        if name == b".":
            raise InvalidArgumentError("cannot remove .")
        if name == b"..":
            raise NotEmptyError("cannot remove ..")
        _, row = self._entry(parent, name)
        if not row.is_directory:
            raise NotDirectoryError("not a directory")
        if row.size > 0:
            raise NotEmptyError("the directory is not empty")
        self._accept(Unlink(parent, name, row.inode, time.time_ns()))
        self._delete_if_unused(row.inode)

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
        await self._room()
        if exchange and (no_replace or whiteout is not None):
            raise InvalidArgumentError("EXCHANGE excludes NOREPLACE and WHITEOUT")
        _, row = self._entry(parent, name)
        _check_name(new_name)
        if self._directory(new_parent).nlink == 0:
            raise NoEntryError("the directory was removed")
        target = self._namespace.entry(new_parent, new_name)
        replaced = None if target is None else self._row(target.inode)
        self._check_rename(row, parent, new_parent, replaced, no_replace, exchange)
        if replaced is not None and replaced.inode == row.inode:
            return
        names = parent, name, new_parent, new_name, row.inode, 0 if replaced is None else replaced.inode
        self._accept(self._renaming(names, exchange, whiteout))
        self._dirty.settle(row.inode)
        if replaced is not None and not exchange:
            self._delete_if_unused(replaced.inode)

    def _renaming(
        self, names: tuple[int, bytes, int, bytes, int, int], exchange: bool, whiteout: tuple[int, int] | None
    ) -> Operation:
        now = time.time_ns()
        if whiteout is None:
            return Rename(*names, exchange, now)
        directory, (uid, gid) = self._row(names[0]), whiteout
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
        while directory != self._directory(directory).parent:
            if directory == inode:
                raise InvalidArgumentError("a directory cannot be moved into itself")
            directory = self._directory(directory).parent

    # Changing attributes

    async def set_attributes(self, inode: int, change: AttributeChange) -> Attributes:
        """chmod, chown, truncate, utimensat in one. Without a `ctime_ns` it is now."""
        await self._room()
        row = self._row(inode)
        now = time.time_ns()
        if self._is_write_back(inode, change, now):
            return self.attributes(inode)
        if change.size is not None:
            self._truncate(row, change.size, now)
        rest = (change.mode, change.uid, change.gid, change.atime_ns, change.mtime_ns, change.ctime_ns)
        if any(value is not None for value in rest):
            mode = None if change.mode is None else S_IFMT(row.mode) | (change.mode & 0o7777)
            atime_ns, mtime_ns = _in_range(change.atime_ns), _in_range(change.mtime_ns)
            ctime_ns = now if change.ctime_ns is None else _in_range(change.ctime_ns)
            if atime_ns is not None:
                self._access_times.pop(inode, None)
            lists = [] if mode is None else self._access_lists.after_chmod(row, mode, now)
            times = atime_ns, mtime_ns, ctime_ns
            self._accept_all([SetAttributes(inode, mode, change.uid, change.gid, None, *times), *lists])
        return self.attributes(inode)

    def _is_write_back(self, inode: int, change: AttributeChange, now: int) -> bool:
        """The kernel writes back the times of a file that is open and being written: they are kept with the
        content and stated with it. As operations each would make a state that differs in nothing else."""
        layer, mtime_ns, ctime_ns = self._dirty.top(inode), change.mtime_ns, change.ctime_ns
        if layer is None or layer.settled or mtime_ns is None or ctime_ns is None:
            return False
        if change != AttributeChange(mtime_ns=mtime_ns, ctime_ns=ctime_ns):
            return False
        if abs(now - mtime_ns) > _WRITE_BACK_NS or abs(now - ctime_ns) > _WRITE_BACK_NS:
            return False  # somebody's own choice, which must not get lost with the process
        layer.mtime_ns, layer.ctime_ns = mtime_ns, max(layer.ctime_ns, ctime_ns)
        return True

    def _truncate(self, row: InodeRow, size: int, now: int) -> None:
        if row.is_directory:
            raise DirectoryError("is a directory")
        if not row.is_regular or size < 0:
            raise InvalidArgumentError("not a regular file, or a negative size")
        if size > MAX_SIZE:
            raise FileTooBigError("a file is at most 2^63-1 bytes")
        if size != self.size(row.inode):
            self.ledger.truncate(row.inode, size, now)
            self.publisher.wake()

    def touch(self, inode: int) -> None:
        """The inode was read: relatime, as mount(8) says. Kept in memory until the next cut, since
        an access alone is nothing worth a commit."""
        if self._read_only:
            return
        row = self._row(inode)
        now = time.time_ns()
        atime_ns = self._access_times.get(inode, row.atime_ns)
        layer = self._dirty.top(inode)
        mtime_ns = row.mtime_ns if layer is None or layer.mtime_ns is None else layer.mtime_ns
        if atime_ns <= max(mtime_ns, row.ctime_ns) or now - atime_ns > RELATIVE_ATIME_NS:
            self._access_times[inode] = now

    def accept_access_times(self) -> None:
        """Called before a cut that happens anyway."""
        if not self.ledger.unpublished:
            return
        times, self._access_times = self._access_times, {}
        for inode, atime_ns in times.items():
            if self._namespace.inode(inode) is not None:
                self.ledger.accept(SetAttributes(inode, atime_ns=atime_ns))

    # Extended attributes

    def get_xattr(self, inode: int, name: bytes) -> bytes:
        """`NoAttributeError` if there is none of that name."""
        self._row(inode)
        value = self._namespace.xattr(inode, name)
        if value is None:
            raise NoAttributeError("no such extended attribute")
        return value

    def xattr_names(self, inode: int) -> list[bytes]:
        """All names."""
        self._row(inode)
        return self._namespace.xattr_names(inode)

    async def set_xattr(
        self, inode: int, name: bytes, value: bytes, *, keeps_set_group_id: bool = True
    ) -> None:
        """Set or replace. Limits as Linux has them: names of 255 bytes, values of 64 KiB. An access list
        sets the mode too; without `keeps_set_group_id` (who sets it is no member of the file's group) it
        takes that bit. `InvalidArgumentError`, `AccessDeniedError`: no list, or it does not belong there."""
        await self._room()
        row = self._row(inode)
        if not name.startswith(XATTR_NAMESPACES):
            raise NotSupportedError("extended attributes are user., trusted., security. or access lists")
        if len(name) > MAX_XATTR_NAME:
            raise InvalidArgumentError("an extended attribute's name is at most 255 bytes")
        if len(value) > MAX_XATTR_VALUE:
            raise AttributeTooBigError("an extended attribute is at most 64 KiB")
        now = time.time_ns()
        if name in LISTS:
            self._accept_all(self._access_lists.setting(row, name, bytes(value), keeps_set_group_id, now))
        else:
            self._accept(SetXattr(inode, name, bytes(value), now))

    async def remove_xattr(self, inode: int, name: bytes) -> None:
        """`NoAttributeError` if there is none of that name, unless it is an access list."""
        await self._room()
        now = time.time_ns()
        if name in LISTS:
            self._accept_all(self._access_lists.removing(self._row(inode), name, now))
            return
        self.get_xattr(inode, name)
        self._accept(RemoveXattr(inode, name, now))


def _with_layers(row: InodeRow, file: DirtyFile) -> tuple[int, int, int, int]:
    """(size, allocated, mtime, ctime) of a dirty file."""
    allocated = row.allocated + file.data_bytes
    layer = file.top
    if layer is None:
        return row.size, allocated, row.mtime_ns, row.ctime_ns
    mtime_ns = row.mtime_ns if layer.mtime_ns is None else layer.mtime_ns
    return layer.size(row.size), allocated, mtime_ns, max(row.ctime_ns, layer.ctime_ns)


def _check_length(name: bytes) -> None:
    if len(name) > MAX_NAME:
        raise NameTooLongError("a name is at most 255 bytes")


def _check_name(name: bytes) -> None:
    _check_length(name)
    if name in (b".", b".."):
        raise ExistsError("the name exists")
    if not name or b"/" in name or b"\0" in name:
        raise InvalidArgumentError("a name is not empty and holds neither / nor NUL")


def _in_range(time_ns: int | None) -> int | None:
    """The nearest time that can be kept."""
    return None if time_ns is None else max(OLDEST_TIME, min(time_ns, NEWEST_TIME))
