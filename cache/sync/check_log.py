"""Checking the commit log by replaying it: the follower applies every commit to a fresh namespace.

The result is what everything else about the namespace is compared with. A snapshot, or this machine's own
database, must equal the replayed log as of its commit in every table, `inode.atime_ns` aside: a state that
was taken back has newer ones (docs/format/namespace.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import trio

from backend.errors import CorruptError, DriveError
from backend.keys import KeyRing
from backend.upstream import Commit, Head
from cache.namespace import Connection, Namespace, open_database, sqlite_errors
from cache.publish import snapshot
from cache.sync.follower import Follower

_AT_ONCE: Final = 10_000
_NO_STATE: Final = ("meta", "forgetting")
"""Tables of this machine only, and of rows that are to be removed (`cache.namespace.points`)."""
_TABLES: Final = "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name"
_FORGOTTEN: Final = (
    "EXISTS (SELECT 1 FROM {database}.forgetting AS gap WHERE gap.low < row.born AND row.died <= gap.high)"
)


class LogReplay:
    """The fresh namespace. Event-loop thread; `close` when done."""

    def __init__(self, path: Path, ring: KeyRing) -> None:
        self._path = path
        self._namespace = Namespace(str(path))
        self._follower = Follower(self._namespace, ring)
        self._follower.learn_epochs()

    @property
    def head(self) -> Head:
        """The newest commit that was applied."""
        return self._namespace.head()

    def apply(self, commit: Commit, commit_hash: bytes) -> None:
        """The next commit; errors as of `Follower.apply`, and then this replay is at its end."""
        self._follower.apply(commit, commit_hash)
        while self._namespace.points.forget_some(_AT_ONCE):
            continue

    async def export(self, target: Path) -> None:
        """The state as of the newest commit as a file of its own; `target` must not exist."""
        self._namespace.save(0)
        await trio.to_thread.run_sync(snapshot.export, str(self._path), str(target), self.head.number)

    def close(self) -> None:
        """Idempotent."""
        self._namespace.close()


async def export_as_of(source: Path, target: Path, number: int) -> None:
    """This machine's namespace as of a commit that it has, as a file of its own; errors as of
    `snapshot.export`, and `CorruptError` where the database is too damaged for that."""
    try:
        await trio.to_thread.run_sync(snapshot.export, str(source), str(target), number)
    except DriveError:
        raise
    except (KeyError, ValueError, TypeError) as error:
        raise CorruptError(f"{source}: the namespace database is damaged ({error})") from None


def head_of(path: Path) -> Head:
    """The newest commit in a namespace database. Blocks; errors as of
    `cache.namespace.schema.sqlite_errors`."""
    with sqlite_errors(str(path)):
        connection = open_database(str(path), read_only=True)
        try:
            found = list(connection.execute("SELECT number, hash FROM commits ORDER BY number DESC LIMIT 1"))
        finally:
            connection.close()
    number, commit_hash = found[0] if found else (0, bytes(32))
    return Head(number, commit_hash)


def differences(right: Path, other: Path) -> list[str]:
    """The differences of the tables of `other` from those of `right`; empty if they do not. Blocks."""
    with sqlite_errors(str(other)):
        connection = open_database(str(right), read_only=True)
        try:
            connection.execute("ATTACH ? AS other", (str(other),))
            tables = [table for (table,) in connection.execute(_TABLES) if table not in _NO_STATE]
            return [text for table in tables for text in _difference(connection, table)]
        finally:
            connection.close()


def _difference(connection: Connection, table: str) -> Iterator[str]:
    for kind, one, two in (("lacks", "main", "other"), ("has", "other", "main")):
        sql = f"{_rows(connection, one, table)} EXCEPT {_rows(connection, two, table)}"
        ((count,),) = connection.execute(f"SELECT count(*) FROM ({sql})")
        if count:
            yield f"{table} {kind} {count} rows {'that it should have' if kind == 'lacks' else 'too many'}"


def _rows(connection: Connection, database: str, table: str) -> str:
    """SQL for all rows of a table that count: without atimes, and without what is being forgotten."""
    columns = [row[1] for row in connection.execute(f"PRAGMA main.table_info({table})")]
    chosen = ", ".join(column for column in columns if (table, column) != ("inode", "atime_ns"))
    forgotten = " OR ".join(_FORGOTTEN.format(database=each) for each in ("main", "other"))
    where = f" WHERE NOT ({forgotten})" if "died" in columns else ""
    return f"SELECT {chosen} FROM {database}.{table} AS row{where}"
