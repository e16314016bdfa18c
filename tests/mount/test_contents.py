"""What people have, of every size, read in every order: warm, cold, after a remount, with another cache.

One drive holds all; each order is the first to read it after a mount, so that it meets a mount which has read
nothing yet and knows nothing of any block.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.contents import KINDS, Kind, content
from tests.mount.conftest import NewDrive
from tests.mount.mounted import MountedDrive
from tests.mount.reading import ORDERS, Order, read_whole, wrong_orders

pytestmark = [pytest.mark.mount, pytest.mark.timeout(600)]

SIZES = (0, 1, 4095, 200_001, 1_500_000)
LARGE: dict[Kind, int] = {
    "text": 24 << 20,
    "log": 9_000_000,
    "half-compressible": 24 << 20,
    "random": 9 << 20,
}
Files = dict[str, bytes]


def files_of(kind: Kind) -> Files:
    sizes = [*SIZES, *([LARGE[kind]] if kind in LARGE else [])]
    return {f"{kind} {size}": content(kind, size, size) for size in sizes}


@dataclass(frozen=True)
class Written:
    """The drive, not mounted; what was written to it; what was wrong with that before it was unmounted."""

    drive: MountedDrive
    files: Files
    live: list[str]


@pytest.fixture(scope="module")
def written(module_drives: NewDrive) -> Written:
    drive = module_drives()
    drive.make()
    drive.mount()
    files = {name: data for kind in KINDS for name, data in files_of(kind).items()}
    for name, data in files.items():
        (drive.mountpoint / name).write_bytes(data)
    live = wrong_files(drive.mountpoint, files, 1)
    drive.sync()
    live += wrong_files(drive.mountpoint, files, 2)
    drive.umount()
    return Written(drive, files, live)


def wrong_files(folder: Path, files: Files, seed: int) -> list[str]:
    """In all orders; the large ones in one, for they take a second each."""
    small = {name: data for name, data in files.items() if len(data) <= SIZES[-1]}
    wrong = [said for name, data in small.items() for said in wrong_orders(folder / name, data, seed)]
    for number, name in enumerate(files.keys() - small.keys()):
        order = ORDERS[(number + seed) % len(ORDERS)]
        if read_whole(folder / name, order, seed) != files[name]:
            wrong.append(f"{name} read {order}")
    return wrong


def test_before_and_after_it_is_stored(written: Written) -> None:
    assert written.live == []


@pytest.mark.parametrize("order", ORDERS)
def test_after_a_mount_and_with_another_cache(written: Written, order: Order) -> None:
    """Each twice: what the first reading left in the mount's cache is right too."""
    drive = written.drive
    if ORDERS.index(order) % 2:
        drive.wipe_cache()
    drive.mount()
    try:
        for seed in (1, 2):
            for name, data in written.files.items():
                assert read_whole(drive.mountpoint / name, order, seed) == data, (name, seed)
    finally:
        drive.umount()


@pytest.mark.soak
def test_every_order_with_either_cache(written: Written) -> None:
    """And more than fits into the cache."""
    drive = written.drive
    for number, order in enumerate([*ORDERS, *ORDERS]):
        if number < len(ORDERS):
            drive.wipe_cache()
        drive.mount("cache_size=16M")
        for seed in (3, 4):
            for name, data in written.files.items():
                assert read_whole(drive.mountpoint / name, order, seed) == data, (name, order, seed)
        drive.umount()
