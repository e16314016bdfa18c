"""The parts of a store that `tools.compose` builds, where they follow from the disk and the nodes."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest

from backend.cluster import DriveFile
from backend.keys import DriveKeys
from backend.nodes import NodeEntry
from backend.system import Durable, Environment
from backend.upstream import BlockId
from cache import defaults
from cache.disk.entry_format import HEADER_SIZE
from tools.compose import UnlockedDrive, disk_cache
from tools.drive_nodes import far_nodes

MIB, GIB = 1 << 20, 1 << 30
BLOCK = BlockId(bytes(32))


class Disk(Durable):
    """A disk of `total` bytes of which `free` are left, whatever is written."""

    def __init__(self, total: int, free: int) -> None:
        self.total = total
        self.free = free

    def free_space(self, path: str) -> tuple[int, int]:
        return self.total, self.free


def drive_with(*urls: str) -> UnlockedDrive:
    """A drive with nodes there, which need not exist."""
    nodes = tuple(
        NodeEntry(f"node{number}", url, "zone", settings={"credentials": "anonymous"} if ":" in url else {})
        for number, url in enumerate(urls)
    )
    now = datetime.datetime.now(datetime.UTC)
    file = DriveFile(bytes(16), "drive", "4+2", nodes, 1, (), now)
    return UnlockedDrive("/drive", file, DriveKeys(bytes(32), file.id))


NEAR = drive_with("disk0", "disk1")
FAR = drive_with("disk0", "s3://bucket/prefix")


@pytest.mark.parametrize(
    ("drive", "asked", "free", "limit"),
    [
        pytest.param(NEAR, None, 900 * GIB, None, id="off where every node is a folder here"),
        pytest.param(FAR, None, 900 * GIB, defaults.CACHE_DISK, id="on where one is not"),
        pytest.param(FAR, None, 50 * GIB, 5 * GIB, id="a tenth of what is free"),
        pytest.param(FAR, None, 100 * MIB, 10 * MIB, id="also below what may be asked for"),
        pytest.param(FAR, None, 0, 0, id="nothing of nothing"),
        pytest.param(FAR, 0, 900 * GIB, None, id="off as told"),
        pytest.param(NEAR, 3 * GIB, 900 * GIB, 3 * GIB, id="as told, without a node that is far"),
        pytest.param(FAR, 3 * GIB, GIB, 3 * GIB, id="as told, on a disk that is full"),
    ],
)
def test_the_size_of_the_disk_cache(
    tmp_path: Path, drive: UnlockedDrive, asked: int | None, free: int, limit: int | None
) -> None:
    is_far = bool(far_nodes(drive.folder, drive.file))
    found = disk_cache(tmp_path, asked, is_far, Environment(Disk(1000 * GIB, free)))
    assert (None if found is None else found.limit) == limit


@pytest.mark.parametrize(
    ("total", "reserve"),
    [
        (16 * MIB, 8 * MIB),
        (64 * MIB, 32 * MIB),
        (128 * MIB, 32 * MIB),
        (512 * MIB, 128 * MIB),
        (GIB, 256 * MIB),
        (5 * GIB, 256 * MIB),
        (20 * GIB, GIB),
        (40 * GIB, 2 * GIB),
        (900 * GIB, 2 * GIB),
    ],
)
def test_the_disk_cache_leaves_so_much_of_a_disk_free(tmp_path: Path, total: int, reserve: int) -> None:
    disk = Disk(total, reserve + HEADER_SIZE + 999)
    folder = disk_cache(tmp_path, 128 * MIB, True, Environment(disk))
    assert folder is not None
    folder.write(BLOCK, bytes(1000))
    assert folder.read(BLOCK) is None
    disk.free += 1
    folder.write(BLOCK, bytes(1000))
    assert folder.read(BLOCK) == bytes(1000)
