"""Reducing operations on names to changes of rows: making, linking, removing and moving them.

Each function checks the whole operation against the state before it changes the first row, so that an
`OutOfDateError` leaves the state as it was. Times follow POSIX (rename(2), unlink(2), link(2): "shall mark
for update").
"""

from __future__ import annotations

from stat import S_IFCHR, S_IFDIR

from cache.namespace.operations import (
    DEVICE_SHIFT,
    Create,
    Link,
    Rename,
    RenameLeavingWhiteout,
    Unlink,
)
from cache.namespace.refusals import OutOfDateError
from cache.namespace.row_store import RowStore
from cache.namespace.rows import FIRST_COOKIE, S_IFMT_MASK, DentryRow, InodeRow
from cache.namespace.state import State, check_absent, find_directory, find_entry, find_inode


def create(state: State, operation: Create) -> None:
    rows = state.rows
    parent = find_directory(rows, operation.parent)
    check_absent(rows, operation.parent, operation.name)
    time_ns = operation.time_ns
    _take_number(state, operation.inode)
    is_directory = operation.mode & S_IFMT_MASK == S_IFDIR
    row = InodeRow(
        operation.inode,
        operation.mode,
        2 if is_directory else 1,
        operation.uid,
        operation.gid,
        operation.rdev,
        len(operation.target),
        0,
        time_ns,
        time_ns,
        time_ns,
        time_ns,
        operation.target,
        operation.parent if is_directory else 0,
        0,
        FIRST_COOKIE if is_directory else 0,
        rows.commit,
    )
    rows.add_inode(row)
    state.xattrs.born_empty(operation.inode)
    state.inodes += 1
    state.files += not is_directory
    if is_directory:
        _change_names(rows, parent, time_ns, 1, 1)
    else:
        _change_names(rows, parent, time_ns, 1, 0)
    _add_entry(state, parent, operation.name, operation.inode)


def link(state: State, operation: Link) -> None:
    rows = state.rows
    parent = find_directory(rows, operation.parent)
    check_absent(rows, operation.parent, operation.name)
    row = find_inode(rows, operation.inode)
    if row.is_directory:
        raise OutOfDateError(f"a second name for directory {row.inode}")
    _change_links(rows, row, operation.time_ns, 1)
    _change_names(rows, parent, operation.time_ns, 1, 0)
    _add_entry(state, parent, operation.name, operation.inode)


def unlink(state: State, operation: Unlink) -> None:
    rows = state.rows
    parent = find_directory(rows, operation.parent)
    entry = find_entry(rows, operation.parent, operation.name, operation.inode)
    row = find_inode(rows, operation.inode)
    _check_removable(row)
    _change_names(rows, parent, operation.time_ns, -1, -1 if row.is_directory else 0)
    _remove_name(state, entry, row, operation.time_ns)


def rename(state: State, operation: Rename) -> None:
    if operation.exchange:
        exchange(state, operation)
        return
    rows = state.rows
    _check_no_cycle(rows, operation.inode, operation.new_parent)
    parent = find_directory(rows, operation.parent)
    new_parent = find_directory(rows, operation.new_parent)
    entry = find_entry(rows, operation.parent, operation.name, operation.inode)
    row = find_inode(rows, operation.inode)
    replaced = _replaced(rows, operation, row)
    time_ns = operation.time_ns
    is_directory = 1 if row.is_directory else 0
    _change_names(rows, parent, time_ns, -1, -is_directory)
    rows.remove_entry(entry)
    state.entries -= 1
    if replaced is not None:
        _change_names(rows, new_parent, time_ns, -1, -1 if replaced.is_directory else 0)
        target = find_entry(rows, operation.new_parent, operation.new_name, replaced.inode)
        _remove_name(state, target, replaced, time_ns)
    _change_names(rows, new_parent, time_ns, 1, is_directory)
    _add_entry(state, new_parent, operation.new_name, row.inode)
    _move(rows, row, new_parent, time_ns)


