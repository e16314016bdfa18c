"""Changing what inodes say of themselves: modes, owners, sizes, times, extended attributes, access lists.

A call either raises a `FileSystemError` and has changed nothing, or its change is journaled and applied when
it returns. Event-loop thread only.
"""

from __future__ import annotations

import time
from stat import S_IFMT
from typing import Final

import trio

from cache.access import LISTS
from cache.attributes import AttributeChange, Attributes
from cache.errors import (
    AttributeTooBigError,
    DirectoryError,
    FileTooBigError,
    InvalidArgumentError,
    NoAttributeError,
    NotSupportedError,
)
from cache.inodes import AT_ONCE, Inodes
from cache.operations import (
    MAX_SIZE,
    NEWEST_TIME,
    OLDEST_TIME,
    RemoveXattr,
    SetAttributes,
    SetXattr,
)
from cache.room import Need
from cache.rows import InodeRow

MAX_XATTR_NAME: Final = 255
MAX_XATTR_VALUE: Final = 64 << 10
XATTR_NAMESPACES: Final = (b"user.", b"trusted.", b"security.", *LISTS)
RELATIVE_ATIME_NS: Final = 24 * 3600 * 10**9
_WRITE_BACK_NS: Final = 60 * 10**9
"""The kernel writes back what is older than 30 s (vm.dirty_expire_centisecs)."""
_TICK_NS: Final = 10**9
"""The kernel's clock for files goes in steps of up to 10 ms, and a busy mount answers late."""


class InodeAttributes(Inodes):
    """See the module."""

    async def set_attributes(self, inode: int, change: AttributeChange) -> Attributes:
        """chmod, chown, truncate, utimensat in one. Without a `ctime_ns` it is now."""
        await self._room(Need.FREE)
        row = self._row(inode)
        now = time.time_ns()
        if self._is_write_back(row, change, now):
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

    def _is_write_back(self, row: InodeRow, change: AttributeChange, now: int) -> bool:
        """The kernel writes back the times of a file that is open and being written: they are kept with the
        content and stated with it. As operations each would make a state that differs in nothing else. Of a
        file that has lost its last name it does so too; until it is gone nobody but the kernel is asked."""
        layer, mtime_ns, ctime_ns = self._dirty.top(row.inode), change.mtime_ns, change.ctime_ns
        if mtime_ns is None or ctime_ns is None:
            return False
        if change != AttributeChange(mtime_ns=mtime_ns, ctime_ns=ctime_ns):
            return False
        if row.is_regular and row.nlink == 0:
            return True
        if layer is None or layer.settled:
            return self._is_of_change(row, mtime_ns, ctime_ns, now)
        if abs(now - mtime_ns) > _WRITE_BACK_NS or abs(now - ctime_ns) > _WRITE_BACK_NS:
            return False  # somebody's own choice, which must not get lost with the process
        layer.mtime_ns, layer.ctime_ns = mtime_ns, max(layer.ctime_ns, ctime_ns)
        return True

    def _is_of_change(self, row: InodeRow, mtime_ns: int, ctime_ns: int, now: int) -> bool:
        """The kernel has its own idea of when a file was renamed or changed by another operation, a tick of
        its clock before ours or a little later, and tells it at once: put off as access times are. What ours
        says stands if the process is killed before."""
        if mtime_ns != row.mtime_ns or self._dirty.get(row.inode) is not None:
            return False
        if abs(ctime_ns - row.ctime_ns) > _TICK_NS or abs(now - ctime_ns) > _TICK_NS:
            return False
        self._change_times[row.inode] = row.ctime_ns, ctime_ns
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

    async def accept_times(self) -> None:
        """Access and change times that were put off. Called before a cut; access times alone are not worth
        one. Those that cannot be accepted now stay put off."""
        self.delete_unused()
        if not self.ledger.unpublished and not self._change_times:
            return
        waiting = [*{**self._access_times, **self._change_times}]
        for start in range(0, len(waiting), AT_ONCE):
            inodes = waiting[start : start + AT_ONCE]
            operations = [*filter(None, map(self._times_put_off, inodes))]
            if operations:
                self.ledger.accept_all(operations)
            for inode in inodes:
                self._forget_times(inode)
            await trio.lowlevel.checkpoint()

    def _times_put_off(self, inode: int) -> SetAttributes | None:
        row = self._namespace.inode(inode)
        if row is None:
            return None
        before, after = self._change_times.get(inode, (0, 0))
        atime_ns, ctime_ns = self._access_times.get(inode), after if before == row.ctime_ns else None
        if atime_ns is None and ctime_ns is None:
            return None
        return SetAttributes(inode, atime_ns=atime_ns, ctime_ns=ctime_ns)

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
        await self._room(Need.CHANGE, len(value))
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
        await self._room(Need.FREE)
        now = time.time_ns()
        if name in LISTS:
            self._accept_all(self._access_lists.removing(self._row(inode), name, now))
            return
        self.get_xattr(inode, name)
        self._accept(RemoveXattr(inode, name, now))


def _in_range(time_ns: int | None) -> int | None:
    """The nearest time that can be kept."""
    return None if time_ns is None else max(OLDEST_TIME, min(time_ns, NEWEST_TIME))
