"""The block index of this process, in SQLite: its parts put together, and the look-ups by block.

The parts: `index_database` (schema, transactions), `sqlite_packs` (packs and repairs), `sqlite_places` (where
blocks lie), `sqlite_dying` (dying blocks, doomed packs), `located_blocks` (recent look-ups, in memory).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from backend.blocks.block_index import BlockLocation
from backend.blocks.index_database import IndexDatabase, translated
from backend.blocks.located_blocks import LocatedBlocks
from backend.blocks.sqlite_dying import SqliteDyingBlocks
from backend.blocks.sqlite_packs import SqlitePackTable
from backend.blocks.sqlite_places import SqlitePlaces
from backend.packs import Pack, PackEntry
from backend.system import THIS_MACHINE, Environment
from backend.upstream import BlockId


class SqliteBlockIndex:
    """See `backend.blocks.block_index.BlockIndex`."""

    def __init__(
        self, path: str, drive_id: bytes, parity: int, environment: Environment = THIS_MACHINE
    ) -> None:
        """Opens or creates the database at `path` (":memory:" for tests). `FormatError` if it is of
        another drive or version: nothing was changed; remove it, it can be rebuilt. `parity`: how many
        fragments of a pack may be missing before its blocks do not count as stored."""
        self.database: Final = IndexDatabase(path, drive_id, environment.disk)
        self.packs: Final = SqlitePackTable(self.database, parity)
        self._places = SqlitePlaces(self.database, self.packs)
        self.dying: Final = SqliteDyingBlocks(self.database, self._places, parity)
        self.located: Final = LocatedBlocks()
        self._parity = parity

    def close(self) -> None:
        self.database.close()

    @translated
    def has(self, block: BlockId) -> bool:
        row = self.database.one(
            "SELECT packs.missing, packs.repair FROM blocks JOIN packs ON packs.number = blocks.pack"
            " WHERE blocks.id = ?1 AND NOT EXISTS (SELECT 1 FROM dying WHERE dying.id = ?1)",
            block,
        )
        if row is None:
            return False
        missing, repair = row
        return missing.bit_count() <= self._parity if missing else not repair

    @translated
    def locate(self, block: BlockId) -> BlockLocation | None:
        location = self.located.get(block, self.database.changes()) or self._look_up(block)
        if location is not None:
            self.located.note(block, location)
        return location

    def _look_up(self, block: BlockId) -> BlockLocation | None:
        # Two statements, as many blocks have their pack in common.
        row = self.database.one("SELECT pack, offset, length FROM blocks WHERE id = ?", block)
        pack = None if row is None else self.located.pack(row[0], self.packs.numbered)
        return None if row is None or pack is None else BlockLocation(pack, row[1], row[2])

    @translated
    def add_pack(self, pack: Pack, entries: Sequence[PackEntry]) -> None:
        with self.database.transaction():
            number = self.packs.insert(pack, entries)
            if number is not None:
                self._places.add(number, entries, pack.missing)

    @translated
    def add_restored(self, pack: Pack, entries: Sequence[PackEntry]) -> None:
        with self.database.transaction():
            number = self.packs.insert(pack, entries)
            if number is not None:
                self.database.executemany("DELETE FROM dying WHERE id = ?", [(e.block,) for e in entries])
                self._places.replace(number, entries)

    @translated
    def move(self, pack: Pack, entries: Sequence[PackEntry], old: Sequence[bytes]) -> None:
        with self.database.transaction():
            self.packs.insert(pack, entries)
            number = self.packs.number_of(pack.id)
            numbers = {self.packs.number_of(pack_id) for pack_id in old}
            if number is not None:
                self._places.repoint(number, entries, {each for each in numbers if each is not None})

    @translated
    def other_places(self, block: BlockId) -> list[BlockLocation]:
        return self._places.others(block)

    @translated
    def read_from(self, block: BlockId, place: BlockLocation) -> None:
        with self.database.transaction():
            self._places.keep([block])
            self._places.read_from(block, place)

    @translated
    def drop_place(self, block: BlockId) -> bool:
        places = self._places.others(block)
        if places:
            with self.database.transaction():
                self._places.read_from(block, places[0])
        return bool(places)

    @translated
    def blocks_of(self, pack_id: bytes) -> list[PackEntry]:
        rows = self.database.execute(
            "SELECT blocks.id, offset, length FROM blocks JOIN packs ON packs.number = blocks.pack"
            " WHERE packs.id = ? ORDER BY offset",
            (pack_id,),
        )
        return [PackEntry(*row) for row in rows]

    @translated
    def locations(self, after: bytes, limit: int) -> list[tuple[BlockId, bytes, int, int]]:
        rows = self.database.execute(
            "SELECT blocks.id, packs.id, offset, length FROM blocks JOIN packs ON packs.number = blocks.pack"
            " WHERE blocks.id > ? ORDER BY blocks.id LIMIT ?",
            (after, limit),
        )
        return [(BlockId(row[0]), row[1], row[2], row[3]) for row in rows]

    @translated
    def ids_after(self, after: bytes, limit: int) -> list[BlockId]:
        rows = self.database.execute("SELECT id FROM blocks WHERE id > ? ORDER BY id LIMIT ?", (after, limit))
        return [BlockId(row[0]) for row in rows]

    @translated
    def length(self, block: BlockId) -> int | None:
        row = self.database.one("SELECT length FROM blocks WHERE id = ?", block)
        return None if row is None else int(row[0])
