"""Dedup and deletion among devices: no commit names a block that is not there, whoever let go of it when.

A device relies on the answers of `missing` until its commit is in the log. Meanwhile others forget the last
state that named such a block, publish that, and the hub deletes it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from backend.errors import BlocksMissingError, ConflictError, UnknownEpochError
from backend.upstream import RESERVED_SECONDS, BlockId, Commit, Head
from cache.drive import Drive
from cache.namespace.operations import ROOT_INODE
from cache.retention.retention import Policy
from cache.services.devices import Devices
from tests import contents
from tests.contents import KINDS, Kind
from tests.drives import content_of, make_file
from tests.memory_hub import HubSession, MemoryHub
from tests.sync.drives import Hub
from tests.sync.test_whole_drives import StillHub, names, same_everywhere

NOTHING = Policy(0, 0, 0, 0, 0)
"""is kept of the past"""
SIZE = 70_000


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    return Hub(tmp_path)


async def let_go(hub: Hub, drive: Drive, name: bytes, grace: float = RESERVED_SECONDS) -> None:
    """The file is deleted, and nothing of the past is kept; the hub deletes what was released so long ago."""
    await drive.unlink(ROOT_INODE, name)
    drive.retention.set_policy(NOTHING)
    await drive.sync()
    await make_file(drive, b"after " + name, b"the newest state is kept")
    await drive.sync()
    await drive.retention.collect(grace=0, trust_clock=True)
    hub.upstream.collect(grace)


async def begin(hub: Hub, data: bytes) -> None:
    async with hub.device(1) as first:
        await make_file(first, b"f", data)
        await first.sync()
    async with hub.device(2):
        pass


@asynccontextmanager
async def on_its_way(hub: Hub, drive: Drive) -> AsyncIterator[None]:
    """In the block a commit of device 2 has all its blocks, and is not in the log."""
    held = hub.upstream.held[2] = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(drive.sync)
        with trio.fail_after(10):
            while not hub.upstream.waiting:
                await trio.sleep(0.001)
        yield
        del hub.upstream.held[2]
        held.set()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_block_that_another_lets_go_of_stays_for_who_relies_on_it(hub: Hub, kind: Kind) -> None:
    data = contents.content(kind, SIZE, 1)
    await begin(hub, data)
    async with hub.device(1) as first, hub.device(2) as second:
        await make_file(second, b"g", data)
        async with on_its_way(hub, second):
            stored = set(hub.upstream.stored)
            await let_go(hub, first, b"f")
            assert bool(hub.upstream.released) == bool(stored)  # zeros are in no block
            assert stored <= hub.upstream.stored.keys()
        await same_everywhere(hub, first, second)
        assert await content_of(first, b"g") == data


async def test_what_nobody_relies_on_is_deleted(hub: Hub) -> None:
    data = contents.content("random", SIZE, 1)
    await begin(hub, data)
    async with hub.device(1) as first, hub.device(2) as second:
        before = sum(map(len, hub.upstream.stored.values()))
        await let_go(hub, first, b"f", grace=0)
        assert before - sum(map(len, hub.upstream.stored.values())) >= SIZE
        await same_everywhere(hub, first, second)


class OvertakenHub(MemoryHub):
    """Just before a commit that drops blocks, `overtake` happens, once."""

    overtake: Callable[[], Awaitable[None]] | None = None

    async def append(self, commit: Commit, expected: Head) -> Head:
        overtake = self.overtake
        if commit.dropped and overtake is not None:
            self.overtake = None
            await overtake()
        return await super().append(commit, expected)


async def test_what_is_needed_at_the_head_is_not_released_by_who_does_not_know_it_yet(tmp_path: Path) -> None:
    """The second names the block anew while the first, at an older state, says that nobody needs it."""
    hub = Hub(tmp_path, upstream := OvertakenHub())
    data = contents.content("random", SIZE, 1)
    await begin(hub, data)
    async with hub.device(1) as first, hub.device(2) as second:
        await make_file(second, b"g", data)
        upstream.overtake = second.sync
        await let_go(hub, first, b"f")
        assert names(first).count(b"g") == 1
        upstream.collect(0)
        await same_everywhere(hub, first, second)
        assert await content_of(first, b"g") == data


@pytest.mark.parametrize("kind", KINDS)
async def test_who_was_away_for_too_long_stores_again_what_a_cache_has(hub: Hub, kind: Kind) -> None:
    data = contents.content(kind, SIZE, 1)
    await begin(hub, data)
    async with hub.device(1) as first, hub.device(2) as second:
        assert await content_of(second, b"f") == data
        await make_file(second, b"g", data)
        async with on_its_way(hub, second):
            await let_go(hub, first, b"f", grace=0)
        await same_everywhere(hub, first, second)
        assert await content_of(first, b"g") == data


@pytest.mark.logs_warnings
async def test_what_no_cache_has_is_stored_from_the_journal_by_the_next_mount(hub: Hub) -> None:
    data = contents.content("text", SIZE, 1)
    await begin(hub, data)
    async with hub.device(1) as first:
        async with hub.device(2, crash=True) as second:
            await make_file(second, b"g", data)
            with pytest.RaisesGroup(pytest.RaisesExc(BlocksMissingError, match="mount the drive again")):
                async with on_its_way(hub, second):
                    await let_go(hub, first, b"f", grace=0)
            assert "mount the drive again" in second.publisher.problem
        async with hub.device(2) as second:
            await same_everywhere(hub, first, second)
            assert await content_of(first, b"g") == data


@pytest.mark.parametrize("kind", KINDS)
async def test_a_block_of_a_key_epoch_that_is_to_be_followed_is_read(tmp_path: Path, kind: Kind) -> None:
    """Regression: such a block, which another device had stored already, was an I/O error until then."""
    hub, data = Hub(tmp_path, StillHub()), contents.content(kind, 200_000, 5)
    async with hub.device(1) as first, hub.device(2) as second:
        await Devices(first).begin_epoch()
        await make_file(first, b"there", data)
        await first.sync()
        await make_file(second, b"here", data)
        async with on_its_way(hub, second):
            second.blocks.clear()
            assert Devices(second).key_epoch == 1
            assert await content_of(second, b"here") == data
        assert await content_of(second, b"there") == data


async def test_a_log_that_is_damaged_leaves_a_block_of_an_unknown_key_epoch_unreported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub, reported = Hub(tmp_path, StillHub()), list[BlockId]()

    async def report(_session: HubSession, block: BlockId) -> bool:
        reported.append(block)
        return True

    monkeypatch.setattr(HubSession, "report_wrong", report)
    async with hub.device(1) as first, hub.device(2) as second:
        await Devices(first).begin_epoch()
        await make_file(first, b"there", b"there")
        await first.sync()
        commit, digest = hub.upstream.commits[-2]
        assert commit.authority
        forged = commit.authority[:8] + bytes(60) + commit.authority[68:]
        hub.upstream.commits[-2] = replace(commit, authority=forged), digest
        (block,) = hub.upstream.commits[-1][0].added
        with pytest.raises(UnknownEpochError):
            await second.blocks.get(block)
        assert not reported
        hub.upstream.commits[-2] = commit, digest
        assert await second.blocks.get(block) == b"there"


@pytest.mark.parametrize("_turn", range(16))
async def test_only_a_commit_that_was_taken_releases(_turn: int) -> None:
    """Regression, of the hub of these tests: of two at once the refused one released its blocks, too."""
    hub, block = MemoryHub(), BlockId(bytes(32))
    hub.stored[block] = b"block"
    empty = await hub.head()
    taken: list[int] = []

    async def append(device: int, dropped: tuple[BlockId, ...]) -> None:
        commit = Commit(1, empty.hash, device, 0, 1000, (), dropped, b"")
        with suppress(ConflictError):
            await hub.append(commit, empty)
            taken.append(device)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(append, 1, ())
        nursery.start_soon(append, 2, (block,))
    assert len(taken) == 1
    assert (block in hub.released) is (taken == [2])
