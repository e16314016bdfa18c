"""Changing the attributes of inodes: modes, owners, sizes, times, extended attributes, access lists.

A call either raises a `FileSystemError` and has changed nothing, or its change is journaled and applied
when it returns. The exception is a new size together with other attributes: where the disk refuses the second
record, the size is changed. Event-loop thread only.
"""

from __future__ import annotations

from stat import S_IFMT
from typing import Final

from cache.attributes import AttributeChange, Attributes
from cache.errors import (
    AttributeTooBigError,
    DirectoryError,
    FileTooBigError,
    InvalidArgumentError,
    NoAttributeError,
    NotSupportedError,
)
from cache.journal import Ledger, Need
from cache.namespace import (
    MAX_SIZE,
    NEWEST_TIME,
    OLDEST_TIME,
    InodeRow,
    Operation,
    RemoveXattr,
    SetAttributes,
    SetXattr,
)
from cache.tree.access import LISTS, AccessLists
from cache.tree.content_claims import ContentClaims
from cache.tree.inodes import Inodes
from cache.tree.intake import Intake
from cache.tree.put_off import PutOff

MAX_XATTR_NAME: Final = 255
MAX_XATTR_VALUE: Final = 64 << 10
XATTR_NAMESPACES: Final = (b"user.", b"trusted.", b"security.", *LISTS)
RELATIVE_ATIME_NS: Final = 24 * 3600 * 10**9


