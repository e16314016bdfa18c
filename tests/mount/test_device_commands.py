"""`drivefs device` and `drivefs key new-epoch` on a real mount, with two state folders of one drive."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.contents import KINDS, content
from tests.mount.mounted import MountedDrive, succeed

pytestmark = pytest.mark.mount


def test_a_device_that_is_revoked_is_told_and_reads_only(drive: MountedDrive, tmp_path: Path) -> None:
    other = f"state_dir={tmp_path / 'other'}"
    for number, options in enumerate(((), (other,)), 1):
        drive.mount(*options)
        for kind in KINDS:
            (drive.mountpoint / f"{number} {kind}").write_bytes(content(kind, 100_000, number))
        drive.umount()
    drive.mount()
    listed = json.loads(succeed(drive.tool("drivefs", "device", "list", "--json", drive.mountpoint)))
    assert [(each["number"], each["revoked"], each["here"]) for each in listed["devices"]] == [
        (1, False, True),
        (2, False, False),
    ]
    assert listed["key_epoch"] == 1
    told = drive.tool("drivefs", "device", "revoke", drive.mountpoint, "1")
    assert told.returncode != 0
    assert "another device of the drive has to revoke it" in told.stderr
    said = succeed(drive.tool("drivefs", "device", "revoke", drive.mountpoint, "2"))
    assert "device 2" in said
    assert "key epoch 2 has begun" in said
    assert "key epoch 3" in succeed(drive.tool("drivefs", "key", "new-epoch", drive.mountpoint))
    shown = succeed(drive.tool("drivefs", "device", "list", drive.mountpoint))
    assert "revoked" in shown
    assert "key epoch 3" in shown
    for kind in KINDS:
        (drive.mountpoint / f"after {kind}").write_bytes(content(kind, 100_000, 5))
    drive.umount()
    refused = drive.try_mount(other)
    assert refused.returncode != 0
    assert "device 2 of the drive, which was revoked" in refused.stderr
    drive.mount(other, "ro")
    for kind in KINDS:
        assert (drive.mountpoint / f"after {kind}").read_bytes() == content(kind, 100_000, 5)
        assert (drive.mountpoint / f"2 {kind}").read_bytes() == content(kind, 100_000, 2)
    drive.umount()
    assert drive.fsck("-n", "--data") == 0
