"""A mounted drive that is looked after: check, scrub and repair by command, healing on read, fsck that
refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.contents import KINDS, content
from tests.mount.conftest import drive, fuse, unmade_drive
from tests.mount.mounted import MountedDrive, succeed
from tools.errors import call
from tools.fsck import FSCK_CODES, fsck

__all__ = ["drive", "fuse", "unmade_drive"]

pytestmark = pytest.mark.mount


def fragments(drive: MountedDrive) -> list[Path]:
    return sorted(path for node in drive.nodes() for path in node.glob("packs/*/*"))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)


def fill(drive: MountedDrive) -> bytes:
    data = bytes(range(256)) * 3000
    (drive.mountpoint / "file").write_bytes(data)
    drive.sync()
    return data


def test_damage_is_found_by_a_scrub_and_mended(drive: MountedDrive) -> None:
    drive.mount()
    data = fill(drive)
    assert drive.tool("drivefs", "check", drive.mountpoint).returncode == 0
    whole = {path: path.read_bytes() for path in fragments(drive)}
    flip(fragments(drive)[0])
    fragments(drive)[-1].unlink()
    found = drive.tool("drivefs", "check", drive.mountpoint)
    assert found.returncode == 1
    assert "fragment" in found.stdout
    scrubbed = drive.tool("drivefs", "scrub", "--wait", drive.mountpoint)
    assert scrubbed.returncode == 0
    assert " 2 wrong" in scrubbed.stdout
    repaired = drive.tool("drivefs", "repair", drive.mountpoint)
    assert repaired.returncode == 0
    assert " 0 left" in repaired.stdout
    assert {path: path.read_bytes() for path in fragments(drive)} == whole
    assert drive.tool("drivefs", "check", drive.mountpoint).returncode == 0
    scrub = drive.status().scrub
    assert scrub is not None
    assert scrub.wrong == 2
    assert "scrub" in drive.tool("drivefs", "status", drive.mountpoint).stdout
    assert (drive.mountpoint / "file").read_bytes() == data


def test_a_mounted_drive_is_not_checked_by_fsck(drive: MountedDrive) -> None:
    drive.mount()
    for mode in ("-n", "-y"):
        arguments = [mode, *drive.where(), str(drive.drive)]
        assert call("fsck.drivefs", FSCK_CODES, fsck, arguments) == 8
    drive.umount()
    where = drive.where()
    assert fsck(["-n", "--data", *where, str(drive.drive)]) == 0


def test_a_drive_that_was_killed_is_sound(drive: MountedDrive) -> None:
    drive.mount()
    fill(drive)
    (drive.mountpoint / "more").write_bytes(b"not yet published")
    drive.kill()
    drive.detach()
    where = drive.where()
    assert fsck(["-n", "--data", *where, str(drive.drive)]) == 0
    assert fsck(["-y", "--data", *where, str(drive.drive)]) == 0
    drive.mount()
    assert (drive.mountpoint / "more").read_bytes() == b"not yet published"


def test_status_counts_files_and_folders(drive: MountedDrive) -> None:
    drive.mount()
    (drive.mountpoint / "folder" / "inner").mkdir(parents=True)
    for number, kind in enumerate(KINDS):
        (drive.mountpoint / "folder" / f"{number}").write_bytes(content(kind, 1000))
    (drive.mountpoint / "link").symlink_to("folder")
    drive.sync()
    status = drive.status()
    assert (status.files, status.directories) == (len(KINDS) + 1, 3)
    (cache,), (state,) = drive.cache.iterdir(), drive.state.iterdir()
    assert status.folders == {"cache": str(cache), "state": str(state)}
    said = succeed(drive.tool("drivefs", "status", drive.mountpoint))
    assert f"{len(KINDS) + 1} files and 3 folders with {1000 * len(KINDS) / 1024:.1f} KiB" in said
