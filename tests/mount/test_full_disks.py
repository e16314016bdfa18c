"""Disks that fill up, for real: small file systems under the nodes, and under this machine's state and cache.

To mount them takes root; `tests/unit/cache/test_full_drive.py` and `test_local_room.py` try the same without.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.contents import KINDS, content
from tests.mount.conftest import temporary_drive
from tests.mount.mounted import MountedDrive, run, succeed, wait_for_end
from tests.waiting import wait_until

pytestmark = [
    pytest.mark.mount,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount small file systems"),
]

MIB = 1 << 20
NODE = 24 * MIB
NOTHING_KEPT = [
    each for name in ("all", "hourly", "daily", "weekly", "monthly") for each in (f"--{name}", "0")
]
PROMPT = 20.0
"""Seconds within which whoever waits is answered (after 5), and a command starts, on a busy machine."""


@pytest.fixture
def drive(fuse: None) -> Iterator[MountedDrive]:
    """Not made yet."""
    with temporary_drive() as drive:
        yield drive


@pytest.fixture
def disk(drive: MountedDrive) -> Callable[[str, int], Path]:
    """Makes a file system of so many bytes; `MountedDrive.close` takes it away."""

    def make(name: str, size: int) -> Path:
        path = drive.folder / name
        path.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)], check=True)
        return path

    return make


def write(path: Path, data: bytes) -> bool:
    """Write, fsync and close; False if there is no room."""
    try:
        with open(path, "wb", buffering=0) as file:
            file.write(data)
            os.fsync(file.fileno())
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return False
    return True


def check(drive: MountedDrive, kept: dict[str, bytes]) -> None:
    """All of it is there, for a machine that has never seen the drive."""
    drive.umount()
    drive.wipe_cache()
    drive.mount()
    for name, data in kept.items():
        assert (drive.mountpoint / name).read_bytes() == data


def free(drive: MountedDrive) -> int:
    found = os.statvfs(drive.mountpoint)
    return found.f_bavail * found.f_frsize


def small_nodes(drive: MountedDrive, disk: Callable[[str, int], Path], size: int = NODE) -> list[Path]:
    """A drive on nodes of that size, mounted."""
    disks = [disk(f"disk{number}", size) for number in range(6)]
    for each in disks:
        (each / "node").mkdir()
    drive.make(*(word for each in disks for word in ("--node", each / "node")))
    drive.mount()
    return disks


def sync_however(drive: MountedDrive) -> None:
    """The kernel tells once more, to who syncs, that a write was refused."""
    drive.tool("drivefs", "sync", drive.mountpoint)
    drive.sync()


def test_full_nodes_are_told_and_emptied(drive: MountedDrive, disk: Callable[[str, int], Path]) -> None:
    small_nodes(drive, disk)
    empty = free(drive)
    kept: dict[str, bytes] = {}
    for number in range(200):
        name, data = f"f{number}", content(KINDS[number % len(KINDS)], 4 * MIB, number)
        if not write(drive.mountpoint / name, data):
            break
        kept[name] = data
    else:
        pytest.fail("nobody said that the drive is full")
    sync_however(drive)
    check(drive, kept)
    for path in drive.mountpoint.iterdir():
        path.unlink()
    assert os.listdir(drive.mountpoint) == []
    succeed(drive.tool("drivefs", "retention", "set", drive.mountpoint, *NOTHING_KEPT))
    succeed(drive.tool("drivefs", "gc", drive.mountpoint, "--grace", "0", "--trust-clock"))
    time.sleep(1)
    assert free(drive) > empty * 0.95
    again = content("random", 8 * MIB, 1000)
    assert write(drive.mountpoint / "again", again)
    drive.sync()
    check(drive, {"again": again})
    drive.umount()
    assert drive.fsck() == 0


_WRITER = """
import os, sys
while True:
    try:
        with open(sys.argv[1], "wb", buffering=0) as file:
            for _ in range(16):
                file.write(os.urandom(1 << 20))
            os.fsync(file.fileno())
    except OSError as error:
        print(error.errno, flush=True)