def exchange(state: State, operation: Rename) -> None:
    rows = state.rows
    _check_no_cycle(rows, operation.inode, operation.new_parent)
    _check_no_cycle(rows, operation.replaced, operation.parent)
    parent = find_directory(rows, operation.parent)
    new_parent = find_directory(rows, operation.new_parent)
    entry = find_entry(rows, operation.parent, operation.name, operation.inode)
    other_entry = find_entry(rows, operation.new_parent, operation.new_name, operation.replaced)
    row = find_inode(rows, operation.inode)
    other = find_inode(rows, operation.replaced)
    difference = other.is_directory - row.is_directory
    _change_names(rows, parent, operation.time_ns, 0, difference)
    _change_names(rows, new_parent, operation.time_ns, 0, -difference)
    rows.point_entry(entry, other.inode)
    rows.point_entry(other_entry, row.inode)
    _move(rows, row, new_parent, operation.time_ns)
    _move(rows, other, parent, operation.time_ns)


def rename_leaving_whiteout(state: State, operation: RenameLeavingWhiteout) -> None:
    """Both parts or neither: what may be refused of the second is looked at before the first."""
    o = operation
    _check_free(state, o.whiteout)
    rename(state, Rename(o.parent, o.name, o.new_parent, o.new_name, o.inode, o.replaced, False, o.time_ns))
    create(state, Create(o.parent, o.name, o.whiteout, S_IFCHR, o.uid, o.gid, 0, b"", o.time_ns))


def _replaced(rows: RowStore, operation: Rename, row: InodeRow) -> InodeRow | None:
    """The inode whose name is taken; checked."""
    if not operation.replaced:
        check_absent(rows, operation.new_parent, operation.new_name)
        return None
    find_entry(rows, operation.new_parent, operation.new_name, operation.replaced)
    replaced = find_inode(rows, operation.replaced)
    if replaced is row or replaced.is_directory != row.is_directory:
        raise OutOfDateError(f"inode {row.inode} cannot take the name of inode {replaced.inode}")
    _check_removable(replaced)
    return replaced


def _take_number(state: State, inode: int) -> None:
    _check_free(state, inode)
    if inode >> DEVICE_SHIFT == state.device:
        state.created = max(state.created, inode)
        state.next_inode = max(state.next_inode, inode + 1)


def _check_free(state: State, inode: int) -> None:
    """A number above all that this device made is free, without SQL."""
    ours = inode >> DEVICE_SHIFT == state.device
    if not (ours and inode > state.created) and state.rows.inodes.get(inode) is not None:
        raise OutOfDateError(f"an operation makes inode {inode}, which is there already")


def _check_removable(row: InodeRow) -> None:
    if row.is_directory and row.size:
        raise OutOfDateError(f"an operation removes directory {row.inode}, which has {row.size} entries")


def _check_no_cycle(rows: RowStore, inode: int, new_parent: int) -> None:
    """Moving a directory below itself would cut it off the tree. Called before any row is held: so
    long a walk may push rows out of the cache."""
    row = find_inode(rows, inode)
    if not row.is_directory or row.parent == new_parent:
        return
    above = find_directory(rows, new_parent)
    while above.inode != above.parent:
        if above.inode == inode:
            raise OutOfDateError(f"an operation moves directory {inode} below itself")
        above = find_inode(rows, above.parent)


def _change_names(rows: RowStore, directory: InodeRow, time_ns: int, names: int, links: int) -> None:
    rows.version(directory, rows.commit)
    directory.size += names
    directory.nlink += links
    directory.mtime_ns = directory.ctime_ns = time_ns


def _change_links(rows: RowStore, row: InodeRow, time_ns: int, links: int) -> None:
    rows.version(row, rows.commit)
    row.nlink += links
    row.ctime_ns = time_ns


def _add_entry(state: State, directory: InodeRow, name: bytes, inode: int) -> None:
    state.rows.add_entry(directory, name, inode)
    state.entries += 1


def _remove_name(state: State, entry: DentryRow, row: InodeRow, time_ns: int) -> None:
    """A name goes, the inode has one link less (a directory: none left)."""
    state.rows.remove_entry(entry)
    state.entries -= 1
    _change_links(state.rows, row, time_ns, -row.nlink if row.is_directory else -1)


def _move(rows: RowStore, row: InodeRow, new_parent: InodeRow, time_ns: int) -> None:
    rows.version(row, rows.commit)
    row.ctime_ns = time_ns
    if row.is_directory:
        row.parent = new_parent.inode
