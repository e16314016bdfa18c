"""`drivefs accept-restore`, the command: after a hub's database was put back, and others went on without what
this machine has seen."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from backend.errors import AwayError, BlocksMissingError, CorruptError, RollbackError, UsageError, sole
from backend.keys import AccountKeys, HubDrive
from backend.remote import HubLogin
from backend.remote.kept_log import KeptLog
from backend.upstream import Commit, Head
from cache.blocks import BlockCache
from cache.local import LocalState, found
from cache.rebase import Resolved
from cache.services import LostHistory
from cache.services.devices import Devices
from tests.contents import KINDS, content
from tests.crash.moving import NAME, ROOT, log_in, variables
from tests.crash.moving_back import at_hub, folders_of, in_use_at_hub
from tests.drives import content_of, make_file
from tests.hub_server import RunningHub
from tests.small_drive import SmallDrive
from tests.sync.test_hub_put_back import Restorable
from tools.drivefs import drivefs
from tools.hub.drives import Address

pytestmark = [pytest.mark.logs_warnings, pytest.mark.timeout(180)]
REFUSALS = {
    "no common point": (UsageError, "no commit that this machine still shows"),
    "key epoch": (UsageError, "a key epoch began after commit"),
    "blocks": (
        BlocksMissingError,
        r"1 of \d+ blocks .* nothing was brought in",
    ),
}
LOST = {kind.encode(): content(kind, 40_000, at) for at, kind in enumerate(KINDS)}


class Machine:
    """One with two state folders of the drive: its own, and that of `other`."""

    def __init__(self, running: RunningHub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made = SmallDrive(folder, {})
        uuid, directory = os.urandom(16), running.hub.directory
        account = running.call(directory.add_account("me@example.org"))
        self.login: HubLogin = log_in(self.made, running.url, running.call(directory.add_device(account)))
        sealed = AccountKeys(ROOT).seal_drive(uuid, HubDrive(NAME, os.urandom(32)))
        running.call(directory.add_drive(account, uuid, sealed))
        self.source = Address(running.url, NAME).source
        for name, value in {**variables(self.made), "DRIVEFS_CACHE_DIR": str(self.made.cache)}.items():
            monkeypatch.setenv(name, value)

    def write(self, files: dict[bytes, bytes], name: str = "") -> None:
        async def run() -> None:
            async with in_use_at_hub(self.made, self.login, name) as drive:
                for path, data in files.items():
                    await make_file(drive, path, data)
                await drive.sync()

        try:
            trio.run(run)
        except BaseExceptionGroup as group:
            raise sole(group) from None

    def is_killed_before_it_appends(self, files: dict[bytes, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
        """All of a commit with these files is stored, and the hub hears of no commit."""

        async def away(*_: object) -> Head:
            raise AwayError("no answer")

        async def run() -> None:
            drive = await at_hub(self.made, self.login)
            state = folders_of(self.made, drive.drive_id).state
            killed = state.with_name("killed")
            async with in_use_at_hub(self.made, self.login) as opened:
                for path, data in files.items():
                    await make_file(opened, path, data)
                with pytest.raises(AwayError):
                    await opened.sync()
                assert opened.ledger.unpublished
                shutil.copytree(state, killed)
            shutil.rmtree(state)
            killed.rename(state)

        with monkeypatch.context() as patch:
            patch.setattr(KeptLog, "append", away)
            trio.run(run)

    def require(self, files: dict[bytes, bytes], name: str = "") -> None:
        async def run() -> None:
            async with in_use_at_hub(self.made, self.login, name) as drive:
                for path, data in files.items():
                    assert await content_of(drive, path) == data

        trio.run(run)

    def begin_epoch(self) -> None:
        """What is sealed from now on has another key."""

        async def run() -> None:
            async with in_use_at_hub(self.made, self.login) as drive:
                await Devices(drive).begin_epoch()
                await drive.sync()

        trio.run(run)

    def counted_as_set_aside(self) -> int:
        """The number of states that a mount says are not in the drive."""

        async def run() -> int:
            async with in_use_at_hub(self.made, self.login) as drive:
                return (await drive.status()).set_aside

        return trio.run(run)

    def set_aside(self) -> list[str]:
        drive = trio.run(at_hub, self.made, self.login)
        return [each.name for each in found(folders_of(self.made, drive.drive_id).state)]


async def fails(_history: LostHistory, _blocks: BlockCache) -> Resolved:
    raise AwayError("no answer")


def ended_after(call: Callable[[LocalState], Path]) -> Callable[[LocalState], Path]:
    def ends(local: LocalState) -> Path:
        raise AwayError(f"ended after {call(local)}")

    return ends


def test_what_this_machine_alone_has_is_brought_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also if the command is interrupted: it says how to go on. Nothing is done where what the hub lost can
    be handed over."""
    place = Restorable(tmp_path)
    with place.serving() as running:
        machine = Machine(running, tmp_path, monkeypatch)
        machine.write({b"before": b"1"})
        machine.write({b"of the other": b"2"}, "other")
        place.back_up()
        machine.write(LOST)
    place.restore()
    with place.serving():
        with pytest.raises(UsageError, match="the hub has all"):
            drivefs(["accept-restore", machine.source])
        machine.require(LOST, "other")
    place.restore()
    with place.serving():
        machine.write({b"instead": b"3"}, "third")
        with pytest.raises(RollbackError):
            machine.write({b"refused": b"4"})
        assert not machine.set_aside()
        with monkeypatch.context() as patch:
            patch.setattr(LostHistory, "bring", fails)
            with pytest.raises(AwayError):
                drivefs(["accept-restore", machine.source])
        (name,) = machine.set_aside()
        goes_on = f"drivefs accept-restore --stale {name} {machine.source}"
        assert goes_on in capsys.readouterr().err
        with pytest.raises(UsageError, match=goes_on):
            drivefs(["accept-restore", machine.source])
        assert machine.counted_as_set_aside() == 1
        machine.write({b"meanwhile": b"5"})
        with pytest.raises(UsageError, match=f"the hub has all.*{goes_on}"):
            drivefs(["accept-restore", machine.source])
        assert drivefs(["accept-restore", "--stale", name, machine.source]) == 0
        expected = {**LOST, b"before": b"1", b"of the other": b"2", b"instead": b"3", b"meanwhile": b"5"}
        machine.require(expected)
        machine.require(expected, "fourth")
        with pytest.raises(UsageError, match=r"the hub has all.*nothing is to be accepted$"):
            drivefs(["accept-restore", machine.source])
        assert machine.counted_as_set_aside() == 0
        capsys.readouterr()
        assert drivefs(["stale", "list", machine.source]) == 0
        assert "brought in" in capsys.readouterr().out
        with pytest.raises(UsageError, match="nothing of that name was set aside"):
            drivefs(["accept-restore", "--stale", "none", machine.source])
        assert drivefs(["accept-restore", "--stale", name, machine.source]) == 0
        machine.require(expected, "fifth")


