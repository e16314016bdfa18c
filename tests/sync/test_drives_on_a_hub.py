"""Whole drives on a real hub: two devices, HTTP, PostgreSQL, packs on nodes. What they do is what
`test_whole_drives` and `test_random_drives` do on a hub in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import psycopg
import pytest
import trio

from backend.hub.log_segments import LogSegments
from backend.keys import DriveKeys
from backend.remote import HubClient, RecentCommits, RemoteUpstream
from cache.drive import Drive
from cache.errors import DriveFullError
from cache.local.local_state import LocalState
from cache.namespace.operations import ROOT_INODE
from cache.opening import open_drive
from tests import contents
from tests.contents import KINDS
from tests.drives import content_of, make_file, tree
from tests.hub_server import RunningHub, hub_for_test
from tests.sync.drives import SMALL
from tests.sync.test_whole_drives import COPY, names, write


@pytest.fixture(scope="module")
def running() -> Iterator[RunningHub]:
    with hub_for_test() as found:
        yield found


class SomeHub(Protocol):
    """A hub, wherever it runs."""

    url: str

    def new_drive(self) -> tuple[bytes, bytes]: ...


class Devices:
    """A new drive on the hub, and its devices."""

    def __init__(self, running: SomeHub, folder: Path) -> None:
        self.url, self.folder = running.url, folder
        self.uuid, self.token = running.new_drive()
        self._keys = DriveKeys(bytes(range(32)), self.uuid)

    def client(self, _number: int) -> HubClient:
        """By which that device speaks to the hub."""
        return HubClient(self.url, self.token)

    @asynccontextmanager
    async def device(
        self, number: int, *, crash: bool = False, read_only: bool = False
    ) -> AsyncIterator[Drive]:
        """A device, running. With `crash` what a SIGKILL would lose is lost at the end."""
        local = LocalState(self.folder / str(number))
        upstream = RemoteUpstream(self.client(number), self.uuid)
        if not read_only:
            upstream.keep_commits(RecentCommits(str(local.folder)), lambda: local.ledger.head)
        options = replace(SMALL, is_shared=True, host=f"dev{number}", read_only=read_only)
        try:
            async with trio.open_nursery() as sending:
                await sending.start(upstream.run)
                drive = await open_drive(local, upstream, self.uuid, self._keys, options)
                async with trio.open_nursery() as nursery:
                    await nursery.start(drive.run)
                    yield drive
                    nursery.cancel_scope.cancel()
                if not crash:
                    await drive.close()
                sending.cancel_scope.cancel()
        finally:
            local.close()
            with trio.CancelScope(shield=True):
                await upstream.close()


@pytest.fixture
def devices(running: RunningHub, tmp_path: Path) -> Devices:
    return Devices(running, tmp_path)


async def settle(*drives: Drive) -> None:
    """All have what all have made."""
    for _ in range(2):
        for drive in drives:
            await drive.sync()
            await drive.publisher.follow()


async def test_two_devices_have_one_drive(devices: Devices) -> None:
    files = {kind.encode(): contents.content(kind, 100_000, 1) for kind in KINDS}
    async with devices.device(1) as first, devices.device(2) as second:
        for name, data in files.items():
            await make_file(first, name, data)
        await settle(first, second)
        for name, data in files.items():
            assert await content_of(second, name) == data
        await write(first, b"text", b"of the first")
        await write(second, b"text", b"of the second")
        await first.unlink(ROOT_INODE, b"zeros")
        await settle(first, second)
        assert await tree(first) == await tree(second)
        assert await content_of(second, b"text") == b"of the first"
        (copy,) = [name for name in names(second) if COPY in name]
        assert await content_of(first, copy) == b"of the second"
    async with devices.device(3) as third, devices.device(1) as first:
        assert await tree(third) == await tree(first)


async def move_old_commits(running: RunningHub) -> int:
    """The hub puts them into packs; how many."""
    moving = LogSegments(running.hub.commits, running.hub.blocks, kept=2, least=6).round()
    return await trio.to_thread.run_sync(running.call, moving)


async def test_a_device_that_was_away_reads_commits_that_lie_in_packs(
    running: RunningHub, devices: Devices
) -> None:
    async with devices.device(1) as first, devices.device(2):
        await make_file(first, b"f", b"0")
        await first.sync()
    async with devices.device(1) as first:
        for at in range(10):
            await make_file(first, b"f%d" % at, contents.content("log", 500, at))
            await first.sync()
        assert await move_old_commits(running) >= 8
        state = await tree(first)
    for number in (2, 3):
        async with devices.device(number) as other:
            assert await tree(other) == state


async def test_an_idle_device_hears_of_the_others_commits(devices: Devices) -> None:
    async with devices.device(1) as first, devices.device(2) as second:
        await make_file(first, b"f", b"hello")
        await first.sync()
        with trio.fail_after(30):
            while b"f" not in names(second):
                await trio.sleep(0.01)
        assert await content_of(second, b"f") == b"hello"


@pytest.mark.logs_warnings
async def test_a_device_that_is_killed_loses_nothing_that_it_synced(devices: Devices) -> None:
    data = contents.content("log", 200_000, 3)
    async with devices.device(1, crash=True) as first:
        made = await make_file(first, b"f", data)
        await first.fsync(made.inode)
    async with devices.device(2) as second:
        await make_file(second, b"g", b"there")
        await second.sync()
        async with devices.device(1) as first:
            await settle(first, second)
            assert await content_of(second, b"f") == data
            assert await tree(first) == await tree(second)


def give_room(running: RunningHub, devices: Devices, quota: int) -> None:
    """The operator gives the account of the drive that room."""
    with psycopg.connect(running.conninfo) as connection:
        connection.execute(
            "UPDATE account SET quota = %s WHERE id = (SELECT account FROM drive WHERE uuid = %s)",
            (quota, devices.uuid),
        )


@pytest.mark.logs_warnings
async def test_a_full_account_refuses_what_grows_and_goes_on_with_more_room(
    running: RunningHub, devices: Devices
) -> None:
    give_room(running, devices, 2_000_000)
    data = contents.content("random", 1_500_000, 1)
    async with devices.device(1) as drive:
        await make_file(drive, b"first", data)
        await drive.sync()
        await drive.store.look()
        shown = drive.statistics()
        assert shown.blocks == 2_000_000 // shown.block_size
        assert shown.free < 500_000 // shown.block_size
        with pytest.raises(DriveFullError):
            await make_file(drive, b"second", contents.content("random", 1_500_000, 2))
        await drive.sync()
        give_room(running, devices, 10_000_000)
        await drive.store.look()
        await make_file(drive, b"third", data[::-1])
        await drive.sync()
        assert await content_of(drive, b"third") == data[::-1]
        assert await content_of(drive, b"first") == data
