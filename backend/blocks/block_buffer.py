"""Blocks that were taken and are not stored yet, gathered into packs (bounded memory).

Invariants:
1. A block is in the buffer from `take` until its pack is in the index: it can always be read.
2. Buffered bytes stay within the capacity, except that one block is always let in; `take` waits.
3. A pack's id and bytes are fixed when it is first encoded and kept until it is stored, so that every
   try stores the same fragments (see `backend.packs.pack_store`, invariant 1).
Everything runs on the event loop's thread; no method blocks but those that are async.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import trio

from backend.buffer import Buffer
from backend.errors import DriveError, TransientError
from backend.packs import MAX_BLOCKS, MAX_CONTENT, PACK_ID_SIZE, PackCodec, PackEntry, check_block
from backend.system import Environment
from backend.upstream import BlockId, SealedBlock

FIRST_WAIT: Final = 0.5
LONGEST_WAIT: Final = 30.0
DEFAULT_CAPACITY: Final = 64 * 1024 * 1024
DEFAULT_TARGET: Final = 8 * 1024 * 1024
"""A pack is closed at this size: 6 fsyncs are spread over it, and it encodes at 5.8 GB/s (see
`backend.coding.erasure`; 16 MiB: 3.0)."""

Stored = TypeVar("Stored")

log = logging.getLogger(__name__)


class PendingPack:
    """Blocks that will be one pack. Storing is tried until it succeeds: `begun` counts the tries, `error` is
    that of the last one that failed."""

    def __init__(self, pack_id: bytes) -> None:
        self.id: Final = pack_id
        self.size = 0
        self.begun = 0
        self.error: DriveError | None = None
        self._failed = 0
        """the number of the last try that failed"""
        self.closed: Final = trio.Event()
        self.retry = trio.Event()
        self.is_stored = False
        self.data = b""
        self.opened_at: Final = trio.current_time()
        self._blocks: dict[BlockId, SealedBlock] = {}
        self._entries: dict[BlockId, PackEntry] = {}
        self._changed = trio.Event()

    def add(self, block: SealedBlock) -> None:
        """One block more; the pack must be open."""
        self._blocks[block.id] = block
        self.size += len(block.data)

    def has_room_for(self, block: SealedBlock) -> bool:
        """Whether the format's limits let the block in."""
        return self.size + len(block.data) <= MAX_CONTENT and len(self._blocks) < MAX_BLOCKS

    def ids(self) -> list[BlockId]:
        """Its blocks."""
        return list(self._entries or self._blocks)

    def blocks(self) -> list[SealedBlock]:
        """Its blocks, until `fix` was called."""
        return list(self._blocks.values())

    def entries(self) -> list[PackEntry]:
        """The places of its blocks, once `fix` was called."""
        return list(self._entries.values())

    def read(self, block: BlockId) -> Buffer:
        """One of its blocks."""
        if self.data:
            entry = self._entries[block]
            return self.data[entry.offset : entry.offset + entry.length]
        return self._blocks[block].data

    def encode(self, codec: PackCodec) -> tuple[bytes, list[PackEntry]]:
        """The input of `fix`. Changes nothing; may run in a thread while `read` is called."""
        return codec.encode(self.id, self.blocks())

    def fix(self, data: bytes, entries: list[PackEntry]) -> None:
        """From here on the pack has these bytes; the single blocks are let go of."""
        self._entries = {entry.block: entry for entry in entries}
        self.data = data
        self._blocks = {}

    def note_failure(self, error: DriveError) -> None:
        """The try that is under way failed."""
        self._failed = self.begun
        self.error = error
        self._wake()

    def note_stored(self) -> None:
        """It is durable at write quorum and in the index."""
        self.is_stored = True
        self._wake()

    async def wait_stored(self, begun_before: int) -> None:
        """Return when it is stored; raises the error of a try that was begun after the first `begun_before`:
        one that was under way may have met what is mended by now."""
        while not self.is_stored:
            if self._failed > begun_before and self.error is not None:
                raise self.error.with_traceback(None)
            await self._changed.wait()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


