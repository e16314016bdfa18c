"""`fsck.drivefs` as a command: exit bits, options, what it refuses, Ctrl-C, and damage beside the data."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.coding.erasure import Profile
from backend.commits.authority_format import encode_authority
from backend.commits.lease import Lease
from backend.commits.process_identity import this_process
from backend.errors import ConflictError, DriveError, FencedError, LeaseHeldError
from backend.keys import Secret
from backend.nodes import OWN_FILES, DirectoryNode
from backend.upstream import KeyEpoch
from cache.drive import Drive
from cache.namespace.operations import ROOT_INODE, SetAttributes
from cache.namespace.schema import open_database
from tests.drives import QUIET, make_file
from tests.small_drive import CLEAN, CORRECTED, LEFT, SmallDrive, copy_of, make_empty_drive, make_small_drive
from tools import compose, drive_nodes, drive_opening
from tools.check import check_drive
from tools.check.check_commits import CommitCheck
from tools.errors import call
from tools.fsck import FSCK_CODES, fsck
from tools.secret_source import SecretSource

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.logs_warnings


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> SmallDrive:
    return make_small_drive(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def made(whole: SmallDrive, tmp_path: Path) -> SmallDrive:
    return copy_of(whole, tmp_path)


def everything(made: SmallDrive) -> dict[Path, bytes]:
    places = (made.drive, made.cache, made.state)
    return {path: path.read_bytes() for place in places for path in place.rglob("*") if path.is_file()}


def test_what_was_changed_while_the_passphrase_was_asked_for_is_not_taken_back(
    made: SmallDrive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it, a change was interrupted: the drive's folder lacked it."""
    own, answer = made.drive / "drive.toml", SecretSource.secrets
    before = own.read_bytes()

    def add(name: str) -> None:
        assert made.drivefs("node", "add", made.folder / name, made.drive, *made.secret) == 0

    def add_meanwhile(source: SecretSource) -> list[Secret]:
        monkeypatch.setattr(SecretSource, "secrets", answer)
        add("another")
        return answer(source)

    add("one")
    own.write_bytes(before)
    monkeypatch.setattr(SecretSource, "secrets", add_meanwhile)
    with pytest.raises(ConflictError, match="changed just now"):
        made.fsck("-y")
    assert len(compose.load_drive(str(made.drive)).nodes) == 8
    assert made.fsck("-n") == CLEAN


