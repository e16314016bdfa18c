"""A few thousand random operations on one file and on many; `make soak` does a million of them."""

from __future__ import annotations

import os
from typing import Final

import pytest

from tests.mount.mounted import MountedDrive
from tests.mount.random_operations import SHAPES, RandomOperations, Shape

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
    mounted, local = (top / f"{number} {seed}" for top in (drive.mountpoint, drive.folder))
    mounted.mkdir()
    local.mkdir()
    machine = RandomOperations(mounted, local, shape, seed)
    for turn, start in enumerate(range(0, operations, between), number):
        machine.run(min(between, operations - start))
        machine.close_all()
        mount_again(drive, turn)
        machine.compare_all()


def test_random_operations_are_as_on_a_local_disk(drive: MountedDrive) -> None:
    drive.mount(INTERVAL)
    for shape in SHAPES:
        operate(drive, shape, SEED, OPERATIONS, OPERATIONS)
