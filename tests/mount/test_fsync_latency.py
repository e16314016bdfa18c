"""fsync on a mount: who is alone is served by the loop, others do not wait; what the disk has to write."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.contents import content
from tests.mount.mounted import MountedDrive
from tests.mount.slow_disk_mount import VARIABLE, waited_file

pytestmark = [pytest.mark.mount, pytest.mark.alone]

PATIENCE = 60.0
SLOW = 0.03
STATS = 200
_LIMIT = 0.01
"""Seconds: what the 99th percentile of stat has to be below."""
_WRITTEN_BACK = 20.0
"""After 30 seconds the kernel writes back what is to be given up (vm.dirty_expire_centisecs)."""
MIB = 1 << 20


class Disk:
    """The disk below the journal of the mounts of `drive`."""

    def __init__(self, drive: MountedDrive) -> None:
        self._file = drive.folder / "seconds"
        self.takes(0.0)
        waited_file(self._file).touch()
        drive.programs["mount.drivefs"] = "tests.mount.slow_disk_mount"
        drive.environment[VARIABLE] = str(self._file)

    def takes(self, seconds: float) -> None:
        """For an fdatasync, from now on."""
        new = self._file.with_suffix(".new")
        new.write_text(str(seconds))
        new.rename(self._file)

    def waited(self) -> tuple[int, int]:
        """How often the event loop waited for it so far, and how often a thread."""
        found = waited_file(self._file).read_text()
        return found.count("l"), found.count("t")


@pytest.fixture
def disk(drive: MountedDrive) -> Disk:
    disk = Disk(drive)
    drive.mount()
    return disk


@contextmanager
def syncing(path: Path) -> Iterator[None]:
    """Somebody writes 4 KiB and calls fsync all the time."""
    stop = threading.Event()

    def work() -> None:
        with open(path, "wb", buffering=0) as file:
            while not stop.is_set():
                os.pwrite(file.fileno(), bytes(4096), 0)
                os.fsync(file.fileno())

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_who_is_alone_is_served_by_the_loop_unless_the_disk_is_slow(drive: MountedDrive, disk: Disk) -> None:
    with syncing(drive.mountpoint / "file"):
        deadline = time.monotonic() + PATIENCE
        while disk.waited()[0] < 50:
            assert time.monotonic() < deadline, f"on the loop and in threads: {disk.waited()}"
            time.sleep(0.01)
        disk.takes(SLOW)
        before = disk.waited()
        while disk.waited()[1] < before[1] + 60:
            assert time.monotonic() < deadline, f"on the loop and in threads: {disk.waited()}"
            time.sleep(0.01)
    assert disk.waited()[0] - before[0] <= 1, "the loop waited for it again after it had been slow"


def test_who_asks_beside_an_fsync_loop_does_not_wait_for_the_disk(drive: MountedDrive, disk: Disk) -> None:
    """The best of some rounds counts: others keep this machine busy too."""
    disk.takes(SLOW)
    found = [_LIMIT]
    with syncing(drive.mountpoint / "file"):
        deadline = time.monotonic() + PATIENCE
        while min(found) >= _LIMIT:
            found.append(_percentile_99(drive.mountpoint, len(found)))
            assert time.monotonic() < deadline, f"the 99th percentiles of stat, in seconds: {found[1:]}"


def _percentile_99(folder: Path, number: int) -> float:
    """Of the seconds that a stat takes that the mount has to answer."""
    seconds = []
    for each in range(STATS):
        start = time.perf_counter()
        with suppress(FileNotFoundError):
            os.stat(folder / f"missing {number} {each}")
        seconds.append(time.perf_counter() - start)
    return sorted(seconds)[STATS * 99 // 100]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may ask what the process of a mount has written")
def test_a_byte_of_file_data_costs_the_disk_at_most_1_6(drive: MountedDrive) -> None:
    drive.mount()
    size = 64 * MIB
    before = _written(drive)
    with open(drive.mountpoint / "before", "wb", buffering=0) as file:  # fsync writes ahead in the journal
        file.write(b"x")
        os.fsync(file.fileno())
    data, start = content("random", size), time.monotonic()
    (drive.mountpoint / "large").write_bytes(data)
    drive.sync()
    if time.monotonic() - start > _WRITTEN_BACK:
        pytest.skip("this machine takes so long that the kernel writes back what is not needed")
    written = _written(drive) - before
    if written < size:
        pytest.skip("the file system of the test does not count what is written")
    print(f"{written / size:.3f} bytes for each byte of file data")
    assert written <= 1.6 * size


def _written(drive: MountedDrive) -> int:
    """Bytes that the mount's process had written to disks, less those that were given up before (proc(5))."""
    found = Path(f"/proc/{drive.process_id}/io").read_text()
    counts = {name: int(value) for name, value in re.findall(r"(\w+): (\d+)", found)}
    return counts["write_bytes"] - counts["cancelled_write_bytes"]
