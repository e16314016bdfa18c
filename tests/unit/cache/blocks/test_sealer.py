"""The sealer on a whole drive: what becomes blocks, holes and extents."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.errors import CorruptError, NotFoundError, TransientError, UnavailableError
from backend.upstream import BlockId, SealedBlock
from cache.attributes import AttributeChange
from cache.blocks.chunking import MIN_BLOCK
from cache.blocks.sealer import AHEAD, WINDOW
from cache.drive import Drive
from cache.journal.pieces import Data, Stored
from tests.contents import STORED_KINDS, Kind, contents
from tests.contents import content as content_of_kind
from tests.contents import content as made_of
from tests.drives import content, content_of, make_file, opened
from tests.memory_upstream import MemoryUpstream

DATA = random.Random(5).randbytes(3 * WINDOW)


@pytest.fixture
def upstream() -> MemoryUpstream:
    return MemoryUpstream()


@pytest.fixture
async def drive(tmp_path: Path, upstream: MemoryUpstream) -> AsyncIterator[Drive]:
    async with opened(tmp_path / "cache", upstream) as drive:
        yield drive


def extents(drive: Drive, inode: int) -> list[tuple[int, int]]:
    return [(item.offset, item.length) for item in drive.ledger.namespace.extents(inode, 0, 1 << 62)]


async def test_zeros_become_holes(drive: Drive, upstream: MemoryUpstream) -> None:
    made = await make_file(drive, b"zeros", bytes(5 << 20))
    await drive.sync()
    assert upstream.stored == {}
    assert extents(drive, made.inode) == []
    assert await content(drive, made.inode) == bytes(5 << 20)
    assert drive.attributes(made.inode).blocks == 0


async def test_equal_content_is_stored_once(drive: Drive, upstream: MemoryUpstream) -> None:
    await make_file(drive, b"one", DATA[:WINDOW])
    await drive.sync()
    blocks = len(upstream.stored)
    await make_file(drive, b"two", DATA[:WINDOW])
    await make_file(drive, b"three", b"one more" + DATA[:WINDOW])
    await drive.sync()
    assert len(upstream.stored) - blocks <= 3


async def test_blocks_are_stored_in_the_order_of_the_files(
    drive: Drive, upstream: MemoryUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies side by side on the nodes is read ahead."""
    stored: list[BlockId] = []
    put_blocks = upstream.put_blocks

    async def noted(blocks: Sequence[SealedBlock]) -> None:
        stored.extend(block.id for block in blocks)
        await put_blocks(blocks)

    monkeypatch.setattr(upstream, "put_blocks", noted)
    made = [await make_file(drive, b"%d" % number, b"content of %d" % number) for number in range(50)]
    large = await make_file(drive, b"large", DATA)
    await drive.sync()
    for files in (made, [large]):
        blocks = [
            extent.block
            for file in files
            for extent in drive.ledger.namespace.extents(file.inode, 0, 1 << 62)
        ]
        assert len(blocks) >= 3
        assert [block for block in stored if block in set(blocks)] == blocks


async def test_small_neighbours_are_absorbed(drive: Drive) -> None:
    made = await make_file(drive, b"log")
    for number in range(50):
        await drive.write(made.inode, number * 1000, bytes([number + 1]) * 1000)
        await drive.sync()
    assert extents(drive, made.inode) == [(0, 50_000)]
    await drive.write(made.inode, 20_000, b"!")
    await drive.sync()
    assert len(extents(drive, made.inode)) <= 3
    expected = bytearray(b"".join(bytes([number + 1]) * 1000 for number in range(50)))
    expected[20_000:20_001] = b"!"
    assert await content(drive, made.inode) == expected


@given(
    sizes=st.lists(st.integers(1, MIN_BLOCK - 1), min_size=1, max_size=5),
    lost=st.sets(st.integers(0, 4)),
    appended=contents(min_size=1, max_size=50_000),
    error=st.sampled_from(
        [UnavailableError("3 of 4", []), CorruptError("no"), NotFoundError("no"), OSError(5, "no")]
    ),
)
@settings(max_examples=30)
async def test_a_neighbour_that_cannot_be_read_stops_nothing(
    sizes: list[int], lost: set[int], appended: bytes, error: Exception
) -> None:
    """Regression: who appended to a file whose stored part was lost stopped the publishing of all files."""
    upstream = MemoryUpstream()
    with TemporaryDirectory() as folder:
        async with opened(Path(folder, "here"), upstream) as drive:
            files = [
                await make_file(drive, b"%d" % number, content_of_kind("random", size, number))
                for number, size in enumerate(sizes)
            ]
            await drive.sync()
            drive.blocks.clear()
            broken = {block for at in lost if at < len(files) for block in blocks_of(drive, files[at].inode)}
            upstream.failing = dict.fromkeys(broken, error)
            for file, size in zip(files, sizes, strict=True):
                await drive.write(file.inode, size, appended)
                await drive.settle(file.inode)
            await make_file(drive, b"unrelated", appended)
            await drive.sync()
        async with opened(Path(folder, "elsewhere"), upstream) as drive:
            assert await content_of(drive, b"unrelated") == appended
            for number, size in enumerate(sizes):
                found = await drive.read(files[number].inode, size, len(appended))
                assert found == appended


