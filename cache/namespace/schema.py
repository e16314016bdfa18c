"""The namespace database: its tables, how it is opened, and what its errors mean.

The tables are docs/format/namespace.md in SQL. Nothing here keeps state; a connection belongs to
the thread that opened it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final
from urllib.parse import quote

import apsw

from backend.errors import FormatError, NotFoundError
from backend.system import database_errors
from cache.namespace.operations import OLDEST_TIME

Connection = apsw.Connection

APPLICATION_ID: Final = int.from_bytes(b"dfNS", "big")
SCHEMA_VERSION: Final = 8
BUSY_MILLISECONDS: Final = 10_000
LOCAL_META: Final = ("journal_position", "device", "next_inode", "open_commit")
"""Keys of `meta` that speak of this machine, not of the drive: no snapshot holds them."""

SCHEMA: Final = """
-- Every row is true from commit `born` on. Its key's earlier rows are in past_*, true in the half-open
-- interval [born, died). The intervals of one key never overlap. 64-bit values are signed.

-- One file, directory, symbolic link or special file.
CREATE TABLE inode (
    inode       INTEGER PRIMARY KEY,  -- device << 40 | counter; 1 is the root; bit 63 is never set
    mode        INTEGER NOT NULL,     -- st_mode: type and permission bits
    nlink       INTEGER NOT NULL,     -- names; a directory: 2 + its sub-directories; 0: an orphan, still open
    uid         INTEGER NOT NULL,
    gid         INTEGER NOT NULL,
    rdev        INTEGER NOT NULL,     -- of a device file, else 0
    size        INTEGER NOT NULL,     -- bytes; a link: of its target; a directory: its entries, so 0 is empty
    allocated   INTEGER NOT NULL,     -- bytes that its extents cover
    atime_ns    INTEGER NOT NULL,     -- changed in place, no part of a version: past_inode has none
    mtime_ns    INTEGER NOT NULL,     -- an inode's times: nanoseconds since 1970, modulo 2^64 (1901 to 2446)
    ctime_ns    INTEGER NOT NULL,
    btime_ns    INTEGER NOT NULL,     -- time of the Create
    target      BLOB NOT NULL,        -- of a symbolic link, else empty
    parent      INTEGER NOT NULL,     -- '..' of a directory (the root's is itself), else 0
    content     INTEGER NOT NULL,     -- commit of the last SetExtents; 0: none yet
    next_cookie INTEGER NOT NULL,     -- cookie of the next name in this directory (first: 16), else 0
    born        INTEGER NOT NULL      -- 0: the root as mkfs made it
) STRICT;
CREATE INDEX inode_born ON inode (born);                      -- undo: what a commit changed
CREATE INDEX inode_orphan ON inode (inode) WHERE nlink = 0;   -- after a crash: what nobody has open now
CREATE TABLE past_inode (
    inode INTEGER NOT NULL, mode INTEGER NOT NULL, nlink INTEGER NOT NULL, uid INTEGER NOT NULL,
    gid INTEGER NOT NULL, rdev INTEGER NOT NULL, size INTEGER NOT NULL, allocated INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL, ctime_ns INTEGER NOT NULL, btime_ns INTEGER NOT NULL,
    target BLOB NOT NULL, parent INTEGER NOT NULL, content INTEGER NOT NULL,
    next_cookie INTEGER NOT NULL, born INTEGER NOT NULL, died INTEGER NOT NULL,
    PRIMARY KEY (inode, born)
) STRICT, WITHOUT ROWID;
CREATE INDEX past_inode_died ON past_inode (died);            -- undo, retention

-- One name. The primary key finds it, the index lists a directory in the order of cookies.
CREATE TABLE dentry (
    parent INTEGER NOT NULL,          -- the directory
    name   BLOB NOT NULL,             -- 1 to 255 bytes, neither '/' nor NUL in it
    inode  INTEGER NOT NULL,
    cookie INTEGER NOT NULL,          -- unique in the directory, growing, never given twice
    born   INTEGER NOT NULL,
    PRIMARY KEY (parent, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX dentry_cookie ON dentry (parent, cookie);
CREATE INDEX dentry_born ON dentry (born);
CREATE TABLE past_dentry (
    parent INTEGER NOT NULL, name BLOB NOT NULL, inode INTEGER NOT NULL, cookie INTEGER NOT NULL,
    born INTEGER NOT NULL, died INTEGER NOT NULL,
    PRIMARY KEY (parent, name, born)
) STRICT, WITHOUT ROWID;
CREATE INDEX past_dentry_cookie ON past_dentry (parent, cookie);
CREATE INDEX past_dentry_died ON past_dentry (died);

-- One extended attribute.
CREATE TABLE xattr (
    inode INTEGER NOT NULL,
    name  BLOB NOT NULL,              -- with its prefix ('user.')
    value BLOB NOT NULL,
    born  INTEGER NOT NULL,
    PRIMARY KEY (inode, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX xattr_born ON xattr (born);
CREATE TABLE past_xattr (
    inode INTEGER NOT NULL, name BLOB NOT NULL, value BLOB NOT NULL,
    born INTEGER NOT NULL, died INTEGER NOT NULL,
    PRIMARY KEY (inode, name, born)
) STRICT, WITHOUT ROWID;
CREATE INDEX past_xattr_died ON past_xattr (died);

-- One piece of a file's content. Those of one inode never overlap; what none covers is zero.
CREATE TABLE extent (
    inode        INTEGER NOT NULL,
    offset       INTEGER NOT NULL,    -- in the file, bytes
    length       INTEGER NOT NULL,    -- bytes, 1 to 4 MiB
    block        BLOB NOT NULL,       -- block id
    block_offset INTEGER NOT NULL,    -- where in the block's plaintext it begins, bytes
    born         INTEGER NOT NULL,
    PRIMARY KEY (inode, offset)
) STRICT, WITHOUT ROWID;
CREATE INDEX extent_born ON extent (born);
CREATE TABLE past_extent (
    inode INTEGER NOT NULL, offset INTEGER NOT NULL, length INTEGER NOT NULL, block BLOB NOT NULL,
    block_offset INTEGER NOT NULL, born INTEGER NOT NULL, died INTEGER NOT NULL,
    PRIMARY KEY (inode, offset, born)
) STRICT, WITHOUT ROWID;
CREATE INDEX past_extent_died ON past_extent (died);

-- The published commits. Times never go backwards.
CREATE TABLE commits (
    number  INTEGER PRIMARY KEY,      -- from 1 on
    hash    BLOB NOT NULL,            -- of the commit's bytes
    time_ns INTEGER NOT NULL
) STRICT;
CREATE INDEX commits_time ON commits (time_ns, number);

-- Everything else, integers in decimal (totals may exceed 64 bits). Of this machine: journal_position
-- (the state holds the journal up to there), device, next_inode, open_commit. Of the drive: inodes,
-- files, entries, bytes, allocated (the totals of `Statistics`).
CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;
"""

SCHEMA_2: Final = """
-- What version 2 added: retention. From here on `commits` holds the retained points only.

-- A point of the whole drive that stays, by name.
CREATE TABLE pin (
    name   BLOB PRIMARY KEY,          -- 1 to 255 bytes
    target INTEGER NOT NULL,          -- the commit
    born   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX pin_born ON pin (born);
CREATE TABLE past_pin (
    name BLOB NOT NULL, target INTEGER NOT NULL, born INTEGER NOT NULL, died INTEGER NOT NULL,
    PRIMARY KEY (name, born)
) STRICT, WITHOUT ROWID;
CREATE INDEX past_pin_died ON past_pin (died);

-- The policy, in seconds: one row (id 0), or none as long as the default holds.
CREATE TABLE retention (
    id INTEGER PRIMARY KEY, keep_all INTEGER NOT NULL, hourly INTEGER NOT NULL, daily INTEGER NOT NULL,
    weekly INTEGER NOT NULL, monthly INTEGER NOT NULL, born INTEGER NOT NULL
) STRICT;
CREATE TABLE past_retention (
    id INTEGER NOT NULL, keep_all INTEGER NOT NULL, hourly INTEGER NOT NULL, daily INTEGER NOT NULL,
    weekly INTEGER NOT NULL, monthly INTEGER NOT NULL, born INTEGER NOT NULL, died INTEGER NOT NULL,
    PRIMARY KEY (id, born)
) STRICT, WITHOUT ROWID;
CREATE INDEX past_retention_died ON past_retention (died);

-- Past rows with low < born and died <= high are to go: as soon as commit `born`, which says so, is
-- recorded, a few at a time. A row of this table goes when none is left.
CREATE TABLE forgetting (
    born INTEGER NOT NULL, low INTEGER NOT NULL, high INTEGER NOT NULL,
    PRIMARY KEY (born, low)
) STRICT, WITHOUT ROWID;
"""

SCHEMA_3: Final = f"""
-- What version 3 changed: times of inodes are modulo 2^64, which leaves none before 1901.
UPDATE inode SET atime_ns = max(atime_ns, {OLDEST_TIME}), mtime_ns = max(mtime_ns, {OLDEST_TIME}),
    ctime_ns = max(ctime_ns, {OLDEST_TIME}), btime_ns = max(btime_ns, {OLDEST_TIME});
UPDATE past_inode SET mtime_ns = max(mtime_ns, {OLDEST_TIME}),
    ctime_ns = max(ctime_ns, {OLDEST_TIME}), btime_ns = max(btime_ns, {OLDEST_TIME});
"""

SCHEMA_4: Final = """
-- What version 4 added: who makes the commits. One row (id 0), or none if nobody has said.
CREATE TABLE writer (
    id INTEGER PRIMARY KEY, device INTEGER NOT NULL, host BLOB NOT NULL, born INTEGER NOT NULL
) STRICT;
CREATE TABLE past_writer (
    id INTEGER NOT NULL, device INTEGER NOT NULL, host BLOB NOT NULL,
    born INTEGER NOT NULL, died INTEGER NOT NULL,
    PRIMARY KEY (id, born)
) STRICT, WITHOUT ROWID;
CREATE INDEX past_writer_died ON past_writer (died);
"""

SCHEMA_5: Final = f"""
-- What version 5 added: the total of files, which are the inodes that are no directories.
INSERT INTO meta (key, value)
    SELECT 'files', CAST(count(*) AS TEXT) FROM inode WHERE mode & {0o170000} <> {0o040000};
"""

SCHEMA_6: Final = """
-- What version 6 added: the devices that may make commits, those that were revoked among them.
CREATE TABLE device (
    number  INTEGER PRIMARY KEY,      -- 1 to 2^22-2
    key     BLOB NOT NULL,            -- Ed25519 public key, 32 bytes
    host    BLOB NOT NULL,            -- 1 to 255 bytes
    revoked INTEGER NOT NULL,         -- 1: makes no commit after the one in which this was born
    born    INTEGER NOT NULL
) STRICT;
CREATE TABLE past_device (
    number INTEGER NOT NULL, key BLOB NOT NULL, host BLOB NOT NULL, revoked INTEGER NOT NULL,
    born INTEGER NOT NULL, died INTEGER NOT NULL,
    PRIMARY KEY (number, born)
) STRICT, WITHOUT ROWID;
CREATE INDEX past_device_died ON past_device (died);
"""

SCHEMA_7: Final = """
-- What version 7 added: the sequence of the newest recorded commit of each device.
CREATE TABLE device_sequence (
    number   INTEGER PRIMARY KEY,
    sequence INTEGER NOT NULL,        -- from 1
    born     INTEGER NOT NULL         -- that commit
) STRICT;
CREATE TABLE past_device_sequence (
    number INTEGER NOT NULL, sequence INTEGER NOT NULL, born INTEGER NOT NULL, died INTEGER NOT NULL,
    PRIMARY KEY (number, born)
) STRICT, WITHOUT ROWID;
CREATE INDEX past_device_sequence_died ON past_device_sequence (died);
"""

SCHEMA_8: Final = """
-- What version 8 added: the key epochs. A row never changes and never goes.
CREATE TABLE key_epoch (
    number  INTEGER PRIMARY KEY,      -- from 1
    wrapped BLOB NOT NULL,            -- its key, sealed under the drive's
    before  BLOB NOT NULL,            -- the key of the one before, sealed under its own; of the first: empty
    born    INTEGER NOT NULL          -- the commit with which it began
) STRICT;
"""
_UPGRADES: Final = {
    1: SCHEMA_2,
    2: SCHEMA_3,
    3: SCHEMA_4,
    4: SCHEMA_5,
    5: SCHEMA_6,
    6: SCHEMA_7,
    7: SCHEMA_8,
}
"""The SQL that brings a database of a version to the next one."""


@contextmanager
def sqlite_errors(path: str) -> Iterator[None]:
    """Turn SQLite's errors into ours: full, corrupt (or no database), anything else transient."""
    try:
        yield
    except apsw.CantOpenError as error:
        raise NotFoundError(f"{path}: cannot be opened") from error
    except (apsw.Error, OSError) as error:
        full, damaged = "the disk is full; the namespace stays in memory", "the namespace database is damaged"
        said = database_errors.Sentences(f"{path}: {full}", f"{path}: {damaged}", path)
        raise database_errors.translation(error, said) from error


def open_database(
    path: str, *, read_only: bool = False, immutable: bool = False, vfs: str | None = None
) -> Connection:
    """A connection that trusts nothing in the file: defensive, no functions from its schema, no
    mmap, every page's cells checked. `immutable` also ignores a journal that lies next to it.
    `vfs`: of the disk that it is on (`Durable.database_vfs`), if something is to be written.
    Must be called inside `sqlite_errors`."""
    flags = apsw.SQLITE_OPEN_URI | (
        apsw.SQLITE_OPEN_READONLY if read_only else apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
    )
    name = f"file:{quote(os.path.abspath(path))}{'?immutable=1' if immutable else ''}"
    connection = apsw.Connection(name, flags=flags, vfs=vfs)
    connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
    connection.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_TRIGGER, 0)
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_VIEW, 0)
    # Else statements with ORDER BY are compiled anew for each value that is bound, which takes twice as long
    # as to run them.
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
    connection.set_busy_timeout(BUSY_MILLISECONDS)
    connection.execute("PRAGMA mmap_size = 0")
    connection.execute("PRAGMA cell_size_check = ON")
    return connection


def prepare_live(connection: Connection) -> None:
    """Set a connection up as the writer of a live namespace. `cache_spill` is off so that nothing
    is written before COMMIT, which is thereby the only statement that meets a full disk. What is deleted is
    overwritten, as names are in clear here."""
    connection.execute("PRAGMA secure_delete = ON")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.execute("PRAGMA cache_size = -16384")
    connection.execute("PRAGMA cache_spill = OFF")


def cut_log(connection: Connection) -> None:
    """Make a write-ahead log whose frames are all in the database an empty file, unless somebody reads it."""
    connection.set_busy_timeout(0)
    try:
        next(connection.execute("PRAGMA wal_checkpoint(TRUNCATE)"))
    finally:
        connection.set_busy_timeout(BUSY_MILLISECONDS)


def value_of(connection: Connection, sql: str, bindings: Any = None) -> Any:
    """The first column of a query that gives one row."""
    return next(connection.execute(sql, bindings))[0]


def is_empty(connection: Connection) -> bool:
    """Whether the file is new: zero pages."""
    return bool(connection.pragma("page_count") == 0)


def create_schema(connection: Connection) -> None:
    """Make the tables, inside the caller's transaction."""
    connection.execute(SCHEMA)
    for added in _UPGRADES.values():
        connection.execute(added)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def upgrade(connection: Connection) -> None:
    """Bring a database of an older version to this one; others are left alone."""
    version = connection.pragma("user_version")
    if connection.pragma("application_id") != APPLICATION_ID or version not in _UPGRADES:
        return
    with connection:
        for each in range(version, SCHEMA_VERSION):
            connection.execute(_UPGRADES[each])
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def check_format(connection: Connection, path: str) -> None:
    """`FormatError` unless it is a namespace of the known version."""
    if connection.pragma("application_id") != APPLICATION_ID:
        raise FormatError(f"{path}: not a namespace database")
    version = connection.pragma("user_version")
    if version != SCHEMA_VERSION:
        raise FormatError(f"{path}: namespace version {version}, this program knows {SCHEMA_VERSION}")


def read_meta(connection: Connection) -> dict[str, str]:
    """All of `meta`."""
    return dict(connection.execute("SELECT key, value FROM meta"))
