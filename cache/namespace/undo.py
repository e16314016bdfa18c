"""Taking commits back: past rows become live again, by indexed queries.

The result equals a namespace that only ever saw the commits up to there, in every row and column but
`inode.atime_ns`, which the past does not keep. A row that is taken back has its present atime, or its mtime
if the inode was gone.

Only commits that are not recorded are ever taken back, here or in a snapshot's copy. So no row that is
needed here was deleted by a `Forget`: a Forget deletes rows only when its own commit is recorded, and only
rows that died in commits that were recorded before it was made. A Forget that is taken back has deleted
nothing. But a copy that nobody saves may be taken back to a retained point, of which every row is there
(`cache.rebase.take_up_fork`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from stat import S_IFDIR, S_IFREG
from typing import Any, Final, NamedTuple

from cache.namespace.rows import INODE_COLUMNS, S_IFMT_MASK
from cache.namespace.schema import Connection, value_of

Write = Callable[[str, Sequence[tuple[Any, ...]]], None]
"""Executes a statement once for each row of bindings, in the transaction."""

_ATIME: Final = "coalesce((SELECT now.atime_ns FROM inode AS now WHERE now.inode = past.inode), mtime_ns)"
_INODE_VALUES: Final = ", ".join(_ATIME if name == "atime_ns" else name for name in INODE_COLUMNS)
_VALUES: Final = {
    "inode": _INODE_VALUES,
    "dentry": "parent, name, inode, cookie, born",
    "xattr": "inode, name, value, born",
    "extent": "inode, offset, length, block, block_offset, born",
    "pin": "name, target, born",
    "retention": "id, keep_all, hourly, daily, weekly, monthly, born",
    "writer": "id, device, host, born",
    "device": "number, key, host, revoked, born",
    "device_sequence": "number, sequence, born",
}


class Totals(NamedTuple):
    """Differences of the totals in `Statistics`."""

    inodes: int
    files: int
    entries: int
    bytes: int
    allocated: int


def take_back(connection: Connection, write: Write, commit: int) -> Totals:
    """Take all commits after `commit` back; how the totals change. Everything must be in SQL, in the
    transaction that `write` writes to; nothing is committed here."""
    totals = _difference(connection, commit)
    for table, values in _VALUES.items():
        write(
            f"INSERT OR REPLACE INTO {table} SELECT {values} FROM past_{table} AS past"
            " WHERE died > ? AND born <= ?",
            [(commit, commit)],
        )
        write(f"DELETE FROM {table} WHERE born > ?", [(commit,)])
        write(f"DELETE FROM past_{table} WHERE died > ?", [(commit,)])
    write("DELETE FROM commits WHERE number > ?", [(commit,)])
    write("DELETE FROM key_epoch WHERE born > ?", [(commit,)])
    write("DELETE FROM forgetting WHERE born > ?", [(commit,)])
    return totals


def _difference(connection: Connection, commit: int) -> Totals:
    after = _inode_totals(connection, "past_inode WHERE died > ? AND born <= ?", (commit, commit))
    before = _inode_totals(connection, "inode WHERE born > ?", (commit,))
    names = _count(connection, "past_dentry WHERE died > ? AND born <= ?", (commit, commit))
    names -= _count(connection, "dentry WHERE born > ?", (commit,))
    inodes, files, size, allocated = (late - early for late, early in zip(after, before, strict=True))
    return Totals(inodes, files, names, size, allocated)


def _inode_totals(connection: Connection, rows: str, bindings: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Inodes, files, bytes and allocated; summed here because SQL's sum() ends at 64 bits."""
    inodes = files = size = allocated = 0
    for mode, row_size, row_allocated in connection.execute(
        f"SELECT mode, size, allocated FROM {rows}", bindings
    ):
        inodes += 1
        files += mode & S_IFMT_MASK != S_IFDIR
        size += row_size if mode & S_IFMT_MASK == S_IFREG else 0
        allocated += row_allocated
    return inodes, files, size, allocated


def _count(connection: Connection, rows: str, bindings: tuple[int, ...]) -> int:
    return int(value_of(connection, f"SELECT count(*) FROM {rows}", bindings))
