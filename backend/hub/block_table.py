"""The blocks and packs of all drives in the database.

Invariants:
1. A block is here only after its pack is durable on the nodes.
2. A block goes no earlier than `RESERVED_SECONDS` after the last change of its state, and of one that no
   commit has named each question begins that time anew: so whoever was told that a block is there finds it
   for that long, and the commit that names it keeps it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from backend.hub.database import Database
from backend.packs import Pack, PackEntry
from backend.upstream import RESERVED_SECONDS, BlockId

UNNAMED: Final = 0
NAMED: Final = 1
RELEASED: Final = 2


@dataclass(frozen=True, slots=True)
class Place:
    """Where a block is read from."""

    pack: Pack
    offset: int
    length: int


class BlockTable:
    """See the module. Any number of tasks and processes at once. `TransientError`: as of `Database`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def present(self, drive: int, ids: Sequence[BlockId]) -> set[BlockId]:
        """Those that are stored and not released; none of them goes before its time is over anew."""
        async with self._database.transaction() as connection:
            found = await connection.execute(
                "SELECT id, state FROM block WHERE drive = %s AND id = ANY(%s) AND state <> 2"
                " ORDER BY id FOR UPDATE",
                (drive, [*ids]),
            )
            rows = [(BlockId(bytes(block)), state) for block, state in await found.fetchall()]
            unnamed = [block for block, state in rows if state == UNNAMED]
            if unnamed:
                await connection.execute(
                    "UPDATE block SET changed = now() WHERE drive = %s AND id = ANY(%s)", (drive, unnamed)
                )
        return {block for block, _ in rows}

    async def add(self, drive: int, pack: Pack, entries: Sequence[PackEntry]) -> None:
        """The pack is stored: its blocks are there, and none of them is released any more."""
        async with self._database.transaction() as connection:
            await connection.execute(
                "INSERT INTO pack (id, drive, size, nodes, missing) VALUES (%s, %s, %s, %s, %s)"
                " ON CONFLICT (id) DO NOTHING",
                (pack.id, drive, pack.size, [*pack.nodes], pack.missing),
            )
            ordered = sorted(entries, key=lambda entry: entry.block)
            await connection.execute(
                "INSERT INTO block (drive, id, pack, position, length)"
                " SELECT %s, id, %s, position, length"
                " FROM unnest(%s::bytea[], %s::int[], %s::int[]) AS new (id, position, length)"
                " ON CONFLICT (drive, id) DO UPDATE SET pack = excluded.pack, position = excluded.position,"
                " length = excluded.length, changed = now(),"
                " state = CASE block.state WHEN 2 THEN 0 ELSE block.state END",
                (
                    drive,
                    pack.id,
                    [entry.block for entry in ordered],
                    [entry.offset for entry in ordered],
                    [entry.length for entry in ordered],
                ),
            )

    async def find(self, drive: int, block: BlockId) -> Place | None:
        """The place that the block is read from; None: it is not stored."""
        async with self._database.transaction() as connection:
            found = await connection.execute(
                "SELECT b.position, b.length, p.id, p.size, p.nodes, p.missing"
                " FROM block b JOIN pack p ON p.id = b.pack WHERE b.drive = %s AND b.id = %s",
                (drive, block),
            )
            row = await found.fetchone()
        if row is None:
            return None
        position, length, pack_id, size, nodes, missing = row
        return Place(Pack(bytes(pack_id), size, 0, tuple(nodes), missing), position, length)

    async def forget(self, drive: int, block: BlockId) -> None:
        """The block is not what it should be: it is missing until it is put anew."""
        async with self._database.transaction() as connection:
            await connection.execute("DELETE FROM block WHERE drive = %s AND id = %s", (drive, block))

    async def ids_after(self, drive: int, after: bytes, limit: int) -> list[BlockId]:
        """Up to `limit` ids above `after`, in order; released ones too."""
        async with self._database.transaction() as connection:
            found = await connection.execute(
                "SELECT id FROM block WHERE drive = %s AND id > %s ORDER BY id LIMIT %s",
                (drive, after, limit),
            )
            return [BlockId(bytes(row[0])) for row in await found.fetchall()]

    async def sizes(self, drive: int, ids: Sequence[BlockId]) -> dict[BlockId, tuple[int, bool]]:
        """Sealed bytes of those that are stored, and whether they are released."""
        async with self._database.transaction() as connection:
            found = await connection.execute(
                "SELECT id, length, state FROM block WHERE drive = %s AND id = ANY(%s)", (drive, [*ids])
            )
            rows = await found.fetchall()
        return {BlockId(bytes(block)): (length, state == RELEASED) for block, length, state in rows}

    async def usage(self, drive: int) -> tuple[int, int, int]:
        """Blocks of the drive, their sealed bytes, its packs."""
        async with self._database.transaction() as connection:
            found = await connection.execute(
                "SELECT count(*), coalesce(sum(length), 0), (SELECT count(*) FROM pack WHERE drive = %s)"
                " FROM block WHERE drive = %s",
                (drive, drive),
            )
            row = await found.fetchone()
        assert row is not None
        return int(row[0]), int(row[1]), int(row[2])

    async def delete_due(self, grace: float = RESERVED_SECONDS, limit: int = 1000) -> int:
        """Delete up to `limit` blocks that no commit names, and whose state is older than `grace` seconds;
        how many. Their packs stay until nothing is read from them."""
        async with self._database.transaction() as connection:
            found = await connection.execute(
                "DELETE FROM block WHERE (drive, id) IN (SELECT drive, id FROM block WHERE state <> 1"
                " AND changed < now() - make_interval(secs => %s) ORDER BY drive, id LIMIT %s"
                " FOR UPDATE SKIP LOCKED)",
                (grace, limit),
            )
            return found.rowcount

    async def empty_packs(self, limit: int = 100) -> list[tuple[int, Pack]]:
        """Up to `limit` packs that no block is read from, each with its drive."""
        async with self._database.transaction() as connection:
            found = await connection.execute(
                "SELECT drive, id, size, nodes, missing FROM pack p"
                " WHERE NOT EXISTS (SELECT 1 FROM block b WHERE b.pack = p.id) LIMIT %s",
                (limit,),
            )
            rows = await found.fetchall()
        return [
            (drive, Pack(bytes(pack_id), size, 0, tuple(nodes), missing))
            for drive, pack_id, size, nodes, missing in rows
        ]
