"""A block index in memory for tests: what the SQLite one does, said as plainly as can be."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from backend.blocks.block_index import BlockLocation, IndexStatistics
from backend.packs.pack import Pack
from backend.packs.pack_format import PackEntry
from backend.upstream import BlockId, Shortfall


@dataclass
class Row:
    number: int
    pack: Pack
    repair: bool
    entries: Sequence[PackEntry]
    doomed: bool = False
    tags: dict[int, str] = field(default_factory=dict)

    def lacking(self) -> set[str]:
        return {name for at, name in enumerate(self.pack.nodes) if self.pack.missing >> at & 1}


@dataclass
class Place:
    pack: bytes
    offset: int
    length: int


@dataclass
class Tables:
    packs: dict[bytes, Row] = field(default_factory=dict)
    read_from: dict[BlockId, Place] = field(default_factory=dict)
    copies: dict[BlockId, dict[bytes, Place]] = field(default_factory=dict)
    dying: dict[BlockId, int] = field(default_factory=dict)

    def keep_copy(self, block: BlockId) -> None:
        if block in self.read_from:
            place = self.read_from[block]
            self.copies.setdefault(block, {})[place.pack] = place

    def point(self, block: BlockId, place: Place) -> None:
        self.read_from[block] = place
        self.copies.get(block, {}).pop(place.pack, None)

    def others(self, block: BlockId) -> list[BlockLocation]:
        found = [(self.packs[place.pack], place) for place in self.copies.get(block, {}).values()]
        found.sort(key=lambda each: (each[0].pack.missing.bit_count(), each[0].number))
        return [BlockLocation(row.pack, place.offset, place.length) for row, place in found]

    def read_instead(self, block: BlockId, place: BlockLocation) -> None:
        row = self.packs.get(place.pack.id)
        if row is not None:
            self.point(block, Place(place.pack.id, place.offset, place.length))
            if row.doomed:
                row.doomed, row.repair = False, True


class MemoryPackTable:
    """See `backend.blocks.block_index.PackTable`."""

    def __init__(self, tables: Tables, parity: int) -> None:
        self._tables = tables
        self._parity = parity

    def _rows(self, after: int = 0, up_to: float = math.inf) -> list[Row]:
        found = (row for row in self._tables.packs.values() if after < row.number <= up_to)
        return sorted(found, key=lambda row: row.number)

    def get(self, pack_id: bytes) -> Pack | None:
        row = self._tables.packs.get(pack_id)
        return None if row is None else row.pack

    def ids(self, after: bytes, limit: int) -> list[bytes]:
        return sorted(pack_id for pack_id in self._tables.packs if pack_id > after)[:limit]

    def after(self, pack_id: bytes, limit: int) -> list[Pack]:
        found = (row.pack for row in self._rows() if row.pack.id > pack_id and not row.doomed)
        return sorted(found, key=lambda pack: pack.id)[:limit]

    def to_repair(self, limit: int, skip: int = 0) -> list[Pack]:
        return [row.pack for row in self._rows() if row.repair and not row.doomed][skip : skip + limit]

    def newest_number(self) -> int:
        return max((row.number for row in self._rows()), default=0)

    def any_repairable(self, after: int, up_to: int, answering: Collection[str]) -> bool:
        return any(
            row.repair and (not row.pack.missing or any(name in answering for name in row.lacking()))
            for row in self._relied_on(after, up_to)
        )

    def _relied_on(self, after: int, up_to: int) -> list[Row]:
        found = self._rows(after, up_to)
        return [row for row in found if not row.doomed and row.pack.missing.bit_count() <= self._parity]

    def shortfall(self, after: int, up_to: int, answering: Collection[str]) -> Shortfall:
        count, names = 0, set[str]()
        for row in self._relied_on(after, up_to):
            lacking = row.lacking() | {name for name in row.pack.nodes if name not in answering}
            count += bool(row.repair or lacking)
            names |= lacking
        return Shortfall(count, tuple(sorted(names)))

    def want_repair(self, pack_id: bytes, missing: int = 0) -> None:
        row = self._tables.packs.get(pack_id)
        if row is not None:
            row.pack, row.repair = replace(row.pack, missing=row.pack.missing | missing), True

    def set_missing(self, pack_id: bytes, missing: int) -> None:
        row = self._tables.packs.get(pack_id)
        if row is not None:
            row.pack, row.repair = replace(row.pack, missing=missing), missing != 0

    def set_written(self, pack_id: bytes, nodes: Sequence[str], missing: int) -> None:
        self.set_nodes(pack_id, nodes)
        self.set_missing(pack_id, missing)

    def set_nodes(self, pack_id: bytes, nodes: Sequence[str]) -> None:
        row = self._tables.packs.get(pack_id)
        if row is not None:
            row.pack = replace(row.pack, nodes=tuple(nodes))

    def tag(self, pack_id: bytes, index: int) -> str:
        row = self._tables.packs.get(pack_id)
        return "" if row is None else row.tags.get(index, "")

    def note_tag(self, pack_id: bytes, index: int, tag: str) -> None:
        row = self._tables.packs.get(pack_id)
        if row is not None:
            row.tags[index] = tag

    def statistics(self, after: int, up_to: int) -> IndexStatistics:
        rows = self._rows(after, up_to)
        entries = [entry for row in rows for entry in row.entries]
        return IndexStatistics(
            len(entries),
            sum(entry.length for entry in entries),
            len(rows),
            sum(row.pack.stored_size for row in rows),
            sum(row.repair and not row.doomed for row in rows),
        )


class MemoryDyingBlocks:
    """See `backend.blocks.block_index.DyingBlocks`."""

    def __init__(self, tables: Tables, parity: int) -> None:
        self._tables = tables
        self._parity = parity

    def mark(
        self, after: bytes, up_to: bytes | None, blocks: Sequence[BlockId], now_ns: int
    ) -> list[BlockId]:
        before = self._tables.dying
        kept = {
            block: since
            for block, since in before.items()
            if block <= after or (up_to is not None and block > up_to)
        }
        self._tables.dying = kept | {block: before.get(block, now_ns) for block in blocks}
        return [block for block in blocks if block not in before]

    def ids(self, after: bytes, limit: int) -> list[BlockId]:
        return sorted(block for block in self._tables.dying if block > after)[:limit]

    def forget(self, until_ns: int, limit: int) -> int:
        due = sorted(block for block, since in self._tables.dying.items() if since <= until_ns)[:limit]
        for block in due:
            del self._tables.dying[block]
            self._tables.keep_copy(block)
            self._tables.read_from.pop(block, None)
        return len(due)

    def revive(self, blocks: Sequence[BlockId]) -> None:
        for block in blocks:
            self._tables.dying.pop(block, None)
            if block not in self._tables.read_from:
                for place in self._tables.others(block)[:1]:
                    self._tables.read_instead(block, place)

    def doom(self, pack_ids: Sequence[bytes]) -> list[Pack]:
        doomed = []
        for row in filter(None, map(self._tables.packs.get, pack_ids)):
            if not (row.repair and row.pack.missing.bit_count() <= self._parity):
                row.doomed = True
                doomed.append(row.pack)
        return doomed

    def doomed(self) -> list[Pack]:
        return [row.pack for row in self._tables.packs.values() if row.doomed]

    def is_doomed(self, pack_id: bytes) -> bool:
        row = self._tables.packs.get(pack_id)
        return row is None or row.doomed

    def remove_pack(self, pack_id: bytes) -> None:
        if pack_id in self._tables.packs and self._tables.packs[pack_id].doomed:
            del self._tables.packs[pack_id]
            for copies in self._tables.copies.values():
                copies.pop(pack_id, None)


class MemoryBlockIndex:
    """See `backend.blocks.block_index.BlockIndex`."""

    def __init__(self, parity: int) -> None:
        self._parity = parity
        self._tables = Tables()
        self.packs = MemoryPackTable(self._tables, parity)
        self.dying = MemoryDyingBlocks(self._tables, parity)

    def has(self, block: BlockId) -> bool:
        place = self._tables.read_from.get(block)
        if place is None or block in self._tables.dying:
            return False
        row = self._tables.packs[place.pack]
        missing = row.pack.missing
        return missing.bit_count() <= self._parity if missing else not row.repair

    def locate(self, block: BlockId) -> BlockLocation | None:
        place = self._tables.read_from.get(block)
        if place is None:
            return None
        return BlockLocation(self._tables.packs[place.pack].pack, place.offset, place.length)

    def add_pack(self, pack: Pack, entries: Sequence[PackEntry]) -> None:
        if not self._insert(pack, entries):
            return
        for entry in entries:
            now = self._tables.read_from.get(entry.block)
            place = Place(pack.id, entry.offset, entry.length)
            if now is None:
                self._tables.read_from[entry.block] = place
            elif self._lacks(now.pack) > pack.missing.bit_count():
                self._tables.keep_copy(entry.block)
                self._tables.point(entry.block, place)
            else:
                self._tables.copies.setdefault(entry.block, {})[pack.id] = place

    def add_restored(self, pack: Pack, entries: Sequence[PackEntry]) -> None:
        if not self._insert(pack, entries):
            return
        for entry in entries:
            self._tables.dying.pop(entry.block, None)
            self._tables.keep_copy(entry.block)
            self._tables.read_from[entry.block] = Place(pack.id, entry.offset, entry.length)

    def move(self, pack: Pack, entries: Sequence[PackEntry], old: Sequence[bytes]) -> None:
        self._insert(pack, entries)
        for entry in entries:
            now = self._tables.read_from.get(entry.block)
            if now is not None and now.pack in old and now.pack in self._tables.packs:
                self._tables.keep_copy(entry.block)
                self._tables.point(entry.block, Place(pack.id, entry.offset, entry.length))

    def _insert(self, pack: Pack, entries: Sequence[PackEntry]) -> bool:
        if pack.id in self._tables.packs:
            return False
        number = self.packs.newest_number() + 1
        self._tables.packs[pack.id] = Row(number, pack, pack.missing != 0, entries)
        return True

    def _lacks(self, pack_id: bytes) -> int:
        return self._tables.packs[pack_id].pack.missing.bit_count()

    def other_places(self, block: BlockId) -> list[BlockLocation]:
        return self._tables.others(block)

    def read_from(self, block: BlockId, place: BlockLocation) -> None:
        self._tables.keep_copy(block)
        self._tables.read_instead(block, place)

    def drop_place(self, block: BlockId) -> bool:
        places = self._tables.others(block)
        if places:
            self._tables.read_instead(block, places[0])
        return bool(places)

    def blocks_of(self, pack_id: bytes) -> list[PackEntry]:
        found = [
            PackEntry(block, place.offset, place.length)
            for block, place in self._tables.read_from.items()
            if place.pack == pack_id
        ]
        return sorted(found, key=lambda entry: entry.offset)

    def locations(self, after: bytes, limit: int) -> list[tuple[BlockId, bytes, int, int]]:
        found = ((block, self._tables.read_from[block]) for block in self.ids_after(after, limit))
        return [(block, place.pack, place.offset, place.length) for block, place in found]

    def ids_after(self, after: bytes, limit: int) -> list[BlockId]:
        return sorted(block for block in self._tables.read_from if block > after)[:limit]

    def length(self, block: BlockId) -> int | None:
        place = self._tables.read_from.get(block)
        return None if place is None else place.length

    def close(self) -> None:
        """Nothing is held."""
