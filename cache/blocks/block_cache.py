"""The block cache: plaintext blocks in memory, fetched and opened on demand, whole or in part.

Invariants:
1. A block is in the cache only after its tag was verified: whoever gets bytes gets the right ones.
2. A block that several readers want whole at once is fetched once. If that fails, all of them have its error:
   to wait for a store that does not answer takes no longer for many than for one.
3. The cache holds at most `limit` bytes of plaintext, except for one block larger than that. What it
   holds of a block is the whole, or single segments.
4. A block that does not authenticate is asked for again from fragments whose checksums hold; only
   if that fails too is it an error.
5. A block that another device sealed under a key epoch which this one has not followed yet is read: the log
   is asked for the epoch, and nobody waits until it is followed.

Used on the event-loop thread; large blocks are opened in threads.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial

import trio

from backend.buffer import Buffer
from backend.errors import CorruptError, FormatError, UnknownEpochError
from backend.system import checkpoint
from backend.upstream import BlockId, BlockStore
from cache.blocks.block_codec import SEGMENT, BlockCodec, BlockHeader, header_of_uncompressed, sealed_range

INLINE = 2 << 20
"""Sealed bytes up to this size are opened on the loop, in less than a millisecond if they are not compressed.
In a thread they take longer, as it has to get the interpreter back after each segment."""
_UNDIVIDED = 16_384
_OPENED_IN_TURN = 8
"""After so many blocks that are opened one after the other all other tasks have a turn."""
_JUDGED_BY = 2048
"""Of so many blocks that were brought it is remembered how many were in vain; of those before ever less."""
_MOST_PLACES = 16
"""So many places are tried for one block: a store that knows no keys may name ever more."""


Here = Callable[[Sequence[BlockId]], Awaitable[Mapping[BlockId, Buffer]]]
"""Those of the blocks that are at hand, sealed. Unchecked."""


async def _nobody_else() -> None:
    """Of a drive that no other device writes while it is read."""


class _Fetch:
    """One fetch under way, and those who wait for it."""

    __slots__ = ("done", "failure", "plaintext")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.failure: Exception | None = None
        self.plaintext: Buffer | None = None


class BlockCache:
    """See the module. `learn_ahead`: have the ring of `codec` learn the key epochs that are to be
    followed."""

    def __init__(
        self,
        store: BlockStore,
        codec: BlockCodec,
        limit: int,
        limiter: trio.CapacityLimiter,
        learn_ahead: Callable[[], Awaitable[None]] = _nobody_else,
    ) -> None:
        self._store = store
        self._codec = codec
        self._limit = limit
        self._limiter = limiter
        self._learn_ahead = learn_ahead
        self._blocks: OrderedDict[bytes, Buffer] = OrderedDict()
        self._undivided: OrderedDict[bytes, None] = OrderedDict()
        """blocks whose parts did not open alone when they were asked for: most are compressed"""
        self._fetches: dict[bytes, _Fetch] = {}
        self._unasked: set[bytes] = set()
        """blocks that were brought, and that nobody has asked for"""
        self._brought = 0
        self._in_vain = 0
        self.used = 0
        self.hits = 0
        self.misses = 0

    def get_cached(self, block: bytes) -> Buffer | None:
        """The plaintext if it is in memory whole."""
        return self._lookup(block)

    def get_cached_part(self, block: bytes, start: int, end: int) -> memoryview | None:
        """The bytes [start, end) of the plaintext if they are in memory, in the whole or in one segment."""
        whole = self._lookup(block)
        if whole is not None:
            return memoryview(whole)[start:end]
        number, inside = divmod(start, SEGMENT)
        if inside + end - start > SEGMENT:
            return None
        segment = self._lookup(_segment_key(block, number))
        return None if segment is None else memoryview(segment)[inside : inside + end - start]

    def wanted(self, block: bytes) -> bool:
        """Whether reading ahead should fetch it."""
        return block not in self._blocks and block not in self._fetches

    async def get(self, block: bytes) -> Buffer:
        """The plaintext. `UnavailableError`, `CorruptError`, `NotFoundError`, `TransientError`."""
        plaintext = self.get_cached(block)
        if plaintext is not None:
            return plaintext
        fetch = self._fetches.get(block)
        if fetch is None:
            return await self._fetch(block)
        await fetch.done.wait()
        if fetch.failure is not None:
            raise fetch.failure
        # If the other reader was cancelled, this one finds out for itself.
        return fetch.plaintext if fetch.plaintext is not None else await self.get(block)

    async def warm(self, blocks: Iterable[BlockId], here: Here) -> None:
        """Bring those of the blocks into memory that `here` has and that open. Who wants one meanwhile waits
        for that, and fetches it himself if it did not come."""
        fetches = self._begin(filter(self.wanted, blocks))
        try:
            for number, (block, sealed) in enumerate((await here([*fetches])).items(), 1):
                with suppress(CorruptError, FormatError):
                    fetches[block].plaintext = plaintext = await self._open_now(block, sealed)
                    self._keep(block, plaintext)
                    self._note_brought(block)
                self._end(block, fetches.pop(block))
                if not number % _OPENED_IN_TURN:
                    await checkpoint()
        finally:
            for block, fetch in fetches.items():
                self._end(block, fetch)

    def brings_in_vain(self) -> bool:
        """Whether most of what `warm` brought lately was pushed out of memory before anybody asked for it."""
        return 2 * self._in_vain > self._brought

    def _note_brought(self, block: bytes) -> None:
        self._unasked.add(block)
        self._brought += 1
        if self._brought >= _JUDGED_BY:
            self._brought, self._in_vain = self._brought // 2, self._in_vain // 2

    def _begin(self, blocks: Iterable[BlockId]) -> dict[BlockId, _Fetch]:
        fetches: dict[BlockId, _Fetch] = {}
        for block in blocks:
            self._fetches[block] = fetches[block] = _Fetch()
        return fetches

    def _end(self, block: bytes, fetch: _Fetch) -> None:
        del self._fetches[block]
        fetch.done.set()

    async def get_part(self, block: bytes, start: int, end: int) -> memoryview:
        """The bytes [start, end) of the plaintext, which must be in it, without fetching the rest of a block
        that is sealed in segments. Raises what `get` raises."""
        cached = self.get_cached_part(block, start, end)
        if cached is not None:
            return cached
        if block not in self._fetches and block not in self._undivided:
            found = await self._fetch_part(BlockId(block), start, end)
            if found is not None:
                return found
            self._note_undivided(block)
        return memoryview(await self.get(block))[start:end]

    async def _fetch_part(self, block: BlockId, start: int, end: int) -> memoryview | None:
        """None if the block has to be fetched whole: it is compressed, or not what it should be. That it is
        not compressed is tried, not asked: the header would be a second read of the disk."""
        first, last = start // SEGMENT, (end - 1) // SEGMENT
        self.misses += 1
        try:
            part = await self._store.get_block_part(block, *sealed_range(first, last))
            header = header_of_uncompressed(part.size)
            if header is None or end > header.length:
                return None
            plaintext = await self._open_segments(block, header, first, last, part.data)
        except (CorruptError, FormatError):
            return None
        for number in range(first, last + 1):
            at = (number - first) * SEGMENT
            one = plaintext if first == last else plaintext[at : at + SEGMENT]
            self._keep(_segment_key(block, number), one)
        return memoryview(plaintext)[start - first * SEGMENT : end - first * SEGMENT]

    def _note_undivided(self, block: bytes) -> None:
        self._undivided[block] = None
        if len(self._undivided) > _UNDIVIDED:
            self._undivided.popitem(last=False)

    async def _open_segments(
        self, block: BlockId, header: BlockHeader, first: int, last: int, sealed: Buffer
    ) -> Buffer:
        length = min((last + 1) * SEGMENT, header.length) - first * SEGMENT
        if len(sealed) <= INLINE:
            return self._codec.open_segments(block, header, first, sealed, length)
        call = partial(self._codec.open_segments, block, header, first, sealed, length)
        return await trio.to_thread.run_sync(call, limiter=self._limiter)

    async def _fetch(self, block: bytes) -> Buffer:
        self.misses += 1
        fetch = self._fetches[block] = _Fetch()
        try:
            _, fetch.plaintext = await fetch_right(self._store, self._open, BlockId(block))
            self._keep(block, fetch.plaintext)
            return fetch.plaintext
        except Exception as error:
            fetch.failure = error
            raise
        finally:
            self._end(block, fetch)

    async def sealed(self, block: BlockId) -> Buffer:
        """The block as it is stored; it was opened, and nothing of it is kept here. Raises what `get`
        raises."""
        sealed, _ = await fetch_right(self._store, self._open, block)
        return sealed

    async def _open(self, block: BlockId, sealed: Buffer) -> Buffer:
        try:
            return await self._open_now(block, sealed)
        except UnknownEpochError as error:
            try:
                await self._learn_ahead()
            except CorruptError as damage:  # of the log: this block may be right
                raise error from damage
        return await self._open_now(block, sealed)

    async def _open_now(self, block: BlockId, sealed: Buffer) -> Buffer:
        if len(sealed) <= INLINE:
            return self._codec.open(block, sealed)
        return await trio.to_thread.run_sync(self._codec.open, block, sealed, limiter=self._limiter)

    def _lookup(self, key: bytes) -> Buffer | None:
        plaintext = self._blocks.get(key)
        if plaintext is not None:
            self._blocks.move_to_end(key)
            self._unasked.discard(key)
            self.hits += 1
        return plaintext

    def _keep(self, key: bytes, plaintext: Buffer) -> None:
        if key in self._blocks:
            return
        self._blocks[key] = plaintext
        self.used += len(plaintext)
        while self.used > self._limit and len(self._blocks) > 1:
            gone, dropped = self._blocks.popitem(last=False)
            self.used -= len(dropped)
            if gone in self._unasked:
                self._unasked.remove(gone)
                self._in_vain += 1

    def clear(self) -> None:
        """Forget all blocks, and which of them are compressed (after the drive changed from outside, and in
        tests): the next read of each is like the first."""
        self._blocks.clear()
        self._unasked.clear()
        self._undivided.clear()
        self.used = 0


async def fetch_right(
    store: BlockStore, open_: Callable[[BlockId, Buffer], Awaitable[Buffer]], block: BlockId
) -> tuple[Buffer, Buffer]:
    """The block, sealed and opened by `open_`, from one copy after the other until one is the block.
    `UnavailableError`, `CorruptError`, `NotFoundError`, `TransientError`."""
    sealed = await store.get_block(block)
    try:
        return sealed, await open_(block, sealed)
    except (CorruptError, FormatError):
        return await _fetch_again(store, open_, block)


async def _fetch_again(
    store: BlockStore, open_: Callable[[BlockId, Buffer], Awaitable[Buffer]], block: BlockId
) -> tuple[Buffer, Buffer]:
    for _ in range(_MOST_PLACES):
        sealed = await store.get_block_again(block)
        try:
            return sealed, await open_(block, sealed)
        except UnknownEpochError:  # others wrote it, under one that is still to be followed
            raise
        except (CorruptError, FormatError):
            if not await store.report_wrong(block):
                raise
    raise CorruptError(f"block {block.hex()[:16]}: {_MOST_PLACES} places have other bytes")


def _segment_key(block: bytes, number: int) -> bytes:
    return block + number.to_bytes(4, "little")
