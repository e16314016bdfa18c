"""A process that uses a drive is killed while the drive moves to a hub: at each declared step it is the old
drive or the new one, all that was stored is there, and it is never open at both places."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from backend.errors import AwayError, ReadOnlyError, TransientError, UsageError
from backend.keys import DriveKeys
from backend.remote import HubAccount, HubClient, HubLogin, RemoteImport, RemoteUpstream
from backend.upstream import NO_COMMIT, Commit, Head
from cache.errors import ReadOnlyFileSystemError
from cache.local.local_state import LocalState
from cache.opening import open_drive
from tests.crash.moving import NAME, log_in, move, move_drive, variables
from tests.crash.node_changes import in_use
from tests.drives import QUIET, make_file, tree
from tests.hub_server import RunningHub, hub_for_test
from tests.small_drive import SmallDrive, copy_of, make_small_drive
from tools import compose
from tools.hub import moving
from tools.hub.account_session import account_session
from tools.secret_source import SecretSource

ROOT = Path(__file__).parents[2]
BEFORE = ("copying.blocks", "copying.log", "drive-file.nodes-written")
STEPS = (*BEFORE, "move.marked", "move.opened")

pytestmark = [pytest.mark.logs_warnings, pytest.mark.timeout(180)]
Tree = dict[bytes, tuple[object, ...]]


@pytest.fixture
def running() -> Iterator[RunningHub]:
    with hub_for_test() as found:
        yield found


@pytest.fixture(scope="module")
def six(tmp_path_factory: pytest.TempPathFactory) -> SmallDrive:
    return make_small_drive(tmp_path_factory.mktemp("six"))


@pytest.fixture
def made(six: SmallDrive, tmp_path: Path) -> SmallDrive:
    return copy_of(six, tmp_path)


@pytest.fixture
def login(running: RunningHub, made: SmallDrive) -> HubLogin:
    _, token = running.new_drive()
    return log_in(made, running.url, token)


def killed_at(made: SmallDrive, login: HubLogin, step: str) -> None:
    """Live in a process of its own, which the step kills."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "DRIVEFS_FAILPOINTS": f"{step}=kill"}
    program = f"from tests.crash.moving import main; main({str(made.folder)!r}, {login.url!r})"
    command = [sys.executable, "-c", program]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr


def keys_of(made: SmallDrive) -> tuple[bytes, DriveKeys]:
    """The drive's id and keys."""
    file = compose.load_drive(str(made.drive))
    secrets = SecretSource.chosen({}, None, str(made.folder / "key"), None).secrets()
    return file.id, DriveKeys(compose.drive_key(file, secrets), file.id)


async def seen_at_hub(made: SmallDrive, login: HubLogin, state: Path) -> Tree:
    """All that a device with that state folder sees at the hub, where it can write."""
    drive_id, keys = keys_of(made)
    upstream = RemoteUpstream(HubClient(login.url, login.token), drive_id)
    local = LocalState(state)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(upstream.run)
            drive = await open_drive(local, upstream, drive_id, keys, replace(QUIET, is_shared=True))
            async with trio.open_nursery() as running:
                await running.start(drive.run)
                found = await tree(drive)
                await make_file(drive, b"of " + os.fsencode(state.name), b"x")
                await drive.sync()
                running.cancel_scope.cancel()
            await drive.close()
            nursery.cancel_scope.cancel()
    finally:
        local.close()
    return found


async def seen_here(made: SmallDrive) -> Tree:
    async with in_use(made) as drive:
        return await tree(drive)


async def is_refused_there(made: SmallDrive, login: HubLogin) -> bool:
    """Whether the hub takes no commit of a device."""
    drive_id, _ = keys_of(made)
    client = HubClient(login.url, login.token)
    upstream = RemoteUpstream(client, drive_id)
    try:
        await upstream.log.append(Commit(1, NO_COMMIT, 1, 0, 1, (), (), b""), Head(0, NO_COMMIT))
    except ReadOnlyError:
        return True
    finally:
        await client.close()
    return False


async def is_importing(login: HubLogin) -> bool:
    """Whether the hub waits for the rest."""
    async with account_session(login) as session:
        return (await session.find_drive(NAME)).is_importing


async def move_and_write(made: SmallDrive, login: HubLogin) -> tuple[str, str]:
    """What went wrong with the move, and why the drive takes no change after it."""
    async with in_use(made) as drive:
        problem = await move_drive(made, drive, login)
        with pytest.raises(ReadOnlyFileSystemError) as refused:
            await make_file(drive, b"late", b"x")
    return problem, str(refused.value)


def require_moved(made: SmallDrive, login: HubLogin, expected: Tree, tmp_path: Path) -> None:
    """The drive is at the hub, with all that it had, for this machine and for others; and here no more."""
    assert not trio.run(is_importing, login)
    with pytest.raises(UsageError, match="has moved to"):
        made.unlocked()
    for state in (state_of(made), tmp_path / "another"):
        found = trio.run(seen_at_hub, made, login, state)
        assert {path: found[path] for path in expected} == expected


