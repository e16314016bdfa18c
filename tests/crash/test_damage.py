"""Single bytes flipped anywhere on a drive's nodes: reads are right or refused, fsck finds each and heals it.

A small drive is made once, without FUSE. Each flip is made on it alone: everything is read with an empty
cache, `fsck.drivefs -n --data` must find it and change nothing, `-y` must heal it, and a second run find nothing.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from stat import S_IFDIR

import pytest
import trio

from backend.errors import DriveError
from backend.key_slots import Secret
from cache.drive import Drive
from cache.operations import ROOT_INODE
from tests.drives import QUIET, make_file, tree
from tools import compose
from tools.fsck import fsck
from tools.mkfs import mkfs

CLEAN, CORRECTED, LEFT = 0, 1, 4
pytestmark = pytest.mark.logs_warnings
UNCHECKED = ("lease", ".lock")
"""What is rewritten whenever the drive is opened, and holds nothing."""


@dataclass
class SmallDrive:
    """A drive in a folder, and what is in it."""

    folder: Path
    content: dict[bytes, tuple[object, ...]]

    @property
    def drive(self) -> Path:
        return self.folder / "drive"

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    def fsck(self, *options: str) -> int:
        where = ["--key-file", str(self.folder / "key"), "--cache-dir", str(self.cache)]
        return fsck([*options, *where, str(self.drive)])

    def unlocked(self) -> compose.UnlockedDrive:
        file = compose.load_drive(str(self.drive))
        return compose.unlock(str(self.drive), file, [Secret.key_file((self.folder / "key").read_bytes())])

    def files(self) -> list[Path]:
        """Every file of every node."""
        found = [path for path in self.drive.glob("node*/**/*") if path.is_file()]
        return sorted(path for path in found if path.name not in UNCHECKED)

    def read(self) -> dict[bytes, tuple[object, ...]]:
        """All there is, read on a machine that has never seen the drive."""
        cache = self.folder / "other cache"
        shutil.rmtree(cache, ignore_errors=True)
        try:
            return trio.run(_read, self.unlocked(), cache)
        finally:
            shutil.rmtree(cache, ignore_errors=True)

    def restore(self, other: SmallDrive) -> None:
        """Become as `other` is."""
        for name in ("drive", "cache"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
            shutil.copytree(other.folder / name, self.folder / name)


async def _read(drive: compose.UnlockedDrive, cache: Path) -> dict[bytes, tuple[object, ...]]:
    options = compose.DriveOptions(read_only=True)
    async with compose.opened_drive(drive, cache, options) as opened, trio.open_nursery() as nursery:
        await nursery.start(opened.run)
        found = await tree(opened)
        nursery.cancel_scope.cancel()
    return found


async def _fill(drive: compose.UnlockedDrive, cache: Path) -> dict[bytes, tuple[object, ...]]:
    async with compose.opened_drive(drive, cache, QUIET) as opened, trio.open_nursery() as nursery:
        await nursery.start(opened.run)
        for number in range(3):
            await _change(opened, number)
            await opened.sync()
        await opened._snapshots.make()
        await _change(opened, 3)
        await opened.sync()
        found = await tree(opened)
        nursery.cancel_scope.cancel()
    return found


async def _change(drive: Drive, number: int) -> None:
    source = random.Random(number)
    folder = await drive.make_node(ROOT_INODE, b"d%d" % number, S_IFDIR | 0o755, 0, 0, 0)
    await drive.set_xattr(folder.inode, b"user.number", b"%d" % number)
    await make_file(drive, b"file", source.randbytes(30_000), folder.inode)
    made = await make_file(drive, b"f%d" % number, source.randbytes(5_000))
    await drive.write(made.inode, 2_000, source.randbytes(9_000))
    await drive.flush(made.inode)
    if number:
        await drive.rename(ROOT_INODE, b"f%d" % number, ROOT_INODE, b"f0")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> SmallDrive:
    """A drive on which nothing is wrong; not to be changed."""
    folder = tmp_path_factory.mktemp("whole")
    key = folder / "key"
    key.write_bytes(os.urandom(32))
    key.chmod(0o600)
    mkfs(["-q", "--key-file", str(key), str(folder / "drive")])
    made = SmallDrive(folder, {})
    made.content = trio.run(_fill, made.unlocked(), made.cache / made.unlocked().id_text)
    return made


@pytest.fixture
def damaged(whole: SmallDrive, tmp_path: Path) -> SmallDrive:
    """A copy, to be damaged."""
    (tmp_path / "key").write_bytes((whole.folder / "key").read_bytes())
    (tmp_path / "key").chmod(0o600)
    copy = SmallDrive(tmp_path, whole.content)
    copy.restore(whole)
    return copy


def flip(path: Path, offset: int, bit: int) -> None:
    """Turn one bit of a file over."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 1 << bit
    path.write_bytes(data)


@contextmanager
def flipped(path: Path, offset: int, bit: int) -> Iterator[None]:
    """The same for a while."""
    flip(path, offset, bit)
    yield
    flip(path, offset, bit)


def check_reads(drive: SmallDrive) -> None:
    """Right, or refused; never wrong."""
    try:
        found = drive.read()
    except (DriveError, OSError):
        return
    assert found == drive.content


