"""A few thousand random operations on one file and on many, by one process and by several on the same files;
`make soak` does a million of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.mount.file_calls import tree
from tests.mount.mounted import ROOT, MountedDrive, succeed
from tests.mount.random_operations import SHAPES, RandomOperations, Shape
from tests.mount.stress import Stress

pytestmark = pytest.mark.mount

OPERATIONS: Final = 1000
SEED: Final = int(os.environ.get("SEED", "1"))
INTERVAL: Final = "commit_interval=100ms"


def mount_again(drive: MountedDrive, turn: int) -> None:
    """In turn: killed and mounted, unmounted and mounted without a cache, unmounted and mounted."""
    if turn % 3 == 0:
        drive.kill()
        drive.remount(INTERVAL)
        return
    drive.umount()
    if turn % 3 == 1:
        drive.wipe_cache()
    drive.mount(INTERVAL)


def operate(drive: MountedDrive, shape: Shape, seed: int, operations: int, between: int) -> None:
    """So many operations in new folders of the mounted drive, which is mounted again after each `between`."""
    number = SHAPES.index(shape)
    tops = [top / f"{number} {seed}" for top in (drive.mountpoint, drive.folder)]
    for top in tops:
        top.mkdir()
    machine = RandomOperations(tops, shape, seed)
    for turn, start in enumerate(range(0, operations, between), number):
        machine.run(min(between, operations - start))
        machine.close_all()
        mount_again(drive, turn)
        machine.compare_all()


def test_random_operations_are_as_on_a_local_disk(drive: MountedDrive) -> None:
    drive.mount(INTERVAL)
    for shape in SHAPES:
        operate(drive, shape, SEED, OPERATIONS, OPERATIONS)


def stress(drive: MountedDrive, processes: int, operations: int, seed: int) -> None:
    """Several processes at once on the same files of the mounted drive. Nothing is compared while they run;
    afterwards all is the same when it is mounted again, and fsck finds nothing wrong."""
    folder = drive.mountpoint / f"stress {seed}"
    folder.mkdir()
    program = sys.executable, "-m", "tests.mount.stress", folder, f"{operations}"
    started = [subprocess.Popen([*program, f"{each}"], cwd=ROOT) for each in range(seed, seed + processes)]
    assert [process.wait(3600) for process in started] == [0] * processes
    before = tree(str(folder))
    drive.umount()
    arguments = ["-n", "-f", "--data", *drive.where()]
    succeed(drive.tool("fsck.drivefs", *arguments, drive.drive))
    drive.wipe_cache()
    drive.mount(INTERVAL)
    assert tree(str(folder)) == before


def test_several_processes_work_on_the_same_files(drive: MountedDrive) -> None:
    drive.mount(INTERVAL)
    stress(drive, 4, 300, SEED)


def test_a_file_that_another_process_cuts_while_it_is_read_ends_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: one of several processes was done, and looked at all files while the others went on."""
    stat = os.fstat

    def cut_then(descriptor: int) -> os.stat_result:
        found = stat(descriptor)
        os.truncate(f"/proc/self/fd/{descriptor}", found.st_size // 3)
        return found

    for seed in range(10):
        (tmp_path / "0").write_bytes(bytes(100_000))
        with monkeypatch.context() as patched:
            patched.setattr(os, "fstat", cut_then)
            Stress(tmp_path, seed).compare_all()
        assert (tmp_path / "0").stat().st_size < 50_000
