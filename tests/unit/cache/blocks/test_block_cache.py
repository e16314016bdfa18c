"""The block cache: bounded, one fetch for many readers, an error is theirs and of no later one."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from backend.buffer import Buffer
from backend.errors import CorruptError, FormatError, NotFoundError, UnknownEpochError
from backend.upstream import BlockId, BlockPart
from cache.blocks.block_cache import BlockCache
from cache.blocks.block_codec import HEADER, SEALED_SEGMENT, SEGMENT, BlockCodec
from tests.contents import content
from tests.key_rings import add_epochs, ring_of
from tests.memory_upstream import MemoryUpstream

CODEC = BlockCodec(b"i" * 32, ring_of())


class Counting(MemoryUpstream):
    fetches = 0

    async def get_block(self, block: BlockId) -> bytes:
        self.fetches += 1
        await trio.lowlevel.checkpoint()
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
    found: list[Buffer] = []

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


async def test_all_who_wait_for_a_fetch_that_fails_have_its_error() -> None:
    upstream = Counting()
    cache = make(upstream)
    block = CODEC.block_id(b"late")

    async def read() -> None:
        with pytest.raises(NotFoundError):
            await cache.get(block)

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(read)
    assert upstream.fetches == 1
    await put(upstream, b"late")
    assert await cache.get(block) == b"late"


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


class Here:
    """Blocks at hand, which come when `answers` is set."""

    def __init__(self, sealed: dict[BlockId, bytes]) -> None:
        self.sealed = sealed
        self.answers = trio.Event()

    async def __call__(self, blocks: Sequence[BlockId]) -> dict[BlockId, bytes]:
        await self.answers.wait()
        return {block: self.sealed[block] for block in blocks if block in self.sealed}


@pytest.mark.parametrize("comes", ["right", "wrong", "cut", "nothing", "cancelled"])
async def test_who_wants_a_block_that_is_being_brought_waits_for_it(comes: str) -> None:
    """And fetches it himself if that did not bring it."""
    upstream = Counting()
    blocks = await put(upstream, *(bytes([number]) * 400 for number in range(20)))
    cache, here = make(upstream, 1 << 20), Here(dict(upstream.stored))
    if comes == "nothing":
        here.sealed.clear()
    for block, sealed in here.sealed.items():
        wrong = {"wrong": sealed[:-1] + bytes([sealed[-1] ^ 1]), "cut": sealed[:9]}
        here.sealed[block] = wrong.get(comes, sealed)
    found: dict[BlockId, bytes] = {}

    async def read(block: BlockId) -> None:
        found[block] = bytes(await cache.get(block))

    async def bring() -> None:
        with scope:
            await cache.warm(blocks, here)

    scope = trio.CancelScope()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bring)
        await trio.testing.wait_all_tasks_blocked()
        for block in blocks:
            nursery.start_soon(read, block)
        await trio.testing.wait_all_tasks_blocked()
        assert upstream.fetches == 0
        if comes == "cancelled":
            scope.cancel()
        else:
            here.answers.set()
    assert found == {block: bytes([number]) * 400 for number, block in enumerate(blocks)}
    assert upstream.fetches == (0 if comes == "right" else len(blocks))
    assert not any(map(cache.wanted, blocks))


class Recording(MemoryUpstream):
    """Notes what was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[int, int] | str] = []

    async def get_block(self, block: BlockId) -> bytes:
        self.asked.append("whole")
        return await super().get_block(block)

    async def get_block_part(self, block: BlockId, offset: int, length: int) -> BlockPart:
        self.asked.append((offset, length))
        whole = await super().get_block(block)
        return BlockPart(whole[offset : offset + length], len(whole))

    async def get_block_again(self, block: BlockId) -> bytes:
        self.asked.append("again")
        return await super().get_block_again(block)


BIG = os.urandom(5 * SEGMENT + 100)


@given(st.integers(0, len(BIG) - 1), st.integers(1, 3 * SEGMENT))
async def test_any_part_is_that_part(start: int, length: int) -> None:
    upstream = MemoryUpstream()
    (block,) = await put(upstream, BIG)
    cache = make(upstream, 10 * SEGMENT)
    end = min(start + length, len(BIG))
    for _ in range(2):
        assert await cache.get_part(block, start, end) == BIG[start:end]
    await cache.get(block)
    assert await cache.get_part(block, start, end) == BIG[start:end]