def random_flips(drive: SmallDrive, count: int, seed: int) -> Iterator[tuple[Path, int, int]]:
    """Files in turn, so that every kind is hit; places and bits at random."""
    source = random.Random(seed)
    files = drive.files()
    kinds: dict[str, list[Path]] = {}
    for path in files:
        kinds.setdefault(path.relative_to(drive.drive).parts[1], []).append(path)
    for number in range(count):
        kind = sorted(kinds)[number % len(kinds)]
        path = source.choice(kinds[kind])
        yield path, source.randrange(path.stat().st_size), source.randrange(8)


def suffer(drive: SmallDrive, flips: Iterator[tuple[Path, int, int]]) -> None:
    """Each flip alone: see the module."""
    for path, offset, bit in flips:
        what = f"{path.relative_to(drive.drive)} byte {offset} bit {bit}"
        before = path.read_bytes()
        flip(path, offset, bit)
        check_reads(drive)
        assert drive.fsck("-n", "--data") == LEFT, what
        assert drive.fsck("-y", "--data") == CORRECTED, what
        assert path.read_bytes() == before, what


def test_nothing_is_wrong_with_a_drive_that_is_whole(damaged: SmallDrive) -> None:
    before = {path: path.read_bytes() for path in damaged.files()}
    assert damaged.fsck("-n", "--data") == CLEAN
    assert damaged.fsck("-y", "--data") == CLEAN
    assert {path: path.read_bytes() for path in damaged.files()} == before
    assert damaged.read() == damaged.content


def test_each_flipped_byte_is_found_and_healed(damaged: SmallDrive) -> None:
    suffer(damaged, random_flips(damaged, 60, seed=1))
    assert damaged.fsck("-n", "--data") == CLEAN
    assert damaged.read() == damaged.content


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("seed", range(10))
def test_a_thousand_flipped_bytes(damaged: SmallDrive, seed: int) -> None:
    suffer(damaged, random_flips(damaged, 100, seed=1000 + seed))
    assert damaged.fsck("-n", "--data") == CLEAN
    assert damaged.read() == damaged.content


@pytest.mark.parametrize("seed", range(2))
def test_many_flips_on_two_nodes_are_healed_at_once(damaged: SmallDrive, seed: int) -> None:
    source = random.Random(seed)
    nodes = source.sample(range(6), 2)
    for path in damaged.files():
        if int(path.relative_to(damaged.drive).parts[0][4:]) in nodes:
            flip(path, source.randrange(path.stat().st_size), source.randrange(8))
    check_reads(damaged)
    assert damaged.fsck("-n", "--data") == LEFT
    assert damaged.fsck("-y", "--data") == CORRECTED
    assert damaged.fsck("-n", "--data") == CLEAN
    assert damaged.read() == damaged.content


def test_two_nodes_whose_data_is_gone(damaged: SmallDrive) -> None:
    for number in (1, 4):
        for name in ("packs", "commits", "roots"):
            shutil.rmtree(damaged.drive / f"node{number}" / name, ignore_errors=True)
    assert damaged.fsck("-n") == LEFT
    assert damaged.fsck("-y") == CORRECTED
    assert damaged.fsck("-n", "--data") == CLEAN
    assert damaged.read() == damaged.content


def test_what_cannot_be_rebuilt_is_listed_and_stays(
    damaged: SmallDrive, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three fragments of every pack are wrong: nothing is deleted, the list says which files, twice the same."""
    for number in (0, 2, 5):
        for path in (damaged.drive / f"node{number}").glob("packs/*/*"):
            flip(path, path.stat().st_size // 2, 0)
    before = {path: path.read_bytes() for path in damaged.files() if "packs" in path.parts}
    assert damaged.fsck("-n", "--data") & LEFT
    first = capsys.readouterr().out
    assert "/d0/file" in first
    assert damaged.fsck("-y", "--data") & LEFT
    assert {path: path.read_bytes() for path in before} == before
    lists = list(damaged.cache.glob("*/lost/files-*.json"))
    assert len(lists) == 1
    capsys.readouterr()
    assert damaged.fsck("-y", "--data") == LEFT
    assert list(damaged.cache.glob("*/lost/files-*.json")) == lists


def test_a_damaged_snapshot_is_made_anew(damaged: SmallDrive) -> None:
    for path in damaged.drive.glob("node*/roots/*"):
        flip(path, 40, 3)
    check_reads(damaged)
    assert damaged.fsck("-n") == LEFT
    assert damaged.fsck("-y") == CORRECTED
    assert damaged.fsck("-n", "--data") == CLEAN
    assert len(list(damaged.drive.glob("node*/roots/snapshot"))) == 3
    assert damaged.read() == damaged.content


@pytest.mark.parametrize("file", ["namespace.db", "blocks.db"])
def test_a_damaged_database_in_the_cache_is_made_anew(damaged: SmallDrive, file: str) -> None:
    (path,) = damaged.cache.glob(f"*/{file}")
    data = bytearray(path.read_bytes())
    data[4096:12288] = bytes(8192)
    path.write_bytes(data)
    assert damaged.fsck("-n") == LEFT
    assert path.read_bytes() == data
    assert damaged.fsck("-y") == CORRECTED
    assert damaged.fsck("-n") == CLEAN


def test_the_drive_file_is_lost(damaged: SmallDrive) -> None:
    (damaged.drive / "drive.toml").unlink()
    assert damaged.fsck("-n") == LEFT
    assert damaged.fsck("-y") == CORRECTED
    assert damaged.fsck("-n") == CLEAN
    assert damaged.read() == damaged.content
