"""Packs of which much is not needed any more, in the database.

Invariants:
1. A pack whose row says that it has not shrunk is not thin: the mark is taken away under a lock of the row,
   for which those wait who delete from the pack.
2. A block is read from the new pack by the transaction that enters it: at any moment a reader finds one
   place, and what a drive takes does not change.
3. A doubted place is moved as it is: it stays doubted. Else one small block would keep a pack for ever,
   which no quota counts.
4. Locks are taken in the order blocks by id, then packs by id, as by those who delete.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from backend.hub.database import Connection, Database
from backend.hub.pack_rows import add_pack, mark_shrunk, pack_of
from backend.hub.packing import DriveNumber
from backend.packs import Pack, PackEntry, PackNeeds
from backend.upstream import BlockId

PAGE: Final = 100

LOCK_PAGE: Final = (
    "SELECT p.id FROM pack p JOIN drive d ON d.id = p.drive WHERE p.shrunk AND p.emptied IS NULL"
    " AND d.deleted IS NULL AND (p.drive, p.id) > (%s, %s) ORDER BY p.drive, p.id LIMIT %s"
    " FOR NO KEY UPDATE OF p SKIP LOCKED"
)
_CENSUS: Final = (
    "SELECT d.id, d.uuid, p.id, p.size, p.nodes, p.missing, needs.bytes, needs.blocks"
    " FROM pack p JOIN drive d ON d.id = p.drive, LATERAL (SELECT coalesce(sum(length), 0)::bigint AS bytes,"
    " count(*) AS blocks FROM (SELECT length FROM place WHERE pack = p.id"
    " UNION ALL SELECT length FROM commit WHERE pack = p.id) part) needs"
    " WHERE p.id = ANY(%s) ORDER BY p.drive, p.id"
)
_LOCK_BLOCKS: Final = "SELECT 1 FROM block WHERE drive = %s AND id = ANY(%s) ORDER BY id FOR KEY SHARE"
_LOCK_PACKS: Final = "SELECT 1 FROM pack WHERE id = ANY(%s) ORDER BY id FOR NO KEY UPDATE"
_MOVE: Final = (
    "UPDATE place p SET pack = %(new)s, position = moved.at FROM unnest(%(ids)s::bytea[], %(packs)s::bytea[],"
    " %(from)s::int[], %(at)s::int[], %(lengths)s::int[]) AS moved (id, pack, old, at, length)"
    " WHERE p.drive = %(drive)s AND p.id = moved.id AND p.pack = moved.pack AND p.position = moved.old"
    " AND p.length = moved.length RETURNING p.length"
)
_EMPTIED: Final = (
    "UPDATE pack SET emptied = now() WHERE id = ANY(%s) AND emptied IS NULL"
    " AND NOT EXISTS (SELECT 1 FROM place WHERE place.pack = pack.id)"
    " AND NOT EXISTS (SELECT 1 FROM commit WHERE commit.pack = pack.id)"
)
_PLACES: Final = "SELECT pack, id, position, length FROM place WHERE pack = ANY(%s) ORDER BY pack, position"
WAITING: Final = "SELECT coalesce(sum(size), 0)::bigint FROM pack WHERE emptied IS NOT NULL"


@dataclass(frozen=True, slots=True)
class ThinPack:
    """A pack that is to be rewritten, and whose it is."""

    drive: DriveNumber
    needs: PackNeeds


@dataclass(frozen=True, slots=True)
class Page:
    """Thin packs in order; `last`: where to go on, None: there is no more."""

    thin: Sequence[ThinPack]
    last: tuple[int, bytes] | None


@dataclass(frozen=True, slots=True)
class BlockInPack:
    """A block that is read from there."""

    pack: bytes
    entry: PackEntry


@dataclass(frozen=True, slots=True)
class Moved:
    """A block that was read from `old`, and lies at `entry` of a new pack."""

    old: BlockInPack
    entry: PackEntry


class ThinPackTable:
    """See the module. Any number of tasks and processes at once. `TransientError`: as of `Database`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def look(self, after: tuple[int, bytes]) -> Page:
        """Look at some packs that have shrunk, by drive and id, above `after`. Those that are not thin are
        not looked at again until they shrink. One that nothing is read from stays as it is: it is
        deleted."""
        async with self._database.transaction() as connection:
            found = await connection.execute(LOCK_PAGE, (*after, PAGE))
            ids = [bytes(row[0]) for row in await found.fetchall()]
            rows = await (await connection.execute(_CENSUS, (ids,))).fetchall()
            seen = [_thin_pack(row) for row in rows]
            thick = [each.needs.pack.id for each in seen if each.needs.blocks and not each.needs.is_thin()]
            await connection.execute("UPDATE pack SET shrunk = false WHERE id = ANY(%s)", (thick,))
        last = (seen[-1].drive.number, seen[-1].needs.pack.id) if len(ids) == PAGE else None
        return Page([each for each in seen if each.needs.is_thin()], last)

    async def places(self, packs: Sequence[bytes]) -> Mapping[bytes, Sequence[BlockInPack]]:
        """Of each pack, the blocks that are read from it, or were until they were doubted, in order. A pack
        without any is left out."""
        found = defaultdict[bytes, list[BlockInPack]](list)
        for pack, block, position, length in await self._database.rows(_PLACES, ([*packs],)):
            entry = PackEntry(BlockId(bytes(block)), position, length)
            found[bytes(pack)].append(BlockInPack(bytes(pack), entry))
        return found

    async def move(self, drive: int, new: Pack, moved: Sequence[Moved]) -> int:
        """The new pack is durable: blocks are read from it, and no more from those in which they were; their
        bytes. What was deleted or moved by another meanwhile is not. No block is twice among `moved`."""
        moved = sorted(moved, key=lambda each: each.entry.block)
        old = sorted({each.old.pack for each in moved})
        async with self._database.transaction() as connection:
            await add_pack(connection, drive, new)
            await connection.execute(_LOCK_BLOCKS, (drive, [each.entry.block for each in moved]))
            await connection.execute(_LOCK_PACKS, (old,))
            lengths = await _move(connection, drive, new, moved)
            await connection.execute(_EMPTIED, (old,))
            if len(lengths) < len(moved):
                await mark_shrunk(connection, new)
        return sum(lengths)

    async def waiting(self) -> int:
        """Bytes of packs that were emptied and are not deleted yet."""
        row = await self._database.row(WAITING)
        assert row is not None
        return int(row[0])


async def _move(connection: Connection, drive: int, new: Pack, moved: Sequence[Moved]) -> list[int]:
    """The lengths of what is moved now."""
    values = {
        "drive": drive,
        "new": new.id,
        "ids": [each.entry.block for each in moved],
        "packs": [each.old.pack for each in moved],
        "from": [each.old.entry.offset for each in moved],
        "at": [each.entry.offset for each in moved],
        "lengths": [each.entry.length for each in moved],
    }
    return [row[0] for row in await (await connection.execute(_MOVE, values)).fetchall()]


def _thin_pack(row: Sequence[Any]) -> ThinPack:
    drive, uuid, *pack, needed, blocks = row
    return ThinPack(DriveNumber(drive, bytes(uuid)), PackNeeds(pack_of(*pack), int(needed), int(blocks)))
