"""The one reducer: what each operation does to the rows. `Namespace.apply` is its only caller.

Every function checks the whole operation against the state before it changes the first row, so a
`CorruptError` leaves the state as it was. Nothing else than the operation and the rows decides the
result: the same operations with the same commit numbers give the same rows on every machine.
Numbers that SQLite could not keep are refused here, because in a flush it would be too late.
Times follow POSIX (rename(2), unlink(2), link(2): "shall mark for update").
"""

from __future__ import annotations

from dataclasses import dataclass
from stat import S_IFCHR, S_IFDIR

from backend.errors import CorruptError
from backend.upstream import BLOCK_ID_SIZE
from cache.namespace.extents import ExtentStore
from cache.namespace.operations import (
    DEVICE_SHIFT,
    MAX_DEVICE,
    MAX_INODE,
    MAX_NAME,
    MAX_SIZE,
    NEWEST_TIME,
    OLDEST_TIME,
    ROOT_INODE,
    Create,
    Delete,
    Forget,
    Link,
    Pin,
    Release,
    RemoveXattr,
    Rename,
    RenameLeavingWhiteout,
    SetAttributes,
    SetExtents,
    SetRetention,
    SetWriter,
    SetXattr,
    Unlink,
    Unpin,
)
from cache.namespace.points import PointStore
from cache.namespace.row_store import RowStore
from cache.namespace.rows import FIRST_COOKIE, PERMISSION_BITS, S_IFMT_MASK, DentryRow, InodeRow
from cache.namespace.writers import Writer, WriterStore
from cache.namespace.xattrs import XattrStore

_RESERVED = (b".", b"..")


@dataclass(slots=True)
class State:
    """All that the reducer changes. `next_inode` is the next free number of this `device`;
    `created` the highest of this device that a Create has used."""

    rows: RowStore
    extents: ExtentStore
    xattrs: XattrStore
    points: PointStore
    writers: WriterStore
    device: int
    next_inode: int
    created: int
    inodes: int
    files: int
    entries: int
    bytes: int
    allocated: int


def create(state: State, operation: Create) -> None:
    rows = state.rows
    parent = _directory(rows, operation.parent)
    _absent(rows, operation.parent, operation.name)
    time_ns = operation.time_ns
    _check_time(time_ns)
    _check_numbers(operation.mode, operation.uid, operation.gid, operation.rdev)
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
    _check_time(operation.time_ns)
    rows = state.rows
    parent = _directory(rows, operation.parent)
    _absent(rows, operation.parent, operation.name)
    row = _existing(rows, operation.inode)
    if row.is_directory:
        raise CorruptError(f"a second name for directory {row.inode}")
    _change_links(rows, row, operation.time_ns, 1)
    _change_names(rows, parent, operation.time_ns, 1, 0)
    _add_entry(state, parent, operation.name, operation.inode)


def unlink(state: State, operation: Unlink) -> None:
    _check_time(operation.time_ns)
    rows = state.rows
    parent = _directory(rows, operation.parent)
    entry = _entry(rows, operation.parent, operation.name, operation.inode)
    row = _existing(rows, operation.inode)
    _check_removable(row)
    _change_names(rows, parent, operation.time_ns, -1, -1 if row.is_directory else 0)
    _remove_name(state, entry, row, operation.time_ns)


def rename(state: State, operation: Rename) -> None:
    _check_time(operation.time_ns)
    if operation.exchange:
        exchange(state, operation)
        return
    rows = state.rows
    _check_no_cycle(rows, operation.inode, operation.new_parent)
    parent = _directory(rows, operation.parent)
    new_parent = _directory(rows, operation.new_parent)
    entry = _entry(rows, operation.parent, operation.name, operation.inode)
    row = _existing(rows, operation.inode)
    replaced = _replaced(rows, operation, row)
    time_ns = operation.time_ns
    is_directory = 1 if row.is_directory else 0
    _change_names(rows, parent, time_ns, -1, -is_directory)
    rows.remove_entry(entry)
    state.entries -= 1
    if replaced is not None:
        _change_names(rows, new_parent, time_ns, -1, -1 if replaced.is_directory else 0)
        target = _entry(rows, operation.new_parent, operation.new_name, replaced.inode)
        _remove_name(state, target, replaced, time_ns)
    _change_names(rows, new_parent, time_ns, 1, is_directory)
    _add_entry(state, new_parent, operation.new_name, row.inode)
    _move(rows, row, new_parent, time_ns)


