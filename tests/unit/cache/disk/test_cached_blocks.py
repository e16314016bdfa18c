"""The block store with a disk cache before it: fewer reads, never a wrong one, never in the way."""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from backend.buffer import Buffer
from backend.errors import UnavailableError
from backend.upstream import BlockId, BlockPart
from cache.blocks.block_cache import BlockCache
from cache.blocks.block_codec import SEGMENT, BlockCodec
from cache.disk import cached_blocks, disk_cache
from cache.disk.block_folder import BlockFolder
from cache.disk.cached_blocks import REST, CachedBlocks
from cache.disk.disk_cache import DiskCache
from tests.contents import STORED_KINDS, content
from tests.key_rings import ring_of
from tests.memory_upstream import MemoryUpstream

CODEC = BlockCodec(b"i" * 32, ring_of())
SIZE = 300_000
CONTENTS = [content(kind, SIZE) for kind in STORED_KINDS]


class Counted(MemoryUpstream):
    """`away`: no block can be read."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0
        self.away = False

    def _count(self) -> None:
        self.reads += 1
        if self.away:
            raise UnavailableError("no node answers", ())

    async def get_block(self, block: BlockId) -> bytes:
        self._count()
        return await super().get_block(block)

    async def get_block_part(self, block: BlockId, offset: int, length: int) -> BlockPart:
        self._count()
        return await super().get_block_part(block, offset, length)

    async def get_block_again(self, block: BlockId) -> bytes:
        self._count()
        return await super().get_block_again(block)


def on_disk(used: BlockFolder, folder: Path) -> DiskCache:
    """With a place for what is kept beside."""
    return DiskCache(used, BlockFolder(folder / "kept", None, 0))


@asynccontextmanager
async def cached(store: Counted, folder: Path) -> AsyncIterator[CachedBlocks]:
    async with trio.open_nursery() as nursery:
        found = CachedBlocks(store, on_disk(BlockFolder(folder, 1 << 30, 0), folder))
        nursery.start_soon(found.run)
        yield found
        nursery.cancel_scope.cancel()


async def stored(store: Counted) -> list[BlockId]:
    blocks = [CODEC.seal(CODEC.block_id(data), data) for data in CONTENTS]
    await store.put_blocks(blocks)
    await store.flush()
    return [block.id for block in blocks]


async def all_kept(folder: Path, count: int) -> None:
    with trio.fail_after(20):
        while len(list(folder.glob("?/" + "[0-9a-f]" * 64))) < count:
            await trio.sleep(0.01)


def reader(blocks: CachedBlocks) -> BlockCache:
    """With nothing in memory."""
    return BlockCache(blocks, CODEC, 0, trio.CapacityLimiter(2))


async def test_what_was_read_is_read_again_without_the_nodes(tmp_path: Path) -> None:
    store = Counted()
    ids = await stored(store)
    async with cached(store, tmp_path) as blocks:
        for block, data in zip(ids, CONTENTS, strict=True):
            assert bytes(await reader(blocks).get(block)) == data
        await all_kept(tmp_path, len(ids))
    store.away, reads = True, store.reads
    async with cached(store, tmp_path) as blocks:
        for block, data in zip(ids, CONTENTS, strict=True):
            assert bytes(await reader(blocks).get(block)) == data
            for start in range(SIZE - 1000, -1, -70_001):
                assert bytes(await reader(blocks).get_part(block, start, start + 1000)) == data[start:][:1000]
        assert blocks.status().misses == 0
    assert store.reads == reads


async def test_what_was_written_is_read_without_the_nodes(tmp_path: Path) -> None:
    store = Counted()
    async with cached(store, tmp_path) as blocks:
        sealed = [CODEC.seal(CODEC.block_id(data), data) for data in CONTENTS]
        await blocks.put_blocks(sealed)
        await all_kept(tmp_path, len(sealed))
        store.away = True
        for block, data in zip(sealed, CONTENTS, strict=True):
            assert bytes(await reader(blocks).get(block.id)) == data


async def test_a_part_costs_a_part_and_is_kept_as_one(tmp_path: Path) -> None:
    store = Counted()
    random = CONTENTS[STORED_KINDS.index("random")]
    block = (await stored(store))[STORED_KINDS.index("random")]
    async with cached(store, tmp_path) as blocks:
        await reader(blocks).get_part(block, 5 * SEGMENT + 7, 5 * SEGMENT + 9)
        with trio.fail_after(20):
            while not list(tmp_path.glob("?/*.*.*")):
                await trio.sleep(0.01)
        assert [path.stat().st_size < 2 * SEGMENT for path in tmp_path.glob("?/*")] == [True]
        store.away = True
        found = await reader(blocks).get_part(block, 5 * SEGMENT, 5 * SEGMENT + 100)
        assert bytes(found) == random[5 * SEGMENT :][:100]
        with pytest.raises(UnavailableError):
            await reader(blocks).get_part(block, 0, 100)


async def test_a_forged_file_costs_one_read_and_changes_nothing(tmp_path: Path) -> None:
    """Whoever can write the cache folder can give a file a right checksum: the tag does not fit."""
    store = Counted()
    ids = await stored(store)
    for block in ids:
        BlockFolder(tmp_path, 1 << 30, 0).write(block, os.urandom(SIZE))
    async with cached(store, tmp_path) as blocks:
        start = SIZE // 2
        for block, data in zip(ids, CONTENTS, strict=True):
            assert bytes(await reader(blocks).get_part(block, start, start + 9)) == data[start:][:9]
        assert store.reads == len(ids)
        for block, data in zip(ids, CONTENTS, strict=True):
            assert bytes(await reader(blocks).get(block)) == data
        await all_kept(tmp_path, len(ids))
        store.away = True
        for block, data in zip(ids, CONTENTS, strict=True):
            assert bytes(await reader(blocks).get(block)) == data


class WrongParts(Counted):
    """Its nodes answer zeros for each part."""

    async def get_block_part(self, block: BlockId, offset: int, length: int) -> BlockPart:
        part = await super().get_block_part(block, offset, length)
        return BlockPart(bytes(len(part.data)), part.size)


async def test_a_part_that_a_node_gives_wrong_is_passed_over(tmp_path: Path) -> None:
    store = WrongParts()
    ids = await stored(store)
    async with cached(store, tmp_path) as blocks:
        for store.away in (False, True):
            for block, data in zip(ids, CONTENTS, strict=True):
                found = await reader(blocks).get_part(block, SIZE // 2, SIZE // 2 + 9)
                assert bytes(found) == data[SIZE // 2 :][:9]
            await all_kept(tmp_path, len(ids))


class Wrong(Counted):
    """A node gives other bytes than it was given; nobody checks them but who opens the block."""

    async def get_block(self, block: BlockId) -> bytes:
        return bytes(SIZE)


async def test_what_a_node_gives_wrong_is_not_kept(tmp_path: Path) -> None:
    """Regression: it was written after it had been removed."""
    store = Wrong()
    ids = await stored(store)
    async with cached(store, tmp_path) as blocks:
        for block, data in zip(ids, CONTENTS, strict=True):
            assert bytes(await reader(blocks).get(block)) == data
        last = CODEC.seal(CODEC.block_id(b"last"), b"last")
        await blocks.put_blocks([last])
        with trio.fail_after(20):
            while not list(tmp_path.glob(f"?/{last.id.hex()}")):
                await trio.sleep(0.01)
    assert [path.name for path in tmp_path.glob("?/*")] == [last.id.hex()]


async def test_what_a_node_gives_wrong_is_not_kept_while_much_waits_to_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: what kept folders have waiting let it be written, and its removal be left out."""
    monkeypatch.setattr(cached_blocks, "MOST_WAITING", SIZE)
    store = Wrong()
    wrong, kept = (await stored(store))[:2]
    blocks = CachedBlocks(store, on_disk(BlockFolder(tmp_path, 1 << 30, 0), tmp_path))
    async with trio.open_nursery() as nursery:
        await blocks.get_block(wrong)
        nursery.start_soon(blocks.keep, kept, bytes(SIZE))
        await trio.testing.wait_all_tasks_blocked()
        await blocks.get_block_again(wrong)
        nursery.start_soon(blocks.run)
        assert await blocks.keep(kept, bytes(SIZE))
        nursery.cancel_scope.cancel()
    assert [path.name for path in tmp_path.rglob("?/*") if path.is_file()] == [kept.hex()]