async def test_a_part_costs_its_segments_once() -> None:
    upstream = Recording()
    (block,) = await put(upstream, BIG)
    cache = make(upstream, 10 * SEGMENT)
    assert cache.get_cached_part(block, 40_000, 40_010) is None
    assert await cache.get_part(block, 40_000, 40_010) == BIG[40_000:40_010]
    assert upstream.asked == [(HEADER.size + SEALED_SEGMENT, SEALED_SEGMENT)]
    cached = cache.get_cached_part(block, 40_000, 40_010)
    assert cached is not None
    assert cached.tobytes() == BIG[40_000:40_010]
    assert await cache.get_part(block, 32_768, 65_536) == BIG[32_768:65_536]
    assert len(upstream.asked) == 1
    await cache.get_part(block, len(BIG) - 1, len(BIG))
    assert upstream.asked[1:] == [(HEADER.size + 5 * SEALED_SEGMENT, SEALED_SEGMENT)]
    assert cache.used == SEGMENT + 100


async def test_a_part_of_a_small_block_is_one_read() -> None:
    upstream = Recording()
    (block,) = await put(upstream, BIG[:SEGMENT])
    cache = make(upstream, 10 * SEGMENT)
    assert await cache.get_part(block, 10, 20) == BIG[10:20]
    assert upstream.asked == [(HEADER.size, SEALED_SEGMENT)]


async def test_a_part_of_a_compressed_block_is_the_block() -> None:
    upstream = Recording()
    data = BIG[:SEGMENT] + bytes(3 * SEGMENT)
    (block,) = await put(upstream, data)
    cache = make(upstream, 10 * SEGMENT)
    assert await cache.get_part(block, 10, 20) == data[10:20]
    assert upstream.asked == [(HEADER.size, SEALED_SEGMENT), "whole"]
    assert cache.get_cached(block) == data
    await cache.get((await put(upstream, bytes(11 * SEGMENT)))[0])
    assert cache.get_cached(block) is None
    assert await cache.get_part(block, 70_000, 70_020) == bytes(20)
    assert upstream.asked[3:] == ["whole"]


async def test_a_wrong_segment_is_read_again_from_what_is_whole() -> None:
    upstream = Recording()
    (block,) = await put(upstream, BIG)
    upstream.corrupt.add(block)
    cache = make(upstream, 10 * SEGMENT)
    assert await cache.get_part(block, len(BIG) - 5, len(BIG)) == BIG[-5:]
    assert upstream.asked[-2:] == ["whole", "again"]


async def test_a_wrong_size_is_not_believed() -> None:
    upstream = Recording()
    (block,) = await put(upstream, BIG)
    good = upstream.stored[block]
    for wrong in (good[:-1], good + b"x", good[: 6 + 2 * SEALED_SEGMENT], good[6:], b"\x09" * 6, b""):
        upstream.stored[block] = wrong
        cache = make(upstream, 10 * SEGMENT)
        with pytest.raises((CorruptError, FormatError)):
            await cache.get_part(block, 100, 200)
        upstream.stored[block] = good
        assert await cache.get_part(block, 100, 200) == BIG[100:200]


async def test_a_wrong_header_is_not_needed_for_a_part() -> None:
    upstream = Recording()
    (block,) = await put(upstream, BIG)
    upstream.stored[block] = b"\x09" * 6 + upstream.stored[block][6:]
    cache = make(upstream, 10 * SEGMENT)
    assert await cache.get_part(block, 100, 200) == BIG[100:200]
    with pytest.raises((CorruptError, FormatError)):
        await cache.get(block)


class Reported(MemoryUpstream):
    """Remembers what was reported wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.wrong: list[BlockId] = []

    async def report_wrong(self, block: BlockId) -> bool:
        self.wrong.append(block)
        return await super().report_wrong(block)


@pytest.mark.parametrize("size", [7, 100_000])
async def test_a_block_of_a_key_epoch_to_come_is_not_reported_wrong(size: int) -> None:
    """Another device stored it: it is right, and this one has still to follow."""
    upstream, ring = Reported(), ring_of(epochs=0)
    codec, first = BlockCodec(b"i" * 32, ring), add_epochs(ring, None, 1)
    data = content("random", size)
    behind = ring_of(epochs=0)
    behind.learn_all([] if first is None else [first])
    add_epochs(ring, first, 1)
    block = codec.block_id(data)
    await upstream.put_blocks([codec.seal(block, data)])
    await upstream.flush()
    cache = BlockCache(upstream, BlockCodec(b"i" * 32, behind), 1000, trio.CapacityLimiter(2))
    for read in (cache.get(block), cache.get_part(block, 2, 5)):
        with pytest.raises(UnknownEpochError, match="epoch 2"):
            await read
    assert upstream.wrong == []
    behind.learn(2, ring.up_to(2)[1])
    assert await cache.get_part(block, 2, 5) == data[2:5]
    assert await cache.get(block) == data
