"""Reading: parts put together, read-ahead, wrong blocks."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.testing

from backend.errors import CorruptError, NotFoundError
from backend.upstream import BlockId
from cache.blocks import content as cache_content
from cache.drive import Drive
from tests.drives import QUIET, content, make_file, opened
from tests.memory_upstream import MemoryUpstream

DATA = random.Random(9).randbytes(12 << 20)


@pytest.fixture
def upstream() -> MemoryUpstream:
    return MemoryUpstream()


@pytest.fixture
async def drive(tmp_path: Path, upstream: MemoryUpstream) -> AsyncIterator[Drive]:
    async with opened(tmp_path / "cache", upstream) as drive:
        yield drive


async def test_journal_blocks_and_zeros_are_put_together(drive: Drive) -> None:
    made = await make_file(drive, b"file", DATA[:3_000_000])
    await drive.sync()
    await drive.write(made.inode, 4_000_000, b"far")
    await drive.write(made.inode, 1_000_000, b"over")
    expected = bytearray(DATA[:3_000_000] + bytes(1_000_000) + b"far")
    expected[1_000_000:1_000_004] = b"over"
    for start, end in [(0, 4_000_003), (999_998, 1_000_006), (2_999_999, 3_000_001), (3_500_000, 3_500_001)]:
        assert bytes(await drive.read(made.inode, start, end - start)) == expected[start:end]


async def test_a_sequential_reader_finds_blocks_already_there(drive: Drive) -> None:
    made = await make_file(drive, b"file", DATA)
    await drive.sync()
    drive.blocks.clear()
    for start in range(0, len(DATA), 128 << 10):
        assert bytes(await drive.read(made.inode, start, 128 << 10)) == DATA[start : start + (128 << 10)]
        await trio.testing.wait_all_tasks_blocked()
    blocks = len(drive.ledger.namespace.extents(made.inode, 0, len(DATA)))
    assert drive.blocks.misses == blocks


class SlowUpstream(MemoryUpstream):
    """Whole blocks come when `answers` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.answers = trio.Event()
        self.asked = 0

    async def get_block(self, block: BlockId) -> bytes:
        self.asked += 1
        await self.answers.wait()
        return await super().get_block(block)


async def test_reading_ahead_is_bounded_for_all_files_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: of sixteen files each had 16 MiB on the way, more than there is memory for."""
    monkeypatch.setattr(cache_content, "MOST_AHEAD", 1)
    upstream, whole = SlowUpstream(), [random.Random(each).randbytes(5 << 20) for each in range(8)]
    async with opened(tmp_path / "cache", upstream) as drive:
        made = [await make_file(drive, b"%d" % each, data) for each, data in enumerate(whole)]
        await drive.sync()
        drive.blocks.clear()
        async with trio.open_nursery() as nursery:
            for each in made:
                nursery.start_soon(drive.read, each.inode, 0, 1000)
            await trio.testing.wait_all_tasks_blocked()
            assert len(whole) <= upstream.asked <= len(whole) + 1, "each one's own, and one block ahead"
            upstream.answers.set()
        for each, data in zip(made, whole, strict=True):
            assert await content(drive, each.inode) == data


async def test_readers_of_one_file_do_not_hold_up_each_other(drive: Drive) -> None:
    made = await make_file(drive, b"file", DATA)
    await drive.sync()
    drive.blocks.clear()
    middle, piece = len(DATA) // 2, 128 << 10
    for start in range(0, middle, piece):
        for at in (start, middle + start):
            assert bytes(await drive.read(made.inode, at, piece)) == DATA[at : at + piece]
            await trio.testing.wait_all_tasks_blocked()
    blocks = len(drive.ledger.namespace.extents(made.inode, 0, len(DATA)))
    assert drive.blocks.misses <= blocks + 2  # the first reads are not known to be in order


def forget_pages(folder: Path) -> None:
    """The journal's bytes are on the disk, and not in memory."""
    for path in folder.glob("**/*.*"):
        if path.suffix in (".journal", ".bulk"):
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@pytest.mark.parametrize("size", [3_000, 90_000, 1_500_000])
async def test_the_loop_does_not_wait_for_the_journals_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Small and large writes lie in different files; a thread reads them, and all the bytes are right."""
    warmed = []
    async with opened(tmp_path / "cache", MemoryUpstream(), QUIET) as drive:
        journal = drive.ledger.journal
        made = await make_file(drive, b"file")
        for start in range(0, size, 90_000):
            await drive.write(made.inode, start, DATA[start : min(start + 90_000, size)])
        await drive.fsync(made.inode)
        forget_pages(tmp_path)
        warm = journal.warm

        def noted(ranges: list[tuple[int, int]]) -> None:
            warmed.append(threading.current_thread() is threading.main_thread())
            warm(ranges)

        monkeypatch.setattr(journal, "warm", noted)
        monkeypatch.setattr(journal, "read_at", None)
        for start, end in ((0, size), (size // 3, size // 2), (size - 1, size)):
            assert bytes(await drive.read(made.inode, start, end - start)) == DATA[start:end]
        monkeypatch.undo()
    assert not any(warmed)
    assert warmed or size < 4096, "the pages were in memory all the time"


async def test_a_wrong_block_is_read_again_and_a_lost_one_is_an_error(
    drive: Drive, upstream: MemoryUpstream
) -> None:
    made = await make_file(drive, b"file", DATA[:100_000])
    await drive.sync()
    upstream.corrupt = set(upstream.stored)
    assert await content(drive, made.inode) == DATA[:100_000]
    drive.blocks.clear()
    upstream.corrupt |= {BlockId(bytes([number]) * 32) for number in range(101)}
    with pytest.raises(CorruptError):
        await content(drive, made.inode)
    upstream.corrupt = set()
    kept, upstream.stored = upstream.stored, {}
    with pytest.raises(NotFoundError):
        await content(drive, made.inode)
    upstream.stored = kept
    assert await content(drive, made.inode) == DATA[:100_000]
