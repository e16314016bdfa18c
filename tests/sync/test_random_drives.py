"""Whole drives that do anything, publish, follow and are killed at random: by a seed."""

from __future__ import annotations

from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from stat import S_IFDIR, S_ISDIR
from typing import Final

import pytest

from cache.attributes import AttributeChange
from cache.drive import Drive
from cache.errors import FileSystemError
from cache.namespace.operations import ROOT_INODE
from tests import contents
from tests.drives import make_file, tree
from tests.sync.drives import Hub
from tests.sync.test_blocks_among_devices import NOTHING
from tests.sync.test_whole_drives import same_everywhere

NAMES: Final = (b"a", b"b", b"c", b"c-wal")
LIVES: Final = 3
STEPS: Final = 25


class Walk:
    """The things that a device does; the file system may refuse each."""

    def __init__(self, drive: Drive, random: Random) -> None:
        self._drive = drive
        self._random = random

    async def step(self) -> None:
        names = [self._create, self._mkdir, self._unlink, self._rmdir, self._rename, self._rename, self._link]
        files = [self._write, self._write, self._truncate, self._fsync, self._publish]
        does = self._random.choice([*names, *files, self._collect])
        try:
            await does()
        except FileSystemError:
            """Not possible just now."""

    def _pick(self) -> tuple[int, bytes, int]:
        """A name that is there: directory, name, inode; inode 0 in an empty one."""
        folder = ROOT_INODE
        while True:
            entries = self._drive.entries(folder, 0, 100)
            if not entries:
                return folder, b"a", 0
            chosen = self._random.choice(entries)
            if not S_ISDIR(chosen.attributes.mode) or self._random.random() < 0.4:
                return folder, chosen.name, chosen.attributes.inode
            folder = chosen.attributes.inode

    def _new(self) -> tuple[int, bytes]:
        folder, _, inode = self._pick()
        is_folder = inode and S_ISDIR(self._drive.attributes(inode).mode)
        return (inode if is_folder else folder), self._random.choice(NAMES)

    def _bytes(self) -> bytes:
        kind = self._random.choice(contents.KINDS)
        return contents.content(kind, self._random.choice([10, 3_000, 40_000]), self._random.randrange(50))

    async def _write(self) -> None:
        _, _, inode = self._pick()
        await self._drive.write(inode, self._random.choice([0, 5, 20_000]), self._bytes())
        if self._random.random() < 0.5:
            await self._drive.settle(inode)

    async def _create(self) -> None:
        folder, name = self._new()
        await make_file(self._drive, name, self._bytes(), folder)

    async def _truncate(self) -> None:
        _, _, inode = self._pick()
        await self._drive.set_attributes(inode, AttributeChange(size=self._random.choice([0, 7, 5_000])))

    async def _mkdir(self) -> None:
        folder, name = self._new()
        await self._drive.make_node(folder, name, S_IFDIR | 0o755, 0, 0, 0)

    async def _unlink(self) -> None:
        folder, name, _ = self._pick()
        await self._drive.unlink(folder, name)

    async def _rmdir(self) -> None:
        folder, name, _ = self._pick()
        await self._drive.remove_directory(folder, name)

    async def _rename(self) -> None:
        folder, name, _ = self._pick()
        await self._drive.rename(folder, name, *self._new())

    async def _link(self) -> None:
        _, _, inode = self._pick()
        await self._drive.link(inode, *self._new())

    async def _fsync(self) -> None:
        await self._drive.fsync(ROOT_INODE)

    async def _collect(self) -> None:
        """Forget the past, and release what nobody needs."""
        self._drive.retention.set_policy(NOTHING)
        await self._drive.retention.collect(grace=0, trust_clock=True)

    async def _publish(self) -> None:
        await self._drive.publisher.publish(everything=self._random.random() < 0.5)


@pytest.mark.parametrize("seed", range(12))
async def test_drives_that_do_anything_converge(tmp_path: Path, seed: int) -> None:
    random, hub = Random(seed), Hub(tmp_path)
    for _ in range(LIVES):
        async with AsyncExitStack() as stack:
            drives = [
                await stack.enter_async_context(hub.device(number, crash=random.random() < 0.5))
                for number in (1, 2)
            ]
            for _ in range(STEPS):
                drive = random.choice(drives)
                await Walk(drive, random).step()
                if random.random() < 0.05:
                    drive.tick(-1)
    async with hub.device(1) as first, hub.device(2) as second:
        found = await same_everywhere(hub, first, second)
        assert found == await tree(first)
    # What was released is needed by nobody, whatever the devices knew when they said so.
    hub.upstream.collect(0)
    async with hub.device(3) as third:
        assert await tree(third) == found
        await third.retention.collect(grace=0, trust_clock=True)
        hub.upstream.collect(0)
        assert await tree(third) == found
