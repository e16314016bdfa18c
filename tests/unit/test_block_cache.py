"""The block cache: bounded, one fetch for many readers, errors are each reader's own."""

from __future__ import annotations

import pytest
import trio

from backend.errors import NotFoundError
from backend.upstream import BlockId
from cache.block_cache import BlockCache
from cache.block_codec import BlockCodec
from tests.memory_upstream import MemoryUpstream

CODEC = BlockCodec(bytes(16), b"i" * 32, b"k" * 32)


class Counting(MemoryUpstream):
    fetches = 0

    async def get_block(self, block: BlockId) -> bytes:
        self.fetches += 1
        return await super().get_block(block)


async def put(upstream: MemoryUpstream, *contents: bytes) -> list[BlockId]:
    blocks = [CODEC.seal(CODEC.block_id(data), data) for data in contents]
    await upstream.put_blocks(blocks)
    await upstream.flush()
    return [block.id for block in blocks]


def make(upstream: MemoryUpstream, limit: int = 1000) -> BlockCache:
    return BlockCache(upstream, CODEC, limit, trio.CapacityLimiter(2))


async def test_many_readers_one_fetch() -> None:
    upstream = Counting()
    (block,) = await put(upstream, b"content")
    cache = make(upstream)
    found: list[bytes] = []

    async def read() -> None:
        found.append(await cache.get(block))

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(read)
    assert found == [b"content"] * 10
    assert upstream.fetches == 1
    assert not cache.wanted(block)


async def test_the_least_used_go_first() -> None:
    upstream = Counting()
    blocks = await put(upstream, *(bytes([number]) * 400 for number in range(4)))
    cache = make(upstream)
    for block in (blocks[0], blocks[1], blocks[0], blocks[2]):
        await cache.get(block)
    assert cache.used == 800
    assert [cache.get_cached(block) is None for block in blocks] == [False, True, False, True]
    cache.clear()
    assert cache.used == 0


async def test_a_failed_fetch_is_tried_again() -> None:
    upstream = Counting()
    cache = make(upstream)
    block = CODEC.block_id(b"late")
    for _ in range(2):
        with pytest.raises(NotFoundError):
            await cache.get(block)
    await put(upstream, b"late")
    assert await cache.get(block) == b"late"


async def test_a_cancelled_reader_does_not_harm_the_others() -> None:
    upstream = Counting()
    (block,) = await put(upstream, b"content")
    cache = make(upstream)
    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            scope.cancel()
            await cache.get(block)
        nursery.start_soon(cache.get, block)
    assert cache.get_cached(block) == b"content"
