"""A process that uses a drive at a hub is killed while the drive moves to nodes: at each declared step it is
at the hub or on the nodes, all that was stored is there, and it is never open at both places."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trio.testing

from backend.cluster import HeldDrive, check_nodes, drive_file
from backend.errors import AwayError, ConflictError, DriveError, FencedError, UnavailableError, UsageError
from backend.health import NodesWanted
from backend.keys import AccountKeys, HubDrive
from backend.remote import BegunMoves, HubClient, HubLogin, RemoteDeparture
from backend.upstream import Head
from cache.drive import Drive
from cache.errors import ReadOnlyFileSystemError
from cache.health import NodeChanging
from cache.services import Copying
from tests.contents import KINDS, content
from tests.crash.moving import NAME, ROOT, log_in, move, variables
from tests.crash.moving_back import (
    folders_of,
    in_use_at_hub,
    make_nodes,
    move_back,
    move_drive_back,
    named,
)
from tests.crash.node_changes import in_use
from tests.drives import make_file, tree
from tests.hub_server import RunningHub, hub_for_test
from tests.small_drive import SmallDrive
from tests.waiting import wait_until
from tools import compose
from tools.hub.account_session import account_session
from tools.hub.departures import Departures
from tools.hub.drives import Address

HERE = Path(__file__).parents[2]
BEFORE = ("copying.blocks", "copying.log", "move.noted")
AFTER = ("drive-file.nodes-written", "move.arrived", "move.told")

pytestmark = [pytest.mark.logs_warnings, pytest.mark.timeout(180)]
Tree = dict[bytes, tuple[object, ...]]


@pytest.fixture(scope="module")
def running() -> Iterator[RunningHub]:
    with hub_for_test() as found:
        yield found


@pytest.fixture
def made(tmp_path: Path) -> SmallDrive:
    """Nodes for the drive of `login`, which has files of all kinds at the hub."""
    key = tmp_path / "key"
    key.write_bytes(os.urandom(32))
    key.chmod(0o600)
    return SmallDrive(tmp_path, {})


@pytest.fixture
def login(running: RunningHub, made: SmallDrive) -> HubLogin:
    uuid, directory = os.urandom(16), running.hub.directory
    account = running.call(directory.add_account(f"{uuid.hex()}@example.org"))
    login = log_in(made, running.url, running.call(directory.add_device(account)))
    sealed = AccountKeys(ROOT).seal_drive(uuid, HubDrive(NAME, os.urandom(32)))
    running.call(directory.add_drive(account, uuid, sealed))
    made.content = trio.run(_filled, made, login)
    trio.run(make_nodes, made, login)
    return login


async def _filled(made: SmallDrive, login: HubLogin) -> Tree:
    async with in_use_at_hub(made, login) as drive:
        for number, kind in enumerate(KINDS):
            file = await make_file(drive, b"f%d" % number, content(kind, 30_000, number))
            await drive.sync()
            await drive.write(file.inode, 9_000, content(kind, 9_000, number + 100))
            await drive.settle(file.inode)
        await drive.sync()
        await drive.snapshots.make()
        return await tree(drive)


async def seen_on_nodes(made: SmallDrive) -> Tree:
    """All that this machine sees on the nodes, where it can write."""
    async with in_use(made) as drive:
        found = await tree(drive)
        await make_file(drive, b"written on nodes", b"x")
        await drive.sync()
        return found


async def seen_at_hub(made: SmallDrive, login: HubLogin) -> Tree:
    """All that this machine sees at the hub, where it can write."""
    async with in_use_at_hub(made, login) as drive:
        found = await tree(drive)
        await make_file(drive, b"at the hub", b"x")
        await drive.sync()
        return found


def require_moved(made: SmallDrive, login: HubLogin, expected: Tree) -> None:
    """The drive is on its nodes, whole, for this machine and for others, and the hub takes nothing."""
    assert trio.run(named, login).is_importing
    found = trio.run(seen_on_nodes, made)
    assert {path: found[path] for path in expected} == expected
    another = made.read()
    assert {path: another[path] for path in expected} == expected


def require_at_hub(made: SmallDrive, login: HubLogin) -> Tree:
    """The drive is at the hub, and not open on its nodes; all that is there."""
    assert not trio.run(named, login).is_importing
    with pytest.raises(UsageError, match="has moved to"):
        made.unlocked()
    return trio.run(seen_at_hub, made, login)


def undo(made: SmallDrive, monkeypatch: pytest.MonkeyPatch) -> int:
    """The command."""
    for name, value in variables(made).items():
        monkeypatch.setenv(name, value)
    return made.drivefs("move-to", "--undo", made.drive, *made.secret)


def test_moved_while_two_devices_use_it(made: SmallDrive, login: HubLogin) -> None:
    """What the other one wrote comes too; then it is told, and takes no change any more."""

    async def run() -> tuple[Tree, str, list[str]]:
        async with in_use_at_hub(made, login) as drive, in_use_at_hub(made, login, "other") as other:
            await make_file(other, b"of another", b"abc" * 9000)
            await other.sync()
            problem = await move_drive_back(made, drive)
            found = await tree(drive)
            said = [await _refusal(drive)]
            await make_file(other, b"too late", b"x")
            with pytest.raises(FencedError):
                await other.sync()
            return found, problem, [*said, await _refusal(other)]

    expected, problem, said = trio.run(run)
    assert problem == ""
    assert b"/of another" in expected
    assert f"the drive has moved to {made.drive}" in said[0]
    assert "has moved from the hub" in said[1]
    assert trio.run(named, login).has_left
    require_moved(made, login, expected)
    assert made.fsck("-n", "--data") == 0


async def _refusal(drive: Drive) -> str:
    with pytest.raises(ReadOnlyFileSystemError) as refused:
        await make_file(drive, b"late", b"x")
    return str(refused.value)


def killed_at(made: SmallDrive, login: HubLogin, step: str) -> None:
    """Live in a process of its own, which the step kills."""
    environment = os.environ | {"PYTHONPATH": str(HERE), "DRIVEFS_FAILPOINTS": f"{step}=kill"}
    program = f"from tests.crash.moving_back import main; main({str(made.folder)!r}, {login.url!r})"
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr


@pytest.mark.parametrize("step", [*BEFORE, "move.closed", *AFTER])
def test_killed_at_each_step(
    made: SmallDrive, login: HubLogin, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_at(made, login, step)
    moves = BegunMoves(folders_of(made, compose.load_drive(str(made.drive)).id).state)
    assert (moves.load() is None) == step.startswith("copying.")
    if step in BEFORE:
        with pytest.raises(UsageError, match="is open at the hub"):
            undo(made, monkeypatch)
    else:
        found = trio.run(named, login)
        assert (found.is_leaving, found.has_left) == (step != "move.told", step == "move.told")
    if step == "move.closed":
        assert undo(made, monkeypatch) == 0
        assert moves.load() is None
    if step in AFTER:
        assert undo(made, monkeypatch) == 0
        assert trio.run(named, login).has_left
        assert moves.load() is None
        with pytest.raises(UsageError, match="has not moved"):
            undo(made, monkeypatch)
        require_moved(made, login, made.content)
        return
    expected = require_at_hub(made, login)
    assert {path: expected[path] for path in made.content} == made.content
    assert b"/begun" in expected
    assert trio.run(move_back, made, login) == ""
    require_moved(made, login, expected)


def departures(made: SmallDrive, login: HubLogin) -> Departures:
    """Of a mount of the nodes on the machine that moved the drive."""
    file = compose.load_drive(str(made.drive))
    return Departures(str(made.drive), file, folders_of(made, file.id).state, variables(made))


def test_the_next_mount_of_the_nodes_tells_the_hub(
    made: SmallDrive, login: HubLogin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the hub is away at first. Then nothing is left to be told."""
    killed_at(made, login, "move.arrived")
    refused, really = 0, RemoteDeparture.leave

    async def away_at_first(departure: RemoteDeparture) -> None:
        nonlocal refused
        refused += 1
        if refused < 3:
            raise AwayError("no answer")
        await really(departure)

    monkeypatch.setattr(RemoteDeparture, "leave", away_at_first)
    mount = departures(made, login)
    trio.run(mount.run, clock=trio.testing.MockClock(autojump_threshold=0.5))
    assert refused == 3
    assert trio.run(named, login).has_left
    assert trio.run(mount.tell) == ""
    require_moved(made, login, made.content)


