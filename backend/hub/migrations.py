"""The schema of the hub's database: numbered SQL files, each applied once and never changed, forward only.

A release that needs another schema first expands it (old processes go on beside new ones), and a later
release contracts it. Any number of processes may call `migrate` at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Final

from psycopg import AsyncConnection

from backend.errors import FormatError
from backend.system import plain_hash

_LOCK: Final = 0x6472697665667331
"""Key of the advisory lock that migrations are made under."""
_TABLE: Final = (
    "CREATE TABLE IF NOT EXISTS schema_migration ("
    " number integer PRIMARY KEY, hash bytea NOT NULL, applied timestamptz NOT NULL DEFAULT now())"
)


def migrations() -> dict[int, str]:
    """The SQL by number, in order."""
    found = [each for each in files("backend.hub").joinpath("schema").iterdir() if each.name.endswith(".sql")]
    return {int(each.name[:4]): each.read_text() for each in sorted(found, key=lambda each: each.name)}


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
