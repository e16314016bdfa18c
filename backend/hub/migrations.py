"""The schema of the hub's database: numbered SQL files, each applied once and never changed, forward only.

A release that needs another schema first expands it (old processes go on beside new ones), and a later
release contracts it. Any number of processes may call `migrate` at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Final

import psycopg
from psycopg import AsyncConnection

from backend.errors import DriveError, FormatError, TransientError, UsageError
from backend.system import plain_hash

_LOCK: Final = 0x6472697665667331
"""Key of the advisory lock that migrations are made under."""
_TABLE: Final = (
    "CREATE TABLE IF NOT EXISTS schema_migration ("
    " number integer PRIMARY KEY, hash bytea NOT NULL, applied timestamptz NOT NULL DEFAULT now())"
)

_IS_USED: Final = "SELECT EXISTS (SELECT 1 FROM account) OR EXISTS (SELECT 1 FROM pack)"


def migrations() -> dict[int, str]:
    """The SQL by number, in order. `ValueError`: two files have one number."""
    found = [each for each in files("backend.hub").joinpath("schema").iterdir() if each.name.endswith(".sql")]
    texts = {int(each.name[:4]): each.read_text() for each in sorted(found, key=lambda each: each.name)}
    if len(texts) < len(found):
        raise ValueError("two migrations have one number")
    return texts


async def migrate(connection: AsyncConnection) -> list[int]:
    """Bring the database to this version's schema, all or nothing; the numbers that were applied.
    `FormatError`: it is of a newer version, or was made by other files than these."""
    known = migrations()
    async with connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        await connection.execute(_TABLE)
        applied = await _applied(connection)
        _check(known, applied)
        new = [number for number in known if number not in applied]
        for number in new:
            await connection.execute(known[number].encode())
            await connection.execute(
                "INSERT INTO schema_migration (number, hash) VALUES (%s, %s)", (number, _hash(known[number]))
            )
    return new


async def migrate_database(conninfo: str) -> list[int]:
    """As `migrate`, on a connection of its own. `TransientError`: the database does not answer; `UsageError`:
    it refuses."""
    try:
        async with await AsyncConnection.connect(conninfo, autocommit=True) as connection:
            return await migrate(connection)
    except psycopg.Error as error:
        raise _refused(error) from error


async def migrate_empty(conninfo: str) -> None:
    """As `migrate_database`, for a new hub. `UsageError`: a hub has used the database already."""
    await migrate_database(conninfo)
    try:
        async with await AsyncConnection.connect(conninfo, autocommit=True) as connection:
            found = await connection.execute(_IS_USED)
            row = await found.fetchone()
    except psycopg.Error as error:
        raise _refused(error) from error
    if row is None or row[0]:
        raise UsageError("the database is another hub's: it has accounts or packs")


def _refused(error: psycopg.Error) -> DriveError:
    text = f"the database: {str(error).splitlines()[0]}"
    return TransientError(text) if isinstance(error, psycopg.OperationalError) else UsageError(text)


async def require_current(connection: AsyncConnection) -> None:
    """`FormatError` unless the database has the schema of this version, or one that a later one expanded."""
    async with connection.transaction():
        found = await connection.execute("SELECT to_regclass('schema_migration') IS NOT NULL")
        row = await found.fetchone()
        applied = await _applied(connection) if row is not None and row[0] else {}
    lacking = [number for number in migrations() if number not in applied]
    if lacking:
        raise FormatError(f"the database lacks the migrations {lacking}: migrate it")


async def _applied(connection: AsyncConnection) -> dict[int, bytes]:
    found = await connection.execute("SELECT number, hash FROM schema_migration ORDER BY number")
    return {number: bytes(digest) for number, digest in await found.fetchall()}


def _check(known: Mapping[int, str], applied: Mapping[int, bytes]) -> None:
    for number, digest in applied.items():
        if number not in known:
            raise FormatError(f"the database has migration {number}, which this version does not know")
        if digest != _hash(known[number]):
            raise FormatError(f"migration {number} of the database is not the one of this version")


def _hash(sql: str) -> bytes:
    return plain_hash(sql.encode())
