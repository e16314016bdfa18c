"""The table of packs in the SQLite index: all packs, and those to repair."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

from backend.blocks.block_index import IndexStatistics
from backend.blocks.index_database import IndexDatabase, translated
from backend.packs import Pack, PackEntry
from backend.upstream import Shortfall

PACK_COLUMNS: Final = "packs.id, packs.size, packs.stored, packs.nodes, packs.missing"


class SqlitePackTable:
    """See `backend.blocks.block_index.PackTable`. With more than `parity` missing fragments a pack's blocks
    do not count as stored."""

    def __init__(self, database: IndexDatabase, parity: int) -> None:
        self._database = database
        self._parity = parity

    @translated
    def get(self, pack_id: bytes) -> Pack | None:
        row = self._database.one(f"SELECT {PACK_COLUMNS} FROM packs WHERE id = ?", pack_id)
        return None if row is None else pack_of(row)

    @translated
    def ids(self, after: bytes, limit: int) -> list[bytes]:
        rows = self._database.execute("SELECT id FROM packs WHERE id > ? ORDER BY id LIMIT ?", (after, limit))
        return [row[0] for row in rows]

    @translated
    def after(self, pack_id: bytes, limit: int) -> list[Pack]:
        rows = self._database.execute(
            f"SELECT {PACK_COLUMNS} FROM packs WHERE id > ? AND NOT doomed ORDER BY id LIMIT ?",
            (pack_id, limit),
        )
        return [pack_of(row) for row in rows]

    @translated
    def to_repair(self, limit: int, skip: int = 0) -> list[Pack]:
        rows = self._database.execute(
            f"SELECT {PACK_COLUMNS} FROM packs WHERE repair AND NOT doomed ORDER BY number LIMIT ? OFFSET ?",
            (limit, skip),
        )
        return [pack_of(row) for row in rows]

    @translated
    def newest_number(self) -> int:
        row = self._database.one("SELECT max(number) FROM packs")
        return 0 if row is None or row[0] is None else int(row[0])

    @translated
    def any_repairable(self, after: int, up_to: int, answering: Collection[str]) -> bool:
        rows: list[tuple[Any, ...]] = self._database.execute(
            "SELECT DISTINCT nodes, missing FROM packs WHERE repair AND NOT doomed"
            " AND number > ? AND number <= ?",
            (after, up_to),
        ).fetchall()
        return any(
            not missing or not _lacking(nodes, missing).isdisjoint(answering)
            for nodes, missing in rows
            if missing.bit_count() <= self._parity
        )

    @translated
    def shortfall(self, after: int, up_to: int, answering: Collection[str]) -> Shortfall:
        rows = self._database.execute(
            "SELECT nodes, missing, repair, count(*) FROM packs WHERE NOT doomed"
            " AND number > ? AND number <= ? GROUP BY nodes, missing, repair",
            (after, up_to),
        )
        count, names = 0, set[str]()
        for nodes, missing, repair, packs in rows:
            if missing.bit_count() <= self._parity:
                lacking = _lacking(nodes, missing) | set(nodes.split("/")).difference(answering)
                count += packs if repair or lacking else 0
                names |= lacking
        return Shortfall(count, tuple(sorted(names)))

    @translated
    def want_repair(self, pack_id: bytes, missing: int = 0) -> None:
        self._database.execute(
            "UPDATE packs SET repair = 1, missing = missing | ? WHERE id = ?", (missing, pack_id)
        )

    @translated
    def set_missing(self, pack_id: bytes, missing: int) -> None:
        self._database.execute(
            "UPDATE packs SET missing = ?1, repair = ?1 != 0 WHERE id = ?2", (missing, pack_id)
        )

    @translated
    def set_written(self, pack_id: bytes, nodes: Sequence[str], missing: int) -> None:
        self._database.execute(
            "UPDATE packs SET nodes = ?1, missing = ?2, repair = ?2 != 0 WHERE id = ?3",
            ("/".join(nodes), missing, pack_id),
        )

    @translated
    def set_nodes(self, pack_id: bytes, nodes: Sequence[str]) -> None:
        self._database.execute("UPDATE packs SET nodes = ? WHERE id = ?", ("/".join(nodes), pack_id))

    @translated
    def tag(self, pack_id: bytes, index: int) -> str:
        row = self._database.one(
            "SELECT tag FROM tags JOIN packs ON number = pack WHERE id = ? AND fragment = ?", pack_id, index
        )
        return "" if row is None else str(row[0])

    @translated
    def note_tag(self, pack_id: bytes, index: int, tag: str) -> None:
        self._database.execute(
            "INSERT OR REPLACE INTO tags SELECT number, ?, ? FROM packs WHERE id = ?", (index, tag, pack_id)
        )

    @translated
    def statistics(self, after: int, up_to: int) -> IndexStatistics:
        row = self._database.one(
            "SELECT total(blocks), total(block_bytes), count(*), total(stored),"
            " total(repair AND NOT doomed) FROM packs WHERE number > ? AND number <= ?",
            after,
            up_to,
        )
        return IndexStatistics(*map(int, row or ()))

    # Within a transaction of the index

    def insert(self, pack: Pack, entries: Sequence[PackEntry]) -> int | None:
        """Its number; None if it is there already."""
        row = self._database.one(
            "INSERT OR IGNORE INTO packs (id, size, stored, nodes, missing, repair, blocks, block_bytes)"
            " VALUES (?1, ?2, ?3, ?4, ?5, ?5 != 0, ?6, ?7) RETURNING number",
            pack.id,
            pack.size,
            pack.stored_size,
            "/".join(pack.nodes),
            pack.missing,
            len(entries),
            sum(entry.length for entry in entries),
        )
        return None if row is None else row[0]

    def numbered(self, number: int) -> Pack | None:
        """The pack of that number."""
        row = self._database.one(f"SELECT {PACK_COLUMNS} FROM packs WHERE number = ?", number)
        return None if row is None else pack_of(row)

    def number_of(self, pack_id: bytes) -> int | None:
        """The pack's number."""
        row = self._database.one("SELECT number FROM packs WHERE id = ?", pack_id)
        return None if row is None else int(row[0])


def _lacking(nodes: str, missing: int) -> set[str]:
    """The nodes of the fragments that are known to be missing."""
    return {name for at, name in enumerate(nodes.split("/")) if missing >> at & 1}


def pack_of(row: Sequence[Any]) -> Pack:
    """The pack in a row of `PACK_COLUMNS`."""
    return Pack(row[0], row[1], row[2], tuple(row[3].split("/")), row[4])
