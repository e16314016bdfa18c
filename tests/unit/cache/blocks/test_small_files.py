"""Small files that are read one after the other: what comes with them, and what does not."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import trio
import trio.testing

from backend.buffer import Buffer
from backend.upstream import BlockId
from cache.blocks.small_files import GROUP, SMALL
from cache.disk import BlockFolder, CachedBlocks, DiskCache
from cache.disk.entry_format import Piece, encode
from cache.drive import Circumstances, Drive
from cache.opening import DriveOptions
from tests.contents import KINDS, content
from tests.drives import QUIET, make_file, opened
from tests.memory_upstream import MemoryUpstream

FILES = 4 * GROUP


def data_of(number: int, size: int = 0) -> bytes:
    """Of each file another one, of all kinds; `size` in place of a few hundred bytes."""
    kind = KINDS[number % len(KINDS)]
    return number.to_bytes(4, "big") + content(kind, size or 50 + 97 * (number % 40), number)


class Disk(CachedBlocks):
    """Counts the turns of a thread."""

    turns = 0
    brought = 0

    async def get_here(self, blocks: Sequence[BlockId]) -> dict[BlockId, bytes]:
        self.turns += 1
        found = await super().get_here(blocks)
        self.brought += len(found)
        return found

    async def get_block(self, block: BlockId) -> Buffer:
        self.turns += 1
        return await super().get_block(block)


class FarUpstream(MemoryUpstream):
    """With a disk cache before its blocks."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder / "used"
        used, kept = BlockFolder(self.folder, 1 << 30, 0), BlockFolder(folder / "kept", None, 0)
        self.disk = Disk(self, DiskCache(used, kept))

    @property
    def blocks(self) -> Disk:
        return self.disk

    def files(self) -> list[Path]:
        """The blocks on the disk."""
        return sorted(self.folder.glob("?/" + "[0-9a-f]" * 64))

    def forget(self, drive: Drive) -> None:
        """Nothing is in memory, and the store has no blocks: only the disk can answer."""
        drive.blocks.clear()
        self.stored.clear()
        self.disk.turns = self.disk.brought = 0


@asynccontextmanager
async def far_drive(folder: Path, options: DriveOptions = QUIET) -> AsyncIterator[tuple[Drive, FarUpstream]]:
    upstream = FarUpstream(folder)
    circumstances = Circumstances(disk_cache=upstream.disk)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(upstream.disk.run)
        async with opened(folder / "cache", upstream, options, circumstances=circumstances) as drive:
            yield drive, upstream
        nursery.cancel_scope.cancel()


async def stored(drive: Drive, upstream: FarUpstream, contents: Sequence[bytes]) -> list[int]:
    """The inodes of new files, whose blocks are on the disk."""
    made = [await make_file(drive, b"%d" % number, data) for number, data in enumerate(contents)]
    await drive.sync()
    with trio.fail_after(30):
        while len(upstream.files()) < len(upstream.stored):
            await trio.sleep(0.01)
    return [each.inode for each in made]