class BrokenFolder(BlockFolder):
    """Its disk answers EIO, until it is mended."""

    broken = True
    calls = 0

    def read(self, block: BlockId) -> bytes | None:
        self.calls += 1
        if self.broken:
            raise OSError(errno.EIO, "Input/output error")
        return super().read(block)


@pytest.mark.logs_warnings
async def test_a_broken_disk_is_said_once_and_costs_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mock_clock: trio.testing.MockClock
) -> None:
    store = Counted()
    ids = await stored(store)
    folder = BrokenFolder(tmp_path, 1 << 30, 0)
    blocks = CachedBlocks(store, on_disk(folder, tmp_path))
    with caplog.at_level(logging.WARNING):
        for block, data in zip(ids, CONTENTS, strict=True):
            assert bytes(await reader(blocks).get(block)) == data
    assert folder.calls == 1
    assert [record.message for record in caplog.records] == [
        "the disk cache cannot be used for 60 s: [Errno 5] Input/output error"
    ]
    caplog.clear()
    folder.broken = False
    mock_clock.jump(REST)
    await blocks.get_block(ids[0])
    assert folder.calls == 2


class HangingFolder(BlockFolder):
    """Its disk does not answer until `answers` is set."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, 1 << 30, 0)
        self.answers = threading.Event()

    def read(self, block: BlockId) -> bytes | None:
        self.answers.wait()
        return super().read(block)

    def drop(self, block: BlockId) -> bool:
        self.answers.wait()
        return super().drop(block)


@pytest.mark.logs_warnings
@pytest.mark.parametrize("again", [False, True])
async def test_a_disk_that_hangs_is_waited_for_once(
    tmp_path: Path, again: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: whoever read waited as long as the disk hung. Several at once say it once."""
    monkeypatch.setattr(cached_blocks, "PATIENCE", 0.05)
    store = Counted()
    ids = await stored(store)
    folder = HangingFolder(tmp_path)
    blocks = CachedBlocks(store, on_disk(folder, tmp_path))
    get = blocks.get_block_again if again else blocks.get_block
    try:
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                for block in ids * 3:
                    nursery.start_soon(get, block)
    finally:
        folder.answers.set()
    assert [record.message for record in caplog.records] == [
        "the disk cache cannot be used for 60 s: no answer within 0.05 s"
    ]