"""


def test_whoever_waits_can_be_killed_and_time_limits_are_kept(
    drive: MountedDrive, disk: Callable[[str, int], Path]
) -> None:
    """Others fill the nodes to the last byte, while programs write."""
    disks = small_nodes(drive, disk)
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(drive.mountpoint / f"w{number}")], stdout=subprocess.PIPE
        )
        for number in range(4)
    ]
    try:
        time.sleep(1)
        for each in disks:
            fill(each / "others")
        time.sleep(3)
        begun = time.monotonic()
        drive.tool("drivefs", "sync", "--timeout", "2s", drive.mountpoint)
        assert time.monotonic() - begun < 2 + PROMPT
        begun = time.monotonic()
        (drive.mountpoint / "w0").unlink()
        os.listdir(drive.mountpoint)
        assert time.monotonic() - begun < PROMPT
    finally:
        begun = time.monotonic()
        for writer in writers:
            writer.send_signal(signal.SIGKILL)
        for writer in writers:
            writer.communicate(timeout=60)
    assert time.monotonic() - begun < PROMPT
    for each in disks:
        (each / "others").unlink()
    sync_however(drive)
    wait_until(lambda: write(drive.mountpoint / "after", b"after"), 10)  # room is known within a second


def fill(path: Path, leave: int = 0) -> None:
    """A file that takes all room but so many bytes."""
    with open(path, "wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(64 << 10))
    if leave:
        os.truncate(path, max(path.stat().st_size - leave, 0))


def fill_up(disk: Path) -> None:
    """Files of another program, until not a byte is left."""
    for size in (64 << 10, 4 << 10, 1):
        with open(disk / f"others{size}", "wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(size))
    assert os.statvfs(disk).f_bavail == 0


def room(disk: Path) -> int:
    found = os.statvfs(disk)
    return found.f_bavail * found.f_frsize


@pytest.fixture
def ext4_disk(drive: MountedDrive) -> Callable[[str, int], Path]:
    """As `disk`, of another kind: what is given up on it is free only after its next transaction."""
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("mkfs.ext4 is not installed")

    def make(name: str, size: int) -> Path:
        path, image = drive.folder / name, drive.folder / f"{name}.image"
        path.mkdir()
        image.touch()
        os.truncate(image, size)
        run("mkfs.ext4", "-q", "-m", "0", image)
        if subprocess.run(["mount", "-o", "loop", image, path], check=False, capture_output=True).returncode:
            pytest.skip("this system mounts no loop devices")
        return path

    return make


class TestNotAByteLeft:
    """Other programs fill the nodes' disks to the last byte: to delete costs nothing but the ballast."""

    def _drive(
        self, drive: MountedDrive, disk: Callable[[str, int], Path], kept: bytes, full: int = 6
    ) -> list[Path]:
        """With two files that are stored, one of them doomed; so many disks are full."""
        disks = small_nodes(drive, disk)
        assert write(drive.mountpoint / "kept", kept)
        drive.sync()
        assert write(drive.mountpoint / "doomed", os.urandom(32 * MIB))
        drive.sync()
        for each in disks[:full]:
            fill_up(each)
        return disks

    def _empty(self, drive: MountedDrive) -> None:
        succeed(drive.tool("drivefs", "retention", "set", drive.mountpoint, *NOTHING_KEPT))
        succeed(drive.tool("drivefs", "gc", drive.mountpoint, "--grace", "0", "--trust-clock"))

    @pytest.mark.parametrize(("kind", "full"), [("disk", 6), ("ext4_disk", 4)], ids=["all", "most"])
    def test_deleting_makes_room_and_the_drive_writes_again(
        self, drive: MountedDrive, request: pytest.FixtureRequest, kind: str, full: int
    ) -> None:
        kept, again = os.urandom(MIB), os.urandom(4 * MIB)
        disks = self._drive(drive, request.getfixturevalue(kind), kept, full)
        (drive.mountpoint / "doomed").unlink()
        drive.tool("drivefs", "sync", drive.mountpoint)
        drive.umount()
        drive.mount()
        assert os.listdir(drive.mountpoint) == ["kept"]
        self._empty(drive)
        assert all(room(each) > 7 * MIB for each in disks)
        wait_until(lambda: free(drive) > len(again), 10)  # df is right within a second
        assert write(drive.mountpoint / "again", again)
        sync_however(drive)
        check(drive, {"kept": kept, "again": again})
        drive.umount()
        assert drive.fsck() == 0

    def test_a_mount_that_is_killed_with_ballast_given_goes_on(
        self, drive: MountedDrive, disk: Callable[[str, int], Path]
    ) -> None:
        seen = drive.folder / "seen"
        drive.environment = {
            "DRIVEFS_FAILPOINTS": "node.ballast-given=kill",
            "DRIVEFS_FAILPOINTS_SEEN": str(seen),
        }
        kept = os.urandom(MIB)
        self._drive(drive, disk, kept)
        assert drive.process_id is not None
        (drive.mountpoint / "doomed").unlink()
        wait_for_end(drive.process_id)
        assert seen.read_text() == "node.ballast-given\n"
        drive.environment = {}
        drive.remount()
        assert os.listdir(drive.mountpoint) == ["kept"]
        self._empty(drive)
        check(drive, {"kept": kept})

    def test_without_ballast_a_mount_says_what_to_do(
        self, drive: MountedDrive, disk: Callable[[str, int], Path]
    ) -> None:
        kept = os.urandom(MIB)
        disks = small_nodes(drive, disk)
        assert write(drive.mountpoint / "kept", kept)
        drive.umount()
        for each in disks:
            (each / "node/.ballast").unlink(missing_ok=True)  # one node does not vote, and has none
            fill_up(each)
        refused = drive.try_mount()
        assert refused.returncode != 0
        told = [f"its ballast is too small: make room on the disk of {each}/node" for each in disks]
        assert sum(line in refused.stderr for line in told) >= 3, "as many as a majority lacks"
        drive.mount("ro")
        assert (drive.mountpoint / "kept").read_bytes() == kept
        drive.umount()
        for each in disks:
            (each / f"others{64 << 10}").unlink()
        drive.mount()
        assert all((each / "node/.ballast").stat().st_blocks for each in disks[:5])
        check(drive, {"kept": kept})


