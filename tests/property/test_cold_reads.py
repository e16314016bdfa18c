"""Reading back what people write, from a store as it is on disks: cold, anywhere, in any order.

The oracle is the bytes themselves. "Cold" means that neither the block cache nor the knowledge of which
blocks are compressed is there, so that each read meets the store as the first one does.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.drive import Drive
from cache.namespace.operations import ROOT_INODE
from tests.contents import KINDS, Kind, content, contents
from tests.drives import make_file, opened
from tests.memory_node import memory_nodes
from tests.upstreams import LocalDrive

SIZES = (1, 4096, 200_000, 1_500_000, 9_000_000)
Read = tuple[int, int]


def reads_of(size: int, seed: int) -> Iterator[Read]:
    """In order, backwards, at random, from the tail, across the end."""
    piece = max(size // 7, 1)
    starts = list(range(0, size, piece))
    for start in (*starts, *reversed(starts)):
        yield start, min(start + 4096, size)
    source = random.Random(seed)
    for _ in range(20):
        start = source.randrange(size)
        yield start, min(start + source.choice([1, 100, 4096, 128 << 10, 1 << 20]), size)
    yield max(size - 200, 0), size
    yield size - 1, size


async def check(drive: Drive, inode: int, data: bytes, reads: Iterator[Read], *, cold: bool) -> None:
    for start, end in reads:
        if cold:
            drive.blocks.clear()
        found = await drive.read(inode, start, end - start)
        assert found == data[start:end], f"[{start}, {end}) of {len(data)}"


@pytest.mark.parametrize("kind", KINDS)
async def test_any_part_of_any_content_is_read_cold(kind: Kind, tmp_path: Path) -> None:
    files = {size: content(kind, size, size) for size in SIZES}
    nodes = LocalDrive(memory_nodes(6))
    async with nodes.opened() as upstream, opened(tmp_path / "writer", upstream) as drive:
        for size, data in files.items():
            await make_file(drive, b"%d" % size, data)
        await drive.sync()
        for size, data in files.items():
            await check(
                drive, drive.lookup(ROOT_INODE, b"%d" % size).inode, data, reads_of(size, 1), cold=True
            )
    for machine in ("writer", "another machine"):
        async with nodes.opened() as upstream, opened(tmp_path / machine, upstream) as drive:
            for size, data in files.items():
                inode = drive.lookup(ROOT_INODE, b"%d" % size).inode
                await check(drive, inode, data, reads_of(size, 2), cold=True)
                await check(drive, inode, data, reads_of(size, 3), cold=False)


@given(
    st.lists(contents(max_size=400_000, min_size=1), min_size=1, max_size=4),
    st.randoms(use_true_random=False),
)
async def test_any_part_of_generated_contents(files: list[bytes], source: random.Random) -> None:
    """Neighbours in one pack: the last block of a pack is where a range leaves it."""
    nodes = LocalDrive(memory_nodes(6))
    async with nodes.opened() as upstream:
        with TemporaryDirectory() as folder:
            async with opened(Path(folder), upstream) as drive:
                made = [await make_file(drive, b"%d" % number, data) for number, data in enumerate(files)]
                await drive.sync()
                for _ in range(10):
                    number = source.randrange(len(files))
                    await check(
                        drive, made[number].inode, files[number], _one(source, files[number]), cold=True
                    )


def _one(source: random.Random, data: bytes) -> Iterator[Read]:
    start = source.randrange(len(data))
    yield start, min(start + source.randint(1, 70_000), len(data))