def test_nodes_that_hang_are_waited_for_at_the_same_time(
    made: SmallDrive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here each answers when all were asked."""
    check, asked, all_asked = DirectoryNode.check, set[str](), trio.Event()

    async def answer(node: DirectoryNode) -> None:
        asked.add(node.name)
        if len(asked) == len(list(made.drive.glob("node*"))):
            all_asked.set()
        await all_asked.wait()
        await check(node)

    monkeypatch.setattr(DirectoryNode, "check", answer)
    monkeypatch.setattr(check_drive, "TOOL_PATIENCE", 5.0)
    assert made.fsck("-n") == CLEAN


@pytest.mark.parametrize("option", ["-n", "-p", "-a", "-y"])
def test_a_sound_drive_is_clean_in_every_mode(made: SmallDrive, option: str) -> None:
    before = everything(made)
    assert made.fsck(option, "-f", "-C") == CLEAN
    after = everything(made)
    changed = {path.name for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    rewritten = {"lease", *OWN_FILES, "blocks.db-wal", "blocks.db-shm", "blocks.db"}
    assert changed <= (rewritten if option != "-n" else set())


def test_without_a_mode_and_without_a_terminal_nothing_is_changed(
    made: SmallDrive, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (made.drive / "node1" / "drive.toml").unlink()
    monkeypatch.setattr("sys.stdin", io.StringIO())
    before = everything(made)
    assert made.fsck() == LEFT
    assert everything(made) == before
    assert "-y mends" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["-n", "-y", "x"], ["--what", "x"], ["x", "y"]])
def test_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert call("fsck.drivefs", FSCK_CODES, fsck, arguments) == 16


def test_what_cannot_be_checked_is_an_operational_error(made: SmallDrive, tmp_path: Path) -> None:
    assert call("fsck.drivefs", FSCK_CODES, fsck, ["-n", str(tmp_path / "nothing")]) == 8
    wrong = tmp_path / "wrong"
    wrong.touch(mode=0o600)
    wrong.write_bytes(bytes(range(32)))
    where = ["--key-file", str(wrong), str(made.drive)]
    assert call("fsck.drivefs", FSCK_CODES, fsck, ["-n", *where]) == 8
    for number in range(4):
        shutil.rmtree(made.drive / f"node{number}")
    assert call("fsck.drivefs", FSCK_CODES, fsck, ["-y", *made.where(), str(made.drive)]) == 8


@pytest.mark.parametrize("mode", ["-n", "-y"])
def test_a_drive_that_is_in_use_is_refused(made: SmallDrive, mode: str) -> None:
    async def hold() -> None:
        async with drive_opening.opened_drive(made.unlocked(), made.own(), QUIET):
            with pytest.raises(LeaseHeldError):
                await trio.to_thread.run_sync(made.fsck, mode)

    trio.run(hold)
    assert made.fsck("-n") == CLEAN


def test_a_check_that_is_fenced_stops(made: SmallDrive, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another mount takes the drive over while fsck mends: it ends, with the bit of an operational error."""

    async def steal(_: object) -> None:
        drive = made.unlocked()
        bare = drive_nodes.open_nodes(drive.folder, drive.file)
        nodes = drive_nodes.patient(bare, drive_nodes.TOOL_PATIENCE)
        thief = Lease(
            nodes, drive.file.id, drive.keys.lease, this_process(), life=lambda _one, _other: "gone"
        )
        await thief.acquire()
        await trio.sleep_forever()

    monkeypatch.setattr(compose, "lease_seconds", lambda *_: 2.0)
    monkeypatch.setattr(CommitCheck, "run", steal)
    with pytest.raises(FencedError):
        made.fsck("-y")


def test_progress_goes_to_the_descriptor(made: SmallDrive) -> None:
    reader, writer = os.pipe()
    try:
        assert made.fsck("-n", "--data", f"-C{writer}") == CLEAN
    finally:
        os.close(writer)
    with os.fdopen(reader) as pipe:
        lines = [line.split(" ", 3) for line in pipe.read().splitlines()]
    assert len(lines) > 5
    assert all(int(line[1]) <= int(line[2]) and line[3] == str(made.drive) for line in lines)
    numbers = [int(line[0]) for line in lines]
    assert numbers == sorted(numbers)


def test_an_interrupt_is_cancelled_and_can_be_repeated(made: SmallDrive) -> None:
    before = signal.getsignal(signal.SIGINT)
    (made.drive / "node1" / "commits" / "x").parent.mkdir(exist_ok=True)
    shutil.rmtree(made.drive / "node1" / "packs")
    program = (
        "import sys, os, signal; from tools.check import check_state; from tools.fsck import main\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background ignores it\n"
        "def stop(*_): os.kill(os.getpid(), signal.SIGINT)\n"
        "check_state.LogReplay.apply = stop\n"
        "main()"
    )
    arguments = ["-y", *made.where(), made.drive]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program, *map(str, arguments)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 32, ended.stderr
    assert ended.stderr == "fsck.drivefs: interrupted\n"
    assert not list(made.state.glob("*/fsck-*"))
    assert made.fsck("-y") in (CLEAN, CORRECTED)
    assert made.fsck("-n", "--data") == CLEAN
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("place", ["repair.before-fragment*2", "node.before-write*4", "snapshot.stored"])
def test_one_that_was_killed_is_repeated(made: SmallDrive, place: str) -> None:
    for path in [*made.drive.glob("node1/*/*/*"), *made.drive.glob("node*/roots/*")]:
        path.write_bytes(path.read_bytes()[:-1])
    shutil.rmtree(made.drive / "node3" / "commits", ignore_errors=True)
    name, _, skip = place.partition("*")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "DRIVEFS_FAILPOINTS": f"{name}=kill*{skip or 0}"}
    arguments = ["-y", *made.where(), made.drive]
    command = [sys.executable, "-c", "from tools.fsck import main; main()", *map(str, arguments)]
    ended = subprocess.run(command, env=environment, capture_output=True, timeout=60, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert made.fsck("-y") in (CLEAN, CORRECTED)
    assert made.fsck("-n", "--data") == CLEAN
    assert made.read() == made.content


def test_unpublished_changes_survive_a_namespace_that_is_made_anew(made: SmallDrive) -> None:
    """What is only in the journal is there after fsck has thrown the damaged namespace away."""
    unlocked, own = made.unlocked(), made.own()

    async def change() -> None:
        async with drive_opening.opened_drive(unlocked, own, QUIET) as opened, trio.open_nursery() as nursery:
            await nursery.start(opened.run)
            await make_file(opened, b"unpublished", b"only here")
            nursery.cancel_scope.cancel()

    async def look() -> bytes:
        async with drive_opening.opened_drive(unlocked, own, QUIET) as opened:
            inode = opened.lookup(ROOT_INODE, b"unpublished").inode
            return bytes(await opened.read(inode, 0, 100))

    trio.run(change)
    assert made.fsck("-n") == CLEAN
    with open(own.state / "namespace.db", "r+b") as file:
        file.seek(4096)
        file.write(bytes(4096))
    assert made.fsck("-y") == CORRECTED
    assert list((own.state / "lost").glob("namespace-*.db"))
    assert made.fsck("-n") == CLEAN
    assert trio.run(look) == b"only here"


def test_a_namespace_that_is_sound_but_not_what_the_log_says(made: SmallDrive) -> None:
    unlocked = made.unlocked()
    (path,) = made.state.glob("*/namespace.db")
    connection = open_database(str(path))
    connection.execute("UPDATE inode SET uid = 4242 WHERE inode != 1")
    connection.close()
    assert made.fsck("-n") == LEFT
    assert made.fsck("-y") == CORRECTED
    assert made.fsck("-n") == CLEAN
    assert unlocked.id_text in str(path)


def test_nodes_put_back_to_an_older_state_are_told(made: SmallDrive, whole: SmallDrive) -> None:
    async def change(opened: Drive) -> None:
        opened.ledger.accept(SetAttributes(ROOT_INODE, mode=0o700, ctime_ns=5))
        await opened.sync()

    async def more() -> None:
        unlocked = made.unlocked()
        own = made.own()
        async with drive_opening.opened_drive(unlocked, own, QUIET) as opened, trio.open_nursery() as nursery:
            await nursery.start(opened.run)
            await change(opened)
            nursery.cancel_scope.cancel()

    trio.run(more)
    shutil.rmtree(made.drive)
    shutil.copytree(whole.drive, made.drive)
    assert made.fsck("-n") == LEFT
    assert made.fsck("-y") == LEFT


def put_log_back(made: SmallDrive, older: Path) -> None:
    """The log and the lease are as in `older`, everywhere; the snapshot's root stays."""
    for node in made.drive.glob("node*"):
        shutil.rmtree(node / "commits", ignore_errors=True)
        (node / "lease").unlink(missing_ok=True)
        if (older / node.name / "commits").exists():
            shutil.copytree(older / node.name / "commits", node / "commits")
        if (older / node.name / "lease").exists():
            shutil.copy(older / node.name / "lease", node / "lease")


@pytest.fixture
def log_before_snapshot(tmp_path: Path) -> SmallDrive:
    """A drive whose log ends before the commit of its snapshot, on a machine that has never seen it."""
    made, older = make_empty_drive(tmp_path), tmp_path / "older"

    async def fill(name: bytes, *, snapshot: bool) -> None:
        async with (
            drive_opening.opened_drive(made.unlocked(), made.own(), QUIET) as opened,
            trio.open_nursery() as nursery,
        ):
            await nursery.start(opened.run)
            await make_file(opened, name, b"content")
            await opened.sync()
            if snapshot:
                await opened.snapshots.make()
            nursery.cancel_scope.cancel()

    trio.run(partial(fill, b"first", snapshot=False))
    shutil.copytree(made.drive, older)
    trio.run(partial(fill, b"second", snapshot=True))
    made.forget()
    put_log_back(made, older)
    return made


@pytest.mark.parametrize("damage", ["nothing", "roots/snapshot", "packs", "commits/0000000000000001"])
def test_a_log_that_ends_before_its_snapshot_is_told_and_left(
    log_before_snapshot: SmallDrive, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where the snapshot cannot be read, or the log: what says that there was more stays."""
    made = log_before_snapshot
    if damage == "packs":
        for folder in made.drive.glob("node*/packs"):
            shutil.rmtree(folder)
    elif damage != "nothing":
        for path in list(made.drive.glob(f"node*/{damage}"))[: None if "commits" in damage else 1]:
            path.unlink()
    for mode in ("-n", "-y", "-y"):
        assert made.fsck(mode) & LEFT
        assert "put back to an older state" in capsys.readouterr().out
    with pytest.raises(DriveError):
        made.read()


def test_a_log_that_ends_before_its_snapshot_can_be_gone_on_with(log_before_snapshot: SmallDrive) -> None:
    """As docs/recovery.md says."""
    made = log_before_snapshot
    for folder in made.drive.glob("node*/roots"):
        shutil.rmtree(folder)
    assert made.fsck("-n") == CLEAN
    assert made.read().keys() == {b"/first"}


@pytest.mark.parametrize("option", ["--data", "-f"])
@pytest.mark.parametrize("begun", [b"no epoch", encode_authority(KeyEpoch(2, bytes(60), bytes(60)))])
def test_a_commit_that_begins_a_key_epoch_wrongly_is_told(
    made: SmallDrive, begun: bytes, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Regression: with all contents read the check ended there, and said nothing of the rest."""

    async def add() -> int:
        async with drive_opening.opened_drive(made.unlocked(), made.own(), QUIET) as opened:
            head, upstream = opened.ledger.head, opened.upstream
            ((last, _),) = await upstream.log.commits_after(head.number - 1)
            commit = replace(last, number=head.number + 1, previous=head.hash, epoch=upstream.epoch)
            await upstream.log.append(replace(commit, authority=begun), head)
            return head.number + 1

    number = trio.run(add)
    assert made.fsck("-n", option) == LEFT
    told = capsys.readouterr().out
    assert f"commit {number} is damaged" in told
    assert "block" not in told.replace("blocks", "")


@pytest.mark.parametrize("lost", ["node.toml", "drive.toml"])
def test_files_beside_the_data_are_written_anew(made: SmallDrive, lost: str) -> None:
    for number in (0, 3, 5):
        (made.drive / f"node{number}" / lost).unlink()
    assert made.fsck("-n") == LEFT
    assert made.fsck("-y") == CORRECTED
    assert made.fsck("-n", "--data") == CLEAN


@pytest.mark.parametrize("damage", [None, b"", b"format = ["], ids=["lost", "empty", "damaged"])
def test_the_drive_file_of_the_drives_folder_is_written_anew(made: SmallDrive, damage: bytes | None) -> None:
    own = made.drive / "drive.toml"
    before = own.read_bytes()
    own.unlink()
    if damage is not None:
        own.write_bytes(damage)
    assert made.fsck("-n") == LEFT
    assert made.fsck("-y") == CORRECTED
    assert own.read_bytes() == before
    assert made.fsck("-n") == CLEAN


def test_two_nodes_whose_folders_were_exchanged_are_told_and_left(made: SmallDrive) -> None:
    """Neither identity is written over: a person has to put them back (or to change the paths)."""
    (made.drive / "node1").rename(made.drive / "x")
    (made.drive / "node2").rename(made.drive / "node1")
    (made.drive / "x").rename(made.drive / "node2")
    before = (made.drive / "node1" / "node.toml").read_bytes()
    assert made.fsck("-y") & LEFT
    assert (made.drive / "node1" / "node.toml").read_bytes() == before


@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    numbers=st.permutations(range(6)),
    how=st.sampled_from(["link", "absolute link", "identity"]),
    damage=st.sampled_from(["none", "missing", "damaged"]),
)
def test_a_node_never_takes_the_name_of_another(
    whole: SmallDrive, numbers: list[int], how: str, damage: str
) -> None:
    """A path leads to another node, or a folder says that it is one, and a third is away: that node keeps
    its name, or has it back, another run finds the same, and with what is left the drive can be read."""
    false, true, away = (f"node{number}" for number in numbers[:3])
    with tempfile.TemporaryDirectory() as folder:
        made = copy_of(whole, Path(folder))
        path, other = made.drive / false, made.drive / true
        right = (other / "node.toml").read_bytes()
        if how == "identity":
            shutil.copy(other / "node.toml", path / "node.toml")
        else:
            shutil.rmtree(path)
            path.symlink_to(other if how == "absolute link" else other.name)
        shutil.rmtree(made.drive / away)
        if damage == "missing":
            (other / "node.toml").unlink()
        elif damage == "damaged":
            (other / "node.toml").write_bytes(b"format = [")
        for _ in range(3):
            assert made.fsck("-y") & LEFT
            assert (other / "node.toml").read_bytes() == right
        if how != "identity":
            path.unlink()
        assert made.read() == made.content
        assert made.fsck("-y") & LEFT


def test_a_node_of_a_later_map_keeps_its_name(made: SmallDrive) -> None:
    """It lies where the drive's folder, as of a backup, has another node."""
    identity = made.drive / "node4" / "node.toml"
    later = identity.read_text().replace('"node4"', '"node7"')
    identity.write_text(later)
    assert made.fsck("-y") & LEFT
    assert identity.read_text() == later


def test_an_empty_folder_in_the_place_of_a_node_is_away(made: SmallDrive) -> None:
    """A disk that is not mounted: nothing may be written below its mountpoint."""
    shutil.rmtree(made.drive / "node4")
    (made.drive / "node4").mkdir()
    assert made.fsck("-y") & LEFT
    assert not list((made.drive / "node4").iterdir())


def test_a_path_that_a_person_changed_counts(made: SmallDrive) -> None:
    (made.drive / "node4").rename(made.folder / "moved")
    text = (made.drive / "drive.toml").read_text()
    (made.drive / "drive.toml").write_text(
        text.replace('"node4"', f'"{made.folder / "moved"}"', 2).replace(
            f'name = "{made.folder / "moved"}"', 'name = "node4"'
        )
    )
    assert made.fsck("-y") == CORRECTED
    assert made.fsck("-n") == CLEAN
    assert Profile.parse(compose.load_drive(str(made.folder / "moved")).profile).total == 6
    assert made.read() == made.content