def named(path: Path, data: bytes) -> bool:
    """A small file with a large attribute; False if there is no room."""
    if not write(path, data):
        return False
    try:
        os.setxattr(path, "user.large", os.urandom(60_000))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return False
    return True


class TestStateDisk:
    """Journal and databases on a disk of their own, which is smaller than the journal may get."""

    def _mount(self, drive: MountedDrive, disk: Callable[[str, int], Path], *options: str) -> Path:
        small = disk("small", 64 * MIB)
        drive.state, drive.cache = small / "state", small / "cache"
        drive.make()
        drive.mount(*options)
        return small

    def test_a_mount_that_cannot_use_it_says_why(
        self, drive: MountedDrive, disk: Callable[[str, int], Path]
    ) -> None:
        """Full, or mounted read-only: in words, and as soon as it can be used all is well."""
        small = self._mount(drive, disk)
        assert write(drive.mountpoint / "before", b"before")
        drive.umount()
        fill(small / "others")
        for options in ((), ("ro",)):
            assert f"{small}/state" in (said := drive.try_mount(*options).stderr)
            assert "the disk of the state folder is full" in said
        assert drive.fsck("-n") == 0
        (small / "others").unlink()
        subprocess.run(["mount", "-o", "remount,ro", str(small)], check=True)
        checked = drive.tool("fsck.drivefs", "-n", *drive.where(), drive.drive)
        for refused in (drive.try_mount(), drive.try_mount("ro"), checked):
            assert refused.returncode != 0
            assert "mounted read-only" in refused.stderr
        subprocess.run(["mount", "-o", "remount,rw", str(small)], check=True)
        drive.mount()
        assert (drive.mountpoint / "before").read_bytes() == b"before"

    def test_large_writes_do_not_fill_it(self, drive: MountedDrive, disk: Callable[[str, int], Path]) -> None:
        small = self._mount(drive, disk, "commit_interval=1h")
        kept = {}
        for number in range(60):
            name, data = f"f{number}", os.urandom(4 * MIB)
            assert write(drive.mountpoint / name, data)
            kept[name] = data
            assert os.statvfs(small).f_bavail > 0
        drive.sync()
        check(drive, kept)

    def test_attributes_fill_it_and_are_removed(
        self, drive: MountedDrive, disk: Callable[[str, int], Path]
    ) -> None:
        """The namespace itself gets too large: who writes is told, and everything else goes on."""
        small = self._mount(drive, disk, "commit_interval=1h")
        folder = drive.mountpoint / "folder"
        folder.mkdir()
        names = []
        for number in range(5000):
            path = folder / f"{number}"
            if not named(path, b"%d" % number):
                break
            names.append(path)
        assert 100 < len(names) < 5000
        assert os.statvfs(small).f_bavail * os.statvfs(small).f_frsize > 3 * MIB
        sync_however(drive)
        drive.umount()
        drive.mount()
        for path in names:
            assert path.read_bytes() == path.name.encode()
            assert len(os.getxattr(path, "user.large")) == 60_000
        # What is deleted stays in the namespace as past rows.
        for path in names:
            path.unlink()
        shutil.rmtree(folder)
        drive.sync()
        drive.umount()
        assert drive.fsck() == 0

    def test_others_fill_it_for_a_while(self, drive: MountedDrive, disk: Callable[[str, int], Path]) -> None:
        """Not a byte is left, then there is room again: nothing was lost, and nobody had to help."""
        small = self._mount(drive, disk, "commit_interval=100ms")
        before, after = os.urandom(MIB), os.urandom(MIB)
        assert write(drive.mountpoint / "before", before)
        fill(small / "others")
        refused = [not write(drive.mountpoint / f"meanwhile{number}", bytes(MIB)) for number in range(3)]
        assert all(refused)
        assert (drive.mountpoint / "before").read_bytes() == before
        begun = time.monotonic()
        drive.tool("drivefs", "sync", "--timeout", "3s", drive.mountpoint)
        assert time.monotonic() - begun < 3 + PROMPT
        (small / "others").unlink()
        time.sleep(1.5)
        assert write(drive.mountpoint / "after", after)
        sync_however(drive)
        check(drive, {"before": before, "after": after})


def test_the_disk_cache_leaves_the_journal_its_room(
    drive: MountedDrive, disk: Callable[[str, int], Path]
) -> None:
    """Regression: on a small disk it left less free than the journal asks for: nothing could be written."""
    small = disk("small", 96 * MIB)
    drive.make()
    drive.state, drive.cache = small / "state", small / "cache"
    drive.mount("cache_disk=128M")
    for number in range(30):
        assert write(drive.mountpoint / "new", content("random", 4 * MIB, number)), number
        os.rename(drive.mountpoint / "new", drive.mountpoint / str(number % 3))
        drive.sync()