def exchange(state: State, operation: Rename) -> None:
    rows = state.rows
    _check_no_cycle(rows, operation.inode, operation.new_parent)
    _check_no_cycle(rows, operation.replaced, operation.parent)
    parent = _directory(rows, operation.parent)
    new_parent = _directory(rows, operation.new_parent)
    entry = _entry(rows, operation.parent, operation.name, operation.inode)
    other_entry = _entry(rows, operation.new_parent, operation.new_name, operation.replaced)
    row = _existing(rows, operation.inode)
    other = _existing(rows, operation.replaced)
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
    _check_numbers(o.uid, o.gid)
    _check_free(state, o.whiteout)
    rename(state, Rename(o.parent, o.name, o.new_parent, o.new_name, o.inode, o.replaced, False, o.time_ns))
    create(state, Create(o.parent, o.name, o.whiteout, S_IFCHR, o.uid, o.gid, 0, b"", o.time_ns))


def _replaced(rows: RowStore, operation: Rename, row: InodeRow) -> InodeRow | None:
    """The inode whose name is taken; checked."""
    if not operation.replaced:
        _absent(rows, operation.new_parent, operation.new_name)
        return None
    _entry(rows, operation.new_parent, operation.new_name, operation.replaced)
    replaced = _existing(rows, operation.replaced)
    if replaced is row or replaced.is_directory != row.is_directory:
        raise CorruptError(f"inode {row.inode} cannot take the name of inode {replaced.inode}")
    _check_removable(replaced)
    return replaced


def set_attributes(state: State, operation: SetAttributes) -> None:
    rows = state.rows
    row = _existing(rows, operation.inode)
    size = operation.size
    if size is not None and not row.is_regular:
        raise CorruptError(f"a size for inode {row.inode}, which is no regular file")
    _check_attributes(operation)
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


def set_extents(state: State, operation: SetExtents, commit: int) -> None:
    row = _existing(state.rows, operation.inode)
    state.allocated += state.extents.replace(row, operation, commit)


def set_xattr(state: State, operation: SetXattr) -> None:
    _check_time(operation.time_ns)
    row = _existing(state.rows, operation.inode)
    if not 0 < len(operation.name) <= MAX_NAME:
        raise CorruptError(f"inode {row.inode}: an extended attribute without a proper name")
    state.xattrs.set(operation.inode, operation.name, operation.value)
    state.rows.version(row, state.rows.commit)
    row.ctime_ns = operation.time_ns


def remove_xattr(state: State, operation: RemoveXattr) -> None:
    _check_time(operation.time_ns)
    row = _existing(state.rows, operation.inode)
    if operation.name not in state.xattrs.of(operation.inode):
        raise CorruptError(f"inode {row.inode} has no such extended attribute to remove")
    state.xattrs.remove(operation.inode, operation.name)
    state.rows.version(row, state.rows.commit)
    row.ctime_ns = operation.time_ns


def delete(state: State, operation: Delete) -> None:
    row = _existing(state.rows, operation.inode)
    if row.nlink:
        raise CorruptError(f"inode {row.inode} still has {row.nlink} links")
    state.extents.remove_all(row)
    state.xattrs.remove_all(row.inode)
    state.rows.remove_inode(row)
    state.inodes -= 1
    state.files -= not row.is_directory
    state.allocated -= row.allocated
    if row.is_regular:
        state.bytes -= row.size


def pin(state: State, operation: Pin) -> None:
    if not 0 < len(operation.name) <= MAX_NAME or b"\0" in operation.name:
        raise CorruptError("a pin without a proper name")
    state.points.pin(operation.name, operation.commit)


def unpin(state: State, operation: Unpin) -> None:
    state.points.unpin(operation.name)


def set_retention(state: State, operation: SetRetention) -> None:
    numbers = (operation.keep_all, operation.hourly, operation.daily, operation.weekly, operation.monthly)
    if any(not 0 <= number <= MAX_SIZE for number in numbers):
        raise CorruptError("a retention policy with a time out of range")
    state.points.set_policy(numbers)


