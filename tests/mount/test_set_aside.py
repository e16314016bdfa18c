"""A machine comes back after another one has gone on with the drive: the person is told at mount, and how to
get at what was set aside."""

from __future__ import annotations

import os

import pytest

from tests.contents import content
from tests.mount.mounted import MountedDrive, succeed

pytestmark = pytest.mark.mount
THESIS = content("text", 400_000, 3)


def test_what_is_set_aside_is_said_at_mount_and_comes_back(drive: MountedDrive) -> None:
    drive.mount("commit_interval=1h")
    with open(drive.mountpoint / "precious", "wb") as file:
        file.write(THESIS)
        file.flush()
        os.fsync(file.fileno())
    drive.kill()
    drive.detach()
    folder = drive.folder / "another machine"
    folder.mkdir()
    second = MountedDrive(folder, drive.drive)
    second.key, second.environment = drive.key, drive.environment
    second.mount()
    (second.mountpoint / "theirs").write_bytes(b"theirs")
    second.umount()
    told = drive.try_mount()
    assert told.returncode == 0
    (kept,) = drive.state.glob("*/stale/*")
    (line,) = told.stderr.splitlines()
    assert str(kept) in line
    assert "drivefs stale" in line
    assert os.listdir(drive.mountpoint) == ["theirs"]
    assert "set aside" in drive.tool("drivefs", "status", drive.mountpoint).stdout
    assert kept.name in succeed(drive.tool("drivefs", "stale", "list", drive.mountpoint))
    assert "precious" in succeed(drive.tool("drivefs", "stale", "show", drive.mountpoint))
    where = ["--key-file", str(drive.key), "--to", str(folder / "back")]
    succeed(drive.tool("drivefs", "stale", "restore", drive.mountpoint, kept.name, *where))
    assert (folder / "back" / "precious").read_bytes() == THESIS
    drive.umount()
    assert drive.try_mount().stderr == "", "it is said once"
    drive.umount()
