"""Joining files of parts of others: the bytes of Python's slices, and no block is stored for it."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.drive import Drive
from cache.errors import UnreadableError
from cache.namespace import ROOT_INODE, Link
from cache.services import Join
from tests.contents import KINDS
from tests.contents import content as made_of
from tests.drives import content, make_file, opened
from tests.memory_upstream import MemoryUpstream

PARTS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 70_000), st.integers(0, 70_000)), max_size=5)


async def joined(drive: Drive, parts: list[tuple[int, int, int]], name: bytes) -> int:
    target = await drive.make_nameless(ROOT_INODE, 0o644, 0, 0)
    join = Join(drive)
    for part in parts:
        await join.add(*part)
    await drive.accept_together(
        lambda: [*join.operations(target, drive.now()), Link(target, ROOT_INODE, name, drive.now())]
    )
    drive.release(target)
    return target


@settings(max_examples=25, deadline=None)
@given(PARTS, st.integers(0, 1000), st.booleans())
async def test_bytes_of_slices(parts: list[tuple[int, int, int]], seed: int, stored: bool) -> None:
    with TemporaryDirectory() as folder:
        await run(Path(folder), parts, seed, stored)


async def run(folder: Path, parts: list[tuple[int, int, int]], seed: int, stored: bool) -> None:
    upstream = MemoryUpstream()
    async with opened(folder, upstream) as drive:
        datas = [made_of(KINDS[(seed + n) % len(KINDS)], 20_000 * (n + 1), seed) for n in range(3)]
        inodes = [(await make_file(drive, b"%d" % n, data)).inode for n, data in enumerate(datas)]
        if stored:
            await drive.sync()
        target = await joined(drive, [(inodes[n], start, end) for n, start, end in parts], b"joined")
        expected = b"".join(datas[n][start:end] for n, start, end in parts)
        assert await content(drive, target) == expected
        for number in range(3):
            await drive.unlink(ROOT_INODE, b"%d" % number)
        again = await joined(drive, [(target, 0, len(expected))], b"again")
    async with opened(folder, upstream) as drive:
        assert await content(drive, target) == await content(drive, again) == expected


async def test_nothing_is_stored_for_it(tmp_path: Path) -> None:
    upstream = MemoryUpstream()
    async with opened(tmp_path, upstream) as drive:
        source = (await make_file(drive, b"a", made_of("random", 3 << 20))).inode
        await drive.sync()
        before = drive.sealer.new_bytes
        await joined(drive, [(source, 5, 2 << 20), (source, 0, 3 << 20)], b"b")
        await drive.sync()
        assert drive.sealer.new_bytes == before


async def test_a_source_that_changes_is_not_mixed(tmp_path: Path) -> None:
    async with opened(tmp_path, MemoryUpstream()) as drive:
        source = (await make_file(drive, b"a", made_of("text", 50_000))).inode
        join = Join(drive)
        await join.add(source)
        await drive.write(source, 0, b"new")
        await drive.sync()
        with pytest.raises(UnreadableError):
            join.operations(99, 1)


async def test_a_cut_that_is_taken_back_applies_a_join_again(tmp_path: Path) -> None:
    """Operations of several commits become one commit's then (`Ledger.reopen`)."""
    async with opened(tmp_path, MemoryUpstream()) as drive:
        source = (await make_file(drive, b"a", made_of("log", 50_000))).inode
        await drive.sync()
        first = await joined(drive, [(source, 0, 100)], b"b")
        assert drive.ledger.cut([]) is not None
        second = await joined(drive, [(source, 1, 200)], b"c")
        drive.ledger.reopen()
        whole = await content(drive, source)
        assert await content(drive, first) == whole[:100]
        assert await content(drive, second) == whole[1:200]
        await drive.sync()
