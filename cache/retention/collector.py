"""Finding the blocks that nobody needs, and having the store give their space back.

Invariants (FAULTS 24 and 25; the store's half is in `backend.blocks.compaction`):
1. A block is dead if no live or past row names it, no piece of a dirty file is stored in it, and the newest
   snapshot is not made of it. That is decided with the collection lock held exclusively
   (`cache.publish.shared_exclusive_lock`): nobody holds an answer of `missing` that is not in one of those
   places yet.
2. A row comes to name a block in two ways: by sealing, which shares the lock, or as a copy of a row of a
   point that is retained at that moment. So a block that is found dead stays dead until it is stored anew.
   The store treats it as missing from the same moment on.
3. Past rows go only when the Forget that drops them is published, so every state that the log retains, on
   whatever machine it is rebuilt, has its blocks. Rows that were to go and came back with an older
   database are only true at points that are gone.
4. What is dead is found anew in each run, from the rows. Losing any note of it costs a run, never a block.

Memory: a page of ids, and the dead ones, at most `LIMIT` a run. The rows are walked in a thread, on a
connection of its own, which sees what was saved while the lock was held.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass, field
from typing import Final

import trio

from backend.errors import DriveError
from backend.failpoints import declare
from backend.system import Environment
from backend.upstream import BlockId, Housekeeping
from cache.journal import Ledger, Stored
from cache.namespace import Release, open_database, sqlite_errors
from cache.publish import SharedExclusiveLock, SnapshotStore

MARKED: Final = declare("collector.marked", "the store knows which blocks are dead; no operation says so yet")
RELEASED: Final = declare(
    "collector.released", "operations say which blocks are dead; they are not published"
)

LIMIT: Final = 1 << 18
"""Blocks in one run: a commit may name twice as many as dropped."""
_PAGE: Final = 5000
_IN_ONE_OPERATION: Final = 1000
_NEEDED: Final = (
    "CREATE TEMP TABLE needed AS SELECT block FROM extent UNION SELECT block FROM past_extent"
    " UNION SELECT block FROM temp.kept ORDER BY 1"
)

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Dead:
    """The result of a walk. `lost`: blocks that are needed and that the store does not list."""

    blocks: list[BlockId] = field(default_factory=list)
    lost: int = 0


class NeededBlocks:
    """Each block that a row of the database, or `kept`, names: once, in order; as of the beginning,
    so that no reader of the database is in the way of its checkpoints. Any one thread at a time."""

    def __init__(self, path: str, kept: Iterable[bytes]) -> None:
        self._path = path
        with sqlite_errors(path):
            self._connection = open_database(path, read_only=True)
            self._connection.execute("CREATE TEMP TABLE kept (block BLOB PRIMARY KEY) WITHOUT ROWID")
            self._connection.executemany(
                "INSERT OR IGNORE INTO temp.kept VALUES (?)", ((block,) for block in kept)
            )
            self._connection.execute(_NEEDED)
            self._rows: Iterator[tuple[bytes]] = iter(
                self._connection.execute("SELECT block FROM temp.needed ORDER BY rowid")
            )
        self._next: bytes | None = None
        self._advance()

    def _advance(self) -> None:
        row = next(self._rows, None)
        self._next = None if row is None else row[0]

    def up_to(self, last: bytes) -> set[bytes]:
        """Those that come next, up to and with `last`."""
        found = set()
        with sqlite_errors(self._path):
            while self._next is not None and self._next <= last:
                found.add(self._next)
                self._advance()
        return found

    def some(self, most: int) -> list[bytes]:
        """Up to `most` of those that come next; none: there are no more."""
        found: list[bytes] = []
        with sqlite_errors(self._path):
            while self._next is not None and len(found) < most:
                found.append(self._next)
                self._advance()
        return found

    def close(self) -> None:
        """Let go of the database."""
        self._connection.close()


class Collector:
    """See the module. One run at a time; event-loop thread."""

    def __init__(
        self,
        ledger: Ledger,
        housekeeping: Housekeeping,
        snapshots: SnapshotStore,
        collection_lock: SharedExclusiveLock,
        environment: Environment,
    ) -> None:
        self._ledger = ledger
        self._housekeeping = housekeeping
        self._snapshots = snapshots
        self._collection_lock = collection_lock
        self._failpoints = environment.failpoints

    async def look(self) -> Dead:
        """The blocks that could be released now. Changes nothing."""
        async with self._collection_lock.exclusive():
            return await self._find()

    async def release(self, *, always: bool) -> Dead:
        """Have the store treat what is dead as missing, and say so in operations of the open commit; with
        `always` also if that says nothing new. The caller publishes them. Safe to repeat."""
        async with self._collection_lock.exclusive():
            dead = await self._find()
            new = await self._housekeeping.release(dead.blocks)
            self._failpoints.reached(MARKED)
            if always and not new:
                self._ledger.accept(Release(()))
            for start in range(0, len(new), _IN_ONE_OPERATION):
                self._ledger.accept(Release(tuple(new[start : start + _IN_ONE_OPERATION])))
            self._failpoints.reached(RELEASED)
        return dead

    async def _find(self) -> Dead:
        kept = [*self._in_pieces(), *await self._in_snapshot()]
        self._ledger.save()
        needed = await trio.to_thread.run_sync(NeededBlocks, self._ledger.namespace.path, kept)
        try:
            return await self._compare(needed)
        finally:
            needed.close()

    async def _compare(self, needed: NeededBlocks) -> Dead:
        dead = Dead()
        last = b""
        while (page := await self._housekeeping.stored_blocks(last, _PAGE)) and len(dead.blocks) < LIMIT:
            last = page[-1]
            here = await trio.to_thread.run_sync(needed.up_to, last)
            dead.blocks += [block for block in page if block not in here]
            dead.lost += await self._count_lost(here.difference(page))
        if not page:
            dead.lost += await self._count_lost(await trio.to_thread.run_sync(needed.up_to, b"\xff" * 33))
        del dead.blocks[LIMIT:]
        return dead

    async def _count_lost(self, unlisted: Set[bytes]) -> int:
        """The number of these, which are needed, that the store cannot bring back either. What pieces are
        stored in was given to it: if it does not list that, it waits for room on the nodes."""
        given = set(self._in_pieces()) if unlisted else set()
        blocks = [BlockId(block) for block in unlisted if block not in given]
        await self._housekeeping.revive(blocks)
        return len(blocks) - len(await self._housekeeping.sizes(blocks))

    def _in_pieces(self) -> Iterator[bytes]:
        dirty = self._ledger.dirty
        for _, layer in (*dirty.tops(), *dirty.frozen()):
            yield from (piece.block for piece in layer.pieces if isinstance(piece, Stored))

    async def _in_snapshot(self) -> tuple[bytes, ...]:
        """A snapshot only saves time: one whose root cannot be read now may lose its blocks."""
        try:
            root = await self._snapshots.newest()
        except DriveError as error:
            log.info("the snapshot cannot be read now: %s", error)
            return ()
        return () if root is None else root.blocks