def blocks_of(drive: Drive, inode: int) -> set[BlockId]:
    return {BlockId(extent.block) for extent in drive.ledger.namespace.extents(inode, 0, 1 << 62)}


async def test_large_neighbours_are_left(drive: Drive) -> None:
    made = await make_file(drive, b"file", DATA[: MIN_BLOCK + 1])
    await drive.sync()
    await drive.write(made.inode, MIN_BLOCK + 1, b"tail")
    await drive.sync()
    assert extents(drive, made.inode) == [(0, MIN_BLOCK + 1), (MIN_BLOCK + 1, 4)]


@pytest.mark.parametrize("kind", STORED_KINDS)
async def test_a_write_while_its_file_is_sealed_wins(
    drive: Drive, upstream: MemoryUpstream, kind: Kind
) -> None:
    data = made_of(kind, len(DATA), 5)
    made = await make_file(drive, b"file", data)
    upstream.gate = trio.Event()
    layer = drive.ledger.dirty.top(made.inode)
    assert layer is not None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(drive.sealer.seal, [(made.inode, layer)])
        await trio.testing.wait_all_tasks_blocked()
        await drive.write(made.inode, 1000, b"new bytes")
        upstream.gate.set()
    expected = data[:1000] + b"new bytes" + data[1009:]
    assert await content(drive, made.inode) == expected
    await drive.sync()
    assert await content(drive, made.inode) == expected


@pytest.mark.parametrize("kind", STORED_KINDS)
@pytest.mark.parametrize("change", ["write", "truncate"])
async def test_a_change_of_a_neighbour_while_it_is_absorbed_wins(
    drive: Drive, upstream: MemoryUpstream, kind: Kind, change: str
) -> None:
    old, data = made_of(kind, 1000, 5), made_of(kind, 1000, 6)
    made = await make_file(drive, b"file", old)
    await drive.sync()
    await drive.write(made.inode, 1000, data)
    upstream.gate = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(drive.sync)
        await trio.testing.wait_all_tasks_blocked()
        if change == "write":
            await drive.write(made.inode, 100, b"new bytes")
            expected = old[:100] + b"new bytes" + old[109:] + data
        else:
            await drive.set_attributes(made.inode, AttributeChange(size=100))
            await drive.set_attributes(made.inode, AttributeChange(size=3000))
            expected = old[:100] + bytes(2900)
        upstream.gate.set()
    assert await content(drive, made.inode) == expected
    await drive.sync()
    assert await content(drive, made.inode) == expected


@pytest.mark.parametrize("kind", STORED_KINDS)
async def test_a_long_write_is_sealed_ahead_with_the_cuts_of_the_whole(
    drive: Drive, upstream: MemoryUpstream, kind: Kind
) -> None:
    data = made_of(kind, 2 * AHEAD + WINDOW, 6)
    whole = await make_file(drive, b"whole", data)
    await drive.sync()
    blocks = set(upstream.stored)
    made = await make_file(drive, b"ahead")
    for start in range(0, len(data), 1 << 20):
        await drive.write(made.inode, start, data[start : start + (1 << 20)])
    layer = drive.ledger.dirty.top(made.inode)
    assert layer is not None
    await drive.sealer.seal_ahead(made.inode, layer)
    left = sum(piece.end - piece.start for piece in layer.pieces if isinstance(piece, Data))
    assert left < 4 << 20
    assert any(isinstance(piece, Stored) for piece in layer.pieces)
    assert await content(drive, made.inode) == data
    await drive.sync()
    assert set(upstream.stored) == blocks
    assert extents(drive, made.inode) == extents(drive, whole.inode)


@pytest.mark.logs_warnings
@pytest.mark.parametrize("step", ["cut", "store"])
async def test_an_error_in_a_long_run_is_the_error_itself_and_is_got_over(
    drive: Drive, upstream: MemoryUpstream, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    made = await make_file(drive, b"long", DATA)
    before, calls = len(upstream.commits), 0

    async def fails_once(*_: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise TransientError("only this once")

    sealer = drive.sealer
    original = getattr(sealer, f"_{step}")

    async def step_that_fails(argument: object) -> object:
        await fails_once()
        return await original(argument)

    monkeypatch.setattr(sealer, f"_{step}", step_that_fails)
    with pytest.raises(TransientError, match="only this once"):
        await drive.sync()
    assert len(upstream.commits) == before
    await drive.sync()
    assert len(upstream.commits) == before + 1
    assert await content(drive, made.inode) == DATA