@pytest.mark.logs_warnings
async def test_a_disk_that_hangs_has_nothing_at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cached_blocks, "PATIENCE", 0.05)
    store = Counted()
    ids = await stored(store)
    folder = HangingFolder(tmp_path)
    blocks = CachedBlocks(store, on_disk(folder, tmp_path))
    try:
        with trio.fail_after(20):
            assert await blocks.get_here(ids) == {}
            assert len(await blocks.get_block(ids[0])) > 0
    finally:
        folder.answers.set()
    assert store.reads == 1


async def test_what_is_at_hand_is_read_in_one_turn(tmp_path: Path) -> None:
    store = Counted()
    ids = await stored(store)
    async with cached(store, tmp_path) as blocks:
        right = {block: bytes(await blocks.get_block(block)) for block in ids[1:]}
        await all_kept(tmp_path, len(right))
        reads, hits = store.reads, blocks.status().hits
        assert await blocks.get_here(ids) == right
        assert (store.reads, blocks.status().hits) == (reads, hits + len(right))


@pytest.mark.parametrize("bound", ["MOST_TOGETHER", "LONGEST_TOGETHER"])
async def test_what_is_much_or_takes_long_is_not_read_in_one_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    """A slow disk would pass for one that hangs, and large blocks would fill the memory."""
    store = Counted()
    ids = await stored(store)
    async with cached(store, tmp_path) as blocks:
        for block in ids:
            await blocks.get_block(block)
        await all_kept(tmp_path, len(ids))
        monkeypatch.setattr(disk_cache, bound, 0)
        assert [*await blocks.get_here(ids)] == ids[:1]


async def test_what_the_store_has_in_memory_is_read_though_the_disk_hangs(tmp_path: Path) -> None:
    store = Counted()
    ids = await stored(store)
    sealed = {block: await store.get_block(block) for block in ids}
    folder = HangingFolder(tmp_path)
    blocks = CachedBlocks(store, on_disk(folder, tmp_path), sealed.get)
    store.away = True
    for block, data in zip(ids, CONTENTS, strict=True):
        assert bytes(await reader(blocks).get(block)) == data
        for start in range(SIZE - 1000, -1, -70_001):
            assert bytes(await reader(blocks).get_part(block, start, start + 1000)) == data[start:][:1000]
    assert (blocks.status().hits, blocks.status().misses) == (0, 0)


