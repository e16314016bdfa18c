"""The block cache: plaintext blocks in memory, fetched and opened on demand.

Invariants:
1. A block is in the cache only after its tag was verified: whoever gets bytes gets the right ones.
2. A block that several readers want at once is fetched once.
3. The cache holds at most `limit` bytes of plaintext, except for one block larger than that.
4. A block that does not authenticate is asked for again from fragments whose checksums hold; only
   if that fails too is it an error.

Used on the event-loop thread; decryption runs in threads.
"""

from __future__ import annotations

from collections import OrderedDict

import trio

from backend.errors import CorruptError, FormatError
from backend.upstream import BlockId, Upstream
from cache.block_codec import BlockCodec

INLINE = 64 << 10
"""Sealed blocks up to this size are opened on the loop: a thread hop would cost more."""


class _Fetch:
    """One fetch under way, and those who wait for it."""

    __slots__ = ("done", "plaintext")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.plaintext: bytes | None = None


class BlockCache:
    """See the module."""

    def __init__(
        self, upstream: Upstream, codec: BlockCodec, limit: int, limiter: trio.CapacityLimiter
    ) -> None:
        self._upstream = upstream
        self._codec = codec
        self._limit = limit
        self._limiter = limiter
        self._blocks: OrderedDict[bytes, bytes] = OrderedDict()
        self._fetches: dict[bytes, _Fetch] = {}
        self.used = 0
        self.hits = 0
        self.misses = 0

    def get_cached(self, block: bytes) -> bytes | None:
        """The plaintext if it is in memory."""
        plaintext = self._blocks.get(block)
        if plaintext is not None:
            self._blocks.move_to_end(block)
            self.hits += 1
        return plaintext

    def wanted(self, block: bytes) -> bool:
        """Whether reading ahead should fetch it."""
        return block not in self._blocks and block not in self._fetches

    async def get(self, block: bytes) -> bytes:
        """The plaintext. `UnavailableError`, `CorruptError`, `NotFoundError`, `TransientError`."""
        plaintext = self.get_cached(block)
        if plaintext is not None:
            return plaintext
        fetch = self._fetches.get(block)
        if fetch is None:
            return await self._fetch(block)
        await fetch.done.wait()
        # If the other reader failed or was cancelled, this one finds out for itself.
        return fetch.plaintext if fetch.plaintext is not None else await self.get(block)

    async def _fetch(self, block: bytes) -> bytes:
        self.misses += 1
        fetch = self._fetches[block] = _Fetch()
        try:
            fetch.plaintext = await self._fetch_and_open(BlockId(block))
            self._keep(block, fetch.plaintext)
            return fetch.plaintext
        finally:
            del self._fetches[block]
            fetch.done.set()

    async def _fetch_and_open(self, block: BlockId) -> bytes:
        sealed = await self._upstream.get_block(block)
        try:
            return await self._open(block, sealed)
        except (CorruptError, FormatError):
            sealed = await self._upstream.get_block_again(block)
            return await self._open(block, sealed)

    async def _open(self, block: BlockId, sealed: bytes) -> bytes:
        if len(sealed) <= INLINE:
            return self._codec.open(block, sealed)
        return await trio.to_thread.run_sync(self._codec.open, block, sealed, limiter=self._limiter)

    def _keep(self, block: bytes, plaintext: bytes) -> None:
        if block in self._blocks:
            return
        self._blocks[block] = plaintext
        self.used += len(plaintext)
        while self.used > self._limit and len(self._blocks) > 1:
            _, dropped = self._blocks.popitem(last=False)
            self.used -= len(dropped)

    def clear(self) -> None:
        """Forget all blocks (after the drive changed from outside, and in tests)."""
        self._blocks.clear()
        self.used = 0
