"""The SQLite database of the block index: schema, opening, transactions, errors.

Invariants:
1. It may be behind the nodes (synchronous=NORMAL in WAL mode can lose the last transactions in a power cut,
   never tear one).
2. A database that changed at rest since it was closed is refused (`backend.system.at_rest`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any, Final, ParamSpec, TypeVar

import apsw

from backend.errors import CorruptError, FormatError, NotFoundError, TransientError
from backend.system import Durable, at_rest, database_errors

APPLICATION_ID: Final = 0x44464258
VERSION: Final = 4

_SCHEMA: Final = f"""
CREATE TABLE drive (
    id BLOB NOT NULL            -- the 16-byte id of the drive whose packs these are; one row
) STRICT;
CREATE TABLE packs (
    number INTEGER PRIMARY KEY, -- local and short, for `blocks.pack`; means nothing elsewhere
    id BLOB NOT NULL UNIQUE,    -- the 16-byte random pack id
    size INTEGER NOT NULL,      -- bytes of the pack, before erasure coding
    stored INTEGER NOT NULL,    -- bytes of all its fragments with parity and footers
    nodes TEXT NOT NULL,        -- node names joined by '/': fragment i belongs on the i-th
    missing INTEGER NOT NULL,   -- bit i is set: fragment i is known not to be on its node, or to be wrong
    repair INTEGER NOT NULL,    -- 1: look at every fragment and write the missing and wrong ones anew
    blocks INTEGER NOT NULL,    -- how many blocks its index lists
    block_bytes INTEGER NOT NULL, -- their lengths together
    doomed INTEGER NOT NULL DEFAULT 0 -- 1: nothing is read from it any more, its fragments are to be deleted
) STRICT;
CREATE INDEX packs_to_repair ON packs (number) WHERE repair;
CREATE INDEX packs_doomed ON packs (number) WHERE doomed;
CREATE TABLE dying (            -- stored blocks that nothing refers to: no write may rely on them
    id BLOB PRIMARY KEY,
    since INTEGER NOT NULL      -- ns since 1970
) STRICT, WITHOUT ROWID;
CREATE TABLE blocks (
    id BLOB PRIMARY KEY,        -- the 32-byte block id
    pack INTEGER NOT NULL REFERENCES packs (number), -- the pack that it is read from
    offset INTEGER NOT NULL,    -- of its first byte in the pack
    length INTEGER NOT NULL     -- of the sealed block in bytes
) STRICT, WITHOUT ROWID;
CREATE TABLE copies (           -- where blocks lie too: those that are read from another pack, and those that
    id BLOB NOT NULL,           -- nobody needed when they were forgotten; as long as the pack is there
    pack INTEGER NOT NULL REFERENCES packs (number),
    offset INTEGER NOT NULL,
    length INTEGER NOT NULL,
    PRIMARY KEY (id, pack)
) STRICT, WITHOUT ROWID;
CREATE INDEX copies_in_pack ON copies (pack);
CREATE TABLE tags (             -- of fragments in stores when they were last seen; another one: written anew
    pack INTEGER NOT NULL REFERENCES packs (number),
    fragment INTEGER NOT NULL,
    tag TEXT NOT NULL,
    PRIMARY KEY (pack, fragment)
) STRICT, WITHOUT ROWID;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {VERSION};
"""

_SENTENCES: Final = database_errors.Sentences(
    full="the block index cannot grow: the cache directory's disk is full",
    damaged="the block index is damaged: remove blocks.db, it is rebuilt",
    subject="the block index cannot be used",
)

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
Value = bytes | int | str


def translated(method: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """SQLite's errors as this project's."""

    @wraps(method)
    def wrapper(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        try:
            return method(*args, **kwargs)
        except database_errors.MACHINE_ERRORS as error:
            raise database_errors.translation(error, _SENTENCES) from error

    return wrapper


class IndexDatabase:
    """One connection. Every method raises SQLite's errors; callers are `translated`."""

    @translated
    def __init__(self, path: str, drive_id: bytes, disk: Durable) -> None:
        """As `SqliteBlockIndex`."""
        self._path = "" if path == ":memory:" else path
        self._disk = disk
        if self._path and at_rest.is_damaged(path):
            raise CorruptError("the block index changed since it was closed: remove blocks.db, it is rebuilt")
        if self._path:
            _make_private(path, disk)
        self.connection: Final = apsw.Connection(path, vfs=disk.database_vfs)
        # As in the namespace: no statement is compiled anew for a bound value.
        self.connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
        try:
            self._open(drive_id)
            if self._path:
                at_rest.unseal(path, disk)
        except BaseException:
            self.connection.close()
            raise

    @translated
    def close(self) -> None:
        """Idempotent."""
        self.connection.close()
        path, self._path = self._path, ""
        if path:
            at_rest.seal(path, self._disk)

    def changes(self) -> int:
        """The number of rows changed since the opening: a look-up at the same count still holds."""
        return self.connection.total_changes()

    def execute(self, query: str, values: Sequence[Any] = ()) -> apsw.Cursor:
        """The rows of a statement."""
        return self.connection.execute(query, values)

    def executemany(self, query: str, rows: Iterable[Sequence[Any]]) -> None:
        """The statement for each of the rows."""
        self.connection.executemany(query, rows)

    def one(self, query: str, *values: Value) -> tuple[Any, ...] | None:
        """The first row."""
        row: tuple[Any, ...] | None = self.connection.execute(query, values).fetchone()
        return row

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing. Not apsw's own context manager: SQLite ends a transaction by itself when the
        disk is full, and the savepoint's rollback would then hide that error behind its own."""
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.connection.execute("COMMIT")
        except BaseException:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
            raise

    def _open(self, drive_id: bytes) -> None:
        for pragma in (
            "locking_mode = EXCLUSIVE",
            "journal_mode = WAL",
            "synchronous = NORMAL",
            "trusted_schema = OFF",
            "mmap_size = 0",
        ):
            self.connection.execute(f"PRAGMA {pragma}")
        if self.one("SELECT 1 FROM sqlite_schema") is None:
            with self.transaction():
                self.connection.execute(_SCHEMA)
                self.connection.execute("INSERT INTO drive (id) VALUES (?)", (drive_id,))
        self._check(drive_id)

    def _check(self, drive_id: bytes) -> None:
        application, version = self.one("PRAGMA application_id"), self.one("PRAGMA user_version")
        if application != (APPLICATION_ID,) or version != (VERSION,):
            raise FormatError(f"blocks.db is no block index of version {VERSION}: remove it, it is rebuilt")
        if self.one("SELECT id FROM drive") != (drive_id,):
            raise FormatError("blocks.db is the index of another drive: remove it, it is rebuilt")


def _make_private(path: str, disk: Durable) -> None:
    try:
        at_rest.make_private(path, disk)
    except NotFoundError as error:
        raise TransientError(f"the block index cannot be used: {error}") from error