async def test_what_the_store_has_in_memory_is_kept(tmp_path: Path) -> None:
    store = Counted()
    ids = await stored(store)
    sealed = {block: await store.get_block(block) for block in ids}
    async with trio.open_nursery() as nursery:
        blocks = CachedBlocks(store, on_disk(BlockFolder(tmp_path, 1 << 30, 0), tmp_path), sealed.get)
        nursery.start_soon(blocks.run)
        for block in ids:
            await blocks.get_block(block)
        await all_kept(tmp_path, len(ids))
        sealed.clear()
        store.away = True
        for block, data in zip(ids, CONTENTS, strict=True):
            assert bytes(await reader(blocks).get(block)) == data
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("has_part", [False, True])
async def test_what_the_store_has_wrong_in_memory_is_read_right(tmp_path: Path, has_part: bool) -> None:
    """The store lets go of what is asked for again, as `RemoteBlocks` does."""
    store = Counted()
    ids = await stored(store)
    right = {block: bytes(await store.get_block(block)) for block in ids}
    in_memory = {block: data[:-1] + bytes([data[-1] ^ 1]) for block, data in right.items()}
    again = store.get_block_again

    async def asked_again(block: BlockId) -> bytes:
        in_memory.pop(block, None)
        return await again(block)

    store.get_block_again = asked_again  # type: ignore[method-assign]
    async with trio.open_nursery() as nursery:
        blocks = CachedBlocks(store, on_disk(BlockFolder(tmp_path, 1 << 30, 0), tmp_path), in_memory.get)
        nursery.start_soon(blocks.run)
        for block, data in zip(ids, CONTENTS, strict=True):
            if has_part:
                assert bytes(await reader(blocks).get_part(block, SIZE - 10, SIZE)) == data[-10:]
            assert bytes(await reader(blocks).get(block)) == data
            assert bytes(await reader(blocks).get(block)) == data
        assert await blocks.keep(ids[0], right[ids[0]])  # all that waited before is done
        nursery.cancel_scope.cancel()
    found = on_disk(BlockFolder(tmp_path, 1 << 30, 0), tmp_path)
    assert all(found.read(block) in (None, data) for block, data in right.items())


class FullFolder(BlockFolder):
    """Its disk refuses the block `refused`."""

    refused = BlockId(bytes(32))

    def write(self, block: BlockId, data: Buffer) -> bool:
        if block == self.refused:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(block, data)


@pytest.mark.logs_warnings
@pytest.mark.parametrize("turn", [1, 2 * SIZE, 1 << 30])
async def test_what_waits_is_written_in_order_until_the_disk_refuses_one(
    tmp_path: Path, turn: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cached_blocks, "TURN", turn)
    store = Counted()
    ids = await stored(store)
    folder = FullFolder(tmp_path, 1 << 30, 0)
    folder.refused = ids[2]
    blocks = CachedBlocks(store, on_disk(folder, tmp_path))
    for block in ids:
        await blocks.get_block(block)
    answers: list[bool | None] = []

    async def keep() -> None:
        answers.append(await blocks.keep(ids[0], bytes(SIZE)))

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(keep)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(blocks.run)
            while not answers:
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
    assert answers == [None]
    written = {path.name for path in tmp_path.glob("?/*")}
    assert written == {block.hex() for block in ids[:2]}


class SlowFolder(BlockFolder):
    """Its disk takes up a block at once, and has it when it `may_write`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, 1 << 30, 0)
        self.is_writing, self.may_write = threading.Event(), threading.Event()

    def write(self, block: BlockId, data: Buffer) -> bool:
        self.is_writing.set()
        assert self.may_write.wait(60)
        return super().write(block, data)


@pytest.mark.parametrize("hangs", [False, True])
async def test_the_end_waits_for_the_block_that_is_being_written_and_none_comes_after_it(
    tmp_path: Path, hangs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has the folder next finds nothing of this one's in it. A disk that hangs is not waited for."""
    monkeypatch.setattr(cached_blocks, "END_PATIENCE", 0.05 if hangs else 60)
    store = Counted()
    ids = await stored(store)
    folder = SlowFolder(tmp_path)
    blocks = CachedBlocks(store, on_disk(folder, tmp_path))
    for block in ids:
        await blocks.get_block(block)
    try:
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(blocks.run)
                await trio.to_thread.run_sync(folder.is_writing.wait, 20)
                nursery.cancel_scope.cancel()
                if not hangs:
                    threading.Timer(0.1, folder.may_write.set).start()
        at_end = {path.name for path in tmp_path.glob("?/*")}
    finally:
        folder.may_write.set()
    monkeypatch.setattr(cached_blocks, "END_PATIENCE", 60)
    with trio.CancelScope() as scope:
        scope.cancel()
        await blocks.run()  # its end waits, too
    assert at_end == (set() if hangs else {ids[0].hex()})
    assert {path.name for path in tmp_path.glob("?/*")} == {ids[0].hex()}
