"""A drive at a hub, opened as a mount opens it: on two machines, twice on one, again after an end."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import psycopg
import pytest
import trio

from backend.errors import FencedError, LeaseHeldError, RollbackError, UsageError
from backend.health import NodesWanted
from backend.keys import AccountKeys, DriveKeys, HubDrive
from backend.remote import HubLogin, HubRoute, KnownDrives, ListedDrive, Logins
from backend.remote.recent_commits import FILE
from backend.system import THIS_MACHINE, Durable, Environment
from backend.upstream import NO_COMMIT
from cache.drive import Drive
from cache.health import Health, NodeChanging
from cache.journal import reserve
from cache.local import JOURNAL, STALE
from cache.opening import open_drive
from cache.recovery import StaleCacheError
from cache.services.devices import Devices
from cache.services.health_calls import check_running
from tests import contents
from tests.contents import KINDS
from tests.drives import content_of, make_file, tree
from tests.hub_server import RunningHub, hub_for_test
from tests.sync.drives import SMALL
from tests.sync.test_whole_drives import names
from tools import state_opening
from tools.drivefs import drivefs
from tools.errors import ToolError
from tools.host import places
from tools.host.places import Folders
from tools.hub.opening import DriveAtHub, opened_drive_at_hub

SECONDS = 30
KEY = bytes(range(32))
DISK = 128 << 20


@pytest.fixture(scope="module")
def running() -> Iterator[RunningHub]:
    with hub_for_test() as found:
        yield found


class Machines:
    """A new drive at the hub, and what some machines have of it."""

    def __init__(self, running: RunningHub, folder: Path) -> None:
        uuid, token = running.new_drive()
        self._folder = folder
        login = HubLogin(running.url, "me@example.org", token, bytes(32), 1)
        keys = DriveKeys(KEY, uuid)
        self.drive = DriveAtHub(f"{running.url}/photos", login, uuid, keys, Logins(folder / "hubs"))

    def own(self, machine: int) -> Folders:
        """The folders of the drive on that machine."""
        id_text = self.drive.id_text
        return Folders(self._folder / f"cache{machine}" / id_text, self._folder / f"state{machine}" / id_text)

    def log_in(self, hubs: Path) -> None:
        """A machine with this folder of logins knows the drive."""
        logins, login = Logins(hubs), self.drive.login
        logins.save(login)
        sealed = AccountKeys(login.account_root).seal_drive(self.drive.drive_id, HubDrive("photos", KEY))
        KnownDrives(logins.folder_of(login.url)).keep([ListedDrive(self.drive.drive_id, sealed)])

    @asynccontextmanager
    async def opened(
        self,
        machine: int,
        *,
        kept: int | None = DISK,
        publishes: bool = True,
        read_only: bool = False,
        environment: Environment = THIS_MACHINE,
    ) -> AsyncIterator[Drive]:
        """The drive as that machine has it, running; or nothing is published."""
        options = replace(SMALL, host=f"dev{machine}", cache_disk=kept, read_only=read_only)
        with trio.fail_after(SECONDS):
            opening = opened_drive_at_hub(
                self.drive, self.own(machine), options, HubRoute(), environment=environment
            )
            async with opening as drive, trio.open_nursery() as nursery:
                if publishes:
                    await nursery.start(drive.run)
                yield drive
                nursery.cancel_scope.cancel()


@pytest.fixture
def machines(running: RunningHub, tmp_path: Path) -> Machines:
    return Machines(running, tmp_path)


async def test_two_machines_have_one_drive_and_each_goes_on_where_it_ended(machines: Machines) -> None:
    files = {kind.encode(): contents.content(kind, 100_000, 1) for kind in KINDS}
    async with machines.opened(1) as first, machines.opened(2) as second:
        for name, data in files.items():
            await make_file(first, name, data)
        await first.sync()
        await second.publisher.follow()
        for name, data in files.items():
            assert await content_of(second, name) == data
    async with machines.opened(2) as second, machines.opened(1) as first:
        await make_file(second, b"later", b"later")
        await second.sync()
        await first.publisher.follow()
        assert await tree(first) == await tree(second)
        assert b"later" in names(first)


async def test_what_was_read_is_read_again_from_the_disk(machines: Machines) -> None:
    data = contents.content("half-compressible", 300_000, 2)
    async with machines.opened(1) as first:
        await make_file(first, b"f", data)
        await first.sync()
    for _ in range(2):
        async with machines.opened(2) as second:
            assert await content_of(second, b"f") == data
            kept = (await second.status()).disk_cache
    assert kept is not None
    assert (kept.hits > 0, kept.misses) == (True, 0)


async def test_without_a_disk_cache_nothing_is_kept(machines: Machines) -> None:
    async with machines.opened(1, kept=0) as drive:
        await make_file(drive, b"f", b"content")
        await drive.sync()
        assert (await drive.status()).disk_cache is None


class FullDisk(Durable):
    """A disk on which only the reserve of the journal is left."""

    def free_space(self, path: str) -> tuple[int, int]:
        total, _ = super().free_space(path)
        return total, reserve(total)


@pytest.mark.logs_warnings
async def test_commits_are_kept_where_the_disk_has_more_than_the_journal_needs(machines: Machines) -> None:
    for name, environment in ((b"f", Environment(disk=FullDisk())), (b"g", THIS_MACHINE)):
        async with machines.opened(1) as first:
            await make_file(first, name, b"content")
            await first.sync()
        async with machines.opened(2, environment=environment) as second:
            assert await content_of(second, name) == b"content"
        assert (machines.own(2).state / FILE).exists() == (environment is THIS_MACHINE)


async def test_a_second_opening_on_one_machine_is_refused(
    machines: Machines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_opening, "ENDING_SECONDS", 0.2)
    async with machines.opened(1):
        with pytest.raises(LeaseHeldError, match="in use by another"):
            async with machines.opened(1):
                raise AssertionError("not reached")


@pytest.mark.logs_warnings
async def test_a_journal_that_is_gone_is_missed_once(machines: Machines) -> None:
    async with machines.opened(1, publishes=False) as drive:
        await make_file(drive, b"f", b"only in the journal")
    shutil.rmtree(machines.own(1).state / JOURNAL)
    with pytest.raises(ToolError, match="journal"):
        async with machines.opened(1):
            raise AssertionError("not reached")
    async with machines.opened(1) as drive:
        assert names(drive) == []


@pytest.mark.logs_warnings
async def test_a_state_that_is_set_aside_is_told_and_shown(
    machines: Machines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A state that does not go on from the log any more: the drive goes on as another device, without it."""

    async def find_it_stale(*_: object) -> NoReturn:
        monkeypatch.setattr(state_opening, "open_drive", open_drive)
        raise StaleCacheError("gone past")

    async with machines.opened(2, publishes=False) as second:
        await make_file(second, b"f", b"of the state")
    async with machines.opened(1) as first:
        await make_file(first, b"g", b"of the log")
        await first.sync()
    monkeypatch.setattr(state_opening, "open_drive", find_it_stale)
    async with machines.opened(2) as second:
        (line,) = [each for each in second.notices if "set aside" in each]
        assert f"drivefs stale list {machines.drive.source}" in line
        assert [*(machines.own(2).state / STALE).iterdir()] != []
        assert await content_of(second, b"g") == b"of the log"
    monkeypatch.setenv("DRIVEFS_STATE_DIR", str(machines.own(2).state.parent))
    machines.log_in(places.hubs_folder(os.environ))
    source, back = machines.drive.source, tmp_path / "back"
    (kept,) = (machines.own(2).state / STALE).iterdir()
    restored = ["stale", "restore", source, kept.name, "--to", str(back)]
    for command in (["stale", "list", source], ["stale", "show", source], restored):
        assert await trio.to_thread.run_sync(drivefs, command) == 0
    assert (back / "f").read_bytes() == b"of the state"


