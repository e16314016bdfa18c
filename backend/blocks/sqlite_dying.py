"""Dying blocks and doomed packs in the SQLite index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from backend.blocks.index_database import IndexDatabase, translated
from backend.blocks.sqlite_packs import PACK_COLUMNS, pack_of
from backend.blocks.sqlite_places import KEEP_COPY, SqlitePlaces
from backend.packs import Pack
from backend.upstream import BlockId

_ABOVE_ALL: Final = b"\xff" * 33
"""A block id has 32 bytes. A condition that is true for NULL too would have all later rows looked at."""


class SqliteDyingBlocks:
    """See `backend.blocks.block_index.DyingBlocks`. A pack that lacks at most `parity` fragments can be
    repaired."""

    def __init__(self, database: IndexDatabase, places: SqlitePlaces, parity: int) -> None:
        self._database = database
        self._places = places
        self._parity = parity

    @translated
    def mark(
        self, after: bytes, up_to: bytes | None, blocks: Sequence[BlockId], now_ns: int
    ) -> list[BlockId]:
        wanted = set(blocks)
        with self._database.transaction():
            end = _ABOVE_ALL if up_to is None else up_to
            rows = self._database.execute("SELECT id FROM dying WHERE id > ? AND id <= ?", (after, end))
            known = {row[0] for row in rows}
            self._database.executemany("DELETE FROM dying WHERE id = ?", [(id,) for id in known - wanted])
            new = [block for block in blocks if block not in known]
            self._database.executemany(
                "INSERT OR IGNORE INTO dying (id, since) VALUES (?, ?)", [(block, now_ns) for block in new]
            )
        return new

    @translated
    def ids(self, after: bytes, limit: int) -> list[BlockId]:
        rows = self._database.execute("SELECT id FROM dying WHERE id > ? ORDER BY id LIMIT ?", (after, limit))
        return [BlockId(row[0]) for row in rows]

    @translated
    def forget(self, until_ns: int, limit: int) -> int:
        with self._database.transaction():
            rows = self._database.execute(
                "DELETE FROM dying WHERE id IN (SELECT id FROM dying WHERE since <= ? LIMIT ?) RETURNING id",
                (until_ns, limit),
            ).fetchall()
            self._database.executemany(KEEP_COPY, rows)
            self._database.executemany("DELETE FROM blocks WHERE id = ?", rows)
        return len(rows)

    @translated
    def revive(self, blocks: Sequence[BlockId]) -> None:
        if self._database.one("SELECT 1 FROM dying UNION ALL SELECT 1 FROM copies LIMIT 1") is None:
            return
        with self._database.transaction():
            for block in blocks:
                self._database.execute("DELETE FROM dying WHERE id = ?", (block,))
                if self._database.one("SELECT 1 FROM blocks WHERE id = ?", block) is None:
                    for place in self._places.others(block)[:1]:
                        self._places.read_from(block, place)

    @translated
    def doom(self, pack_ids: Sequence[bytes]) -> list[Pack]:
        doomed = []
        with self._database.transaction():
            for pack_id in pack_ids:
                row = self._database.one(f"SELECT {PACK_COLUMNS}, repair FROM packs WHERE id = ?", pack_id)
                if row is not None and not (row[5] and row[4].bit_count() <= self._parity):
                    self._database.execute("UPDATE packs SET doomed = 1 WHERE id = ?", (pack_id,))
                    doomed.append(pack_of(row[:5]))
        return doomed

    @translated
    def doomed(self) -> list[Pack]:
        rows = self._database.execute(f"SELECT {PACK_COLUMNS} FROM packs WHERE doomed")
        return [pack_of(row) for row in rows]

    @translated
    def is_doomed(self, pack_id: bytes) -> bool:
        row = self._database.one("SELECT doomed FROM packs WHERE id = ?", pack_id)
        return row is None or bool(row[0])

    @translated
    def remove_pack(self, pack_id: bytes) -> None:
        with self._database.transaction():
            row = self._database.one("DELETE FROM packs WHERE id = ? AND doomed RETURNING number", pack_id)
            if row is not None:
                self._database.execute("DELETE FROM copies WHERE pack = ?", row)
                self._database.execute("DELETE FROM tags WHERE pack = ?", row)
