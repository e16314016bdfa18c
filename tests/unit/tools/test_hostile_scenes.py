"""What one node of six did to a drive before: each scene by its name, and how it ends now."""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.blocks import index_reconciliation
from backend.commits import lease_record
from backend.commits.commit_search import commit_key
from backend.errors import RollbackError
from backend.system import patience
from tests.drives import QUIET, content_of, make_file
from tests.hostile import Attack, Hostile
from tests.small_drive import CLEAN, CORRECTED, LEFT, SmallDrive, copy_of, make_empty_drive, make_small_drive
from tools import compose, drive_nodes, drive_opening
from tools.check import check_drive

pytestmark = pytest.mark.logs_warnings

EVIL = "node4"
NODES = [f"node{number}" for number in range(6)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> SmallDrive:
    return make_small_drive(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def made(whole: SmallDrive, tmp_path: Path) -> SmallDrive:
    return copy_of(whole, tmp_path)


@pytest.fixture
def strike(made: SmallDrive, tmp_path: Path) -> Callable[..., None]:
    """Have the node do something."""
    outside = tmp_path / "outside"
    outside.mkdir()

    def strike(target: str, action: str, seed: int = 3) -> None:
        others = [made.drive / name for name in NODES if name != EVIL]
        file = compose.load_drive(str(made.drive))
        evil = Hostile(made.drive / EVIL, others, tmp_path / "earlier", outside, file)
        evil.strike(Attack(target, action, seed))

    return strike


def write(made: SmallDrive, name: bytes, *, publish: bool = True) -> None:
    """One more file; without `publish` it stays in the journal, as after a kill."""

    async def run() -> None:
        opening = drive_opening.opened_drive(made.unlocked(), made.own(), QUIET)
        async with opening as opened, trio.open_nursery() as nursery:
            await nursery.start(opened.run)
            item = await make_file(opened, name, name * 1000)
            await opened.fsync(item.inode)
            if publish:
                await opened.sync()
            nursery.cancel_scope.cancel()

    trio.run(run)


def read(made: SmallDrive, name: bytes) -> bytes:
    async def run() -> bytes:
        opening = drive_opening.opened_drive(made.unlocked(), made.own(), QUIET)
        async with opening as opened, trio.open_nursery() as nursery:
            await nursery.start(opened.run)
            found = await content_of(opened, name)
            nursery.cancel_scope.cancel()
        return found

    return trio.run(run)


def newest(made: SmallDrive) -> int:
    return max(int(path.name, 16) for path in made.drive.glob("node[0-4]/commits/[0-9a-f]*"))


@pytest.mark.parametrize("action", ["forge", "junk"])
def test_one_node_forges_a_commit(
    made: SmallDrive, strike: Callable[..., None], action: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It refuses no mount, here or on a new machine, and is on no other node afterwards."""
    key = commit_key(newest(made) + 1)
    strike("next commit", action)
    assert (made.drive / EVIL / key).exists()
    assert made.read_here() == made.content
    assert made.read() == made.content
    assert [path.parts[-3] for path in made.drive.glob(f"node*/{key}")] == [EVIL]
    assert made.fsck("-y") == CORRECTED
    assert f"{EVIL}: {key}" in capsys.readouterr().out
    assert made.fsck("-n", "--data") == CLEAN


def test_epoch_exhaustion(made: SmallDrive) -> None:
    """An epoch that one node made up is not taken for one; writing goes on, mount after mount."""
    path = made.drive / EVIL / "lease"
    before = lease_record.decode((made.drive / "node0" / "lease").read_bytes()).epoch
    for number, epoch in enumerate((2**64 - 2, 2**64 - 1, 2**63, 2**64 - 2)):
        text = path.read_text()
        old = lease_record.decode(text.encode()).epoch
        path.write_text(text.replace(f'"epoch": {old}', f'"epoch": {epoch}'))
        write(made, b"file%d" % number)
    epochs = {lease_record.decode(lease.read_bytes()).epoch for lease in made.drive.glob("node*/lease")}
    assert epochs == {before + 4}


def test_rollback_after_set_aside(made: SmallDrive, strike: Callable[..., None]) -> None:
    """A forged commit does not make this device set its state aside, and forget what it has seen."""
    shutil.copytree(made.drive, made.folder / "older")
    write(made, b"seen")
    write(made, b"accepted", publish=False)
    strike("next commit", "forge")
    assert read(made, b"accepted") == b"accepted" * 1000
    assert not list(made.own().state.glob("stale/*"))
    for name in NODES:
        shutil.rmtree(made.drive / name)
        shutil.copytree(made.folder / "older" / name, made.drive / name)
    with pytest.raises(RollbackError):
        made.read_here()


def test_forged_fragments(made: SmallDrive, strike: Callable[..., None]) -> None:
    """All is right but the key of their checksums: they spoil no pack, and no repair."""
    before = {path: path.read_bytes() for path in made.drive.glob("node*/packs/*/*")}
    for seed in range(20):
        strike("fragment", "forge", seed)
    forged = [path for path, data in before.items() if path.read_bytes() != data]
    assert len(forged) >= 3
    assert {path.relative_to(made.drive).parts[0] for path in forged} == {EVIL}
    assert made.read() == made.content
    shutil.rmtree(made.drive / "node0" / "packs")
    assert made.read() == made.content
    assert made.fsck("-y", "--data") == CORRECTED
    assert {path: path.read_bytes() for path in made.drive.glob("node*/packs/*/*")} == before


def test_ballot_stuffing(made: SmallDrive, strike: Callable[..., None]) -> None:
    right = (made.drive / "drive.toml").read_bytes()
    strike("drive.toml", "forge")
    assert (made.drive / EVIL / "drive.toml").read_bytes() != right
    assert made.fsck("-y") == CORRECTED
    for place in (made.drive, *(made.drive / name for name in NODES)):
        assert (place / "drive.toml").read_bytes() == right


def test_a_huge_lease(made: SmallDrive) -> None:
    os.truncate(made.drive / EVIL / "lease", 6 << 30)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    write(made, b"file")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - most < 512 << 10
    assert made.fsck("-y") == CORRECTED
    assert made.fsck("-n", "--data") == CLEAN


def test_links_in_a_node(made: SmallDrive, tmp_path: Path) -> None:
    """Nothing is written, made or read outside of it, and the rest is written all the same."""
    outside = tmp_path / "outside"
    outside.mkdir()
    for name in ("roots", "commits", "packs", ".lock"):
        place = made.drive / EVIL / name
        if place.exists():
            place.rename(tmp_path / f"moved {name}")
        place.symlink_to(outside / "made" if name == ".lock" else outside)
    for number in range(4):
        write(made, b"file%d" % number)
    assert list(outside.iterdir()) == []
    assert made.fsck("-y") == CORRECTED
    assert made.fsck("-n", "--data") == CLEAN
    assert list(outside.iterdir()) == []


@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    prefixes=st.sets(st.integers(0, 255), min_size=50, max_size=80),
    junk=st.sampled_from(["link", "pipe", "files", "fragments"]),
    count=st.integers(65, 80),
)
def test_a_node_that_hides_what_it_is_is_mended(
    whole: SmallDrive, prefixes: set[int], junk: str, count: int
) -> None:
    """It says no more whose it is, and what a check looks at first is not the drive's: one run mends."""
    with tempfile.TemporaryDirectory() as folder:
        made, outside = copy_of(whole, Path(folder)), Path(folder, "outside")
        outside.mkdir()
        node = made.drive / EVIL
        for name in ("node.toml", "drive.toml"):
            (node / name).unlink()
        for number in range(count):
            (outside / f"{number:032x}.0").touch()
        for place in (node / "packs" / f"{prefix:02x}" for prefix in prefixes):
            if not place.exists():
                hide(place, junk, outside, count)
        assert made.fsck("-y") == CORRECTED
        assert made.fsck("-n", "--data") == CLEAN
        assert made.read() == made.content
        assert {path.stat().st_size for path in outside.iterdir()} == {0}


def hide(place: Path, junk: str, outside: Path, count: int) -> None:
    """Put what is not the drive's where its fragments could be."""
    if junk == "link":
        place.symlink_to(outside)
    elif junk == "pipe":
        os.mkfifo(place)
    else:
        place.mkdir()
        for number in range(count):
            (place / (f"{place.name}{number:030x}.0" if junk == "fragments" else f"{number}")).touch()


@pytest.mark.parametrize("drive", ["another", "none"])
def test_a_folder_of_another_drive_is_not_touched(made: SmallDrive, tmp_path: Path, drive: str) -> None:
    """Its disk is mounted in the place of a node: what is in the way there is no matter of this drive's."""
    node, other = made.drive / EVIL, tmp_path / "other"
    other.mkdir()
    shutil.rmtree(node)
    node.mkdir()
    if drive == "another":
        shutil.rmtree(node)
        shutil.copytree(make_empty_drive(other).drive / EVIL, node)
        (node / "lease").unlink(missing_ok=True)
        (node / "lease").symlink_to(other)
    else:
        (node / "theirs").symlink_to(other)
    before = sorted(path.relative_to(node) for path in node.rglob("*"))
    assert made.fsck("-y") & LEFT
    assert sorted(path.relative_to(node) for path in node.rglob("*")) == before


def test_a_node_that_hangs_does_not_hold_up_a_mount(made: SmallDrive) -> None:
    """To open a pipe is to wait for its other end, as on a dead server."""
    identity = made.drive / EVIL / "node.toml"
    identity.unlink()
    os.mkfifo(identity)
    begun = time.monotonic()
    away = drive_nodes.nodes_away(str(made.drive), compose.load_drive(str(made.drive)))
    assert [error.node for error in away] == [EVIL]
    write(made, b"file")
    assert time.monotonic() - begun < 60
    assert made.fsck("-y") == CORRECTED
    assert made.fsck("-n", "--data") == CLEAN


def test_a_disk_that_never_answers_holds_up_neither_a_mount_nor_a_check(
    made: SmallDrive, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first system call there does not return; all wait for it as long as they say, and go on."""
    real, let_go = os.open, threading.Event()

    def hang(path: str, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if path == str(made.drive / EVIL):
            let_go.wait(300)
        return real(path, flags, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", hang)
    monkeypatch.setattr(patience, "SECONDS", 0.3)
    monkeypatch.setattr(index_reconciliation, "LIST_PATIENCE", 0.3)
    monkeypatch.setattr(compose, "OBJECT_PATIENCE", 0.3)
    monkeypatch.setattr(compose, "PACK_PATIENCE", 0.3)
    monkeypatch.setattr(compose, "LEASE_PATIENCE", 0.3)
    for module in (compose, check_drive):
        monkeypatch.setattr(module, "TOOL_LEASE_PATIENCE", 0.3)
    monkeypatch.setattr(check_drive, "TOOL_PATIENCE", 0.3)
    begun = time.monotonic()
    write(made, b"file")
    assert read(made, b"file") == b"file" * 1000
    assert made.fsck("-n") == LEFT
    assert f"left: {EVIL}: cannot read: " in capsys.readouterr().out
    assert time.monotonic() - begun < 90
    let_go.set()
