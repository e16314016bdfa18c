"""Snapshots: the namespace database as of a commit, as a file of its own (docs/format/snapshot.md).

Both functions block, keep nothing, use connections of their own and may be called in any thread.
`cache.publish.snapshot_store` cuts the file into blocks, encrypts it and finds it again.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Final

from backend.errors import CorruptError, UsageError
from backend.system import THIS_MACHINE, Durable, at_rest
from cache.namespace import (
    LOCAL_META,
    ROOT_INODE,
    Connection,
    Statistics,
    check_format,
    create_schema,
    open_database,
    read_meta,
    sqlite_errors,
    take_back,
    value_of,
)

_OBJECTS: Final = "SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY name"


def export(namespace_path: str, target_path: str, commit: int, disk: Durable = THIS_MACHINE.disk) -> None:
    """Make `target_path` (which must not exist) the namespace as of `commit`: a copy of what was saved
    last, with later commits taken back and what is local cleared. The live database goes on
    meanwhile. Not durable: the caller stores it. On an error a partial file may be left; it is no
    snapshot. `commit` must be complete (its content stored) and not later than what was saved."""
    if os.path.exists(target_path):
        raise UsageError(f"{target_path}: exists already")
    at_rest.make_private(target_path, disk)
    with sqlite_errors(target_path):
        target = open_database(target_path, vfs=disk.database_vfs)
        try:
            target.execute("PRAGMA synchronous = OFF")
            _copy(namespace_path, target)
            target.execute("PRAGMA journal_mode = MEMORY")
            _reduce(target, commit)
            target.execute("VACUUM")
        finally:
            target.close()


def _copy(source_path: str, target: Connection) -> None:
    source = open_database(source_path, read_only=True)
    try:
        check_format(source, source_path)
        with target.backup("main", source, "main") as backup:
            backup.step(-1)
    finally:
        source.close()


def _reduce(target: Connection, commit: int) -> None:
    def write(sql: str, rows: Sequence[tuple[Any, ...]]) -> None:
        target.executemany(sql, rows)

    with target:
        change = take_back(target, write, commit)
        meta = read_meta(target)
        totals = [(str(int(meta[name]) + getattr(change, name)), name) for name in Statistics._fields]
        target.executemany("UPDATE meta SET value = ? WHERE key = ?", totals)
        target.executemany("DELETE FROM meta WHERE key = ?", [(key,) for key in LOCAL_META])


def verify_hostile(path: str) -> None:
    """Check a snapshot file from outside before anything uses it: the known format, exactly the known
    schema (no view, trigger or further table), sound pages, rows of the declared types, a root. It
    is opened without write access, without a journal next to it, with nothing in it trusted.
    `FormatError`, `CorruptError`, `NotFoundError`."""
    with sqlite_errors(path):
        connection = open_database(path, read_only=True, immutable=True)
        try:
            check_format(connection, path)
            _check_schema(connection, path)
            _check_content(connection, path)
        finally:
            connection.close()


def _check_schema(connection: Connection, path: str) -> None:
    pattern = Connection(":memory:")
    try:
        create_schema(pattern)
        expected = list(pattern.execute(_OBJECTS))
    finally:
        pattern.close()
    if list(connection.execute(_OBJECTS)) != expected:
        raise CorruptError(f"{path}: the snapshot's tables are not those of a namespace")


def _check_content(connection: Connection, path: str) -> None:
    verdict = value_of(connection, "PRAGMA quick_check(1)")
    if verdict != "ok":
        raise CorruptError(f"{path}: the snapshot is damaged ({verdict})")
    root = connection.execute("SELECT mode, parent FROM inode WHERE inode = ?", (ROOT_INODE,)).fetchone()
    if root is None or root[0] & 0o170000 != 0o040000 or root[1] != ROOT_INODE:
        raise CorruptError(f"{path}: the snapshot has no root directory")
    totals = read_meta(connection)
    if set(totals) != set(Statistics._fields) or not all(value.isdecimal() for value in totals.values()):
        raise CorruptError(f"{path}: the snapshot's totals are damaged")
