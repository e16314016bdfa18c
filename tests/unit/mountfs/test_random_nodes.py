"""A drive by kernel nodes at random, without a kernel: another device changes the few paths that are open.

A descriptor shows the bytes that it was opened on and those that its own device wrote since; never a mix.
"""

from __future__ import annotations

import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Final

import pytest

from cache.attributes import AttributeChange
from cache.drive import Drive
from cache.errors import FileSystemError, StaleError
from cache.namespace.operations import ROOT_INODE
from mountfs.node_drive import NodeDrive
from mountfs.open_folders import OpenFolders
from tests.drives import tree
from tests.unit.mountfs.test_node_drive import two_devices

FILES: Final = (b"f", b"g", b"h")
FOLDERS: Final = (b"", b"d", b"e", b"d/x")
NAMES: Final = (*FILES, b"x", b"d", b"e")
STEPS: Final = 60
ALL: Final = 1000


class Caller:
    """Calls at random on a few paths. What cannot be done is left; a stale inode is an error."""

    def __init__(self, random: Random, drive: Drive | NodeDrive) -> None:
        self._random = random
        self._drive = drive

    def place(self, path: bytes) -> int:
        inode = ROOT_INODE
        for name in filter(None, path.split(b"/")):
            inode = self._drive.lookup(inode, name).inode
        return inode

    def folder(self) -> int:
        return self.place(self._random.choice(FOLDERS))

    def regular(self) -> int | None:
        """A file that is there, by chance."""
        found = self._drive.lookup(self.folder(), self._random.choice(FILES))
        return found.inode if stat.S_ISREG(found.mode) else None

    async def step(self) -> None:
        calls = [self._mkdir, self._save, self._save, self._unlink, self._rename, self._rename, self._link]
        await self.attempt(self._random.choice([*calls, self._remove]))

    async def attempt(self, call: Callable[[], Awaitable[None]]) -> None:
        try:
            await call()
        except StaleError:
            raise
        except FileSystemError:
            pass

    def _some_folder(self) -> tuple[int, bytes]:
        parent, _, name = self._random.choice(FOLDERS[1:]).rpartition(b"/")
        return self.place(parent), name

    async def _mkdir(self) -> None:
        await self._drive.make_node(*self._some_folder(), stat.S_IFDIR | 0o755, 0, 0, 0)

    async def _save(self) -> None:
        parent, name = self.folder(), self._random.choice(FILES)
        try:
            inode = self._drive.lookup(parent, name).inode
        except FileSystemError:
            inode = (await self._drive.make_node(parent, name, stat.S_IFREG | 0o644, 0, 0, 0)).inode
        await self._drive.set_attributes(inode, AttributeChange(size=0))
        await self._drive.write(inode, 0, b"%d" % self._random.randrange(10**6))
        await self._drive.settle(inode)

    async def _unlink(self) -> None:
        await self._drive.unlink(self.folder(), self._random.choice(FILES))

    async def _rename(self) -> None:
        one, other = (self.folder(), self._random.choice(NAMES)), (self.folder(), self._random.choice(NAMES))
        exchange = self._random.random() < 0.2
        await self._drive.rename(*one, *other, no_replace=False, exchange=exchange, whiteout=None)

    async def _link(self) -> None:
        inode = self._drive.lookup(self.folder(), self._random.choice(FILES)).inode
        await self._drive.link(inode, self.folder(), self._random.choice(FILES))

    async def _remove(self) -> None:
        parent, name = self._some_folder()
        found = self._drive.lookup(parent, name)
        if stat.S_ISDIR(found.mode):
            await self._remove_all(parent, name, found.inode)

    async def _remove_all(self, parent: int, name: bytes, inode: int) -> None:
        for entry in list(self._drive.entries(inode, 0, ALL)):
            if stat.S_ISDIR(entry.attributes.mode):
                await self._remove_all(inode, entry.name, entry.attributes.inode)
            else:
                await self._drive.unlink(inode, entry.name)
        await self._drive.remove_directory(parent, name)


class Descriptors:
    """What a program has open: by kernel node the bytes that it must see."""

    def __init__(self, random: Random, nodes: NodeDrive, caller: Caller, folders: OpenFolders) -> None:
        self._random = random
        self._nodes = nodes
        self._caller = caller
        self._folders = folders
        self._shown: dict[int, bytes] = {}

    async def step(self) -> None:
        await self._caller.attempt(
            self._random.choice([self._open, self._write, self._open_folder, self._close])
        )

    async def _open(self) -> None:
        node = self._caller.regular()
        if node is not None and node not in self._shown:
            self._nodes.hold(node)
            self._shown[node] = await self._read(node)

    async def _open_folder(self) -> None:
        node = self._caller.folder()
        cookie = self._nodes.next_cookie(node)
        self._nodes.hold(node)
        self._folders[self._folders.open(node, cookie)].at = 0

    async def _write(self) -> None:
        if self._shown:
            await self._overwrite(
                self._random.choice(list(self._shown)), b"W%d" % self._random.randrange(100)
            )

    async def _close(self) -> None:
        if self._shown:
            node = self._random.choice(list(self._shown))
            del self._shown[node]
            await self._nodes.settle(node)
            self._nodes.release(node)

    async def _overwrite(self, node: int, data: bytes) -> None:
        await self._nodes.write(node, 0, data)
        self._shown[node] = data + self._shown[node][len(data) :]

    async def _read(self, node: int) -> bytes:
        return bytes(await self._nodes.read(node, 0, ALL))

    async def look_again(self) -> None:
        """Programs of this device may have written by name to what is open."""
        for node in self._shown:
            self._shown[node] = await self._read(node)

    async def check(self) -> None:
        assert {node: await self._read(node) for node in self._shown} == self._shown

    async def overwrite_all(self) -> None:
        for node in self._shown:
            await self._overwrite(node, b"LAST")


async def exchange(drive: Drive, other: Drive) -> None:
    """All that each has published is applied by the other."""
    for each in (drive, other):
        await each.sync()
    for each in (drive, other):
        await each.publisher.follow()


async def contents(drive: Drive) -> dict[bytes, tuple[object, ...]]:
    """Kind, size and content by path."""
    return {path: (row[1], row[6], row[9]) for path, row in (await tree(drive)).items()}


@pytest.mark.parametrize("seed", range(30))
async def test_descriptors_never_show_mixed_bytes(tmp_path: Path, seed: int) -> None:
    random, folders = Random(seed), OpenFolders()
    async with two_devices(tmp_path, folders) as (drive, other, nodes):
        ours, theirs = Caller(random, nodes), Caller(random, other)
        descriptors = Descriptors(random, nodes, ours, folders)
        for _ in range(STEPS):
            match random.choices(["theirs", "ours", "descriptor", "follow", "sync"], [6, 5, 5, 2, 2])[0]:
                case "theirs":
                    await theirs.step()
                case "ours":
                    await ours.step()
                    await descriptors.look_again()
                case "descriptor":
                    await descriptors.step()
                case "follow":
                    await other.sync()
                    await drive.publisher.follow()
                case "sync":
                    await drive.sync()
                    await other.publisher.follow()
            await descriptors.check()
        await exchange(drive, other)
        await descriptors.overwrite_all()
        await descriptors.check()
        await exchange(drive, other)
        await exchange(drive, other)
        assert await contents(drive) == await contents(other)
