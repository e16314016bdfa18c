"""The same tests as in every run, longer: more kills, more data, the whole library, every pair of nodes."""

from __future__ import annotations

import itertools
import os
import random

import pytest

from tests.crash.test_kill_mount import kill_at_random
from tests.mount import test_random_operations, test_resources
from tests.mount.conftest import drive, fuse, unmade_drive
from tests.mount.mounted import MountedDrive, differences, run
from tests.mount.random_operations import MANY_FILES, ONE_FILE, ONE_LARGE_FILE
from tests.mount.test_sizes import MIB, Growth, prose, write_random
from tests.mount.trees import LIBRARY, oddities
from tests.property import test_mount_model

__all__ = ["drive", "fuse", "unmade_drive"]

pytestmark = [pytest.mark.soak, pytest.mark.mount, pytest.mark.timeout(7200)]

KILLS = int(os.environ.get("KILLS", "200"))
MEMORY_MIB = 8 * 1024
ENTRIES = int(os.environ.get("ENTRIES", "1000000"))
SHARES = {ONE_FILE: 0.48, MANY_FILES: 0.48, ONE_LARGE_FILE: 0.04}
"""of the operations: on a large file each takes ten times as long"""
OPERATIONS = int(os.environ.get("OPERATIONS", "1000000"))


def test_many_kills(drive: MountedDrive) -> None:
    seed = int(os.environ.get("KILL_SEED", random.randrange(1 << 30)))
    print(f"KILL_SEED={seed} KILLS={KILLS}")
    changes = kill_at_random(drive, KILLS, seed)
    print(f"{changes} changes survived {KILLS} kills")
    assert changes > 10 * KILLS


def test_the_whole_library_and_every_pair_of_nodes(drive: MountedDrive) -> None:
    tree = drive.folder / "tree"
    tree.mkdir()
    run("cp", "-a", LIBRARY, tree / "library", timeout=600)
    oddities(tree / "odd")
    drive.mount()
    run("cp", "-a", tree, drive.mountpoint, timeout=600)
    assert differences(tree, drive.mountpoint / "tree") == ""
    drive.umount()
    for away in itertools.combinations(range(6), 2):
        drive.wipe_cache()
        drive.take_away(away)
        drive.mount()
        assert differences(tree, drive.mountpoint / "tree") == "", away
        drive.umount("-f")
        drive.bring_back()
    drive.wipe_cache()
    drive.mount()
    assert differences(tree, drive.mountpoint / "tree") == ""


def test_sizes_of_much(drive: MountedDrive) -> None:
    drive.mount()
    growth, size = Growth(drive), 1024 * MIB
    for name, first, limit in (("first", b"", 1.53), ("copy", b"", 0.01), ("shifted", b"!", 0.03)):
        write_random(drive.mountpoint / name, size, first)
        grown = growth.since_last()
        print(f"{name}: {grown / size:.4f} of its size")
        assert grown < limit * size
    text = prose(256 * MIB, 5)
    (drive.mountpoint / "prose").write_bytes(text)
    grown = growth.since_last()
    print(f"prose: {grown / len(text):.3f} of its size")
    assert grown < 0.7 * len(text)


def test_memory_while_eight_gibibytes_are_written(
    drive: MountedDrive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(test_resources, "WRITTEN_MIB", MEMORY_MIB)
    test_resources.test_memory_stays_small_while_much_is_written_and_read(drive)


def test_many_random_calls(unmade_drive: MountedDrive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_mount_model, "EXAMPLES", 1000)
    monkeypatch.setattr(test_mount_model, "STEPS", 150)
    monkeypatch.setattr(test_mount_model, "REMOUNT_EVERY", 2)
    test_mount_model.test_a_mount_behaves_as_a_local_folder(unmade_drive)


def test_many_random_operations(drive: MountedDrive) -> None:
    """On one file, on many and on a large one, four seeds of each; a quarter of an hour, or half of one."""
    seeds = range(test_random_operations.SEED, test_random_operations.SEED + 4)
    drive.mount(test_random_operations.INTERVAL)
    for seed, (shape, share) in itertools.product(seeds, SHARES.items()):
        operations = round(OPERATIONS * share / len(seeds))
        test_random_operations.operate(drive, shape, seed, operations, 10_000)
        print(f"SEED={seed} {shape}: {operations} operations")


def test_many_processes_on_the_same_files(drive: MountedDrive) -> None:
    drive.mount(test_random_operations.INTERVAL)
    test_random_operations.stress(drive, 8, OPERATIONS // 40, test_random_operations.SEED)


def test_a_folder_of_a_million_entries(drive: MountedDrive) -> None:
    """Listed by scandir and by find, looked up, renamed and half emptied, with and without a cache."""
    drive.mount()
    folder = drive.mountpoint / "large"
    folder.mkdir()
    for number in range(ENTRIES):
        os.close(os.open(folder / f"{number}", os.O_CREAT | os.O_WRONLY))
    names = {f"{number}" for number in range(ENTRIES)}
    assert set(os.listdir(folder)) == names
    drive.umount()
    drive.wipe_cache()
    drive.mount()
    assert {entry.name for entry in os.scandir(folder)} == names
    assert len(run("find", folder, "-type", "f", "-printf", ".", timeout=1800)) == ENTRIES
    (folder / f"{ENTRIES // 2}").rename(folder / "renamed")
    for number in range(0, ENTRIES // 2, 2):
        (folder / f"{number}").unlink()
    names -= {f"{number}" for number in range(0, ENTRIES // 2, 2)} | {f"{ENTRIES // 2}"}
    assert set(os.listdir(folder)) == names | {"renamed"}
    drive.umount()