@pytest.mark.logs_warnings
async def test_after_a_state_was_set_aside_a_log_that_was_set_back_is_refused(
    machines: Machines, running: RunningHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new state does not know what the old one had seen."""
    async with machines.opened(1) as first:
        await make_file(first, b"f", b"content")
        await first.sync()

    async def set_back(*_: object) -> NoReturn:
        with psycopg.connect(running.conninfo) as connection:
            uuid = machines.drive.drive_id
            connection.execute("DELETE FROM commit USING drive WHERE drive = id AND uuid = %s", (uuid,))
            set_head = "UPDATE drive SET head = 0, head_hash = %s WHERE uuid = %s"
            connection.execute(set_head, (NO_COMMIT, uuid))
        raise StaleCacheError("gone past")

    monkeypatch.setattr(state_opening, "open_drive", set_back)
    with pytest.raises(RollbackError, match="set back"):
        async with machines.opened(1):
            raise AssertionError("not reached")


@pytest.mark.logs_warnings
async def test_a_device_that_is_revoked_is_fenced(machines: Machines, running: RunningHub) -> None:
    """What it wrote is neither published nor lost."""
    directory = running.hub.directory
    async with machines.opened(1) as drive:
        device = running.call(directory.device(machines.drive.login.token))
        running.call(directory.revoke(device.account, device.number))
        await make_file(drive, b"f", b"content")
        while not drive.publisher.fenced:
            await trio.sleep(0.01)
        assert "does not know this device" in drive.publisher.problem
        assert await content_of(drive, b"f") == b"content"
        with pytest.raises(FencedError):
            await drive.sync()
        assert drive.ledger.unpublished


async def test_who_only_looks_is_no_device_and_follows(machines: Machines) -> None:
    data = contents.content("log", 200_000, 3)
    async with machines.opened(1) as first, machines.opened(3):
        made = await make_file(first, b"f", data)
        await first.sync()
        async with machines.opened(2, read_only=True) as looking:
            assert await content_of(looking, b"f") == data
            await first.write(made.inode, 0, data[::-1])
            await first.settle(made.inode)
            await make_file(first, b"later", b"later")
            await first.sync()
            while b"later" not in names(looking):
                await trio.sleep(0.01)
            assert await tree(looking) == await tree(first)
            assert await content_of(looking, b"f") == data[::-1]
        numbers = [row.number for row, _ in Devices(first).all()]
    assert numbers == [1, 2], "the third machine is the second device"


async def test_nodes_are_the_hubs_and_that_is_said(machines: Machines) -> None:
    async with machines.opened(1) as drive:
        await make_file(drive, b"f", b"content")
        await drive.sync()
        assert await check_running(drive) == []
        health, changes = drive.health, drive.node_changes
        assert health is not None
        assert changes is not None
        await _is_refused(health, changes, machines.drive.login.url)


async def _is_refused(health: Health, changes: NodeChanging, url: str) -> None:
    for refused in (health.repair(), health.scrub(wait=True), changes.ended()):
        with pytest.raises(UsageError, match=url):
            await refused
    with pytest.raises(UsageError, match="operator"):
        changes.begin(NodesWanted(verb="rebalance"))
    with pytest.raises(UsageError, match="operator"):
        changes.stop()
    assert (health.scrub_status(), changes.status()) == (None, None)
