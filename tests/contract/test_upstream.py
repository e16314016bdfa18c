"""What every kind of upstream does (backend/upstream.py says it); run on each kind there is.

`Mounts` opens any number of upstreams of one drive, one after the other for writing.
"""

from __future__ import annotations

import os
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
)
from backend.local.local_upstream import LocalUpstream
from backend.upstream import BlockId, Commit, Head, SealedBlock, Upstream
from tests.memory_node import memory_nodes
from tests.upstreams import LocalDrive, directory_nodes

Mounts = LocalDrive


@pytest.fixture(params=["directories", "memory"])
def mounts(request: pytest.FixtureRequest, tmp_path: Path) -> Mounts:
    """A new drive."""
    return LocalDrive(directory_nodes(tmp_path) if request.param == "directories" else memory_nodes(6))


def block(data: bytes) -> SealedBlock:
    return SealedBlock(BlockId(data[:4].ljust(32, b"\0")), data)


def following(upstream: LocalUpstream, head: Head, payload: bytes = b"") -> Commit:
    return Commit(head.number + 1, head.hash, 1, upstream.epoch, 5, (BlockId(bytes(32)),), (), payload)


async def append(upstream: LocalUpstream, payload: bytes = b"") -> Head:
    head = await upstream.head()
    return await upstream.append(following(upstream, head, payload), head)


async def test_a_local_upstream_is_an_upstream(mounts: Mounts) -> None:
    async with mounts.opened() as upstream:
        as_protocol: Upstream = upstream
        assert await as_protocol.head() == EMPTY


async def test_commits_come_back_in_order_here_and_in_the_next_mount(mounts: Mounts) -> None:
    async with mounts.opened() as upstream:
        heads = [await append(upstream, b"%d" % number) for number in range(5)]
        assert await upstream.head() == heads[-1]
    async with mounts.opened(known=heads[2]) as upstream:
        assert await upstream.head() == heads[-1]
        found = await upstream.commits_after(0)
        assert [Head(commit.number, hash_) for commit, hash_ in found] == heads
        assert all(commit_hash(commit) == hash_ for commit, hash_ in found)
        assert [commit.payload for commit, _ in await upstream.commits_after(3, limit=1)] == [b"3"]
        assert await upstream.commits_after(5) == []


async def test_append_is_idempotent_and_refuses_a_moved_head(mounts: Mounts) -> None:
    async with mounts.opened() as upstream:
        commit = following(upstream, EMPTY)
        head = await upstream.append(commit, EMPTY)
        assert await upstream.append(commit, EMPTY) == head
        with pytest.raises(ConflictError):
            await upstream.append(following(upstream, EMPTY, b"other"), EMPTY)
        assert await upstream.head() == head


async def test_waiting_ends_with_the_next_commit(mounts: Mounts) -> None:
    async with mounts.opened() as upstream:
        seen: list[int] = []

        async def wait() -> None:
            await upstream.wait_for_change(0)
            seen.append((await upstream.head()).number)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await append(upstream)
        assert seen == [1]


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
            assert await new.head() == await old.head()
            await append(new)
            for _ in range(2):
                with pytest.raises(FencedError):
                    await append(old)
            await new.put_root("snapshot", b"new")
            with pytest.raises(FencedError):
                await old.put_root("snapshot", b"stale")
            assert await new.get_root("snapshot") == [b"new"]
            head = await new.head()
            assert head.number == 2
    async with mounts.opened() as later:
        assert await later.head() == head


async def test_a_reader_needs_no_lease_follows_and_cannot_write(mounts: Mounts) -> None:
    async with mounts.opened() as writer, mounts.opened(writing=False) as reader:
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(reader.wait_for_change, 0)
                await append(writer, b"x")
        assert [commit.payload for commit, _ in await reader.commits_after(0)] == [b"x"]
        commit = following(reader, await reader.head())
        with pytest.raises(ReadOnlyError):
            await reader.append(commit, await reader.head())
        with pytest.raises(ReadOnlyError):
            await reader.put_blocks([block(b"data")])
        with pytest.raises(ReadOnlyError):
            await reader.put_root("snapshot", b"x")
        with pytest.raises(ReadOnlyError):
            await reader.flush()


async def test_a_log_older_than_what_was_seen_is_refused_and_the_lease_is_given_back(mounts: Mounts) -> None:
    async with mounts.opened() as upstream:
        await append(upstream)
    with pytest.raises(RollbackError):
        await mounts.make().open(known=Head(2, b"x" * 32))
    async with mounts.opened() as upstream:
        assert (await upstream.head()).number == 1


async def test_blocks_are_missing_until_they_are_put_and_there_in_the_next_mount(mounts: Mounts) -> None:
    blocks = [block(os.urandom(size)) for size in (100, 5000, 300_000)]
    ids = [one.id for one in blocks]
    async with mounts.opened() as upstream:
        assert await upstream.missing(ids) == set(ids)
        await upstream.put_blocks(blocks)
        assert await upstream.missing(ids) == set()
        await upstream.put_blocks(blocks[:1])
        await upstream.flush()
        await upstream.flush()
    async with mounts.opened() as upstream:
        assert await upstream.missing([*ids, BlockId(bytes(32))]) == {BlockId(bytes(32))}
        for one in blocks:
            assert await upstream.get_block(one.id) == one.data
            assert await upstream.get_block_again(one.id) == one.data
            for offset, length in _parts_of(len(one.data)):
                part = await upstream.get_block_part(one.id, offset, length)
                assert part == (one.data[offset:][:length], len(one.data)), (len(one.data), offset, length)
        with pytest.raises(NotFoundError):
            await upstream.get_block(BlockId(bytes(32)))


def _parts_of(size: int) -> list[tuple[int, int]]:
    """(offset, length) in, across the end of, at the end of and far behind a block of `size` bytes."""
    offsets = (0, 1, 50, 99, size // 2, size - 1, size, size + 1, 2 * size, 4 << 20)
    return [(offset, length) for offset in offsets for length in (0, 1, 40, 2000, size, 4 << 20)]


async def test_roots_are_replaced_and_absent_ones_are_empty(mounts: Mounts) -> None:
    async with mounts.opened() as upstream:
        assert await upstream.get_root("snapshot") == []
        await upstream.put_root("snapshot", b"one")
        await upstream.put_root("snapshot", b"two")
        await upstream.put_root("other", b"three")
    async with mounts.opened(writing=False) as reader:
        assert await reader.get_root("snapshot") == [b"two"]
        assert await reader.get_root("other") == [b"three"]


async def test_status_counts_what_is_stored(mounts: Mounts) -> None:
    async with mounts.opened() as upstream:
        await upstream.put_blocks([block(os.urandom(1000))])
        await upstream.flush()
        status = await upstream.status()
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