def test_a_move_that_was_settled_since_is_told_to_nobody(
    made: SmallDrive, login: HubLogin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The drive went back to the hub, and the machine has kept its note."""

    async def fails(_departure: RemoteDeparture) -> None:
        raise AwayError("no answer")

    with monkeypatch.context() as patch:
        patch.setattr(RemoteDeparture, "leave", fails)
        assert trio.run(move_back, made, login) == ""
    assert trio.run(named, login).is_leaving
    mount = departures(made, login)
    assert trio.run(move, made, login, b"on nodes") == ""
    assert trio.run(mount.tell) == Address(login.url, NAME).source
    assert trio.run(mount.tell) == ""
    assert b"/on nodes" in require_at_hub(made, login)


def test_a_drive_that_is_open_at_two_places_says_so_until_one_is_given_up(
    made: SmallDrive, login: HubLogin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub was opened by a word, as if its nodes were lost; then they were mounted."""
    killed_at(made, login, "move.arrived")
    for name, value in variables(made).items():
        monkeypatch.setenv(name, value)
    assert made.drivefs("move-to", "--undo", "--force", Address(login.url, NAME).source) == 0
    mount = departures(made, login)
    for _ in range(2):
        with pytest.raises(ConflictError, match="open at two places, at the hub and on the nodes of"):
            trio.run(mount.tell)
    with pytest.raises(ConflictError, match="open at two places"):
        undo(made, monkeypatch)
    trio.run(_deleted_at_hub, mount, login)
    assert mount.problem == ""
    assert trio.run(mount.tell) == ""


async def _deleted_at_hub(mount: Departures, login: HubLogin) -> None:
    """While the mount runs, which ends its telling then."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(mount.run)
        await trio.to_thread.run_sync(wait_until, lambda: "drives delete" in mount.problem)
        async with account_session(login) as session:
            await session.delete_drive(NAME)


def test_nodes_whose_hub_let_the_drive_move_to_others_say_so(
    made: SmallDrive, login: HubLogin, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_at(made, login, "move.arrived")
    mount = departures(made, login)
    for name, value in variables(made).items():
        monkeypatch.setenv(name, value)
    assert made.drivefs("move-to", "--undo", "--force", Address(login.url, NAME).source) == 0

    async def move_on() -> None:
        async with account_session(login) as session:
            found = await session.find_drive(NAME)
        client = HubClient(login.url, login.token)
        departure = RemoteDeparture(client, found.uuid, os.urandom(16))
        await departure.begin(os.urandom(16))
        await departure.close()
        await client.close()

    trio.run(move_on)
    with pytest.raises(ConflictError, match="open at two places, on other nodes and on the nodes of"):
        trio.run(mount.tell)


def test_a_mover_whose_hub_was_opened_meanwhile_says_so(
    made: SmallDrive, login: HubLogin, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = RemoteDeparture.leave

    async def too_late(departure: RemoteDeparture) -> None:
        async with account_session(login) as session:
            found = await session.find_drive(NAME)
            await session.stop_departure(found.uuid, found.nodes)
        await really(departure)

    monkeypatch.setattr(RemoteDeparture, "leave", too_late)
    said = trio.run(_said_by_mover, made, login, "")
    assert "open at two places, at the hub and on the nodes of" in said
    assert "it is moving" not in said


@pytest.mark.parametrize("name", ["", "elsewhere"])
def test_a_mover_that_cannot_tell_the_hub_says_which_mount_will(
    made: SmallDrive, login: HubLogin, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """With another state folder than the usual one, its note is in that."""

    async def fails(_departure: RemoteDeparture) -> None:
        raise AwayError("no answer")

    monkeypatch.setattr(RemoteDeparture, "leave", fails)
    said = trio.run(_said_by_mover, made, login, name)
    assert "until the nodes are mounted on this machine" in said
    assert (f"-o state_dir={made.state / name}" in said) == bool(name)


async def _said_by_mover(made: SmallDrive, login: HubLogin, name: str) -> str:
    async with in_use_at_hub(made, login, name) as drive:
        assert await move_drive_back(made, drive) == ""
        assert drive.node_changes is not None
        change = drive.node_changes.status()
        assert change is not None
        return "\n".join(change.said)


def test_another_machine_tells_the_hub_that_is_named(
    made: SmallDrive, login: HubLogin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the nodes and a login, and knows nothing of the move."""
    killed_at(made, login, "move.arrived")
    address = Address(login.url, NAME).source
    made.forget()
    log_in(made, login.url, login.token)
    with pytest.raises(UsageError, match=f"--undo https://HUB/NAME {made.drive}"):
        undo(made, monkeypatch)
    assert trio.run(named, login).is_leaving
    assert made.drivefs("move-to", "--undo", address, made.drive, *made.secret) == 0
    assert trio.run(named, login).has_left
    with pytest.raises(UsageError, match="does not say that the drive is being moved"):
        made.drivefs("move-to", "--undo", address, made.drive, *made.secret)
    require_moved(made, login, made.content)


def test_a_drive_whose_new_nodes_are_lost_is_opened_at_the_hub_by_a_word(
    made: SmallDrive, login: HubLogin, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = Address(login.url, NAME).source
    for name, value in variables(made).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match="is not being moved"):
        made.drivefs("move-to", "--undo", "--force", address)
    killed_at(made, login, "move.closed")
    shutil.rmtree(made.drive)
    with pytest.raises(UsageError, match=r"as of commit \d+\. What was written on the nodes.* is lost"):
        made.drivefs("move-to", "--undo", address)
    assert trio.run(named, login).is_leaving
    assert made.drivefs("move-to", "--undo", "--force", address) == 0
    assert not trio.run(named, login).is_importing
    assert trio.run(seen_at_hub, made, login).keys() >= made.content.keys()
    trio.run(make_nodes, made, login)
    assert trio.run(move_back, made, login, b"again") == ""
    with pytest.raises(UsageError, match="was opened on its nodes"):
        made.drivefs("move-to", "--undo", "--force", address)


def test_a_copy_that_a_dead_mover_had_begun_to_write_is_gone_after_undo(
    made: SmallDrive, login: HubLogin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a late write of that mover to another node could open the nodes beside the hub."""
    killed_at(made, login, "move.closed")
    folder = str(made.drive)
    away = compose.load_drive(folder)
    arrived = replace(away, moved="", epoch=away.epoch + 1)
    away.nodes[0].place(folder).write(drive_file.FILE_NAME, drive_file.encode(arrived))
    assert undo(made, monkeypatch) == 0
    copies = check_nodes.survey(folder).copies.values()
    assert len(copies) == len(away.nodes) + 1
    for copy in copies:
        assert copy is not None
        assert drive_file.decode(copy, "the copy") == replace(away, epoch=arrived.epoch)
    require_at_hub(made, login)


def test_a_move_that_fails_at_its_end_leaves_the_drive_at_the_hub(
    made: SmallDrive, login: HubLogin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same mount goes on there. If the hub is away just then, somebody has to say so."""

    async def fails(_copying: Copying) -> None:
        raise AwayError("no answer")

    async def run(name: bytes) -> tuple[str, bool]:
        async with in_use_at_hub(made, login) as drive:
            problem = await move_drive_back(made, drive)
            is_open = not (await named(login)).is_importing
            await make_file(drive, name, b"x")
            if is_open:
                await drive.sync()
            return problem, is_open

    with monkeypatch.context() as patch:
        patch.setattr(Copying, "finish", fails)
        assert trio.run(run, b"goes on") == ("no answer", True)
        moves = BegunMoves(folders_of(made, compose.load_drive(str(made.drive)).id).state)
        assert moves.load() is None
        patch.setattr(RemoteDeparture, "stay", fails)
        problem, is_open = trio.run(run, b"waits")
        assert moves.load() is not None
        assert "--undo" in problem
        assert not is_open
    assert undo(made, monkeypatch) == 0
    expected = require_at_hub(made, login)
    assert {b"/goes on", b"/waits"} <= expected.keys()
    assert trio.run(move_back, made, login) == ""
    require_moved(made, login, expected)


def test_who_is_stopped_while_the_hub_is_asked_to_close_leaves_it_open(
    made: SmallDrive, login: HubLogin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the hub meets the request when the mover has ended."""
    under_way: list[RemoteDeparture] = []

    async def lost(departure: RemoteDeparture) -> Head:
        await trio.lowlevel.checkpoint()
        under_way.append(departure)
        raise AwayError("no answer")

    async def run() -> None:
        async with in_use_at_hub(made, login) as drive:
            with monkeypatch.context() as patch:
                patch.setattr(RemoteDeparture, "close", lost)
                assert await move_drive_back(made, drive) == "no answer"
            await make_file(drive, b"goes on", b"x")
            await drive.sync()
        client = HubClient(login.url, login.token)
        late = RemoteDeparture(client, compose.load_drive(str(made.drive)).id, under_way[0].ticket)
        with pytest.raises(ConflictError):
            await late.close()
        await client.close()

    trio.run(run)
    assert b"/goes on" in require_at_hub(made, login)


def test_who_cannot_write_the_drive_file_is_told_what_to_do(
    made: SmallDrive, login: HubLogin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub is closed then, and the nodes are not open."""

    def fails(*_: object) -> list[str]:
        raise UnavailableError("too few can be told", ["node0"])

    with monkeypatch.context() as patch:
        patch.setattr("backend.cluster.drive_file_copies.replace_copies", fails)
        assert "--undo" in trio.run(move_back, made, login)
    assert trio.run(named, login).is_leaving
    assert undo(made, monkeypatch) == 0
    require_at_hub(made, login)


def test_a_move_that_is_stopped_goes_on(made: SmallDrive, login: HubLogin) -> None:
    """At a byte a second it would last for hours."""

    async def run() -> tuple[str, str]:
        async with in_use_at_hub(made, login) as drive:
            changes = drive.node_changes
            assert changes is not None
            changes.begin(NodesWanted(verb="move-to", names=(str(made.drive),), rate=1.0))
            await trio.to_thread.run_sync(wait_until, lambda: _step(changes) == "copying blocks")
            changes.stop()
            stopped = await changes.ended()
            assert stopped is not None
            await make_file(drive, b"goes on", b"x")
            return stopped.problem, await move_drive_back(made, drive)

    problem, then = trio.run(run)
    assert (problem, then) == ("stopped; the same command goes on with it", "")
    require_moved(made, login, made.content)


def _step(changes: NodeChanging) -> str:
    change = changes.status()
    return "" if change is None else change.step


def test_who_stops_a_move_too_late_is_told_that_it_has_moved(
    made: SmallDrive, login: HubLogin, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = HeldDrive.verify

    async def run() -> tuple[str, str]:
        async with in_use_at_hub(made, login) as drive:

            async def stopped_meanwhile(held: HeldDrive) -> None:
                assert drive.node_changes is not None
                drive.node_changes.stop()
                await really(held)

            monkeypatch.setattr(HeldDrive, "verify", stopped_meanwhile)
            return await move_drive_back(made, drive), await _refusal(drive)

    for said in trio.run(run):
        assert f"the drive has moved to {made.drive}" in said
    assert trio.run(named, login).has_left
    require_moved(made, login, made.content)


@pytest.mark.parametrize("are_new", [False, True])
def test_there_and_back_again(made: SmallDrive, login: HubLogin, are_new: bool) -> None:
    """Nodes that a drive has left take it back, and a hub that it has left does; and so do new nodes, which
    have nothing of what the machine knew of those before."""
    assert trio.run(move_back, made, login) == ""
    assert trio.run(seen_on_nodes, made).keys() >= made.content.keys()
    assert trio.run(move, made, login, b"on nodes") == ""
    expected = require_at_hub(made, login)
    assert b"/on nodes" in expected
    if are_new:
        made.drive.rename(made.folder / "left")
        trio.run(make_nodes, made, login)
    assert trio.run(move_back, made, login, b"again") == ""
    another = made.read()
    assert {path: another[path] for path in expected} == expected


@pytest.mark.parametrize("is_told", [True, False])
def test_other_nodes_of_a_drive_that_has_left_do_not_open_it(
    made: SmallDrive, login: HubLogin, monkeypatch: pytest.MonkeyPatch, is_told: bool
) -> None:
    """They were made for another move, and `move-to --undo` opens neither them nor the hub."""

    async def fails(_departure: RemoteDeparture) -> None:
        raise AwayError("no answer")

    other = SmallDrive(made.folder / "second", {})
    other.drive.parent.mkdir()
    shutil.copy(made.folder / "key", other.folder)
    log_in(other, login.url, login.token)
    trio.run(make_nodes, other, login)
    with monkeypatch.context() as patch:
        if not is_told:
            patch.setattr(RemoteDeparture, "leave", fails)
        assert trio.run(move_back, made, login) == ""
    with pytest.raises(DriveError, match="other nodes"):
        undo(other, monkeypatch)
    with pytest.raises(UsageError, match="has moved to"):
        other.unlocked()
    require_moved(made, login, made.content)