async def test_files_read_in_order_take_few_turns_of_a_thread(tmp_path: Path) -> None:
    contents = [data_of(number) for number in range(FILES)]
    async with far_drive(tmp_path) as (drive, upstream):
        inodes = await stored(drive, upstream, contents)
        upstream.forget(drive)
        for inode, data in zip(inodes, contents, strict=True):
            assert bytes(await drive.read(inode, 0, len(data))) == data
        assert upstream.disk.turns <= 3 * (FILES // GROUP + 1)
        assert upstream.disk.status().misses == 0


async def test_files_of_a_folder_read_in_any_order_take_few_turns_of_a_thread(tmp_path: Path) -> None:
    contents = [data_of(number) for number in range(FILES)]
    async with far_drive(tmp_path) as (drive, upstream):
        inodes = await stored(drive, upstream, contents)
        upstream.forget(drive)
        order = random.Random(4).sample(range(FILES), FILES)
        for number in order:
            assert bytes(await drive.read(inodes[number], 0, 1 << 20)) == contents[number]
        assert upstream.disk.turns <= 3 * (FILES // GROUP + 1)


async def test_more_than_memory_holds_read_at_random_brings_little(tmp_path: Path) -> None:
    """Until files are read in order again."""
    contents = [data_of(number, 500) for number in range(40 * GROUP)]
    async with far_drive(tmp_path, replace(QUIET, cache_size=64 << 10)) as (drive, upstream):
        inodes = await stored(drive, upstream, contents)
        upstream.forget(drive)
        chance = random.Random(3)
        for number in chance.choices(range(len(inodes)), k=3000):
            assert bytes(await drive.read(inodes[number], 0, 1 << 20)) == contents[number]
        assert 0 < upstream.disk.brought < 1000
        assert drive.blocks.brings_in_vain()
        for inode in inodes:
            await drive.read(inode, 0, 1 << 20)
        assert not drive.blocks.brings_in_vain()


async def test_one_file_brings_no_other(tmp_path: Path) -> None:
    """Nor do files of which each lies in another group."""
    contents = [data_of(number) for number in range(FILES)]
    async with far_drive(tmp_path) as (drive, upstream):
        inodes = await stored(drive, upstream, contents)
        upstream.forget(drive)
        for inode in inodes[::GROUP]:
            await drive.read(inode, 0, 1 << 20)
        await trio.testing.wait_all_tasks_blocked()
        assert (upstream.disk.turns, upstream.disk.brought) == (FILES // GROUP, 0)


async def test_large_files_neither_bring_others_nor_come(tmp_path: Path) -> None:
    contents = [data_of(number, SMALL if number % 2 else 100) for number in range(16)]
    async with far_drive(tmp_path) as (drive, upstream):
        inodes = await stored(drive, upstream, contents)
        upstream.forget(drive)
        large = {block for inode in inodes[1::2] for block in blocks_of(drive, inode)}
        for inode in inodes[1:6:2]:
            await drive.read(inode, 0, 100)
        assert upstream.disk.brought == 0
        for inode in inodes[::2]:
            await drive.read(inode, 0, 100)
        assert upstream.disk.brought > 0
        untouched = {block for inode in inodes[7::2] for block in blocks_of(drive, inode)}
        assert untouched < large
        assert all(drive.blocks.get_cached(block) is None for block in untouched)


async def test_a_group_that_is_read_again_is_not_brought_again(tmp_path: Path) -> None:
    contents = [data_of(number) for number in range(GROUP)]
    async with far_drive(tmp_path) as (drive, upstream):
        inodes = await stored(drive, upstream, contents)
        upstream.forget(drive)
        for inode in inodes:
            await drive.read(inode, 0, 1 << 20)
        assert upstream.disk.brought > 0
        upstream.forget(drive)
        for inode in inodes:
            await drive.read(inode, 0, 1 << 20)
        assert upstream.disk.brought == 0


async def test_what_the_disk_lacks_or_has_wrong_is_read_from_the_store(tmp_path: Path) -> None:
    contents = [data_of(number) for number in range(FILES)]
    async with far_drive(tmp_path) as (drive, upstream):
        inodes = await stored(drive, upstream, contents)
        drive.blocks.clear()
        for number, path in enumerate(upstream.files()):
            piece = Piece(BlockId(bytes.fromhex(path.name)), 0, 100, 100)
            if number % 3 == 0:
                path.unlink()
            elif number % 3 == 1:
                path.write_bytes(path.read_bytes()[:-1])
            elif number % 2:  # with a right checksum, by another's hand
                path.write_bytes(b"".join(map(bytes, encode(piece, bytes(100)))))
        for inode, data in zip(inodes, contents, strict=True):
            assert bytes(await drive.read(inode, 0, len(data))) == data
        assert upstream.disk.brought > 0


def blocks_of(drive: Drive, inode: int) -> set[bytes]:
    return {extent.block for extent in drive.ledger.namespace.extents(inode, 0, 1 << 30)}
