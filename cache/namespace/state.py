"""The state that the reducer changes, and how it finds the rows that an operation names.

`find_inode`, `find_directory`, `find_entry` and `check_absent` raise `OutOfDateError` and change nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from stat import S_IFDIR

from cache.namespace.devices import DeviceStore
from cache.namespace.epochs import EpochStore
from cache.namespace.extents import ExtentStore
from cache.namespace.points import PointStore
from cache.namespace.refusals import OutOfDateError
from cache.namespace.row_store import RowStore
from cache.namespace.rows import S_IFMT_MASK, DentryRow, InodeRow
from cache.namespace.writers import WriterStore
from cache.namespace.xattrs import XattrStore


@dataclass(slots=True)
class State:
    """All that the reducer changes. `next_inode` is the next free number of this `device`;
    `created` the highest of this device that a Create has used."""

    rows: RowStore
    extents: ExtentStore
    xattrs: XattrStore
    points: PointStore
    writers: WriterStore
    devices: DeviceStore
    epochs: EpochStore
    device: int
    next_inode: int
    created: int
    inodes: int
    files: int
    entries: int
    bytes: int
    allocated: int


def find_inode(rows: RowStore, inode: int) -> InodeRow:
    row = rows.inodes.get(inode)
    if row is None:
        raise OutOfDateError(f"an operation names inode {inode}, which does not exist")
    return row


def find_directory(rows: RowStore, inode: int) -> InodeRow:
    row = rows.inodes.get(inode)
    if row is None or row.mode & S_IFMT_MASK != S_IFDIR or not row.nlink:
        raise OutOfDateError(f"an operation names directory {inode}, which does not exist")
    return row


def find_entry(rows: RowStore, parent: int, name: bytes, inode: int) -> DentryRow:
    entry = rows.entries.get((parent, name))
    if entry is None or entry.inode != inode:
        raise OutOfDateError(f"a name in directory {parent} is not inode {inode}, as an operation says")
    return entry


def check_absent(rows: RowStore, parent: int, name: bytes) -> None:
    if rows.entries.get((parent, name)) is not None:
        raise OutOfDateError(f"an operation makes a name in directory {parent} that is there already")
