"""What every kind of upstream does (`backend/upstream.py` says it).

The four roles are held to their contracts on each kind there is: on nodes that are folders, on nodes in
memory, and the upstream in memory that the tests of the client side use. What a session does (lease, fencing,
readers) needs several sessions at once: it is asked of those that can have them.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from backend.commits.commit_format import commit_hash
from backend.commits.commit_log import EMPTY
from backend.errors import (
    ConflictError,
    FencedError,
    LeaseHeldError,
    NotFoundError,
    ReadOnlyError,
    RollbackError,
    UsageError,
)
from backend.upstream import BlockId, Commit, Head, SealedBlock, Upstream
from cache.disk import BlockFolder, DiskCache
from tests.contents import content
from tests.memory_node import memory_nodes
from tests.memory_upstream import MemoryUpstream
from tests.upstreams import LocalDrive, directory_nodes

FAST = 1e9
Mounts = LocalDrive
Sessions = Callable[[], AbstractAsyncContextManager[Upstream]]
"""Each call is the next session of one drive, that may write; what it had not flushed is lost at its end."""


@asynccontextmanager
async def in_memory(kept: MemoryUpstream) -> AsyncIterator[Upstream]:
    kept.may_delete = False
    yield kept
    kept.lose_unflushed()


def in_folders(folder: Path) -> Sessions:
    return LocalDrive(directory_nodes(folder)).opened


def behind_a_disk_cache(folder: Path) -> Sessions:
    disk = DiskCache(BlockFolder(folder / "sealed", 1 << 30, 0), BlockFolder(folder / "kept", None, 0))
    return LocalDrive(memory_nodes(6), disk=disk).opened


KINDS: dict[str, Callable[[Path], Sessions]] = {
    "directories": in_folders,
    "memory nodes": lambda _folder: LocalDrive(memory_nodes(6)).opened,
    "a disk cache": behind_a_disk_cache,
    "memory": lambda _folder: partial(in_memory, MemoryUpstream()),
}


@pytest.fixture(params=KINDS)
def session(request: pytest.FixtureRequest, tmp_path: Path) -> Sessions:
    """A new drive."""
    return KINDS[request.param](tmp_path)


def block(data: bytes) -> SealedBlock:
    return SealedBlock(BlockId(data[:4].ljust(32, b"\0")), data)


def blocks(count: int, size: int = 1000) -> list[SealedBlock]:
    return [block(content("random", size, seed)) for seed in range(count)]


def ids(sealed: list[SealedBlock]) -> list[BlockId]:
    return [one.id for one in sealed]


def following(upstream: Upstream, head: Head, payload: bytes = b"") -> Commit:
    return Commit(head.number + 1, head.hash, 1, upstream.epoch, 5, (), (BlockId(bytes(32)),), payload)


async def append(upstream: Upstream, payload: bytes = b"") -> Head:
    head = await upstream.log.head()
    return await upstream.log.append(following(upstream, head, payload), head)


async def store(upstream: Upstream, sealed: list[SealedBlock]) -> None:
    await upstream.blocks.put_blocks(sealed)
    await upstream.blocks.flush()


async def test_commits_come_back_in_order_here_and_in_the_next_mount(session: Sessions) -> None:
    async with session() as upstream:
        heads = [await append(upstream, b"%d" % number) for number in range(5)]
        assert await upstream.log.head() == heads[-1]
    async with session() as upstream:
        assert await upstream.log.head() == heads[-1]
        found = await upstream.log.commits_after(0)
        assert [Head(commit.number, hash_) for commit, hash_ in found] == heads
        assert all(commit_hash(commit) == hash_ for commit, hash_ in found)
        assert [commit.payload for commit, _ in await upstream.log.commits_after(3, limit=1)] == [b"3"]
        assert await upstream.log.commits_after(5) == []


async def test_append_is_idempotent_and_refuses_a_moved_head(session: Sessions) -> None:
    async with session() as upstream:
        commit = following(upstream, EMPTY)
        head = await upstream.log.append(commit, EMPTY)
        assert await upstream.log.append(commit, EMPTY) == head
        with pytest.raises(ConflictError):
            await upstream.log.append(following(upstream, EMPTY, b"other"), EMPTY)
        assert await upstream.log.head() == head


async def test_waiting_ends_with_the_next_commit(session: Sessions) -> None:
    async with session() as upstream:
        seen: list[int] = []

        async def wait() -> None:
            await upstream.log.wait_for_change(0)
            seen.append((await upstream.log.head()).number)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await append(upstream)
        assert seen == [1]


async def test_blocks_are_missing_until_they_are_put_and_there_in_the_next_mount(session: Sessions) -> None:
    blocks = [block(os.urandom(size)) for size in (100, 5000, 300_000)]
    ids = [one.id for one in blocks]
    async with session() as upstream:
        assert await upstream.blocks.missing(ids) == set(ids)
        await upstream.blocks.put_blocks(blocks)
        assert await upstream.blocks.missing(ids) == set()
        await upstream.blocks.put_blocks(blocks[:1])
        await upstream.blocks.flush()
        await upstream.blocks.flush()
    async with session() as upstream:
        assert await upstream.blocks.missing([*ids, BlockId(bytes(32))]) == {BlockId(bytes(32))}
        for one in blocks:
            assert await upstream.blocks.get_block(one.id) == one.data
            assert await upstream.blocks.get_block_again(one.id) == one.data
            for offset, length in _parts_of(len(one.data)):
                part = await upstream.blocks.get_block_part(one.id, offset, length)
                assert part == (one.data[offset:][:length], len(one.data)), (len(one.data), offset, length)
        with pytest.raises(NotFoundError):
            await upstream.blocks.get_block(BlockId(bytes(32)))


def _parts_of(size: int) -> list[tuple[int, int]]:
    """(offset, length) in, across the end of, at the end of and far behind a block of `size` bytes."""
    offsets = (0, 1, 50, 99, size // 2, size - 1, size, size + 1, 2 * size, 4 << 20)
    return [(offset, length) for offset in offsets for length in (0, 1, 40, 2000, size, 4 << 20)]


async def test_roots_are_replaced_and_absent_ones_are_empty(session: Sessions) -> None:
    async with session() as upstream:
        assert await upstream.roots.get_root("snapshot") == []
        await upstream.roots.put_root("snapshot", b"one")
        await upstream.roots.put_root("snapshot", b"two")
        await upstream.roots.put_root("other", b"three")
    async with session() as reader:
        assert await reader.roots.get_root("snapshot") == [b"two"]
        assert await reader.roots.get_root("other") == [b"three"]


async def test_what_was_not_flushed_is_lost_with_the_session(session: Sessions) -> None:
    kept, lost = blocks(2)
    async with session() as upstream:
        await store(upstream, [kept])
        await upstream.blocks.put_blocks([lost])
        assert await upstream.blocks.get_block(lost.id) == lost.data
        assert await upstream.blocks.get_block_again(lost.id) == lost.data
        assert await upstream.housekeeping.sizes(ids([kept, lost])) == {kept.id: len(kept.data)}


async def test_stored_blocks_are_listed_by_id_page_by_page(session: Sessions) -> None:
    sealed = blocks(7)
    async with session() as upstream:
        await store(upstream, sealed)
        found: list[BlockId] = []
        while page := await upstream.housekeeping.stored_blocks(found[-1] if found else b"", 3):
            found += page
        assert found == sorted(ids(sealed))
        assert await upstream.housekeeping.sizes(found) == {one.id: len(one.data) for one in sealed}


async def test_what_is_released_is_missing_and_readable_until_it_is_compacted(session: Sessions) -> None:
    sealed = blocks(6)
    async with session() as upstream:
        await store(upstream, sealed)
        await append(upstream)
        assert set(await upstream.housekeeping.release(ids(sealed[:3]))) == set(ids(sealed[:3]))
        assert await upstream.housekeeping.release(ids(sealed[:4])) == ids(sealed[3:4])
        assert await upstream.blocks.missing(ids(sealed)) == set(ids(sealed[:4]))
        report = await upstream.housekeeping.compact(3600, FAST, debris=False)
        assert report.blocks == 0
        assert [await upstream.blocks.get_block(one.id) for one in sealed] == [one.data for one in sealed]
        assert (await upstream.housekeeping.compact(0, FAST, debris=False)).blocks == 4
        for one in sealed[:4]:
            assert await upstream.housekeeping.sizes([one.id]) == {}
        assert await upstream.blocks.missing(ids(sealed)) == set(ids(sealed[:4]))
        assert [await upstream.blocks.get_block(one.id) for one in sealed[4:]] == [
            one.data for one in sealed[4:]
        ]


async def test_what_is_released_and_given_again_or_revived_stays(session: Sessions) -> None:
    given, revived, gone = blocks(3)
    async with session() as upstream:
        await store(upstream, [given, revived, gone])
        await append(upstream)
        await upstream.housekeeping.release(ids([given, revived, gone]))
        await store(upstream, [given])
        await upstream.housekeeping.revive([revived.id])
        assert await upstream.blocks.missing(ids([given, revived, gone])) == {gone.id}
        await upstream.housekeeping.compact(0, FAST, debris=False)
        for one in (given, revived):
            assert await upstream.blocks.get_block(one.id) == one.data
        assert await upstream.blocks.missing(ids([given, revived, gone])) == {gone.id}


async def test_nothing_is_deleted_before_a_commit_of_this_session(session: Sessions) -> None:
    sealed = blocks(2)
    async with session() as upstream:
        await store(upstream, sealed)
        await append(upstream)
    async with session() as upstream:
        await upstream.housekeeping.release(ids(sealed))
        with pytest.raises(UsageError):
            await upstream.housekeeping.compact(0, FAST, debris=False)
        assert await upstream.blocks.get_block(sealed[0].id) == sealed[0].data


async def test_status_counts_what_is_stored_and_what_is_not_yet(session: Sessions) -> None:
    async with session() as upstream:
        await store(upstream, blocks(1))
        status = await upstream.housekeeping.status()
        assert (status.blocks, status.block_bytes, status.pending_bytes) == (1, 1000, 0)
        assert (await upstream.housekeeping.redundancy(10)).packs == 0


# Sessions


@pytest.fixture(params=["directories", "memory nodes"])
def mounts(request: pytest.FixtureRequest, tmp_path: Path) -> Mounts:
    """A new drive."""
    return LocalDrive(directory_nodes(tmp_path) if request.param == "directories" else memory_nodes(6))


async def test_a_second_mount_is_refused_and_the_next_one_is_not(mounts: Mounts) -> None:
    async with mounts.opened() as upstream:
        first = upstream.epoch
        with pytest.raises(LeaseHeldError, match=str(os.getpid())):
            await mounts.make().open()
    async with mounts.opened() as upstream:
        assert upstream.epoch > first


async def test_a_mount_that_was_taken_over_is_fenced(mounts: Mounts) -> None:
    async with mounts.opened() as old:
        mounts.life = "gone"
        await append(old)
        async with mounts.opened() as new:
            assert await new.log.head() == await old.log.head()
            await append(new)
            for _ in range(2):
                with pytest.raises(FencedError):
                    await append(old)
            await new.roots.put_root("snapshot", b"new")
            with pytest.raises(FencedError):
                await old.roots.put_root("snapshot", b"stale")
            assert await new.roots.get_root("snapshot") == [b"new"]
            head = await new.log.head()
            assert head.number == 2
    async with mounts.opened() as later:
        assert await later.log.head() == head


async def test_a_reader_needs_no_lease_follows_and_cannot_write(mounts: Mounts) -> None:
    async with mounts.opened() as writer, mounts.opened(writing=False) as reader:
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(reader.log.wait_for_change, 0)
                await append(writer, b"x")
        assert [commit.payload for commit, _ in await reader.log.commits_after(0)] == [b"x"]
        commit = following(reader, await reader.log.head())
        with pytest.raises(ReadOnlyError):
            await reader.log.append(commit, await reader.log.head())
        with pytest.raises(ReadOnlyError):
            await reader.blocks.put_blocks([block(b"data")])
        with pytest.raises(ReadOnlyError):
            await reader.roots.put_root("snapshot", b"x")
        with pytest.raises(ReadOnlyError):
            await reader.blocks.flush()


async def test_a_log_older_than_what_was_seen_is_refused_and_the_lease_is_given_back(mounts: Mounts) -> None:
    async with mounts.opened() as upstream:
        await append(upstream)
    with pytest.raises(RollbackError):
        await mounts.make().open(known=Head(2, b"x" * 32))
    async with mounts.opened() as upstream:
        assert (await upstream.log.head()).number == 1


async def test_status_counts_what_is_stored(mounts: Mounts) -> None:
    async with mounts.opened() as upstream:
        await upstream.blocks.put_blocks([block(os.urandom(1000))])
        await upstream.blocks.flush()
        status = await upstream.housekeeping.status()
        assert (status.blocks, status.block_bytes, status.pending_bytes) == (1, 1000, 0)
        assert [(node.name, node.state) for node in status.nodes] == [(f"node{n}", "ok") for n in range(6)]


async def test_close_can_be_called_again_and_before_run(mounts: Mounts) -> None:
    async with mounts.opened() as upstream:
        await upstream.close()
    never_run = mounts.make()
    await never_run.open()
    await never_run.close()
    async with mounts.opened() as upstream:
        await append(upstream)
