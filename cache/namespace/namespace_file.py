"""The file of a namespace database: opened, checkpointed, replaced by another, closed.

Invariants:
1. While nobody has it open a seal tells whether it was changed (`backend.system.at_rest`).
2. A database that another one takes the place of is whole and closed before, and leaves no write-ahead log
   that could be taken for the other's.
"""

from __future__ import annotations

import os
from stat import S_IFDIR
from typing import Final

from backend.errors import CorruptError, NotFoundError
from backend.failpoints import declare
from backend.system import Environment, at_rest
from cache.namespace.operations import ROOT_INODE
from cache.namespace.row_store import insert
from cache.namespace.rows import FIRST_COOKIE, INODE_COLUMNS, stored_time
from cache.namespace.schema import (
    Connection,
    check_format,
    create_schema,
    cut_log,
    is_empty,
    open_database,
    prepare_live,
    read_meta,
    sqlite_errors,
    upgrade,
)

REPLACING: Final = declare(
    "namespace.replacing", "the old database is whole and closed, the new lies beside it"
)


class NamespaceFile:
    """See the module. A new one gets a root directory of `root_owner` (user, group, time)."""

    def __init__(
        self, path: str, root_owner: tuple[int, int, int], environment: Environment, *, read_only: bool
    ) -> None:
        self._path = path
        self._root_owner = root_owner
        self._read_only = read_only
        self._disk = environment.disk
        self._failpoints = environment.failpoints
        self._is_open = False

    def open(self) -> Connection:
        """The database, made if it is not there, in its newest form. `NotFoundError`, `FormatError`,
        `CorruptError`."""
        if self._read_only:
            if not os.path.exists(self._path):
                raise NotFoundError(f"{self._path}: there is no namespace database")
        else:
            if at_rest.is_damaged(self._path):
                raise CorruptError(f"{self._path}: the namespace database has changed since it was closed")
            at_rest.unseal(self._path, self._disk)
            at_rest.make_private(self._path, self._disk)
        self._is_open = True
        with sqlite_errors(self._path):
            connection = self._connect(self._path, read_only=self._read_only)
            try:
                self._prepare(connection)
            except BaseException:
                connection.close()
                raise
        return connection

    def open_beside(self) -> Connection:
        """One connection more to a database that is open, for who writes."""
        with sqlite_errors(self._path):
            connection = self._connect(self._path)
            prepare_live(connection)
        return connection

    def _connect(self, path: str, *, read_only: bool = False) -> Connection:
        return open_database(path, read_only=read_only, vfs=self._disk.database_vfs)

    def _prepare(self, connection: Connection) -> None:
        if not self._read_only:
            if is_empty(connection):
                self._create(connection)
            upgrade(connection)
        check_format(connection, self._path)
        if not self._read_only:
            prepare_live(connection)

    def _create(self, connection: Connection) -> None:
        uid, gid, time_ns = self._root_owner
        times = (stored_time(time_ns),) * 4
        links, cookie, parent = 2, FIRST_COOKIE, ROOT_INODE
        root = (ROOT_INODE, S_IFDIR | 0o755, links, uid, gid, 0, 0, 0, *times, b"", parent, 0, cookie, 0)
        totals = [("inodes", "1"), ("entries", "0"), ("bytes", "0"), ("allocated", "0")]
        with connection:
            create_schema(connection)
            connection.execute(insert("inode", INODE_COLUMNS), root)
            connection.executemany(insert("meta", ("key", "value")), totals)

    def checkpoint(self) -> int | None:
        """See `Namespace.checkpoint`."""
        with sqlite_errors(self._path):
            connection = self._connect(self._path)
            try:
                position = int(read_meta(connection).get("journal_position", "0"))
                busy, frames, done = next(connection.execute("PRAGMA wal_checkpoint(PASSIVE)"))
            finally:
                connection.close()
        # Beside another checkpoint nothing is done: (1, -1, -1).
        return position if not busy and frames == done else None

    def empty_log(self, connection: Connection) -> None:
        """See `Namespace.empty_log`."""
        if not connection.in_transaction:
            with sqlite_errors(self._path):
                cut_log(connection)

    def replace_by(self, path: str, connection: Connection, journal_position: int, device: int) -> None:
        """Close `connection`, and move the database at `path` here, as that of `device` at that position."""
        with sqlite_errors(path):
            incoming = self._connect(path)
            with incoming:
                values = [("journal_position", str(journal_position)), ("device", str(device))]
                incoming.executemany(insert("meta", ("key", "value")), values)
            incoming.close()
        self._close_empty_log(connection)
        self._failpoints.reached(REPLACING)
        self._disk.rename(path, self._path)
        self._disk.sync_folder(os.path.dirname(os.path.abspath(self._path)))

    def _close_empty_log(self, connection: Connection) -> None:
        """Leave no write-ahead log that could be taken for that of another database."""
        with sqlite_errors(self._path):
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.close()
        for suffix in ("-wal", "-shm"):
            if os.path.exists(self._path + suffix):
                self._disk.unlink(self._path + suffix)

    def close(self, connection: Connection) -> None:
        """Close the database, and seal it. Idempotent."""
        connection.close()
        if self._is_open and not self._read_only:
            at_rest.seal(self._path, self._disk)
        self._is_open = False
