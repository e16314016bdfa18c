"""The packs of all drives in the database, for those who look after them: check and repair."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

from backend.hub.database import Database
from backend.hub.pack_rows import pack_of
from backend.hub.packing import DriveNumber
from backend.packs import Pack
from backend.upstream import BlockId

_PAGE: Final = 200
_SELECT: Final = (
    "SELECT d.id, d.uuid, p.id, p.size, p.nodes, p.missing FROM pack p JOIN drive d ON d.id = p.drive"
)
LACKING: Final = "p.missing <> 0"
_BARE: Final = (
    "SELECT d.uuid, count(*), count(*) FILTER (WHERE p.block IS NULL)"
    " FROM block b JOIN drive d ON d.id = b.drive LEFT JOIN"
    " (SELECT drive, id AS block, bool_or(doubted IS NULL) AS is_sound FROM place GROUP BY drive, id) p"
    " ON p.drive = b.drive AND p.block = b.id"
    " WHERE b.state = 1 AND p.is_sound IS NOT TRUE GROUP BY d.uuid ORDER BY d.uuid"
)


@dataclass(frozen=True, slots=True)
class StoredPack:
    """A pack, and the drive whose blocks are in it."""

    drive: DriveNumber
    pack: Pack


@dataclass(frozen=True, slots=True)
class BareBlocks:
    """Of a drive, blocks that commits name: `doubted`, in all their places; `lost`, without any place."""

    drive: bytes
    doubted: int
    lost: int


class PackTable:
    """See the module. Any number of tasks and processes at once. `TransientError`: as of `Database`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def all(self) -> AsyncIterator[StoredPack]:
        """Every pack, by its id; those that come or go meanwhile may be among them."""
        async for each in self._pages("true"):
            yield each

    async def lacking(self) -> AsyncIterator[StoredPack]:
        """Those that lack fragments, likewise."""
        async for each in self._pages(LACKING):
            yield each

    async def get(self, pack_id: bytes) -> StoredPack | None:
        """The pack as it is now."""
        found = await self._select(f"{_SELECT} WHERE p.id = %s", (pack_id,))
        return found[0] if found else None

    async def known(self, pack_ids: Collection[bytes]) -> set[bytes]:
        """Those of the packs that are there."""
        rows = await self._database.rows("SELECT id FROM pack WHERE id = ANY(%s)", ([*pack_ids],))
        return {bytes(row[0]) for row in rows}

    async def drive(self, uuid: bytes) -> DriveNumber | None:
        """The drive of that id."""
        row = await self._database.row("SELECT id FROM drive WHERE uuid = %s", (uuid,))
        return None if row is None else DriveNumber(row[0], uuid)

    async def ended(self, pack_ids: Collection[bytes]) -> set[bytes]:
        """Those of the packs that cannot be entered any more (`backend.hub.stray_packs`)."""
        rows = await self._database.rows(
            "SELECT id FROM stray_pack WHERE id = ANY(%s) AND ended IS NOT NULL", ([*pack_ids],)
        )
        return {bytes(row[0]) for row in rows}

    async def note_missing(self, pack: Pack, missing: int) -> bool:
        """The pack, as it was read, lacks these fragments now; False: another has changed it meanwhile, and
        nothing is noted."""
        noted = await self._database.execute(
            "UPDATE pack SET missing = %s WHERE id = %s AND nodes = %s AND missing = %s",
            (missing, pack.id, [*pack.nodes], pack.missing),
        )
        return noted == 1

    async def places(self, pack_id: bytes) -> dict[BlockId, tuple[int, int]]:
        """Position and length of each block that is read from the pack, and of each commit by its hash."""
        rows = await self._database.rows(
            "SELECT id, position, length FROM place WHERE pack = %(pack)s UNION ALL"
            " SELECT hash, position, length FROM commit WHERE pack = %(pack)s",
            {"pack": pack_id},
        )
        return {BlockId(bytes(row[0])): (row[1], row[2]) for row in rows}

    async def bare_blocks(self) -> list[BareBlocks]:
        """Of each drive that has such. Looks at all blocks: for a check."""
        rows = await self._database.rows(_BARE)
        return [BareBlocks(bytes(uuid), bare - lost, lost) for uuid, bare, lost in rows]

    async def _pages(self, condition: str) -> AsyncIterator[StoredPack]:
        after = b""
        while page := await self._select(page_of(condition), (after,)):
            for each in page:
                yield each
            after = page[-1].pack.id

    async def _select(self, statement: str, values: Sequence[Any]) -> list[StoredPack]:
        rows = await self._database.rows(statement, values)
        return [StoredPack(DriveNumber(drive, bytes(uuid)), pack_of(*pack)) for drive, uuid, *pack in rows]


def page_of(condition: str) -> str:
    """The statement that gives a page of those packs, above an id."""
    return f"{_SELECT} WHERE p.id > %s AND {condition} ORDER BY p.id LIMIT {_PAGE}"
