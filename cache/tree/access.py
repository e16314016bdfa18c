"""Access control lists of inodes: which operations a change of a list or of a mode is.

A list and the permission bits of a mode always agree (acl(5), "CORRESPONDENCE BETWEEN ACL ENTRIES AND FILE
PERMISSION BITS"): a change of one changes the other, in one batch. A list that says no more than permission
bits can is kept as permission bits alone. The kernel decides who may change a list, and what a list allows.

Used on the event-loop thread only; nothing here changes anything.
"""

from __future__ import annotations

from cache.errors import AccessDeniedError
from cache.namespace import InodeRow, Namespace, Operation, RemoveXattr, SetAttributes, SetXattr, acl

LISTS = (acl.ACCESS, acl.DEFAULT)
_SET_GROUP_ID = 0o2000


class AccessLists:
    """The lists that a namespace keeps as extended attributes."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace

    def of_new(
        self, directory: int, inode: int, mode: int, umask: int, is_directory: bool, now: int
    ) -> tuple[int, list[Operation]]:
        """The mode of an inode that is made in `directory` with `mode`, and what gives it its lists. With a
        default list in the directory the umask has no part in it."""
        value = self._namespace.xattr(directory, acl.DEFAULT)
        if value is None:
            return mode & ~umask, []
        mode, access = acl.inherited(acl.decode(value), mode)
        lists: list[Operation] = []
        if not acl.is_only_a_mode(access):
            lists.append(SetXattr(inode, acl.ACCESS, acl.encode(access), now))
        if is_directory:
            lists.append(SetXattr(inode, acl.DEFAULT, value, now))
        return mode, lists

    def setting(
        self, row: InodeRow, name: bytes, value: bytes, keeps_set_group_id: bool, now: int
    ) -> list[Operation]:
        """The operations that set one of the `LISTS`. `InvalidArgumentError` if `value` is none;
        `AccessDeniedError` for a default list of what is no directory, as the kernel has it."""
        wanted = acl.decode(value)
        if name == acl.DEFAULT:
            if not row.is_directory:
                raise AccessDeniedError("only directories have default access lists")
            return [SetXattr(row.inode, name, acl.encode(wanted), now)]
        mode = row.mode & ~0o777 | acl.permission_bits(wanted)
        if not keeps_set_group_id:
            mode &= ~_SET_GROUP_ID
        change = SetAttributes(row.inode, mode, ctime_ns=now)
        if acl.is_only_a_mode(wanted):
            return [change, *self.removing(row, name, now)]
        return [change, SetXattr(row.inode, name, acl.encode(wanted), now)]

    def removing(self, row: InodeRow, name: bytes, now: int) -> list[Operation]:
        """The operations that remove one of the `LISTS`: none if it is not there. The mode stays."""
        there = self._namespace.xattr(row.inode, name) is not None
        return [RemoveXattr(row.inode, name, now)] if there else []

    def after_chmod(self, row: InodeRow, mode: int, now: int) -> list[Operation]:
        """The access list when the mode becomes `mode`."""
        value = self._namespace.xattr(row.inode, acl.ACCESS)
        if value is None:
            return []
        before = acl.decode(value)
        after = acl.with_permission_bits(before, mode)
        return [] if after == before else [SetXattr(row.inode, acl.ACCESS, acl.encode(after), now)]
