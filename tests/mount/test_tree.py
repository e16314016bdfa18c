"""A source tree copied in comes back: live, after a remount, elsewhere, with nodes lost or damaged."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.mount.conftest import NewDrive
from tests.mount.mounted import MountedDrive, differences, run
from tests.mount.reading import differing_files
from tests.mount.trees import kinds, library_part, oddities

pytestmark = pytest.mark.mount

FILES = 600


@dataclass(frozen=True)
class Copied:
    """A tree, and the drive that it was copied to; the drive is not mounted. `live` is what differed before
    it was first unmounted."""

    tree: Path
    drive: MountedDrive
    live: str


@pytest.fixture(scope="module")
def copied(module_drives: NewDrive) -> Copied:
    drive = module_drives()
    tree = drive.folder / "tree"
    library_part(tree / "library", FILES)
    oddities(tree / "odd")
    kinds(tree / "kinds")
    drive.make()
    drive.mount()
    run("cp", "-a", tree, drive.mountpoint)
    live = differences(tree, drive.mountpoint / "tree")
    drive.umount()
    return Copied(tree, drive, live)


@pytest.fixture
def damaged(copied: Copied, module_drives: NewDrive) -> Iterator[MountedDrive]:
    """The drive once more: what is broken here is whole for the other tests."""
    copy = module_drives()
    shutil.copytree(copied.drive.drive, copy.drive)
    shutil.copy2(copied.drive.key, copy.key)
    yield copy
    copy.close()


def read_all(folder: Path, original: Path) -> tuple[int, int, list[OSError]]:
    """How many files of `original` are the same in `folder`, how many differ, and the others' errors."""
    same, different, errors = 0, 0, []
    for base, _, names in os.walk(original):
        for name in names:
            path = Path(base, name)
            if path.is_symlink() or not path.is_file():
                continue
            try:
                content = (folder / path.relative_to(original)).read_bytes()
            except OSError as error:
                errors.append(error)
                continue
            if content == path.read_bytes():
                same += 1
            else:
                different += 1
    return same, different, errors


def holders_of_data(drive: MountedDrive) -> list[int]:
    """The nodes with the first three fragments, so with data and not with parity, of the largest pack."""
    fragments = [path for node in drive.nodes() for path in (node / "packs").rglob("*.*")]
    largest = max(fragments, key=lambda path: path.stat().st_size).stem
    held = [path for path in fragments if path.stem == largest and int(path.suffix[1:]) < 3]
    return sorted(int(path.relative_to(drive.drive).parts[0].removeprefix("node")) for path in held)


def flip_bytes(node: Path) -> int:
    """Change each pack's fragment on `node` in the middle; how many there were."""
    fragments = [path for path in (node / "packs").rglob("*") if path.is_file()]
    for path in fragments:
        with open(path, "r+b") as file:
            size = path.stat().st_size
            for offset in range(size // 50, size, max(1, size // 20)):
                file.seek(offset)
                old = file.read(1)
                file.seek(offset)
                file.write(bytes([old[0] ^ 0x55]))
    return len(fragments)


def test_equal_while_mounted(copied: Copied) -> None:
    assert copied.live == ""


def test_equal_after_a_remount(copied: Copied) -> None:
    copied.drive.mount()
    assert differing_files(copied.tree, copied.drive.mountpoint / "tree", 1) == []
    assert differences(copied.tree, copied.drive.mountpoint / "tree") == ""
    copied.drive.umount()


def test_equal_with_an_empty_cache_folder(copied: Copied) -> None:
    copied.drive.wipe_cache()
    copied.drive.mount()
    assert differing_files(copied.tree, copied.drive.mountpoint / "tree", 2) == []
    assert differences(copied.tree, copied.drive.mountpoint / "tree") == ""
    copied.drive.umount()


@pytest.mark.parametrize("away", [(0, 1), (2, 5), (3, 4)], ids=str)
def test_equal_with_any_two_nodes_gone(copied: Copied, away: tuple[int, int]) -> None:
    copied.drive.wipe_cache()
    copied.drive.take_away(away)
    try:
        result = copied.drive.try_mount()
        assert result.returncode == 0, result.stderr
        assert all(f"node{number}" in result.stderr for number in away)
        assert differing_files(copied.tree, copied.drive.mountpoint / "tree", sum(away)) == []
        assert differences(copied.tree, copied.drive.mountpoint / "tree") == ""
        copied.drive.umount("-f")
    finally:
        copied.drive.close()
        copied.drive.bring_back()


def test_three_nodes_gone_is_refused_with_their_names(damaged: MountedDrive, copied: Copied) -> None:
    damaged.take_away((1, 3, 4))
    result = damaged.try_mount()
    assert result.returncode == 32
    assert result.stderr.count("\n") == 1
    assert all(name in result.stderr for name in ("node1", "node3", "node4"))
    damaged.bring_back()
    damaged.mount()
    assert differences(copied.tree, damaged.mountpoint / "tree") == ""


def test_nodes_that_go_while_mounted_give_errors_and_never_wrong_bytes(
    damaged: MountedDrive, copied: Copied
) -> None:
    damaged.mount("cache_size=16M")
    away = holders_of_data(damaged)
    damaged.take_away(away)
    _, different, errors = read_all(damaged.mountpoint / "tree", copied.tree)
    assert different == 0
    assert errors
    assert {error.errno for error in errors} == {errno.EIO}
    said = [line for line in damaged.log().splitlines() if "read of inode" in line]
    assert said
    assert all(f"node{number}" in line for line in said for number in away)
    damaged.bring_back()
    assert differences(copied.tree, damaged.mountpoint / "tree") == ""


def test_two_fragments_of_every_pack_corrupted(damaged: MountedDrive, copied: Copied) -> None:
    assert all(flip_bytes(node) for node in damaged.nodes()[1:3])
    damaged.mount()
    assert differing_files(copied.tree, damaged.mountpoint / "tree", 3) == []
    assert differences(copied.tree, damaged.mountpoint / "tree") == ""


def test_three_fragments_of_every_pack_corrupted_is_never_wrong_bytes(
    damaged: MountedDrive, copied: Copied
) -> None:
    damaged.mount("cache_size=16M")
    assert all(flip_bytes(node) for node in damaged.nodes()[:3])
    _, different, errors = read_all(damaged.mountpoint / "tree", copied.tree)
    assert different == 0
    assert errors
    assert {error.errno for error in errors} == {errno.EIO}
