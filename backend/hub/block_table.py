"""The blocks and packs of all drives in the database.

Invariants:
1. A block is here only after its pack is durable on the nodes.
2. A block is deleted `RESERVED_SECONDS` after the last change of its state at the earliest. Of a block that
   no commit has named yet each question begins that time anew. So a device that was told that a block is
   there has that long to name it in a commit, and the commit keeps it.
3. No device can cost another one a byte: a stored block is not replaced, and a doubted one keeps its place
   beside the new one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from backend.hub.database import Database
from backend.hub.pack_rows import add_pack, mark_shrunk, pack_of
from backend.hub.token_end import BOUND, LISTED_DAYS, NOW, TOKEN_DAYS, not_heard_for
from backend.packs import Pack, PackEntry
from backend.upstream import RESERVED_SECONDS, BlockId


@dataclass(frozen=True, slots=True)
class Place:
    """Where a block is read from."""

    pack: Pack
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Usage:
    """Blocks of a drive, their sealed bytes, the packs that they are read from, and how many of these lack
    fragments."""

    blocks: int
    bytes: int
    packs: int
    lacking: int


_TOUCH = (
    "UPDATE block SET changed = now() FROM (SELECT id FROM block"
    " WHERE drive = %(drive)s AND id = ANY(%(ids)s) AND state = 0 ORDER BY id FOR UPDATE) AS unnamed"
    " WHERE block.drive = %(drive)s AND block.id = unnamed.id RETURNING block.id"
)
_NAMED = "SELECT id FROM block WHERE drive = %(drive)s AND id = ANY(%(ids)s) AND state = 1"
_SOUND = "SELECT DISTINCT id FROM place WHERE drive = %(drive)s AND id = ANY(%(ids)s) AND doubted IS NULL"
_IS_SOUND = "EXISTS (SELECT 1 FROM place p WHERE p.drive = b.drive AND p.id = b.id AND p.doubted IS NULL)"
_KEEP = (
    "WITH kept AS (UPDATE block SET state = 0, changed = now() FROM (SELECT b.id FROM block b"
    f" WHERE b.drive = %(drive)s AND b.id = ANY(%(ids)s) AND b.state <> 1 AND {_IS_SOUND}"
    " ORDER BY b.id FOR UPDATE) AS found"
    " WHERE block.drive = %(drive)s AND block.id = found.id RETURNING block.id)"
    " SELECT id FROM kept UNION ALL SELECT b.id FROM block b"
    f" WHERE b.drive = %(drive)s AND b.id = ANY(%(ids)s) AND b.state = 1 AND {_IS_SOUND}"
)
_ADD_BLOCKS = (
    "INSERT INTO block (drive, id) SELECT %(drive)s, unnest(%(ids)s::bytea[])"
    " ON CONFLICT (drive, id) DO UPDATE SET state = 0, changed = now() WHERE block.state <> 1"
)
_ADD_PLACES = (
    "INSERT INTO place (drive, id, pack, position, length)"
    " SELECT %(drive)s, id, %(pack)s, position, length"
    " FROM unnest(%(ids)s::bytea[], %(positions)s::int[], %(lengths)s::int[]) AS new (id, position, length)"
    " WHERE NOT EXISTS (SELECT 1 FROM place p"
    " WHERE p.drive = %(drive)s AND p.id = new.id AND p.doubted IS NULL)"
)
_FIND = (
    "SELECT b.position, b.length, p.id, p.size, p.nodes, p.missing"
    " FROM place b JOIN pack p ON p.id = b.pack WHERE b.drive = %s AND b.id = %s"
    " ORDER BY b.doubted NULLS FIRST, b.pack LIMIT 1"
)
_NEXT = (
    "SELECT id, position, length FROM place WHERE pack = %s AND position > %s AND position + length <= %s"
    " AND doubted IS NULL ORDER BY position"
)
_LOCK_BLOCK = "SELECT 1 FROM block WHERE drive = %(drive)s AND id = %(block)s FOR UPDATE"
_DOUBT = (
    "UPDATE place SET doubted = clock_timestamp() WHERE drive = %(drive)s AND id = %(block)s AND pack ="
    " (SELECT pack FROM place WHERE drive = %(drive)s AND id = %(block)s"
    " ORDER BY doubted NULLS FIRST, pack LIMIT 1)"
)
_ELSEWHERE = (
    "SELECT 1 FROM place WHERE drive = %(drive)s AND id = %(block)s AND (doubted IS NULL OR doubted <"
    " (SELECT max(added) FROM place WHERE drive = %(drive)s AND id = %(block)s))"
)
_DOUBT_ALL = "UPDATE place SET doubted = clock_timestamp() WHERE pack = %s AND doubted IS NULL"
_FORGET_LOST = (
    "DELETE FROM block b USING place l"
    " WHERE l.pack = %s AND b.drive = l.drive AND b.id = l.id AND b.state <> 1"
    " AND NOT EXISTS (SELECT 1 FROM place p WHERE p.drive = b.drive AND p.id = b.id AND p.pack <> l.pack)"
)
_LEAVE_LOST = (
    "DELETE FROM place l WHERE l.pack = %s AND EXISTS (SELECT 1 FROM place p"
    " WHERE p.drive = l.drive AND p.id = l.id AND p.pack <> l.pack AND p.doubted IS NULL)"
)
_FORGET_PACK = (
    "DELETE FROM pack WHERE id = %s AND NOT EXISTS (SELECT 1 FROM place WHERE place.pack = pack.id)"
    " AND NOT EXISTS (SELECT 1 FROM commit WHERE commit.pack = pack.id)"
)
_DELETE_DUE = (
    "DELETE FROM block WHERE (drive, id) IN (SELECT drive, id FROM block WHERE state <> 1"
    " AND changed < now() - make_interval(secs => %s) ORDER BY drive, id LIMIT %s FOR UPDATE SKIP LOCKED)"
)
EMPTY_PACKS: Final = (
    # OFFSET: PostgreSQL asks for each pack by itself. Else it goes through all places, for each page anew.
    "SELECT id, size, nodes, missing FROM pack WHERE id > %s AND shrunk"
    " AND (emptied IS NULL OR emptied < now() - make_interval(secs => %s))"
    " AND NOT EXISTS (SELECT 1 FROM place WHERE place.pack = pack.id OFFSET 0)"
    " AND NOT EXISTS (SELECT 1 FROM commit WHERE commit.pack = pack.id OFFSET 0) ORDER BY id LIMIT %s"
)
_HAS_GONE = (
    " d.deleted IS NOT NULL AND NOT EXISTS (SELECT 1 FROM block b WHERE b.drive = d.id)"
    " AND NOT EXISTS (SELECT 1 FROM pack p WHERE p.drive = d.id)"
)
_LOCK_GONE = f"SELECT d.id FROM drive d WHERE{_HAS_GONE} ORDER BY d.id FOR UPDATE SKIP LOCKED"
_FORGET_GONE = f"DELETE FROM drive d WHERE d.id = ANY(%s) AND{_HAS_GONE} RETURNING d.id"
_FORGET_DEVICES = (
    f"DELETE FROM device d WHERE d.revoked < {NOW} - interval '{LISTED_DAYS} days'"
    f" OR {not_heard_for(TOKEN_DAYS + LISTED_DAYS)}"
)


class BlockTable:
    """See the module. Any number of tasks and processes at once. `TransientError`: as of `Database`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def present(self, drive: int, ids: Sequence[BlockId]) -> set[BlockId]:
        """Those that are stored, not released and not doubted; none of them goes before its time is over
        anew."""
        asked = {"drive": drive, "ids": [*ids]}
        async with self._database.transaction() as connection:
            # In this order: one that is named in between is in one of the two answers.
            unnamed = await (await connection.execute(_TOUCH, asked)).fetchall()
            named = await (await connection.execute(_NAMED, asked)).fetchall()
            sound = await (await connection.execute(_SOUND, asked)).fetchall()
        return {BlockId(bytes(row[0])) for row in (*unnamed, *named)} & {
            BlockId(bytes(row[0])) for row in sound
        }

    async def keep(self, drive: int, ids: Sequence[BlockId]) -> set[BlockId]:
        """Those that have a place that nobody doubts: as if they were given now, they are released no more.
        One that a commit names at this moment may be left out."""
        rows = await self._database.rows(_KEEP, {"drive": drive, "ids": [*ids]})
        return {BlockId(bytes(row[0])) for row in rows}

    async def add(self, drive: int, pack: Pack, entries: Sequence[PackEntry]) -> None:
        """The pack is stored: its blocks are there, and none of them is released any more. One that has a
        place that nobody doubts keeps that."""
        ordered = sorted(entries, key=lambda entry: entry.block)
        values = {
            "drive": drive,
            "pack": pack.id,
            "ids": [entry.block for entry in ordered],
            "positions": [entry.offset for entry in ordered],
            "lengths": [entry.length for entry in ordered],
        }
        async with self._database.transaction() as connection:
            await add_pack(connection, drive, pack)
            await connection.execute(_ADD_BLOCKS, values)
            added = await connection.execute(_ADD_PLACES, values)
            if added.rowcount < len(entries):
                await mark_shrunk(connection, pack)

    async def settle(self, pack: Pack) -> None:
        """The last fragments of a new pack lie where it says, or have failed."""
        await self._database.execute(
            "UPDATE pack SET nodes = %s, missing = %s WHERE id = %s",
            ([*pack.nodes], pack.missing, pack.id),
        )

    async def find(self, drive: int, block: BlockId) -> Place | None:
        """The place that the block is read from; None: it is not stored."""
        row = await self._database.row(_FIND, (drive, block))
        if row is None:
            return None
        position, length, *pack = row
        return Place(pack_of(*pack), position, length)

    async def next_to(self, place: Place, most: int) -> list[PackEntry]:
        """The blocks behind that one in its pack that end within `most` bytes from its start, in order."""
        end = place.offset + most
        rows = await self._database.rows(_NEXT, (place.pack.id, place.offset, end))
        return [PackEntry(BlockId(bytes(block)), position, length) for block, position, length in rows]

    async def doubt(self, drive: int, block: BlockId) -> bool:
        """A device says that the block is not what it should be where it is read from: another place comes
        first from now on, if there is one. Whether there is one that was not doubted since the block was
        given last. While all are doubted the block is missing."""
        asked = {"drive": drive, "block": block}
        async with self._database.transaction() as connection:
            # Who moves the block to another pack (`ThinPackTable`) does it before this, or after it.
            await connection.execute(_LOCK_BLOCK, asked)
            await connection.execute(_DOUBT, asked)
            return bool(await (await connection.execute(_ELSEWHERE, asked)).fetchall())

    async def ids_after(self, drive: int, after: bytes, limit: int) -> list[BlockId]:
        """Up to `limit` ids above `after`, in order; released ones too."""
        rows = await self._database.rows(
            "SELECT id FROM block WHERE drive = %s AND id > %s ORDER BY id LIMIT %s", (drive, after, limit)
        )
        return [BlockId(bytes(row[0])) for row in rows]

    async def sizes(self, drive: int, ids: Sequence[BlockId]) -> dict[BlockId, tuple[int, bool]]:
        """Sealed bytes of those that are stored, and whether they are released."""
        rows = await self._database.rows(
            "SELECT DISTINCT ON (b.id) b.id, p.length, b.state = 2"
            " FROM block b JOIN place p USING (drive, id)"
            " WHERE b.drive = %s AND b.id = ANY(%s) ORDER BY b.id, p.doubted NULLS FIRST, p.pack",
            (drive, [*ids]),
        )
        return {BlockId(bytes(block)): (length, released) for block, length, released in rows}

    async def usage(self, drive: int) -> Usage:
        """The drive's account."""
        row = await self._database.row(
            "SELECT (SELECT count(*) FROM block WHERE drive = %(drive)s),"
            " (SELECT coalesce(sum(length), 0) FROM place WHERE drive = %(drive)s),"
            " count(*), count(*) FILTER (WHERE missing <> 0) FROM pack"
            " WHERE drive = %(drive)s AND emptied IS NULL",
            {"drive": drive},
        )
        assert row is not None
        return Usage(*map(int, row))

    async def delete_due(self, grace: float = RESERVED_SECONDS, limit: int = 1000) -> int:
        """Delete up to `limit` blocks that no commit names, and whose state is older than `grace` seconds;
        how many. Their packs stay until nothing is read from them."""
        return await self._database.execute(_DELETE_DUE, (grace, limit))

    async def empty_packs(self, after: bytes, grace: float, limit: int = 100) -> list[Pack]:
        """Up to `limit` packs that no block and no commit is read from, by their ids, above `after`. None
        ever gets one again. One whose blocks are read from another pack is among them `grace` seconds after
        they were moved: a dump of the database that is no older may name it."""
        rows = await self._database.rows(
            EMPTY_PACKS,
            (after, grace, limit),
        )
        return [pack_of(*row) for row in rows]

    async def remove_pack(self, pack: Pack) -> None:
        """The pack's fragments are gone."""
        await self._database.execute("DELETE FROM pack WHERE id = %s", (pack.id,))

    # For a database that was restored

    async def keep_all(self) -> None:
        """Blocks that no commit names, emptied packs and strays are kept for a whole time of retention from
        now on: a stray may have been entered after the backup."""
        async with self._database.transaction() as connection:
            await connection.execute("UPDATE block SET changed = now() WHERE state <> 1")
            await connection.execute("UPDATE pack SET emptied = now() WHERE emptied IS NOT NULL")
            await connection.execute("UPDATE stray_pack SET seen = now() WHERE ended IS NULL")

    async def lose_pack(self, pack: Pack) -> None:
        """The pack cannot be read from the nodes any more: a block that is read from there is missing until
        it is given anew, and is forgotten if no commit names it. Idempotent."""
        async with self._database.transaction() as connection:
            await connection.execute(_DOUBT_ALL, (pack.id,))
            await connection.execute(_FORGET_LOST, (pack.id,))

    async def leave_pack(self, pack: Pack) -> None:
        """The pack cannot be read any more, and what other packs have is in the database: of its blocks,
        those that lie there too are not looked for here any more, and the pack is forgotten with the last.
        Idempotent."""
        async with self._database.transaction() as connection:
            await connection.execute(_LEAVE_LOST, (pack.id,))
            await connection.execute(_FORGET_PACK, (pack.id,))

    async def forget_logs(self) -> None:
        """Forget the commits of deleted drives whose blocks are gone: their segments are empty then.
        Idempotent."""
        await self._database.execute(
            "DELETE FROM commit c USING drive d WHERE d.id = c.drive AND d.deleted IS NOT NULL"
            " AND NOT EXISTS (SELECT 1 FROM block b WHERE b.drive = d.id)"
        )

    async def remove_departed(self, clock: float) -> None:
        """Forget the deleted drives whose blocks and packs are gone, accounts that ended, when their drives
        are, and devices that were revoked, or expired, `LISTED_DAYS` ago. `clock`: `TokenClock.now`.
        Idempotent."""
        async with self._database.transaction() as connection:
            # A pack that is being added holds its drive's row. Whether there is one is asked under the lock.
            locked = await (await connection.execute(_LOCK_GONE)).fetchall()
            gone = await connection.execute(_FORGET_GONE, ([row[0] for row in locked],))
            numbers = [row[0] for row in await gone.fetchall()]
            await connection.execute("DELETE FROM drive_usage WHERE drive = ANY(%s)", (numbers,))
            for statement in (BOUND, _FORGET_DEVICES):
                await connection.execute(statement.encode(), {"clock": clock})
            await connection.execute(
                "DELETE FROM account a WHERE a.deleted IS NOT NULL"
                " AND NOT EXISTS (SELECT 1 FROM drive d WHERE d.account = a.id)"
            )