def state_of(made: SmallDrive) -> Path:
    """Of this machine."""
    return made.state / compose.load_drive(str(made.drive)).id.hex()


def undo(made: SmallDrive, monkeypatch: pytest.MonkeyPatch, *options: str) -> int:
    """The command."""
    for name, value in variables(made).items():
        monkeypatch.setenv(name, value)
    return made.drivefs("move-to", "--undo", *options, made.drive, *made.secret)


def test_moved_while_it_is_used(made: SmallDrive, login: HubLogin, tmp_path: Path) -> None:
    expected = trio.run(seen_here, made)
    assert trio.run(move, made, login) == ""
    require_moved(made, login, expected, tmp_path)


async def no_answer(*_given: object) -> None:
    """Of a hub that is away."""
    raise AwayError("no answer")


def left_on_its_way(made: SmallDrive, login: HubLogin, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """The drive is closed here, and the hub does not answer any more: as of `move_and_write`."""
    with monkeypatch.context() as patch:
        patch.setattr(RemoteImport, "open", no_answer)
        patch.setattr(moving, "OPENING_SECONDS", 0.1)
        patch.setattr(moving, "PAUSE", 0.1)
        return trio.run(move_and_write, made, login)


def test_a_drive_that_the_account_does_not_have_is_brought_back_only_if_it_was_deleted(
    made: SmallDrive, login: HubLogin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine may be logged in to another account by now, and the drive be open in that of the move."""
    expected = trio.run(seen_here, made)
    left_on_its_way(made, login, monkeypatch)

    async def delete() -> None:
        async with account_session(login) as session:
            await session.delete_drive(NAME)

    trio.run(delete)
    with pytest.raises(UsageError, match=r"no such drive there.*--undo --deleted"):
        undo(made, monkeypatch)
    with pytest.raises(UsageError, match="--undo"):
        made.unlocked()
    assert undo(made, monkeypatch, "--deleted") == 0
    assert trio.run(seen_here, made) == expected


def test_a_hub_that_goes_away_at_the_end_leaves_a_drive_that_can_be_brought_back(
    made: SmallDrive, login: HubLogin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the hub has opened the drive is not known then: here nothing may be published any more."""
    expected = trio.run(seen_here, made)
    problem, refusal = left_on_its_way(made, login, monkeypatch)
    assert "no answer" in problem
    assert "on its way" in refusal
    assert trio.run(is_importing, login)
    with pytest.raises(UsageError, match="--undo"):
        made.unlocked()
    with monkeypatch.context() as patch:
        patch.setattr(HubAccount, "drives", no_answer)
        with pytest.raises(TransientError, match=r"only the hub can say .* no answer; nothing was changed"):
            undo(made, monkeypatch)
    with pytest.raises(UsageError, match="--undo"):
        made.unlocked()
    assert undo(made, monkeypatch) == 0
    with pytest.raises(UsageError, match="has not moved"):
        undo(made, monkeypatch)
    assert trio.run(seen_here, made) == expected
    assert trio.run(move, made, login) == ""
    require_moved(made, login, expected, tmp_path)


def test_who_stops_a_move_too_late_is_told_that_it_has_moved(
    made: SmallDrive, login: HubLogin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end is not cut off, and changes are refused at once as after any move."""
    expected = trio.run(seen_here, made)
    really = RemoteImport.open

    async def run() -> tuple[str, str]:
        async with in_use(made) as drive:

            async def stopped_meanwhile(mover: RemoteImport, head: Head) -> None:
                assert drive.node_changes is not None
                drive.node_changes.stop()
                await really(mover, head)

            monkeypatch.setattr(RemoteImport, "open", stopped_meanwhile)
            problem = await move_drive(made, drive, login)
            with pytest.raises(ReadOnlyFileSystemError) as refused:
                await make_file(drive, b"too late", b"x")
            return problem, str(refused.value)

    for said in trio.run(run):
        assert f"the drive has moved to {login.url}" in said
    require_moved(made, login, expected, tmp_path)


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_each_step(
    made: SmallDrive, login: HubLogin, tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed_at(made, login, step)
    if step == "move.opened":
        assert not trio.run(is_importing, login)
        with pytest.raises(UsageError, match="is open at the hub"):
            undo(made, monkeypatch)
        require_moved(made, login, made.content, tmp_path)
        return
    assert trio.run(is_refused_there, made, login)
    if step not in BEFORE:
        with pytest.raises(UsageError, match="--undo"):
            made.unlocked()
        assert undo(made, monkeypatch) == 0
    expected = trio.run(seen_here, made)
    assert {path: expected[path] for path in made.content} == made.content
    assert b"/begun" in expected
    assert trio.run(move, made, login) == ""
    require_moved(made, login, expected, tmp_path)
