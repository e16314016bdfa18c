"""A folder that has had a name which is no UTF-8 says so, however the name came there."""

from __future__ import annotations

from pathlib import Path
from stat import S_IFDIR

import pytest

from cache.drive import Drive
from cache.namespace import ROOT_INODE
from cache.tree import FOREIGN
from tests.drives import make_file, opened
from tests.memory_upstream import MemoryUpstream


async def make(drive: Drive, how: str, folder: int, name: bytes) -> None:
    if how == "file":
        await make_file(drive, name, b"", folder)
    elif how == "folder":
        await drive.make_node(folder, name, S_IFDIR | 0o755, 0, 0, 0)
    elif how == "symbolic link":
        await drive.symlink(folder, name, b"target", 0, 0)
    elif how == "link":
        await drive.link((await make_file(drive, b"one")).inode, folder, name)
    else:
        await make_file(drive, b"one")
        await drive.rename(ROOT_INODE, b"one", folder, name)


@pytest.mark.parametrize("name", [b"\xff", "é".encode(), b"a", "é".encode()[:1] + b"a"])
@pytest.mark.parametrize("how", ["file", "folder", "symbolic link", "link", "rename"])
async def test_the_folder_says_so(tmp_path: Path, how: str, name: bytes) -> None:
    async with opened(tmp_path, MemoryUpstream()) as drive:
        folder = (await drive.make_node(ROOT_INODE, b"d", S_IFDIR | 0o755, 0, 0, 0)).inode
        await make(drive, how, folder, name)
        expected = [] if name in (b"a", "é".encode()) else [FOREIGN]
        assert drive.xattr_names(folder) == expected
        await make_file(drive, b"\xfe", b"", folder)
        assert drive.xattr_names(folder) == [FOREIGN]
