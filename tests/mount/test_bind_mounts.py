"""A drive that can be seen in more places than one: who unmounts one of them takes that place away only."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.mount.mounted import MountedDrive, run, succeed, wait_for_end
from tools.host import mounts

pytestmark = [
    pytest.mark.mount,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root binds"),
]
AT_ONCE = 30.0
"""seconds, of which umount.drivefs would wait 60 for a process that does not end"""


def bind(drive: MountedDrive, inside: str) -> Path:
    """A place beside the drive where its `inside` can be seen."""
    source = drive.mountpoint / inside
    place = drive.folder / "bound"
    place.mkdir() if source.is_dir() else place.touch()
    run("mount", "--bind", source, place)
    return place


needs_namespace = pytest.mark.skipif(
    mounts.find("/") is None, reason="unshare(1) needs a root that is a mount point, as no chroot(8) has"
)


@pytest.mark.parametrize("inside", ["", "folder", "file"])
def test_unmounting_a_bound_place_leaves_the_drive_mounted(drive: MountedDrive, inside: str) -> None:
    drive.mount()
    (drive.mountpoint / "folder").mkdir()
    (drive.mountpoint / "file").write_bytes(b"kept")
    place = bind(drive, inside)
    begun = time.monotonic()
    done = drive.tool("umount.drivefs", place)
    assert (succeed(done), done.stderr) == ("", "")
    assert time.monotonic() - begun < AT_ONCE
    assert mounts.find(str(place)) is None
    assert (drive.mountpoint / "file").read_bytes() == b"kept"


def test_unmounting_the_drive_says_where_it_is_still_seen(drive: MountedDrive) -> None:
    drive.mount("commit_interval=1h")
    (drive.mountpoint / "file").write_bytes(b"kept")
    process = drive.process_id
    assert process is not None
    place = bind(drive, "file")
    done = drive.tool("umount.drivefs", drive.mountpoint)
    succeed(done)
    assert f"the drive is still mounted at {place}" in done.stderr
    assert place.read_bytes() == b"kept"
    succeed(drive.tool("umount.drivefs", place))
    wait_for_end(process)


def test_a_drive_is_mounted_at_two_places_as_a_disk_is(drive: MountedDrive) -> None:
    """Each place is unmounted by itself, by umount(8) or by us, in any order; the last one ends the drive."""
    second = drive.folder / "second place"
    second.mkdir()
    drive.mount("commit_interval=1h")
    process = drive.process_id
    assert process is not None
    assert drive.try_mount("commit_interval=30m", where=second).returncode == 32, "not with other options"
    succeed(drive.try_mount("commit_interval=1h", where=second))
    (drive.mountpoint / "file").write_bytes(b"kept")
    (second / "file").rename(second / "renamed")
    assert (drive.mountpoint / "renamed").read_bytes() == b"kept"
    succeed(drive.tool("umount.drivefs", drive.mountpoint))
    assert (second / "renamed").read_bytes() == b"kept"
    assert drive.try_mount("commit_interval=1h").returncode == 0
    assert (drive.mountpoint / "renamed").read_bytes() == b"kept"
    succeed(drive.tool("umount.drivefs", second))
    drive.umount()
    wait_for_end(process)
    drive.mount()
    assert (drive.mountpoint / "renamed").read_bytes() == b"kept"


def test_a_drive_that_is_seen_in_part_is_mounted_whole(drive: MountedDrive) -> None:
    """A bound folder shows the drive's process, and not where the drive is."""
    drive.mount()
    (drive.mountpoint / "folder").mkdir()
    place = bind(drive, "folder")
    second = drive.folder / "second"
    second.mkdir()
    succeed(drive.try_mount(where=second))
    assert os.listdir(second) == ["folder"]
    for each in (place, second):
        succeed(drive.tool("umount.drivefs", each))


@needs_namespace
def test_unmounting_the_drive_says_which_namespace_keeps_it(drive: MountedDrive) -> None:
    """A process in a mount namespace of its own took a copy of the mount along, as containers do."""
    drive.mount("commit_interval=1h")
    (drive.mountpoint / "file").write_bytes(b"kept")
    process = drive.process_id
    assert process is not None
    command = ["unshare", "--mount", "sh", "-c", "echo there; read line"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as keeper:
        assert keeper.stdout is not None
        assert keeper.stdout.readline() == b"there\n"
        begun = time.monotonic()
        done = drive.tool("umount.drivefs", drive.mountpoint)
        succeed(done)
        assert time.monotonic() - begun < AT_ONCE
        keepers = [each.strip() for each in done.stderr.partition("process ")[2].split(",")]
        assert str(keeper.pid) in keepers, done.stderr
        keeper.communicate(b"\n")
    wait_for_end(process)


def test_a_mount_of_the_past_is_no_place_of_the_drive(drive: MountedDrive) -> None:
    """The drive is mounted, and shown a second time, whatever of its past is mounted before."""
    past, second = drive.folder / "past", drive.folder / "second"
    past.mkdir()
    second.mkdir()
    drive.mount()
    (drive.mountpoint / "file").write_bytes(b"kept")
    succeed(drive.tool("drivefs", "sync", drive.mountpoint))
    newest = max(os.listdir(drive.mountpoint / ".versions"))
    succeed(drive.try_mount(f"asof={newest}", where=past))
    succeed(drive.tool("umount.drivefs", drive.mountpoint))
    drive.mount()
    (drive.mountpoint / "file").write_bytes(b"written again")
    succeed(drive.try_mount(where=second))
    assert (second / "file").read_bytes() == b"written again"
    assert (past / "file").read_bytes() == b"kept"
    for place in (second, past):
        succeed(drive.tool("umount.drivefs", place))