@pytest.mark.parametrize("again", [False, True], ids=["once", "interrupted"])
def test_what_the_journal_has_is_brought_in_without_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    """A machine is killed after all of a commit is stored and before it is appended; the hub loses the blocks
    of it. No mount is refused first. `again`: the command is ended as soon as the state is set aside, and a
    mount then misses no journal."""
    place = Restorable(tmp_path)
    with place.serving() as running:
        machine = Machine(running, tmp_path, monkeypatch)
        machine.write({b"before": b"1"})
        machine.write({b"of the other": b"2"}, "other")
        place.back_up()
        machine.write({b"lost": b"lost" * 9999})
        assert place.nodes is not None
        before = {name: set(node.objects) for name, node in place.nodes.items()}
        machine.is_killed_before_it_appends(LOST, monkeypatch)
        for name, node in place.nodes.items():
            new = node.objects.keys() - before[name]
            assert new
            for key in new:
                del node.objects[key]
    place.restore()
    with place.serving():
        machine.write({b"instead": b"3"}, "third")
        if again:
            with monkeypatch.context() as patch:
                patch.setattr(LocalState, "set_aside", ended_after(LocalState.set_aside))
                with pytest.raises(AwayError):
                    drivefs(["accept-restore", machine.source])
            machine.require({b"instead": b"3"})
        chosen = ["--stale", *machine.set_aside()] if again else []
        assert drivefs(["accept-restore", *chosen, machine.source]) == 0
        expected = {**LOST, b"lost": b"lost" * 9999, b"before": b"1", b"instead": b"3"}
        machine.require(expected)
        machine.require(expected, "fourth")


@pytest.mark.parametrize("why", ["no common point", "key epoch", "blocks"])
def test_what_cannot_be_brought_in_is_refused_before_anything_is_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    place = Restorable(tmp_path)
    with place.serving() as running:
        machine = Machine(running, tmp_path, monkeypatch)
        if why != "no common point":
            machine.write({b"before": b"1"})
        place.back_up()
        machine.write(LOST)
        if why == "key epoch":
            machine.begin_epoch()
        assert place.nodes is not None
        before = {name: set(node.objects) for name, node in place.nodes.items()}
        machine.write({b"more": content("random", 40_000)})
        for name, node in place.nodes.items():
            for key in node.objects.keys() - before[name] if why == "blocks" else ():
                del node.objects[key]
    place.restore()
    with place.serving():
        machine.write({b"instead": b"3"}, "third")
        error, words = REFUSALS[why]
        for _ in range(2):
            with pytest.raises(error, match=words):
                drivefs(["accept-restore", machine.source])
            assert not machine.set_aside()
            with pytest.raises(RollbackError):
                machine.write({b"refused": b"4"})


def test_a_log_that_ends_early_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Regression: a hub that shows less than before was asked for ever."""
    really, asked = LostHistory.bring, list[int]()

    async def bring(history: LostHistory, blocks: BlockCache) -> Resolved:
        log = history.upstream.log
        whole = log.commits_after

        async def ends(number: int, limit: int = 256) -> list[tuple[Commit, bytes]]:
            if limit == 1:
                return await whole(number, limit)
            asked.append(number)
            assert len(asked) < 3
            return []

        monkeypatch.setattr(log, "commits_after", ends)
        return await really(history, blocks)

    place = Restorable(tmp_path)
    with place.serving() as running:
        machine = Machine(running, tmp_path, monkeypatch)
        machine.write({b"before": b"1"})
        place.back_up()
        machine.write(LOST)
    place.restore()
    with place.serving():
        machine.write({b"instead": b"3"}, "third")
        monkeypatch.setattr(LostHistory, "bring", bring)
        with pytest.raises(CorruptError, match="log ends before commit"):
            drivefs(["accept-restore", machine.source])
    assert len(asked) == 1
