"""What a mount takes of the machine: memory while much is written, time while nothing happens."""

from __future__ import annotations

import os
import re
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from tests.fake_s3 import FakeS3, fake_s3
from tests.heaps import heaps_of_threads
from tests.mount.mounted import MountedDrive
from tests.seaweedfs import Seaweedfs

pytestmark = [pytest.mark.mount, pytest.mark.alone]

MIB = 1 << 20
WRITTEN_MIB = int(os.environ.get("MEMORY_MIB", "1024"))
STORED_MIB = int(os.environ.get("MEMORY_MIB", "512"))
AT_ONCE = 16
LARGEST = 400 * MIB
IDLE_SECONDS = 5.0
IDLE_LIMIT = 0.05


@pytest.fixture
def unmade_drive(unmade_drive: MountedDrive) -> MountedDrive:
    """Its mounts share no memory with the process that starts them."""
    unmade_drive.forks = False
    return unmade_drive


def peak_memory(process: int) -> int:
    """The most that was resident, in bytes (VmHWM, proc(5))."""
    status = Path(f"/proc/{process}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found
    return int(found[1]) * 1024


def processor_seconds(process: int) -> float:
    """User and system time so far (proc(5))."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def write_half_repeating(path: Path, mebibytes: int) -> None:
    """Blocks of which every second one was there before, so that a test's disk is not filled in vain."""
    blocks = [os.urandom(MIB) for _ in range(16)]
    with open(path, "wb", buffering=0) as file:
        for number in range(mebibytes):
            file.write(os.urandom(MIB) if number % 2 else blocks[number // 2 % 16])


def test_memory_stays_small_while_much_is_written_and_read(drive: MountedDrive) -> None:
    drive.mount()
    assert drive.process_id is not None
    write_half_repeating(drive.mountpoint / "large", WRITTEN_MIB)
    drive.sync()
    with open(drive.mountpoint / "large", "rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while file.read(MIB):
            pass
    peak = peak_memory(drive.process_id)
    print(f"peak memory: {peak / MIB:.0f} MiB after {WRITTEN_MIB} MiB")
    assert peak < LARGEST


@pytest.fixture
def stores() -> Iterator[FakeS3]:
    """In this process, which is not the mount's. Each request takes as long as to one far away."""
    with fake_s3() as running:
        running.latency = 0.2
        yield running


def write_large(folder: Path, number: int) -> None:
    write_half_repeating(folder / str(number), STORED_MIB // AT_ONCE)


def read_large(folder: Path, number: int) -> None:
    with open(folder / str(number), "rb", buffering=0) as file:
        while file.read(MIB):
            pass


def work_at_once(drive: MountedDrive, urls: list[str], options: str) -> Iterator[None]:
    """Sixteen programs write, then sixteen read it again in a mount that has nothing: after each the drive is
    mounted still, and has not taken too much memory."""
    drive.make(*(argument for url in urls for argument in ("--node", url)))
    for name, work in (("stored", write_large), ("read", read_large)):
        drive.wipe_cache()
        drive.mount(options)
        assert drive.process_id is not None
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(partial(work, drive.mountpoint), range(AT_ONCE)))
        drive.sync()
        peak, seconds = peak_memory(drive.process_id), processor_seconds(drive.process_id)
        print(
            f"{STORED_MIB} MiB {name}, {options}: {peak / MIB:.0f} MiB at most, "
            f"{seconds * 1024 / STORED_MIB:.2f} s of processor time for a GiB"
        )
        assert peak < LARGEST
        yield
        drive.umount()


@pytest.mark.soak
@pytest.mark.parametrize("options", ["cache_disk=off", "cache_disk=2G"])
def test_memory_stays_small_with_sixteen_transfers_to_stores(
    unmade_drive: MountedDrive, stores: FakeS3, options: str
) -> None:
    """With and without a disk cache to fill."""
    urls = [f"{stores.node_url(f'place{number}')}?credentials=env:FAKE" for number in range(6)]
    for _ in work_at_once(unmade_drive, urls, options):
        print(f"{stores.most_at_once} requests at once")
        assert stores.most_at_once >= AT_ONCE
        stores.most_at_once = 0


@pytest.mark.soak
def test_memory_stays_small_with_a_real_store(unmade_drive: MountedDrive, seaweedfs: Seaweedfs) -> None:
    seaweedfs.made("resources")
    top = uuid.uuid4().hex
    urls = [f"{seaweedfs.url('resources', f'{top}/{each}')}?credentials=env:WEED" for each in range(6)]
    for _ in work_at_once(unmade_drive, urls, "cache_disk=off"):
        continue


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may look into the mount's memory")
def test_all_threads_share_one_heap(drive: MountedDrive) -> None:
    """What one thread freed is taken by the next, instead of being kept for each."""
    drive.mount()
    assert drive.process_id is not None
    write_half_repeating(drive.mountpoint / "file", 32)
    drive.sync()
    assert list(heaps_of_threads(drive.process_id)) == []


def test_an_idle_mount_takes_no_time(drive: MountedDrive) -> None:
    drive.mount()
    assert drive.process_id is not None
    (drive.mountpoint / "file").write_bytes(b"content")
    drive.sync()
    before = processor_seconds(drive.process_id)
    time.sleep(IDLE_SECONDS)  # idleness is what is measured
    assert processor_seconds(drive.process_id) - before < IDLE_LIMIT
