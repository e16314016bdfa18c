"""Small blocks of far nodes: how many requests and bytes they cost, whatever is in them and however they are
read."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import trio

from backend.nodes import NodeSpeed
from backend.packs.neighbours import NEAR, TIMES, WINDOW, Neighbours
from backend.packs.pack import Pack
from tests.contents import STORED_KINDS, Kind, content

SIZE = 4100
PAYLOAD = 4 * WINDOW + 777
FAR = 20 * NEAR
PACK = Pack(bytes(16), 4 * PAYLOAD, 6 * PAYLOAD, tuple(f"node{number}" for number in range(6)))


class Fragment:
    """The bytes of one, and what was read of it."""

    def __init__(self, data: bytes, latency: float = FAR, per_byte: float = 0.0) -> None:
        self.data = data
        self.speed = NodeSpeed()
        self.speed.note("node1", 1, latency)
        self.speed.note("node1", 1 << 20, latency + per_byte * (1 << 20))
        self.neighbours = Neighbours(self.speed)
        self.read: list[int] = []

    async def get(self, offset: int, length: int, pack: Pack = PACK) -> bytes:
        """One block."""

        async def read(begin: int, size: int) -> bytes:
            self.read.append(size)
            await trio.sleep(0)
            assert begin + size <= len(self.data), "nothing is read behind the payload"
            return self.data[begin : begin + size]

        return await self.neighbours.read(pack, 1, offset, length, PAYLOAD, read)

    async def expect(self, offset: int, length: int = SIZE) -> None:
        """One block, and that it is the right one."""
        assert await self.get(offset, length) == self.data[offset : offset + length]


def offsets() -> list[int]:
    return list(range(16, PAYLOAD - SIZE, SIZE))


@pytest.mark.parametrize("kind", STORED_KINDS)
async def test_small_blocks_in_a_row_are_few_requests(kind: Kind) -> None:
    """One for the first block, one for each window, and one for each block that lies across two."""
    fragment = Fragment(content(kind, PAYLOAD))
    for offset in offsets():
        await fragment.expect(offset)
    assert len(fragment.read) <= 1 + 5 + 4
    assert sum(fragment.read) < PAYLOAD + 6 * SIZE


@pytest.mark.parametrize("kind", STORED_KINDS)
async def test_in_any_order_they_are_the_right_bytes(kind: Kind) -> None:
    fragment = Fragment(content(kind, PAYLOAD))
    draw = random.Random(3)
    for _ in range(500):
        length = draw.randint(1, SIZE)
        await fragment.expect(draw.randrange(PAYLOAD - length), length)


async def test_the_first_read_of_a_fragment_is_of_what_was_asked_for() -> None:
    fragment = Fragment(content("random", PAYLOAD))
    await fragment.expect(5 * SIZE)
    assert fragment.read == [SIZE]


@pytest.mark.parametrize(
    ("latency", "per_byte"), [(NEAR, 0.0), (0.0, 0.0), (FAR, 1.1 * (TIMES - 1) * FAR / WINDOW)]
)
async def test_what_is_near_and_what_is_on_a_slow_line_is_read_as_asked(
    latency: float, per_byte: float
) -> None:
    fragment = Fragment(content("text", PAYLOAD), latency, per_byte)
    for offset in offsets()[:20]:
        await fragment.expect(offset)
    assert fragment.read == [SIZE] * 20


async def test_on_a_line_that_is_as_quick_as_it_is_long_windows_are_read() -> None:
    fragment = Fragment(content("text", PAYLOAD), FAR, 0.9 * (TIMES - 1) * FAR / WINDOW)
    for offset in offsets()[:20]:
        await fragment.expect(offset)
    assert fragment.read == [SIZE, WINDOW]


async def test_who_wants_a_window_that_is_being_read_waits_for_it() -> None:
    fragment = Fragment(content("log", PAYLOAD))
    await fragment.expect(0)
    async with trio.open_nursery() as nursery:
        for offset in range(0, WINDOW - SIZE, SIZE):
            nursery.start_soon(fragment.expect, offset)
    assert fragment.read == [SIZE, WINDOW]


async def test_what_is_forgotten_is_read_again() -> None:
    """A block was wrong: another answer may be right."""
    fragment = Fragment(content("json", PAYLOAD))
    for offset in offsets()[:3]:
        await fragment.expect(offset)
    fragment.data = content("random", PAYLOAD)
    fragment.neighbours.forget(PACK.id)
    await fragment.expect(offsets()[1])


async def test_windows_take_16_mib_at_most() -> None:
    """The newest are kept: the others are read again."""
    fragment = Fragment(content("half-compressible", PAYLOAD))
    packs = [replace(PACK, id=number.to_bytes(16)) for number in range(70)]
    kept = (16 << 20) // WINDOW
    for pack in packs:
        for offset in (0, SIZE):
            await fragment.get(offset, SIZE, pack)
    read_before = len(fragment.read)
    for pack in reversed(packs[-kept:]):
        assert await fragment.get(2 * SIZE, SIZE, pack) == fragment.data[2 * SIZE : 3 * SIZE]
    assert len(fragment.read) == read_before
    for pack in packs[:-kept]:
        assert await fragment.get(2 * SIZE, SIZE, pack) == fragment.data[2 * SIZE : 3 * SIZE]
    assert fragment.read[read_before:] == [WINDOW] * (len(packs) - kept)


async def test_the_last_window_ends_where_the_payload_does() -> None:
    fragment = Fragment(content("zeros", PAYLOAD))
    await fragment.expect(PAYLOAD - 300, 100)
    await fragment.expect(PAYLOAD - 200, 200)
    assert fragment.read == [100, 777]
