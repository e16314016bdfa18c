"""`drivefs node` and `rebuild-drive-file`: a node replaced, with one more lost; the drive file taken from
nodes."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from backend.care import repair_record
from backend.commits import Lease, this_process
from backend.errors import (
    ConflictError,
    FormatError,
    LeaseHeldError,
    NodeError,
    NotFoundError,
    UnavailableError,
    UsageError,
)
from backend.health import ScrubStatus
from backend.keys import Secret
from tests.fake_s3 import fake_s3
from tests.small_drive import CLEAN, CORRECTED, LEFT, SmallDrive, copy_of, make_small_drive
from tools import compose, drive_nodes
from tools.commands import doctor
from tools.commands.status_report import describe_scrub
from tools.drivefs import drivefs
from tools.errors import ToolError
from tools.fsck import fsck
from tools.host import mounts
from tools.mkfs import mkfs
from tools.secret_source import SecretSource

ROOT = Path(__file__).parents[4]

pytestmark = pytest.mark.logs_warnings


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> SmallDrive:
    return make_small_drive(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def made(whole: SmallDrive, tmp_path: Path) -> SmallDrive:
    return copy_of(whole, tmp_path)


def replace(made: SmallDrive, name: str, *path: Path) -> int:
    return made.drivefs("node", "replace", made.drive, name, *path, *made.where())


def test_a_lost_node_is_replaced(made: SmallDrive, capsys: pytest.CaptureFixture[str]) -> None:
    gone = made.drive / "node3"
    held = {path.relative_to(gone): path.read_bytes() for path in gone.glob("packs/*/*")}
    shutil.rmtree(gone)
    others = {path: path.read_bytes() for path in made.files() if "packs" in path.parts}
    assert replace(made, "node3", made.folder / "disk" / "new") == 0
    new = made.folder / "disk" / "new"
    assert {path.relative_to(new): path.read_bytes() for path in new.glob("packs/*/*")} == held
    assert {path: path.read_bytes() for path in others} == others
    assert compose.load_drive(str(made.drive)).epoch == 3
    assert made.fsck("-n", "--data") == CLEAN
    assert made.read() == made.content
    capsys.readouterr()
    assert made.drivefs("node", "list", made.drive) == 0
    assert f"{new}  ok" in capsys.readouterr().out


def test_how_long_a_replacement_took_is_kept(made: SmallDrive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repair_record, "LEAST", 1)
    shutil.rmtree(made.drive / "node3")
    assert replace(made, "node3", made.folder / "new") == 0
    record = repair_record.load(made.cache / made.unlocked().id_text)
    assert record is not None
    held = sum(path.stat().st_size for path in made.folder.glob("new/packs/*/*"))
    assert record.rebuilt == held


def test_two_nodes_are_replaced_one_after_the_other(made: SmallDrive) -> None:
    for number in (0, 5):
        shutil.rmtree(made.drive / f"node{number}")
    assert replace(made, "node0", made.folder / "new0") == LEFT
    assert replace(made, "node5", made.folder / "new5") == 0
    for number in (1, 2):
        shutil.rmtree(made.drive / f"node{number}")
    assert made.read() == made.content


@pytest.mark.parametrize(
    ("profile", "name"),
    [("copies:3", "node0"), ("copies:2", "node0"), ("3+1", "node3")],
    ids=["one of three voters", "one of two voters", "no voter"],
)
def test_nodes_that_came_while_the_passphrase_was_asked_for_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, profile: str, name: str
) -> None:
    made, answer = SmallDrive(tmp_path, {}), SecretSource.secrets
    key = tmp_path / "key"
    key.write_bytes(bytes(32))
    key.chmod(0o600)
    assert mkfs(["-q", "--profile", profile, *made.secret, str(made.drive)]) == 0

    def add_meanwhile(source: SecretSource) -> list[Secret]:
        monkeypatch.setattr(SecretSource, "secrets", answer)
        new = [tmp_path / "added0", tmp_path / "added1"]
        assert made.drivefs("node", "add", *new, made.drive, *made.secret) == 0
        return answer(source)

    before = len(compose.load_drive(str(made.drive)).nodes)
    monkeypatch.setattr(SecretSource, "secrets", add_meanwhile)
    with pytest.raises(ConflictError, match="nodes were changed"):
        replace(made, name, tmp_path / "new")
    assert len(compose.load_drive(str(made.drive)).nodes) == before + 2


@pytest.mark.parametrize("lost", [True, False], ids=["a lost voter", "a voter that is there"])
def test_of_two_voters_none_is_replaced_while_somebody_has_the_lease(tmp_path: Path, lost: bool) -> None:
    """Regression: the map was changed without the lease where one of two voters was replaced, also one that
    was there; a mount that had the lease was taken over then, or published by the old map."""
    made = two_copies(tmp_path)
    drive = made.unlocked()
    nodes = drive_nodes.open_nodes(str(made.drive), drive.file)
    holder = Lease(nodes, drive.file.id, drive.keys.lease, this_process(), map_epoch=drive.file.epoch)
    trio.run(holder.acquire)
    if lost:
        (made.drive / "node0").rename(tmp_path / "elsewhere")
    before = (made.drive / "drive.toml").read_bytes()
    with pytest.raises((LeaseHeldError, ToolError), match=r"in use|is mounted by process"):
        replace(made, "node0", tmp_path / "new")
    assert {path.read_bytes() for path in tmp_path.rglob("drive.toml")} == {before}
    trio.run(holder.release)
    assert replace(made, "node0", tmp_path / "new") in (CLEAN, CORRECTED)
    assert compose.load_drive(str(made.drive)).epoch == 2


def test_somebody_may_have_the_lease_of_two_voters_while_the_passphrase_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, answer = two_copies(tmp_path), SecretSource.secrets
    drive = made.unlocked()
    nodes = drive_nodes.open_nodes(str(made.drive), drive.file)
    holder = Lease(nodes, drive.file.id, drive.keys.lease, this_process(), map_epoch=drive.file.epoch)

    def mount_and_lose_a_node(source: SecretSource) -> list[Secret]:
        trio.run(holder.acquire)
        shutil.rmtree(made.drive / "node0")
        return answer(source)

    monkeypatch.setattr(SecretSource, "secrets", mount_and_lose_a_node)
    before = (made.drive / "drive.toml").read_bytes()
    with pytest.raises(LeaseHeldError, match="is mounted by process"):
        replace(made, "node0", tmp_path / "new")
    assert {path.read_bytes() for path in tmp_path.rglob("drive.toml")} == {before}


def two_copies(folder: Path) -> SmallDrive:
    """A new drive of two nodes, which both vote."""
    made = SmallDrive(folder, {})
    key = folder / "key"
    key.write_bytes(bytes(32))
    key.chmod(0o600)
    assert mkfs(["-q", "--profile", "copies:2", *made.secret, str(made.drive)]) == 0
    return made


@pytest.mark.parametrize("again", [True, False], ids=["the same command", "fsck"])
def test_an_interrupted_replacement_is_finished(
    made: SmallDrive, monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("tools.fsck.mend", interrupted)
        with pytest.raises(KeyboardInterrupt):
            replace(made, "node2", made.folder / "new")
    assert (replace(made, "node2", made.folder / "new") if again else made.fsck("-y") - CORRECTED) == 0
    assert made.fsck("-n", "--data") == CLEAN
    assert sum(entry.votes for entry in compose.load_drive(str(made.drive)).nodes) == (5 if again else 4)


def empty_disk(folder: Path, what: str) -> None:
    """Instead of the node: a new disk, or a folder that has lost more or less."""
    node_file = folder / "node.toml"
    if what == "only node.toml is gone":
        node_file.unlink()
        return
    shutil.rmtree(folder)
    if what != "the folder is gone":
        folder.mkdir()
    if what == "a new disk":
        (folder / "lost+found").mkdir()
    if what == "a file in its place":
        folder.rmdir()
        folder.write_bytes(b"")


@pytest.mark.parametrize(
    ("what", "commands"),
    [
        ("an empty folder", ["drivefs node replace DRIVE node3"]),
        ("a new disk", ["drivefs node replace DRIVE node3"]),
        ("the folder is gone", ["drivefs node replace DRIVE node3"]),
        ("a file in its place", ["drivefs node replace DRIVE node3 NEWPATH"]),
        ("only node.toml is gone", ["fsck.drivefs -y DRIVE", "drivefs node replace DRIVE node3 NEWPATH"]),
    ],
)
def test_the_messages_lead_from_an_empty_disk_to_a_whole_drive(
    made: SmallDrive, what: str, commands: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    empty_disk(made.drive / "node3", what)
    assert made.fsck("-n") == LEFT
    assert made.drivefs("node", "list", made.drive) == 1
    said = [line for line in capsys.readouterr().out.splitlines() if "node3: /" in line]
    said += [finding.text for finding in doctor.examine(str(made.drive)) if "node3: " in finding.text]
    assert len(said) > 2
    for line in said:
        assert line.endswith(f": {', else: '.join(commands)}")
    program, *words = commands[0].split()
    named = {"DRIVE": str(made.drive), "NEWPATH": str(made.folder / "new")}
    run = {"drivefs": drivefs, "fsck.drivefs": fsck}[program]
    assert run([*(named.get(word, word) for word in words), *made.where()]) in (0, CORRECTED)
    assert made.fsck("-n", "--data") == CLEAN
    assert sum(entry.votes for entry in compose.load_drive(str(made.drive)).nodes) == 5
    assert made.read() == made.content


def test_an_emptied_prefix_is_made_a_node_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drive, key = tmp_path / "drive", tmp_path / "key"
    key.write_bytes(os.urandom(32))
    key.chmod(0o600)
    secret = ["--key-file", str(key)]
    with fake_s3() as server:
        urls = [str(tmp_path / "a"), str(tmp_path / "b"), f"{server.node_url('c')}?credentials=env:FAKE"]
        nodes = [part for url in urls for part in ("--node", url)]
        assert mkfs(["-q", "--profile", "copies:3", *secret, *nodes, str(drive)]) == 0
        server.objects.clear()
        assert drivefs(["node", "list", str(drive)]) == 1
        assert "if the prefix is empty for good: drivefs node replace DRIVE node2" in capsys.readouterr().out
        assert drivefs(["node", "replace", str(drive), "node2", *secret]) == 0
        assert drivefs(["node", "list", str(drive)]) == 0
        assert sum(entry.votes for entry in compose.load_drive(str(drive)).nodes) == 3
        assert {"c/node.toml", "c/drive.toml"} <= server.objects.keys()


@pytest.mark.parametrize("step", ["node.voteless", "node.replaced"])
def test_killed_while_a_node_is_made_anew_in_its_place(made: SmallDrive, step: str) -> None:
    """The messages lead on from there, too. At no step has an empty node the vote that the lost one had."""
    file = compose.load_drive(str(made.drive))
    assert next(entry.votes for entry in file.nodes if entry.name == "node1")
    shutil.rmtree(made.drive / "node1")
    failing = os.environ | {"PYTHONPATH": str(ROOT), "DRIVEFS_FAILPOINTS": f"{step}=kill"}
    command = [sys.executable, "-c", "from tools.drivefs import main; main()", "node", "replace"]
    command += [str(made.drive), "node1", *made.where()]
    ended = subprocess.run(command, env=failing, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    left = compose.load_drive(str(made.drive))
    assert not next(entry.votes for entry in left.nodes if entry.name == "node1")
    assert replace(made, "node1") == 0
    assert made.fsck("-n", "--data") == CLEAN
    assert made.read() == made.content


def test_a_node_that_is_there_is_not_made_anew(made: SmallDrive) -> None:
    before = {path: path.read_bytes() for path in made.files()}
    assert replace(made, "node1") == 0
    assert {path: path.read_bytes() for path in made.files()} == before
    (made.drive / "node1" / "node.toml").write_bytes(b"damaged")
    with pytest.raises(UsageError, match=f"is node1, and is there: fsck.drivefs -y {made.drive}"):
        replace(made, "node1")
    assert made.fsck("-y") == CORRECTED
    assert made.fsck("-n") == CLEAN


def test_no_node_is_made_where_a_disk_is_not_mounted(
    made: SmallDrive, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(made.drive / "node1")
    monkeypatch.setattr(mounts, "awaited", lambda path: os.path.dirname(path))
    with pytest.raises(ToolError, match=f"nothing is mounted at {made.drive}, .*: mount it first"):
        replace(made, "node1")
    assert not (made.drive / "node1").exists()


def test_what_cannot_be_a_replacement_is_refused(made: SmallDrive) -> None:
    before = (made.drive / "drive.toml").read_bytes()
    foreign = made.folder / "foreign"
    foreign.mkdir()
    (foreign / "file").write_text("mine")
    with pytest.raises(NodeError, match="not empty"):
        replace(made, "node1", foreign)
    with pytest.raises(UsageError, match="no node is named"):
        replace(made, "node9", made.folder / "new")
    with pytest.raises(UsageError, match="already"):
        replace(made, "node1", made.drive / "node2")
    for number in (0, 1, 2, 3):
        shutil.rmtree(made.drive / f"node{number}")
    with pytest.raises(UnavailableError):
        replace(made, "node0", made.folder / "new")
    assert (made.drive / "drive.toml").read_bytes() == before


def test_the_drive_file_is_taken_from_nodes_that_have_moved(made: SmallDrive) -> None:
    nodes = []
    for number in range(6):
        nodes.append(made.folder / f"disk{number}")
        (made.drive / f"node{number}").rename(nodes[-1])
    shutil.rmtree(made.drive)
    with pytest.raises(NotFoundError):
        made.drivefs("rebuild-drive-file", made.folder / "nothing", made.drive)
    assert made.drivefs("rebuild-drive-file", *reversed(nodes), made.drive) == 0
    assert made.fsck("-n", "--data") == CLEAN
    assert made.read() == made.content
    with pytest.raises(UsageError, match=r"there is a drive\.toml"):
        made.drivefs("rebuild-drive-file", *nodes, made.drive)


def test_the_drive_file_is_not_taken_from_another_drive(made: SmallDrive, tmp_path: Path) -> None:
    other = make_small_drive(_folder(tmp_path, "other"))
    shutil.copyfile(other.drive / "drive.toml", made.drive / "node0" / "drive.toml")
    (made.drive / "drive.toml").unlink()
    with pytest.raises(ToolError, match="another drive"):
        made.drivefs("rebuild-drive-file", other.drive / "node1", made.drive / "node2", tmp_path / "new")
    with pytest.raises((FormatError, NotFoundError)):
        made.drivefs("rebuild-drive-file", _folder(tmp_path, "empty"), tmp_path / "new")


def _folder(parent: Path, name: str) -> Path:
    (parent / name).mkdir()
    return parent / name


def test_a_scrub_for_people() -> None:
    scrub = ScrubStatus(
        running=False,
        finished_ns=0,
        fragments=12,
        by_size=0,
        bytes=2048,
        wrong=1,
        unanswered=0,
        copies=0,
        copies_wrong=0,
    )
    assert describe_scrub(scrub) == "never yet"
    running = dataclasses.replace(scrub, running=True)
    sampled = dataclasses.replace(running, by_size=8)
    assert "2.0 KiB read, 1 wrong, 8 by their size only" in describe_scrub(sampled)
    assert describe_scrub(running) == "under way: 12 fragments, 2.0 KiB read, 1 wrong"
    copies = dataclasses.replace(running, copies=30, copies_wrong=2)
    assert describe_scrub(copies).endswith("1 wrong, 30 copies of commits and roots, 2 wrong")
    ended = dataclasses.replace(scrub, finished_ns=10**18, unanswered=2)
    assert describe_scrub(ended).startswith("2001-09-09T01:46:40Z: ")
    assert "reading only" in describe_scrub(None)
