"""A block store with a disk cache of sealed blocks before it: for nodes that are far away.

Invariants:
1. A whole block that does not authenticate is not kept: `get_block_again` removes it, also if it comes from
   the store and still waits to be written, and asks the store. A part that does not is passed over: its
   reader asks for the whole, which stands before all parts from then on.
2. The cache makes no call fail that the store would have answered, and none wait for longer than `PATIENCE`:
   an error of its disk, or that it hangs, is said once, and the cache rests for `REST` seconds. What comes
   faster than its disk takes is not kept.
3. Blocks that are put are kept too: what was just written is what is read next, also after a restart.
4. Calls that wait for the disk are made in their order, many in one turn of a thread. The one that fails and
   those behind it in the turn have no answer.
5. Tasks belong to the nursery inside `run`; cancelling it loses only what was not kept yet. Nothing is
   written after its end, but by a disk that hangs.

Used on the event loop's thread; the calls of the disk cache run in threads.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from threading import Lock
from typing import Final, TypeVar

import trio

from backend.buffer import Buffer
from backend.system import Threads
from backend.upstream import BlockId, BlockPart, BlockStore, SealedBlock
from cache.disk.disk_cache import DiskCache
from cache.messages import DiskCacheStatus

MOST_WAITING: Final = 16 << 20
"""Bytes that may wait for the cache's disk."""
LOOK_EVERY: Final = 5.0
"""Seconds between two looks at the room that is left on the disk."""
REST: Final = 60.0
PATIENCE: Final = 5.0
"""Seconds that a reader waits for the cache's disk, which may hang, at most."""

END_PATIENCE: Final = 1.0
"""Seconds that the end waits for the call under way, at most: the folder may be somebody else's then."""

TURN: Final = 1 << 20
"""Bytes after which a thread that writes what waits ends its turn, so that a rest or an end is not far."""

Result = TypeVar("Result")

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Waiting:
    """A call that waits for its turn, of `size` bytes; and its answer when it is `done`."""

    size: int
    call: Callable[[], object]
    done: trio.Event = field(default_factory=trio.Event)
    answer: object = None


def _nothing(_block: BlockId) -> None:
    """Of a store that keeps no blocks in memory."""