class BlockBuffer:
    """The packs between `take` and `remove`; `next_pack` has one caller."""

    def __init__(self, capacity: int, target: int, environment: Environment) -> None:
        self._capacity = capacity
        self._random_bytes = environment.random_bytes
        self._target = min(target, MAX_CONTENT)
        self._open: PendingPack | None = None
        self._closed: deque[PendingPack] = deque()
        self._packs: dict[bytes, PendingPack] = {}
        self._blocks: dict[BlockId, PendingPack] = {}
        self._size = 0
        self._changed = trio.Event()
        self._room = trio.Event()
        self._failure: DriveError | None = None

    @property
    def size(self) -> int:
        """Bytes of all blocks in it."""
        return self._size

    def __contains__(self, block: BlockId) -> bool:
        return block in self._blocks

    def has_pack(self, pack_id: bytes) -> bool:
        """Whether the pack is still to be stored."""
        return pack_id in self._packs

    def read(self, block: BlockId) -> Buffer | None:
        """The block if it is in the buffer."""
        pack = self._blocks.get(block)
        return None if pack is None else pack.read(block)

    async def wait_for_room(self, length: int) -> None:
        """Return when a block of that length fits. If meanwhile a pack cannot be stored, raise what
        storing raised: whoever waits must not wait for nodes that may be away for days."""
        self._failure = None
        while self._size and self._size + length > self._capacity:
            await self._room.wait()
            if self._failure is not None:
                raise self._failure

    async def keep_trying(
        self, pack: PendingPack, attempt: Callable[[], Awaitable[Stored]], level: int
    ) -> Stored:
        """The result of the first `attempt` to store the pack that does not fail: with growing waits in
        between, at once when `flush` asks. Failures are logged at `level`, and told to those who wait for the
        pack or for room."""
        wait = FIRST_WAIT
        while True:
            pack.begun += 1
            try:
                return await attempt()
            except (DriveError, OSError) as error:
                log.log(level, "%s", error)
                pack.note_failure(error if isinstance(error, DriveError) else TransientError(str(error)))
                self._failure = pack.error
                self._room.set()
                self._room = trio.Event()
            with trio.move_on_after(wait):
                await pack.retry.wait()
            pack.retry = trio.Event()
            wait = min(2 * wait, LONGEST_WAIT)

    async def flush(self) -> None:
        """Return when every block that was taken before is stored; raises what the first try that began after
        the call failed with."""
        self.close_open()
        waits = [(pack, pack.begun) for pack in self._packs.values()]
        for pack, _ in waits:
            pack.retry.set()
        for pack, begun in waits:
            await pack.wait_stored(begun)
        await trio.lowlevel.checkpoint()

    def take(self, block: SealedBlock) -> None:
        """Put the block into the open pack. `ValueError` if the format cannot hold it."""
        check_block(block)
        if self._open is not None and not self._open.has_room_for(block):
            self.close_open()
        pack = self._open or self._open_pack()
        pack.add(block)
        self._blocks[block.id] = pack
        self._size += len(block.data)
        if pack.size >= self._target:
            self.close_open()

    def close_open(self) -> None:
        """Nothing more goes into the open pack: it may be stored."""
        if self._open is not None:
            self._open.closed.set()
            self._closed.append(self._open)
            self._open = None
            self._wake()

    async def next_pack(self, linger: float) -> PendingPack:
        """The next closed pack; one that has been open for `linger` seconds is closed."""
        while not self._closed:
            if self._open is None:
                await self._changed.wait()
            else:
                await self._linger(self._open, linger)
        return self._closed.popleft()

    def remove(self, pack: PendingPack) -> None:
        """The pack is stored and in the index."""
        del self._packs[pack.id]
        for block in pack.ids():
            del self._blocks[block]
        self._size -= pack.size
        self._room.set()
        self._room = trio.Event()
        pack.note_stored()

    async def _linger(self, pack: PendingPack, linger: float) -> None:
        with trio.move_on_at(pack.opened_at + linger):
            await pack.closed.wait()
        if pack is self._open:
            self.close_open()

    def _open_pack(self) -> PendingPack:
        self._open = pack = PendingPack(self._random_bytes(PACK_ID_SIZE))
        self._packs[pack.id] = pack
        self._wake()
        return pack

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