class InodeAttributes:
    """See the module."""

    def __init__(
        self, ledger: Ledger, inodes: Inodes, intake: Intake, claims: ContentClaims, put_off: PutOff
    ) -> None:
        self._ledger = ledger
        self._namespace = ledger.namespace
        self._dirty = ledger.dirty
        self._inodes = inodes
        self._intake = intake
        self._claims = claims
        self._put_off = put_off
        self._access_lists = AccessLists(ledger.namespace)

    async def set_attributes(self, inode: int, change: AttributeChange) -> Attributes:
        """chmod, chown, truncate, utimensat in one. Without a `ctime_ns` it is now."""
        await self._intake.room(Need.FREE)
        return self.accept_attributes(inode, change)

    def accept_attributes(self, inode: int, change: AttributeChange) -> Attributes:
        """The same, in a turn in which there was room (`Need.FREE`)."""
        row = self._inodes.row(inode)
        content_times = _content_times(change)
        if content_times is not None:
            return self._state_times(row, *content_times)
        now = self._intake.now()
        if change.size is None or not self._is_new_size(row, change.size):
            self._intake.accept_all(self._operations(row, change, now))
        else:
            self._claims.end(inode)
            self._ledger.truncate(inode, change.size, now, self._operations(row, change, now))
            self._intake.wake()
        if change.atime_ns is not None:
            self._put_off.access_times.pop(inode, None)
        return self._inodes.attributes(inode)

    def _operations(self, row: InodeRow, change: AttributeChange, now: int) -> list[Operation]:
        """The operations that change all but the size."""
        if change == AttributeChange(size=change.size):
            return []
        mode = None if change.mode is None else S_IFMT(row.mode) | (change.mode & 0o7777)
        times = (
            _in_range_if_given(change.atime_ns),
            _in_range_if_given(change.mtime_ns),
            now if change.ctime_ns is None else _in_range(change.ctime_ns),
        )
        lists = [] if mode is None else self._access_lists.after_chmod(row, mode, now)
        return [SetAttributes(row.inode, mode, change.uid, change.gid, None, *times), *lists]

    def kernel_times(self, inode: int, mtime_ns: int, ctime_ns: int) -> Attributes | None:
        """`set_attributes` of these two times and nothing else, if that need not wait. None: it has to, or
        will be refused; nothing has changed."""
        if not self._intake.is_writable or self._intake.has_to_wait(Need.FREE):
            return None
        return self._state_times(self._inodes.row(inode), mtime_ns, ctime_ns)

    def set_times(self, inode: int, mtime_ns: int, ctime_ns: int) -> None:
        """As `kernel_times`, but there is always room, and of a drive that cannot be written any more
        nothing is changed."""
        if self._intake.is_writable:
            self._state_times(self._inodes.row(inode), mtime_ns, ctime_ns)

    def _state_times(self, row: InodeRow, mtime_ns: int, ctime_ns: int) -> Attributes:
        """Take over the times that the kernel keeps. It sends them when it writes content back, and after
        each change of its own. The times of a file that is being written are kept with its dirty content, and
        become part of the commit with it: as operations, each would make a state that differs in nothing
        else. The times of a regular file without a name are ignored, because the kernel alone answers for
        them. Returns what stat(2) shows afterwards."""
        mtime_ns, ctime_ns = _in_range(mtime_ns), _in_range(ctime_ns)
        shown, layer = self._inodes.attributes_of(row), self._dirty.top(row.inode)
        if (mtime_ns, ctime_ns) == (shown.mtime_ns, shown.ctime_ns) or (row.is_regular and row.nlink == 0):
            return shown
        if layer is None or layer.settled:
            changed = None if mtime_ns == shown.mtime_ns else mtime_ns
            self._intake.accept(SetAttributes(row.inode, mtime_ns=changed, ctime_ns=ctime_ns))
        else:
            self._ledger.set_times(row.inode, mtime_ns, ctime_ns)
        shown.mtime_ns, shown.ctime_ns = mtime_ns, ctime_ns
        return shown

    def _is_new_size(self, row: InodeRow, size: int) -> bool:
        """Whether the file has another size. Raises if it cannot have this one."""
        if row.is_directory:
            raise DirectoryError("is a directory")
        if not row.is_regular or size < 0:
            raise InvalidArgumentError("not a regular file, or a negative size")
        if size > MAX_SIZE:
            raise FileTooBigError("a file is at most 2^63-1 bytes")
        return size != self._inodes.size(row.inode)

    def touch(self, inode: int) -> None:
        """The inode was read: relatime, as mount(8) says. Kept in memory until the next cut, since
        an access alone is nothing worth a commit."""
        if self._intake.read_only:
            return
        row = self._inodes.row(inode)
        now = self._ledger.environment.wall_clock()
        atime_ns = self._put_off.access_times.get(inode, row.atime_ns)
        layer = self._dirty.top(inode)
        mtime_ns = row.mtime_ns if layer is None or layer.mtime_ns is None else layer.mtime_ns
        if atime_ns <= max(mtime_ns, row.ctime_ns) or now - atime_ns > RELATIVE_ATIME_NS:
            self._put_off.access_times[inode] = self._intake.now()

    # Extended attributes

    def get_xattr(self, inode: int, name: bytes) -> bytes:
        """`NoAttributeError` if there is none of that name."""
        self._inodes.row(inode)
        value = self._namespace.xattr(inode, name)
        if value is None:
            raise NoAttributeError("no such extended attribute")
        return value

    def xattr_names(self, inode: int) -> list[bytes]:
        """All names."""
        self._inodes.row(inode)
        return self._namespace.xattr_names(inode)

    async def set_xattr(
        self, inode: int, name: bytes, value: bytes, *, keeps_set_group_id: bool = True
    ) -> None:
        """Set or replace. Limits as Linux has them: names of 255 bytes, values of 64 KiB. An access list
        sets the mode too; without `keeps_set_group_id` (who sets it is no member of the file's group) it
        takes that bit. `InvalidArgumentError`, `AccessDeniedError`: no list, or it does not belong there."""
        await self._intake.room(Need.CHANGE, len(value))
        self.accept_xattr(inode, name, value, keeps_set_group_id=keeps_set_group_id)

    def accept_xattr(self, inode: int, name: bytes, value: bytes, *, keeps_set_group_id: bool = True) -> None:
        """The same, in a turn in which there was room for the value (`Need.CHANGE`)."""
        row = self._inodes.row(inode)
        if not name.startswith(XATTR_NAMESPACES):
            raise NotSupportedError("extended attributes are user., trusted., security. or access lists")
        if len(name) > MAX_XATTR_NAME:
            raise InvalidArgumentError("an extended attribute's name is at most 255 bytes")
        if len(value) > MAX_XATTR_VALUE:
            raise AttributeTooBigError("an extended attribute is at most 64 KiB")
        now = self._intake.now()
        if name in LISTS:
            self._intake.accept_all(
                self._access_lists.setting(row, name, bytes(value), keeps_set_group_id, now)
            )
        else:
            self._intake.accept(SetXattr(inode, name, bytes(value), now))

    async def remove_xattr(self, inode: int, name: bytes) -> None:
        """`NoAttributeError` if there is none of that name, unless it is an access list."""
        await self._intake.room(Need.FREE)
        self.accept_xattr_removal(inode, name)

    def accept_xattr_removal(self, inode: int, name: bytes) -> None:
        """The same, in a turn in which there was room (`Need.FREE`)."""
        now = self._intake.now()
        if name in LISTS:
            self._intake.accept_all(self._access_lists.removing(self._inodes.row(inode), name, now))
            return
        self.get_xattr(inode, name)
        self._intake.accept(RemoveXattr(inode, name, now))


def _content_times(change: AttributeChange) -> tuple[int, int] | None:
    """Modification and change time, if the change is what new content alone brings about."""
    mtime_ns, ctime_ns = change.mtime_ns, change.ctime_ns
    if mtime_ns is None or ctime_ns is None:
        return None
    return (mtime_ns, ctime_ns) if change == AttributeChange(mtime_ns=mtime_ns, ctime_ns=ctime_ns) else None


def _in_range(time_ns: int) -> int:
    """The nearest time that can be kept."""
    return max(OLDEST_TIME, min(time_ns, NEWEST_TIME))


def _in_range_if_given(time_ns: int | None) -> int | None:
    return None if time_ns is None else _in_range(time_ns)