class CachedBlocks:
    """See the module, and `backend.upstream.BlockStore`. `at_hand`: the block whole if the store has it in
    memory; the disk is not asked for that, which takes a thread's turn."""

    def __init__(
        self,
        store: BlockStore,
        disk: DiskCache,
        at_hand: Callable[[BlockId], Buffer | None] = _nothing,
    ) -> None:
        self._store = store
        self._disk = disk
        self._at_hand = at_hand
        self._threads = Threads(4)
        self._waiting: deque[_Waiting] = deque()
        self._waiting_bytes = 0
        self._has_ended = False
        self._in_turn = Lock()
        self._some_wait = trio.Event()
        self._resting_until = 0.0
        self._used = 0
        self._hits = 0
        self._misses = 0

    def status(self) -> DiskCacheStatus:
        """Bytes as of the last look, a few seconds ago."""
        return DiskCacheStatus(limit=self._disk.limit, bytes=self._used, hits=self._hits, misses=self._misses)

    async def missing(self, ids: Iterable[BlockId]) -> set[BlockId]:
        return await self._store.missing(ids)

    async def put_blocks(self, blocks: Sequence[SealedBlock]) -> None:
        await self._store.put_blocks(blocks)
        for block in blocks:
            self._keep(len(block.data), partial(self._disk.write, block.id, block.data))

    async def flush(self) -> None:
        await self._store.flush()

    async def get_block(self, block: BlockId) -> Buffer:
        data = self._at_hand(block)
        if data is None:
            found = await self._look(partial(self._disk.read, block))
            if found is not None:
                return found
            data = await self._store.get_block(block)
        self._keep(len(data), partial(self._disk.write, block, data))
        return data

    async def get_here(self, blocks: Sequence[BlockId]) -> dict[BlockId, bytes]:
        """Those of the blocks that this machine's disk has whole, read in one turn of a thread; not all if
        that is much, or takes long."""
        found = await self._try(partial(self._disk.read_all, blocks), PATIENCE) or {}
        self._hits += len(found)
        return found

    async def get_block_part(self, block: BlockId, offset: int, length: int) -> BlockPart:
        whole = self._at_hand(block)
        if whole is not None:
            self._keep(len(whole), partial(self._disk.write, block, whole))
            return BlockPart(whole[offset : offset + length], len(whole))
        found = await self._look(partial(self._disk.read_part, block, offset, length))
        if found is not None:
            return found
        part = await self._store.get_block_part(block, offset, length)
        if part.data:
            self._keep(len(part.data), partial(self._disk.write_part, block, offset, length, part))
        return part

    async def get_block_again(self, block: BlockId) -> bytes:
        drop = partial(self._disk.drop, block)
        await self._try(drop, PATIENCE)
        self._wait(_Waiting(0, drop))  # it may still wait to be written
        return await self._store.get_block_again(block)

    async def report_wrong(self, block: BlockId) -> bool:
        return await self._store.report_wrong(block)

    async def keep(self, block: BlockId, sealed: Buffer) -> bool | None:
        """Keep the block until it is released; whether the disk has room for it, None if that cannot be used
        now. `sealed` was authenticated. `run` must be running: what was put and dropped before comes
        first."""
        waiting = self._wait(_Waiting(len(sealed), partial(self._disk.keep, block, sealed)))
        await waiting.done.wait()
        return None if waiting.answer is None else waiting.answer is True

    async def kept(self) -> set[BlockId] | None:
        """The blocks that are kept and here; None if the disk does not say."""
        return await self._try(self._disk.kept)

    async def release(self, blocks: Iterable[BlockId]) -> None:
        """Keep these no more."""
        await self._try(partial(self._disk.release, blocks))

    @property
    def given_up(self) -> int:
        """As of `DiskCache`."""
        return self._disk.given_up

    async def run(self) -> None:
        """Write what is to be kept, and give way when the disk fills, until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write_waiting)
                nursery.start_soon(self._look_at_disk)
        finally:
            self._has_ended = True
            with trio.move_on_after(END_PATIENCE, shield=True):
                await self._threads.run(self._wait_for_turn)

    async def _look(self, read: Callable[[], Result | None]) -> Result | None:
        found = await self._try(read, PATIENCE)
        if found is None:
            self._misses += 1
        else:
            self._hits += 1
        return found

    def _keep(self, size: int, write: Callable[[], object]) -> None:
        if self._waiting_bytes + size <= MOST_WAITING and not self._is_resting():
            self._wait(_Waiting(size, write))

    def _wait(self, waiting: _Waiting) -> _Waiting:
        self._waiting.append(waiting)
        self._waiting_bytes += waiting.size
        self._some_wait.set()
        return waiting

    async def _write_waiting(self) -> None:
        while True:
            await self._some_wait.wait()
            self._some_wait = trio.Event()
            while self._waiting:
                turn = self._next_turn()
                await self._try(partial(self._call_all, turn))
                for waiting in turn:
                    self._waiting_bytes -= waiting.size
                    waiting.done.set()

    def _next_turn(self) -> list[_Waiting]:
        """The calls that wait first, as many as one turn takes, and one at least."""
        turn = [self._waiting.popleft()]
        size = turn[0].size
        while self._waiting and size < TURN:
            turn.append(self._waiting.popleft())
            size += turn[-1].size
        return turn

    async def _look_at_disk(self) -> None:
        while True:
            await self._try(self._disk.give_way)
            self._used = await self._try(self._disk.used) or 0
            await trio.sleep(LOOK_EVERY)

    async def _try(self, call: Callable[[], Result], patience: float = math.inf) -> Result | None:
        """None if the disk cannot be used now, or does not answer within so many seconds."""
        if self._is_resting():
            return None
        try:
            with trio.fail_after(patience):
                return await self._threads.run(call)
        except OSError as error:
            self._rest(str(error))
        except trio.TooSlowError:
            self._rest(f"no answer within {patience:g} s")
        return None

    def _rest(self, reason: str) -> None:
        if not self._is_resting():  # of several calls at once the first says it
            log.warning("the disk cache cannot be used for %d s: %s", REST, reason)
            self._resting_until = trio.current_time() + REST

    def _is_resting(self) -> bool:
        return trio.current_time() < self._resting_until

    def _wait_for_turn(self) -> None:
        """Return when no call is under way, and none will be. Blocks, for `END_PATIENCE` at most."""
        if self._in_turn.acquire(timeout=END_PATIENCE):
            self._in_turn.release()

    def _call_all(self, turn: list[_Waiting]) -> None:
        """Call one after the other, and note their answers, until one raises, or the end. Blocks."""
        with self._in_turn:
            for waiting in turn:
                if self._has_ended:
                    return
                waiting.answer = waiting.call()
