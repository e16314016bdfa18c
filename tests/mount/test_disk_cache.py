"""`cache_disk=`: what was written or read is read again from this machine's disk, and is right whatever
happens to that disk."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cache.messages import DiskCacheStatus
from tests.contents import KINDS, content
from tests.mount.mounted import MountedDrive, succeed
from tests.waiting import wait_until

pytestmark = [pytest.mark.mount]

FILES = {f"{kind} {size}": content(kind, size, size) for kind in KINDS for size in (100, 70_001, 1_500_000)}


def sealed_files(drive: MountedDrive) -> list[Path]:
    return [path for path in drive.cache.rglob("sealed/?/*") if path.is_file()]


def disk_cache(drive: MountedDrive) -> DiskCacheStatus:
    found = drive.status().disk_cache
    assert found is not None
    return found


def wait_until_kept(drive: MountedDrive) -> None:
    """Each stored block is on this machine's disk."""
    store = drive.status().store
    assert store is not None
    blocks = store.blocks
    wait_until(lambda: len(sealed_files(drive)) >= blocks, 30)


def wrong(drive: MountedDrive) -> list[str]:
    return [name for name, data in FILES.items() if (drive.mountpoint / name).read_bytes() != data]


def test_it_answers_after_a_remount_and_a_kill_and_is_not_believed(drive: MountedDrive) -> None:
    drive.mount("cache_disk=256M")
    for name, data in FILES.items():
        (drive.mountpoint / name).write_bytes(data)
    drive.sync()
    wait_until_kept(drive)
    drive.umount()
    drive.mount("cache_disk=256M")
    assert wrong(drive) == []
    found = disk_cache(drive)
    assert found.hits > 0
    assert found.misses == 0, "each block was written through this cache"
    assert found.limit == 256 << 20
    drive.kill()
    drive.mount("cache_disk=256M")
    assert wrong(drive) == []
    assert disk_cache(drive).misses == 0
    drive.umount()
    files = sealed_files(drive)
    assert len(files) > 10
    for number, path in enumerate(files):
        changed = bytearray(path.read_bytes())
        changed[-1 - number % 20] ^= 1
        path.write_bytes(changed if number % 3 else changed[: len(changed) // 2])
    drive.mount("cache_disk=256M")
    assert wrong(drive) == []
    assert disk_cache(drive).hits == 0
    drive.umount()


def test_a_kept_folder_reads_with_the_nodes_away_after_a_kill(drive: MountedDrive) -> None:
    drive.mount("cache_disk=256M")
    succeed(drive.tool("drivefs", "keep", drive.mountpoint, "--wait"))
    succeed(drive.tool("drivefs", "unkeep", drive.mountpoint))
    folder = drive.mountpoint / "kept" / "below"
    folder.mkdir(parents=True)
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
    assert "kept" in succeed(drive.tool("drivefs", "keep", folder.parent))
    drive.sync()
    keeping = json.loads(succeed(drive.tool("drivefs", "keep", folder.parent, "--wait", "--json")))
    ((path, named, here),) = [tuple(each.values()) for each in keeping["folders"]]
    assert (path, keeping["problem"]) == ("kept", "")
    assert here == named > 1_500_000
    for path in sealed_files(drive):
        path.unlink()
    drive.kill()
    drive.mount("cache_disk=256M")
    assert "kept here" in succeed(drive.tool("drivefs", "status", drive.mountpoint))
    drive.take_away(range(6))
    assert [name for name, data in FILES.items() if (folder / name).read_bytes() != data] == []
    drive.bring_back()
    assert succeed(drive.tool("drivefs", "kept", drive.mountpoint)).endswith(f"  {folder.parent}\n")
    result = drive.tool("drivefs", "keep", folder / "text 100")
    assert (result.returncode, "only a folder" in result.stderr) == (1, True)
    drive.umount()


def test_a_drive_of_folders_has_none_unless_it_is_asked_for(drive: MountedDrive) -> None:
    drive.mount()
    (drive.mountpoint / "file").write_bytes(os.urandom(100_000))
    drive.sync()
    assert sealed_files(drive) == []
    assert drive.status().disk_cache is None
