"""The presences of devices, in the database: several processes of a hub show each other's.

A presence ends by itself. Nothing here is durable: a server that crashes forgets all of them. The sets of a
device come one after the other, and what has ended is deleted where nobody is at it: two that waited for each
other would be ended by the server after a second, with their connections.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from backend import wire
from backend.errors import UsageError
from backend.hub.database import Database
from backend.system import plain_hash
from backend.upstream import PRESENCE_SECONDS, SealedPresence

_ALONE: Final = "SELECT pg_advisory_xact_lock(hashtextextended('presence', %(device)s))"
_END_OTHERS: Final = (
    "DELETE FROM presence WHERE drive = %(drive)s AND device = %(device)s AND key <> ALL(%(keys)s::bytea[])"
)
_COUNT: Final = (
    "SELECT count(*) FROM presence WHERE drive = %(drive)s AND device <> %(device)s AND expires > now()"
)
_SHOW: Final = (
    "INSERT INTO presence (drive, device, key, mark, body, expires)"
    " SELECT %(drive)s, %(device)s, key, mark, body, now() + %(seconds)s * interval '1 second'"
    " FROM unnest(%(keys)s::bytea[], %(marks)s::bigint[], %(bodies)s::bytea[]) AS said(key, mark, body)"
    " ON CONFLICT (drive, device, key) DO UPDATE SET body = excluded.body, expires = excluded.expires"
)
_FORGET: Final = (
    "DELETE FROM presence WHERE (drive, device, key) IN"
    " (SELECT drive, device, key FROM presence WHERE expires <= now() FOR UPDATE SKIP LOCKED)"
)
_OF_OTHERS: Final = (
    "SELECT p.key, p.body FROM presence p JOIN device d ON d.id = p.device"
    " WHERE p.drive = %s AND p.device <> %s AND p.expires > now() AND d.revoked IS NULL"
    " ORDER BY p.device, p.key LIMIT %s"
)
_MARKS: Final = (
    "SELECT drive, bit_xor(mark) FROM presence WHERE drive = ANY(%s) AND expires > now() GROUP BY drive"
)


class PresenceTable:
    """See the module. Any number of tasks and processes at once. `TransientError`: as of `Database`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def show(self, drive: int, device: int, shown: Sequence[SealedPresence]) -> None:
        """These, in the place of those that the device has shown of the drive, from now on for
        `PRESENCE_SECONDS`. `UsageError`: the drive has too many."""
        said = {presence.key: presence.body for presence in shown}
        values = {
            "drive": drive,
            "device": device,
            "keys": sorted(said),
            "marks": [_mark(device, key) for key in sorted(said)],
            "bodies": [said[key] for key in sorted(said)],
            "seconds": PRESENCE_SECONDS,
        }
        async with self._database.transaction() as connection:
            await connection.execute(_ALONE.encode(), values)
            await connection.execute(_END_OTHERS.encode(), values)
            row = await (await connection.execute(_COUNT.encode(), values)).fetchone()
            if row is not None and row[0] + len(said) > wire.MAX_IDS:
                raise UsageError(f"a drive has at most {wire.MAX_IDS} presences at once")
            await connection.execute(_SHOW.encode(), values)

    async def of_others(self, drive: int, device: int) -> list[SealedPresence]:
        """Those of the drive that other devices show now."""
        rows = await self._database.rows(_OF_OTHERS, (drive, device, wire.MAX_IDS))
        return [SealedPresence(bytes(key), bytes(body)) for key, body in rows]

    async def marks(self, drives: Sequence[int]) -> dict[int, int]:
        """By drive, a number that is another one when another set of presences is shown; those that have none
        are left out."""
        return dict(await self._database.rows(_MARKS, ([*drives],)))

    async def forget_ended(self) -> int:
        """Delete those that have ended; their number."""
        return await self._database.execute(_FORGET)


def _mark(device: int, key: bytes) -> int:
    """Of 63 bits. Two devices that do the same have different ones, or they would cancel each other out."""
    return int.from_bytes(plain_hash(device.to_bytes(8, "little") + key)[:8], "little") >> 1
