"""Small files read from the disk cache of sealed blocks, after a remount, with the kernel's caches dropped.

    python -m bench.small_files FOLDER [--files N] [--rounds N] [--tree DIR]

For root. A drive with a disk cache is made in FOLDER, which must not exist, and removed at the end. Each row
is of a new mount: files a second, and the processor time of the mount for each file.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sysconfig
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from bench.peer_systems import processor_seconds
from tests.mount.mounted import MountedDrive
from tests.waiting import wait_until

SIZE: Final = 4096
OPTION: Final = "cache_disk=256M"


def fill(drive: MountedDrive, count: int, tree: Path) -> int:
    """The small files and the tree, stored and in the disk cache; the number of files in the tree."""
    draw, small = random.Random(1), drive.mountpoint / "small"
    small.mkdir()
    for number in range(count):
        (small / str(number)).write_bytes(number.to_bytes(8, "big") + draw.randbytes(SIZE - 8))
    shutil.copytree(tree, drive.mountpoint / "tree", ignore=shutil.ignore_patterns("__pycache__"))
    drive.sync()
    store = drive.status().store
    if store is None:
        raise AssertionError("the status of a mount has a store")
    wait_until(lambda: len([*drive.cache.glob("**/sealed/?/*")]) >= store.blocks, 60)
    return sum(len(names) for _, _, names in os.walk(drive.mountpoint / "tree"))


def read(drive: MountedDrive, order: Iterable[int]) -> None:
    """The first bytes of each small file, which are its number."""
    for number in order:
        with open(drive.mountpoint / "small" / str(number), "rb", buffering=0) as file:
            if file.read(8) != number.to_bytes(8, "big"):
                raise AssertionError(f"file {number} is another one")


def row(drive: MountedDrive, name: str, count: int, work: Callable[[], object]) -> None:
    """Do the work on a new mount, and print what a file took."""
    drive.umount()
    drive.mount(OPTION)
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")
    process = drive.process_id
    if process is None:
        raise AssertionError("it is mounted")
    used, begun = processor_seconds(process), time.perf_counter()
    work()
    seconds, used = time.perf_counter() - begun, processor_seconds(process) - used
    print(f"{name:26} {count / seconds:8,.0f} files/s {used / count * 1000:6.2f} ms each", flush=True)


def run(drive: MountedDrive, count: int, rounds: int, tree: Path) -> None:
    """All rows, so many times."""
    drive.make()
    drive.mount(OPTION)
    files = fill(drive, count, tree)
    in_order, any_order = range(count), random.Random(2).sample(range(count), count)
    search = ["grep", "-r", "-c", "zzyzx", str(drive.mountpoint / "tree")]
    for _ in range(rounds):
        row(drive, "open+read in order", count, lambda: read(drive, in_order))
        row(drive, "open+read in any order", count, lambda: read(drive, any_order))
        row(drive, "grep -r", files, lambda: subprocess.run(search, stdout=subprocess.DEVNULL, check=False))


def main() -> None:
    """The command line."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--files", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tree", type=Path, default=Path(sysconfig.get_paths()["stdlib"]) / "lib2to3")
    options = parser.parse_args()
    options.folder.mkdir()
    drive = MountedDrive(options.folder)
    try:
        run(drive, options.files, options.rounds, options.tree)
    finally:
        drive.close()
        shutil.rmtree(options.folder)


if __name__ == "__main__":
    main()
