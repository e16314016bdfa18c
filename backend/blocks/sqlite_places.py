"""The places of blocks in the SQLite index: the one that each block is read from, and its other copies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from backend.blocks.block_index import BlockLocation
from backend.blocks.index_database import IndexDatabase
from backend.blocks.sqlite_packs import PACK_COLUMNS, SqlitePackTable, pack_of
from backend.packs import PackEntry
from backend.upstream import BlockId

_INSERT: Final = "INSERT OR {} INTO blocks (id, pack, offset, length) VALUES (?, ?, ?, ?)"
KEEP_COPY: Final = (
    "INSERT OR REPLACE INTO copies (id, pack, offset, length)"
    " SELECT id, pack, offset, length FROM blocks WHERE id = ?"
)
"""of where the block is read from, before that changes"""
_NOTE_COPY: Final = (
    "INSERT OR IGNORE INTO copies (id, pack, offset, length)"
    " SELECT ?1, ?2, ?3, ?4 WHERE EXISTS (SELECT 1 FROM blocks WHERE id = ?1)"
)
_READ_FROM: Final = (
    "SELECT packs.number, packs.missing FROM blocks JOIN packs ON packs.number = blocks.pack"
    " WHERE blocks.id = ?"
)


class SqlitePlaces:
    """The rows of `blocks` and `copies`. What changes them runs within a transaction of the caller."""

    def __init__(self, database: IndexDatabase, packs: SqlitePackTable) -> None:
        self._database = database
        self._packs = packs

    def others(self, block: BlockId) -> list[BlockLocation]:
        """See `BlockIndex.other_places`."""
        rows = self._database.execute(
            f"SELECT offset, length, {PACK_COLUMNS} FROM copies JOIN packs ON packs.number = copies.pack"
            " WHERE copies.id = ?",
            (block,),
        )
        found = [BlockLocation(pack_of(row[2:]), row[0], row[1]) for row in rows]
        return sorted(found, key=lambda place: place.pack.missing.bit_count())

    def add(self, number: int, entries: Sequence[PackEntry], missing: int) -> None:
        """The blocks of pack `number`, which lacks the fragments of the bits in `missing`: those that lie
        nowhere else, or in a pack that lacks more, are read from it."""
        worse = self._worse(entries, missing)
        rows = [(entry.block, number, entry.offset, entry.length) for entry in entries]
        self._database.executemany(_NOTE_COPY, rows)
        self._database.executemany(_INSERT.format("IGNORE"), rows)
        self.repoint(number, entries, worse)

    def _worse(self, entries: Sequence[PackEntry], missing: int) -> set[int]:
        """The numbers of the packs that any of the blocks is read from and that lack more."""
        if self._database.one("SELECT 1 FROM packs WHERE repair LIMIT 1") is None:  # all are whole
            return set()
        found = (self._database.one(_READ_FROM, entry.block) for entry in entries)
        return {row[0] for row in found if row is not None and row[1].bit_count() > missing.bit_count()}

    def replace(self, number: int, entries: Sequence[PackEntry]) -> None:
        """The blocks of pack `number` are read from it, wherever they lie too."""
        self.keep([entry.block for entry in entries])
        self._database.executemany(
            _INSERT.format("REPLACE"),
            [(entry.block, number, entry.offset, entry.length) for entry in entries],
        )

    def keep(self, blocks: Sequence[BlockId]) -> None:
        """The place that they are read from is one of their other places from now on."""
        self._database.executemany(KEEP_COPY, [(block,) for block in blocks])

    def repoint(self, number: int, entries: Sequence[PackEntry], old: set[int]) -> None:
        """Let blocks that are read from a pack of `old` be read from pack `number`."""
        for entry in entries if old else ():
            row = self._database.one("SELECT pack FROM blocks WHERE id = ?", entry.block)
            if row is not None and row[0] in old:
                self.keep([entry.block])
                self._database.execute("DELETE FROM copies WHERE id = ? AND pack = ?", (entry.block, number))
                self._database.execute(
                    "UPDATE blocks SET pack = ?, offset = ?, length = ? WHERE id = ?",
                    (number, entry.offset, entry.length, entry.block),
                )

    def read_from(self, block: BlockId, place: BlockLocation) -> None:
        """Read the block from one of its other places, whose pack is not to go then."""
        number = self._packs.number_of(place.pack.id)
        if number is None:  # it has gone meanwhile
            return
        self._database.execute(_INSERT.format("REPLACE"), (block, number, place.offset, place.length))
        self._database.execute("DELETE FROM copies WHERE id = ? AND pack = ?", (block, number))
        self._database.execute(
            "UPDATE packs SET doomed = 0, repair = 1 WHERE number = ? AND doomed", (number,)
        )
