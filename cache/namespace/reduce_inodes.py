"""Reducing operations on inodes to changes of rows: attributes, content, extended attributes, deletion.

Each function checks the whole operation against the state before it changes the first row, so that an
`OutOfDateError` leaves the state as it was.
"""

from __future__ import annotations

from cache.namespace.operations import Delete, RemoveXattr, SetAttributes, SetExtents, SetXattr
from cache.namespace.refusals import OutOfDateError
from cache.namespace.rows import PERMISSION_BITS, S_IFMT_MASK, InodeRow
from cache.namespace.state import State, find_inode


def set_attributes(state: State, operation: SetAttributes) -> None:
    rows = state.rows
    row = find_inode(rows, operation.inode)
    size = operation.size
    if size is not None and not row.is_regular:
        raise OutOfDateError(f"a size for inode {row.inode}, which is no regular file")
    if _only_atime(operation):
        rows.inodes.dirty[row.inode] = row
    else:
        rows.version(row, rows.commit)
    if size is not None:
        state.bytes += size - row.size
        row.size = size
    if operation.mode is not None:
        row.mode = row.mode & S_IFMT_MASK | operation.mode & PERMISSION_BITS
    if operation.uid is not None:
        row.uid = operation.uid
    if operation.gid is not None:
        row.gid = operation.gid
    _set_times(row, operation)


def _only_atime(operation: SetAttributes) -> bool:
    return (
        operation.mtime_ns is None
        and operation.ctime_ns is None
        and operation.size is None
        and operation.mode is None
        and operation.uid is None
        and operation.gid is None
    )


def _set_times(row: InodeRow, operation: SetAttributes) -> None:
    if operation.atime_ns is not None:
        row.atime_ns = operation.atime_ns
    if operation.mtime_ns is not None:
        row.mtime_ns = operation.mtime_ns
    if operation.ctime_ns is not None:
        row.ctime_ns = operation.ctime_ns


def set_extents(state: State, operation: SetExtents, commit: int = 0) -> None:
    """Of `commit` (0: the open one)."""
    row = find_inode(state.rows, operation.inode)
    state.allocated += state.extents.replace(row, operation, commit or state.rows.commit)


def set_xattr(state: State, operation: SetXattr) -> None:
    row = find_inode(state.rows, operation.inode)
    state.xattrs.set(operation.inode, operation.name, operation.value)
    state.rows.version(row, state.rows.commit)
    row.ctime_ns = operation.time_ns


def remove_xattr(state: State, operation: RemoveXattr) -> None:
    row = find_inode(state.rows, operation.inode)
    if operation.name not in state.xattrs.of(operation.inode):
        raise OutOfDateError(f"inode {row.inode} has no such extended attribute to remove")
    state.xattrs.remove(operation.inode, operation.name)
    state.rows.version(row, state.rows.commit)
    row.ctime_ns = operation.time_ns


def delete(state: State, operation: Delete) -> None:
    row = find_inode(state.rows, operation.inode)
    if row.nlink:
        raise OutOfDateError(f"inode {row.inode} still has {row.nlink} links")
    state.extents.remove_all(row)
    state.xattrs.remove_all(row.inode)
    state.rows.remove_inode(row)
    state.inodes -= 1
    state.files -= not row.is_directory
    state.allocated -= row.allocated
    if row.is_regular:
        state.bytes -= row.size