def forget(state: State, operation: Forget) -> None:
    state.points.forget(operation.gaps)


def release(_state: State, operation: Release) -> None:
    """Changes no row: it is for those who keep the blocks."""
    if any(type(block) is not bytes or len(block) != BLOCK_ID_SIZE for block in operation.blocks):
        raise CorruptError("an operation releases something that is no block")


def set_writer(state: State, operation: SetWriter) -> None:
    if not 0 <= operation.device <= MAX_DEVICE:
        raise CorruptError(f"an operation names device {operation.device}, which is out of range")
    if not 0 < len(operation.host) <= MAX_NAME or b"\0" in operation.host:
        raise CorruptError("an operation names a host that no host's name can be")
    state.writers.put(Writer(operation.device, operation.host))


def _check_time(time_ns: int) -> None:
    if not OLDEST_TIME <= time_ns <= NEWEST_TIME:
        raise CorruptError(f"an operation has a time out of range: {time_ns}")


def _check_numbers(*numbers: int | None) -> None:
    """What the kernel keeps in 32 bits."""
    for number in numbers:
        if number is not None and not 0 <= number < 1 << 32:
            raise CorruptError(f"an operation has a mode, owner or device number out of range: {number}")


def _check_attributes(operation: SetAttributes) -> None:
    _check_numbers(operation.mode, operation.uid, operation.gid)
    for time_ns in (operation.atime_ns, operation.mtime_ns, operation.ctime_ns):
        _check_time(time_ns or 0)
    if operation.size is not None and not 0 <= operation.size <= MAX_SIZE:
        raise CorruptError(f"an operation gives inode {operation.inode} a size out of range")


def _existing(rows: RowStore, inode: int) -> InodeRow:
    row = rows.inodes.get(inode)
    if row is None:
        raise CorruptError(f"an operation names inode {inode}, which does not exist")
    return row


def _directory(rows: RowStore, inode: int) -> InodeRow:
    row = rows.inodes.get(inode)
    if row is None or row.mode & S_IFMT_MASK != S_IFDIR or not row.nlink:
        raise CorruptError(f"an operation names directory {inode}, which does not exist")
    return row


def _entry(rows: RowStore, parent: int, name: bytes, inode: int) -> DentryRow:
    entry = rows.entries.get((parent, name))
    if entry is None or entry.inode != inode:
        raise CorruptError(f"a name in directory {parent} is not inode {inode}, as an operation says")
    return entry


def _absent(rows: RowStore, parent: int, name: bytes) -> None:
    if not 0 < len(name) <= MAX_NAME or b"/" in name or b"\0" in name or name in _RESERVED:
        raise CorruptError(f"an operation makes a name in directory {parent} that no name can be")
    if rows.entries.get((parent, name)) is not None:
        raise CorruptError(f"an operation makes a name in directory {parent} that is there already")


def _take_number(state: State, inode: int) -> None:
    _check_free(state, inode)
    if inode >> DEVICE_SHIFT == state.device:
        state.created = max(state.created, inode)
        state.next_inode = max(state.next_inode, inode + 1)


def _check_free(state: State, inode: int) -> None:
    """A number above all that this device made is free, without SQL."""
    if not ROOT_INODE < inode <= MAX_INODE:
        raise CorruptError(f"an operation makes inode {inode}, which is out of range")
    ours = inode >> DEVICE_SHIFT == state.device
    if not (ours and inode > state.created) and state.rows.inodes.get(inode) is not None:
        raise CorruptError(f"an operation makes inode {inode}, which is there already")


def _check_removable(row: InodeRow) -> None:
    if row.is_directory and row.size:
        raise CorruptError(f"an operation removes directory {row.inode}, which has {row.size} entries")


def _check_no_cycle(rows: RowStore, inode: int, new_parent: int) -> None:
    """Moving a directory below itself would cut it off the tree. Called before any row is held: so
    long a walk may push rows out of the cache."""
    row = _existing(rows, inode)
    if not row.is_directory or row.parent == new_parent:
        return
    above = _directory(rows, new_parent)
    while above.inode != above.parent:
        if above.inode == inode:
            raise CorruptError(f"an operation moves directory {inode} below itself")
        above = _existing(rows, above.parent)


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
