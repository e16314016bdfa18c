"""The dedup index: which block lies where in which pack, and which packs want repair (SQLite).

Invariants:
1. It holds nothing that the packs on the nodes do not say: it can be thrown away and rebuilt (I4).
2. It is never ahead of the nodes: a pack is added only after its fragments are durable. It may be behind
   (synchronous=NORMAL in WAL mode can lose the last transactions in a power cut, never tear one);
   reconciliation at the next start finds the packs it forgot, and that a pack it knows is deleted.
3. An index that changed at rest since it was closed is refused (`backend.system.at_rest`).
4. Used by one thread, the event loop's: every operation is a few look-ups by key or one short
   transaction. Only `rebuild` and `reconcile` walk it, pack by pack.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any, Final, ParamSpec, TypeVar

import apsw

from backend import file_limit
from backend.errors import CorruptError, FormatError, NoSpaceError, NotFoundError, TransientError
from backend.packs import Pack, PackEntry
from backend.system import at_rest
from backend.upstream import BlockId, Shortfall

APPLICATION_ID: Final = 0x44464258
VERSION: Final = 3

_SCHEMA: Final = f"""
CREATE TABLE drive (
    id BLOB NOT NULL            -- the 16-byte id of the drive whose packs these are; one row
) STRICT;
CREATE TABLE packs (
    number INTEGER PRIMARY KEY, -- local and short, for `blocks.pack`; means nothing elsewhere
    id BLOB NOT NULL UNIQUE,    -- the 16-byte random pack id
    size INTEGER NOT NULL,      -- bytes of the pack, before erasure coding
    stored INTEGER NOT NULL,    -- bytes of all its fragments with parity and footers
    nodes TEXT NOT NULL,        -- node names joined by '/': fragment i belongs on the i-th
    missing INTEGER NOT NULL,   -- bit i is set: fragment i is known not to be on its node, or to be wrong
    repair INTEGER NOT NULL,    -- 1: look at every fragment and write the missing and wrong ones anew
    blocks INTEGER NOT NULL,    -- how many blocks its index lists
    block_bytes INTEGER NOT NULL, -- their lengths together
    doomed INTEGER NOT NULL DEFAULT 0 -- 1: nothing is read from it any more, its fragments are to be deleted
) STRICT;
CREATE INDEX packs_to_repair ON packs (number) WHERE repair;
CREATE INDEX packs_doomed ON packs (number) WHERE doomed;
CREATE TABLE dying (            -- stored blocks that nothing refers to: no write may rely on them
    id BLOB PRIMARY KEY,
    since INTEGER NOT NULL      -- ns since 1970
) STRICT, WITHOUT ROWID;
CREATE TABLE blocks (
    id BLOB PRIMARY KEY,        -- the 32-byte block id
    pack INTEGER NOT NULL REFERENCES packs (number), -- the pack that it is read from
    offset INTEGER NOT NULL,    -- of its first byte in the pack
    length INTEGER NOT NULL     -- of the sealed block in bytes
) STRICT, WITHOUT ROWID;
CREATE TABLE copies (           -- where blocks lie too: those that are read from another pack, and those that
    id BLOB NOT NULL,           -- nobody needed when they were forgotten; as long as the pack is there
    pack INTEGER NOT NULL REFERENCES packs (number),
    offset INTEGER NOT NULL,
    length INTEGER NOT NULL,
    PRIMARY KEY (id, pack)
) STRICT, WITHOUT ROWID;
CREATE INDEX copies_in_pack ON copies (pack);
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {VERSION};
"""
LOCATED: Final = 16_384
"""Locations that are kept in memory (4 MB at most): of a gigabyte that is read, or of so many small files."""
_PACK_COLUMNS: Final = "packs.id, packs.size, packs.stored, packs.nodes, packs.missing"
_INSERT: Final = "INSERT OR {} INTO blocks (id, pack, offset, length) VALUES (?, ?, ?, ?)"
_KEEP_COPY: Final = (
    "INSERT OR REPLACE INTO copies (id, pack, offset, length)"
    " SELECT id, pack, offset, length FROM blocks WHERE id = ?"
)
"""of where the block is read from, before that changes"""
_NOTE_COPY: Final = (
    "INSERT OR IGNORE INTO copies (id, pack, offset, length)"
    " SELECT ?1, ?2, ?3, ?4 WHERE EXISTS (SELECT 1 FROM blocks WHERE id = ?1)"
)

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class BlockLocation:
    """Where a block is read from."""

    pack: Pack
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class IndexStatistics:
    """Sums over all packs. A block listed by two packs counts twice in `block_bytes`."""

    blocks: int
    block_bytes: int
    packs: int
    stored_bytes: int
    packs_to_repair: int


def _translated(method: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """SQLite's errors as this project's."""

    @wraps(method)
    def wrapper(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        try:
            return method(*args, **kwargs)
        except apsw.FullError as error:
            raise NoSpaceError("the block index cannot grow: the cache directory's disk is full") from error
        except (apsw.CorruptError, apsw.NotADBError) as error:
            raise CorruptError("the block index is damaged: remove blocks.db, it is rebuilt") from error
        except apsw.IOError as error:
            raise TransientError(f"the block index cannot be used: {error}{file_limit.hint()}") from error
        except (apsw.BusyError, apsw.CantOpenError) as error:
            raise TransientError(f"the block index cannot be used: {error}") from error

    return wrapper


def _make_private(path: str) -> None:
    try:
        at_rest.make_private(path)
    except NotFoundError as error:
        raise TransientError(f"the block index cannot be used: {error}") from error


class BlockIndex:
    """All methods may raise `NoSpaceError`, `CorruptError` (rebuild it) or `TransientError` (local I/O)."""

    @_translated
    def __init__(self, path: str, drive_id: bytes) -> None:
        """Opens or creates the database at `path` (":memory:" for tests). `FormatError` if it is of
        another drive or version: nothing was changed; remove it, it can be rebuilt."""
        self._parity = 32
        self._located: dict[BlockId, BlockLocation] = {}
        self._packs_located: dict[int, Pack] = {}
        """the packs of these, by their number"""
        self._located_at = 0
        """what the database had counted as changes when these were looked up"""
        self._path = "" if path == ":memory:" else path
        if self._path and at_rest.is_damaged(path):
            raise CorruptError("the block index changed since it was closed: remove blocks.db, it is rebuilt")
        if self._path:
            _make_private(path)
        self._database = apsw.Connection(path)
        # As in the namespace: no statement is compiled anew for a bound value.
        self._database.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)
        try:
            self._open(drive_id)
            if self._path:
                at_rest.unseal(path)
        except BaseException:
            self._database.close()
            raise

    def set_parity(self, fragments: int) -> None:
        """How many fragments of a pack may be missing before its blocks do not count as stored."""
        self._parity = fragments

    @_translated
    def close(self) -> None:
        """Idempotent."""
        self._database.close()
        path, self._path = self._path, ""
        if path:
            at_rest.seal(path)

    @_translated
    def has(self, block: BlockId) -> bool:
        """Whether a write may rely on the block: it is stored and not dying, and no more fragments of its
        pack are known to be missing than parity makes up for. Not while something of the pack was found
        wrong and nobody has looked yet which fragments it is."""
        row = self._one(
            "SELECT packs.missing, packs.repair FROM blocks JOIN packs ON packs.number = blocks.pack"
            " WHERE blocks.id = ?1 AND NOT EXISTS (SELECT 1 FROM dying WHERE dying.id = ?1)",
            block,
        )
        if row is None:
            return False
        missing, repair = row
        return missing.bit_count() <= self._parity if missing else not repair

    @_translated
    def locate(self, block: BlockId) -> BlockLocation | None:
        """Where to read the block; None if it is not stored."""
        changes = self._database.total_changes()
        if changes != self._located_at or len(self._located) >= LOCATED:
            self._located, self._packs_located, self._located_at = {}, {}, changes
        location = self._located.get(block) or self._look_up(block)
        if location is not None:
            self._located[block] = location
        return location

    def _look_up(self, block: BlockId) -> BlockLocation | None:
        # Two statements, as many blocks have their pack in common.
        row = self._one("SELECT pack, offset, length FROM blocks WHERE id = ?", block)
        pack = None if row is None else self._packs_located.get(row[0]) or self._numbered(row[0])
        if row is None or pack is None:
            return None
        self._packs_located[row[0]] = pack
        return BlockLocation(pack, row[1], row[2])

    def _numbered(self, number: int) -> Pack | None:
        row = self._one(f"SELECT {_PACK_COLUMNS} FROM packs WHERE number = ?", number)
        return None if row is None else _pack(row)

    @_translated
    def add_pack(self, pack: Pack, entries: Sequence[PackEntry]) -> None:
        """In one transaction. A pack that is there already is left alone, and so is a block that another
        pack holds already, unless that one lacks more fragments. Missing fragments make the pack wanted
        for repair."""
        with self._transaction():
            number = self._insert_pack(pack, entries)
            if number is not None:
                rows = [(entry.block, number, entry.offset, entry.length) for entry in entries]
                self._database.executemany(_NOTE_COPY, rows)
                self._database.executemany(_INSERT.format("IGNORE"), rows)
                self._repoint(number, entries, self._worse_than(pack.missing))

    @_translated
    def add_restored(self, pack: Pack, entries: Sequence[PackEntry]) -> None:
        """As `add_pack`, of blocks that were given anew just now: those that were dying live, and all
        are read from this pack, however good another copy seems."""
        with self._transaction():
            number = self._insert_pack(pack, entries)
            if number is not None:
                self._database.executemany("DELETE FROM dying WHERE id = ?", [(e.block,) for e in entries])
                self._database.executemany(_KEEP_COPY, [(entry.block,) for entry in entries])
                self._database.executemany(
                    _INSERT.format("REPLACE"),
                    [(entry.block, number, entry.offset, entry.length) for entry in entries],
                )

    @_translated
    def move(self, pack: Pack, entries: Sequence[PackEntry], old: Sequence[bytes]) -> None:
        """In one transaction: `pack` is stored, and its blocks that were read from the packs `old` are read
        from it."""
        with self._transaction():
            self._insert_pack(pack, entries)
            row = self._one("SELECT number FROM packs WHERE id = ?", pack.id)
            numbers = {self._one("SELECT number FROM packs WHERE id = ?", pack_id) for pack_id in old}
            if row is not None:
                self._repoint(row[0], entries, {number[0] for number in numbers if number is not None})

    @_translated
    def other_places(self, block: BlockId) -> list[BlockLocation]:
        """Where else the block lies, the packs that lack least first; also one that was forgotten."""
        rows = self._database.execute(
            f"SELECT offset, length, {_PACK_COLUMNS} FROM copies JOIN packs ON packs.number = copies.pack"
            " WHERE copies.id = ?",
            (block,),
        )
        found = [BlockLocation(_pack(row[2:]), row[0], row[1]) for row in rows]
        return sorted(found, key=lambda place: place.pack.missing.bit_count())

    @_translated
    def read_from(self, block: BlockId, place: BlockLocation) -> None:
        """From now on the block is read from another of its places, whose pack is not to go."""
        with self._transaction():
            self._database.execute(_KEEP_COPY, (block,))
            self._read_from(block, place)

    @_translated
    def drop_place(self, block: BlockId) -> bool:
        """The block is not what it should be where it is read from. Whether it lies elsewhere too: then it is
        read from there, and this place is forgotten; else all stays as it is."""
        places = self.other_places(block)
        if places:
            with self._transaction():
                self._read_from(block, places[0])
        return bool(places)

    def _read_from(self, block: BlockId, place: BlockLocation) -> None:
        (number,) = self._one("SELECT number FROM packs WHERE id = ?", place.pack.id) or (None,)
        self._database.execute(_INSERT.format("REPLACE"), (block, number, place.offset, place.length))
        self._database.execute("DELETE FROM copies WHERE id = ? AND pack = ?", (block, number))
        self._database.execute(
            "UPDATE packs SET doomed = 0, repair = 1 WHERE number = ? AND doomed", (number,)
        )

    @_translated
    def revive(self, blocks: Sequence[BlockId]) -> None:
        """Somebody needs these: none of them is dying or forgotten any more, as far as its pack is there, nor
        is that doomed. Idempotent."""
        if self._one("SELECT 1 FROM dying UNION ALL SELECT 1 FROM copies LIMIT 1") is None:
            return
        with self._transaction():
            for block in blocks:
                self._database.execute("DELETE FROM dying WHERE id = ?", (block,))
                if self._one("SELECT 1 FROM blocks WHERE id = ?", block) is None:
                    for place in self.other_places(block)[:1]:
                        self._read_from(block, place)

    @_translated
    def pack(self, pack_id: bytes) -> Pack | None:
        """The pack of that id."""
        row = self._one(f"SELECT {_PACK_COLUMNS} FROM packs WHERE id = ?", pack_id)
        return None if row is None else _pack(row)

    @_translated
    def pack_ids(self) -> set[bytes]:
        """The ids of all packs."""
        return {row[0] for row in self._database.execute("SELECT id FROM packs")}

    @_translated
    def packs_after(self, pack_id: bytes, limit: int) -> list[Pack]:
        """Up to `limit` packs with ids above `pack_id` (b"": from the first), by id: to walk all of them
        while others come and go. Without those that are doomed."""
        rows = self._database.execute(
            f"SELECT {_PACK_COLUMNS} FROM packs WHERE id > ? AND NOT doomed ORDER BY id LIMIT ?",
            (pack_id, limit),
        )
        return [_pack(row) for row in rows]

    @_translated
    def blocks_of(self, pack_id: bytes) -> list[PackEntry]:
        """The blocks that are read from the pack, in its order. Walks the index: for checks only."""
        rows = self._database.execute(
            "SELECT blocks.id, offset, length FROM blocks JOIN packs ON packs.number = blocks.pack"
            " WHERE packs.id = ? ORDER BY offset",
            (pack_id,),
        )
        return [PackEntry(*row) for row in rows]

    @_translated
    def locations(self, after: bytes, limit: int) -> list[tuple[BlockId, bytes, int, int]]:
        """Up to `limit` blocks with ids above `after`, by id: block, pack id, offset, length."""
        rows = self._database.execute(
            "SELECT blocks.id, packs.id, offset, length FROM blocks JOIN packs ON packs.number = blocks.pack"
            " WHERE blocks.id > ? ORDER BY blocks.id LIMIT ?",
            (after, limit),
        )
        return [(BlockId(row[0]), row[1], row[2], row[3]) for row in rows]

    @_translated
    def packs_to_repair(self, limit: int, skip: int = 0) -> list[Pack]:
        """Up to `limit` packs that want repair, in the order in which they were added, after `skip`."""
        rows = self._database.execute(
            f"SELECT {_PACK_COLUMNS} FROM packs WHERE repair AND NOT doomed ORDER BY number LIMIT ? OFFSET ?",
            (limit, skip),
        )
        return [_pack(row) for row in rows]

    @_translated
    def newest_number(self) -> int:
        """Of the pack that was added last, for `shortfall`."""
        row = self._one("SELECT max(number) FROM packs")
        return 0 if row is None or row[0] is None else int(row[0])

    @_translated
    def to_be_repaired(self, up_to: int) -> Shortfall:
        """What repair has to do, of the packs that were there when `newest_number` gave `up_to`. Without
        those that are beyond parity: nothing relies on them."""
        rows = self._database.execute(
            "SELECT nodes, missing, repair, count(*) FROM packs WHERE repair AND NOT doomed AND number <= ?"
            " GROUP BY nodes, missing",
            (up_to,),
        )
        return self._shortfall(rows, None)

    @_translated
    def shortfall(self, up_to: int, answering: Collection[str]) -> Shortfall:
        """As `to_be_repaired`; and what lies on a node that is not one of the `answering` counts as lacking
        there, however many nodes these are. Looks at every pack."""
        rows = self._database.execute(
            "SELECT nodes, missing, repair, count(*) FROM packs WHERE NOT doomed AND number <= ?"
            " GROUP BY nodes, missing, repair",
            (up_to,),
        )
        return self._shortfall(rows, answering)

    def _shortfall(self, rows: Iterable[Sequence[Any]], answering: Collection[str] | None) -> Shortfall:
        count, names = 0, set()
        for nodes, missing, repair, packs in rows:
            if missing.bit_count() > self._parity:
                continue
            lacking = {
                name
                for at, name in enumerate(nodes.split("/"))
                if missing >> at & 1 or (answering is not None and name not in answering)
            }
            count += packs if repair or lacking else 0
            names |= lacking
        return Shortfall(count, tuple(sorted(names)))

    @_translated
    def want_repair(self, pack_id: bytes, missing: int = 0) -> None:
        """Queue the pack for repair; the fragments of the bits in `missing` are known to be bad."""
        self._database.execute(
            "UPDATE packs SET repair = 1, missing = missing | ? WHERE id = ?", (missing, pack_id)
        )

    @_translated
    def set_missing(self, pack_id: bytes, missing: int) -> None:
        """What a repair or a late write found: the pack wants repair only if bits are left."""
        self._database.execute(
            "UPDATE packs SET missing = ?1, repair = ?1 != 0 WHERE id = ?2", (missing, pack_id)
        )

    @_translated
    def set_settled(self, pack_id: bytes, nodes: Sequence[str], missing: int) -> None:
        """As `set_missing`, when the last fragments of a new pack lie on `nodes` or have failed."""
        self._database.execute(
            "UPDATE packs SET nodes = ?1, missing = ?2, repair = ?2 != 0 WHERE id = ?3",
            ("/".join(nodes), missing, pack_id),
        )

    @_translated
    def set_nodes(self, pack_id: bytes, nodes: Sequence[str]) -> None:
        """The pack's fragments were found to lie on these nodes."""
        self._database.execute("UPDATE packs SET nodes = ? WHERE id = ?", ("/".join(nodes), pack_id))

    @_translated
    def clear(self) -> None:
        """Forget everything (before a rebuild)."""
        with self._transaction():
            for table in ("blocks", "copies", "dying", "packs"):
                self._database.execute(f"DELETE FROM {table}")

    @_translated
    def ids_after(self, after: bytes, limit: int) -> list[BlockId]:
        """Up to `limit` blocks with ids above `after`, by id; dying ones too."""
        rows = self._database.execute(
            "SELECT id FROM blocks WHERE id > ? ORDER BY id LIMIT ?", (after, limit)
        )
        return [BlockId(row[0]) for row in rows]

    @_translated
    def length(self, block: BlockId) -> int | None:
        """Bytes of the sealed block; None if it is not stored."""
        row = self._one("SELECT length FROM blocks WHERE id = ?", block)
        return None if row is None else int(row[0])

    @_translated
    def set_dying(self, blocks: Sequence[BlockId], now_ns: int) -> list[BlockId]:
        """Exactly these stored blocks are dying from now on, those that were already since then; the new
        ones among them. In one transaction."""
        wanted = set(blocks)
        with self._transaction():
            known = {row[0] for row in self._database.execute("SELECT id FROM dying")}
            self._database.executemany("DELETE FROM dying WHERE id = ?", [(id,) for id in known - wanted])
            new = [block for block in blocks if block not in known]
            self._database.executemany(
                "INSERT OR IGNORE INTO dying (id, since) VALUES (?, ?)", [(block, now_ns) for block in new]
            )
        return new

    @_translated
    def forget_dying(self, until_ns: int, limit: int) -> int:
        """Forget up to `limit` blocks that have been dying since before `until_ns`: nothing is read from
        where they lie any more, unless somebody brings them back (`revive`). How many there were."""
        with self._transaction():
            rows = self._database.execute(
                "DELETE FROM dying WHERE id IN (SELECT id FROM dying WHERE since <= ? LIMIT ?) RETURNING id",
                (until_ns, limit),
            ).fetchall()
            self._database.executemany(_KEEP_COPY, rows)
            self._database.executemany("DELETE FROM blocks WHERE id = ?", rows)
        return len(rows)

    @_translated
    def count_dying(self) -> int:
        """How many blocks are dying."""
        row = self._one("SELECT count(*) FROM dying")
        return 0 if row is None else int(row[0])

    @_translated
    def doom(self, pack_ids: Sequence[bytes]) -> list[Pack]:
        """Nothing is read from these packs: their fragments may be deleted. Leaves alone, and leaves out, a
        pack that a repair may be writing: queued for it, and with enough fragments for it to succeed."""
        doomed = []
        with self._transaction():
            for pack_id in pack_ids:
                row = self._one(f"SELECT {_PACK_COLUMNS}, repair FROM packs WHERE id = ?", pack_id)
                if row is not None and not (row[5] and row[4].bit_count() <= self._parity):
                    self._database.execute("UPDATE packs SET doomed = 1 WHERE id = ?", (pack_id,))
                    doomed.append(_pack(row[:5]))
        return doomed

    @_translated
    def doomed(self) -> list[Pack]:
        """The packs whose fragments are to be deleted."""
        rows = self._database.execute(f"SELECT {_PACK_COLUMNS} FROM packs WHERE doomed")
        return [_pack(row) for row in rows]

    @_translated
    def is_doomed(self, pack_id: bytes) -> bool:
        """Whether the pack is doomed, or not known (any more)."""
        row = self._one("SELECT doomed FROM packs WHERE id = ?", pack_id)
        return row is None or bool(row[0])

    @_translated
    def remove_pack(self, pack_id: bytes) -> None:
        """The doomed pack's fragments are gone."""
        with self._transaction():
            row = self._one("DELETE FROM packs WHERE id = ? AND doomed RETURNING number", pack_id)
            if row is not None:
                self._database.execute("DELETE FROM copies WHERE pack = ?", row)

    @_translated
    def statistics(self) -> IndexStatistics:
        """Sums over the packs; walks packs, not blocks."""
        row = self._one(
            "SELECT total(blocks), total(block_bytes), count(*), total(stored),"
            " total(repair AND NOT doomed) FROM packs"
        )
        return IndexStatistics(*map(int, row or (0, 0, 0, 0, 0)))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or nothing. Not apsw's own context manager: SQLite ends a transaction by itself when the
        disk is full, and the savepoint's rollback would then hide that error behind its own."""
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise

    def _open(self, drive_id: bytes) -> None:
        for pragma in (
            "locking_mode = EXCLUSIVE",
            "journal_mode = WAL",
            "synchronous = NORMAL",
            "trusted_schema = OFF",
            "mmap_size = 0",
        ):
            self._database.execute(f"PRAGMA {pragma}")
        if self._one("SELECT 1 FROM sqlite_schema") is None:
            with self._transaction():
                self._database.execute(_SCHEMA)
                self._database.execute("INSERT INTO drive (id) VALUES (?)", (drive_id,))
        self._check(drive_id)

    def _check(self, drive_id: bytes) -> None:
        application, version = self._one("PRAGMA application_id"), self._one("PRAGMA user_version")
        if application != (APPLICATION_ID,) or version != (VERSION,):
            raise FormatError(f"blocks.db is no block index of version {VERSION}: remove it, it is rebuilt")
        if self._one("SELECT id FROM drive") != (drive_id,):
            raise FormatError("blocks.db is the index of another drive: remove it, it is rebuilt")

    def _worse_than(self, missing: int) -> set[int]:
        """The packs that lack more fragments than one that lacks the bits of `missing`."""
        rows = self._database.execute("SELECT number, missing FROM packs WHERE missing != 0")
        return {number for number, lacking in rows if lacking.bit_count() > missing.bit_count()}

    def _repoint(self, number: int, entries: Sequence[PackEntry], old: set[int]) -> None:
        """Let blocks that are read from a pack of `old` be read from pack `number`."""
        for entry in entries if old else ():
            row = self._one("SELECT pack FROM blocks WHERE id = ?", entry.block)
            if row is not None and row[0] in old:
                self._database.execute(_KEEP_COPY, (entry.block,))
                self._database.execute("DELETE FROM copies WHERE id = ? AND pack = ?", (entry.block, number))
                self._database.execute(
                    "UPDATE blocks SET pack = ?, offset = ?, length = ? WHERE id = ?",
                    (number, entry.offset, entry.length, entry.block),
                )

    def _insert_pack(self, pack: Pack, entries: Sequence[PackEntry]) -> int | None:
        row = self._one(
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

    def _one(self, query: str, *values: bytes | int | str) -> tuple[Any, ...] | None:
        row: tuple[Any, ...] | None = self._database.execute(query, values).fetchone()
        return row


def _pack(row: Sequence[Any]) -> Pack:
    return Pack(row[0], row[1], row[2], tuple(row[3].split("/")), row[4])
