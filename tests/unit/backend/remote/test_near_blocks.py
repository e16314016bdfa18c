"""Small blocks that a hub gives together: asked for as long as they are used, and never believed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from random import Random

import httpx
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from backend import wire
from backend.errors import CorruptError, FormatError
from backend.remote import HubClient, RemoteUpstream
from backend.remote.near_blocks import CAPACITY, MOST_UNUSED, RARELY, NearBlocks
from backend.remote.remote_blocks import RemoteBlocks
from backend.upstream import BlockId, SealedBlock
from tests.hub_server import RunningHub, hub_for_test

SMALL = 10_000
DRIVE = bytes(16)


def block(size: int = SMALL) -> SealedBlock:
    return SealedBlock(BlockId(os.urandom(32)), os.urandom(size))


@given(st.lists(st.booleans(), max_size=300))
def test_reads_that_use_nothing_ask_for_others_rarely(small: list[bool]) -> None:
    near, asked = NearBlocks(), 0
    for is_small in small:
        if near.are_wanted:
            asked += 1
            near.keep(block(8), [block(8)])
        elif is_small:
            near.note_alone()
    assert asked <= MOST_UNUSED + len(small) / RARELY + 1


def test_those_that_are_used_are_asked_for_again_and_again() -> None:
    near = NearBlocks()
    for _ in range(100):
        assert near.are_wanted
        others = [block(8) for _ in range(3)]
        near.keep(block(8), others)
        assert [near.get(each.id) for each in others] == [each.data for each in others]


def test_they_take_no_more_than_their_room() -> None:
    near, kept = NearBlocks(), [block(64 << 10) for _ in range(3 * CAPACITY >> 16)]
    for each in kept:
        near.keep(each, [])
    assert sum(near.get(each.id) is not None for each in kept) == CAPACITY >> 16


@pytest.fixture(scope="module")
def running() -> Iterator[RunningHub]:
    with hub_for_test() as found:
        yield found


async def test_small_files_that_are_read_in_order_take_few_requests(
    running: RunningHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    uuid, token = running.new_drive()
    stored = [block(size) for size in Random(1).choices([10, 500, SMALL, 60_000, 70_000, 900_000], k=120)]
    client = HubClient(running.url, token)
    upstream = RemoteUpstream(client, uuid)
    async with trio.open_nursery() as nursery:
        await nursery.start(upstream.run)
        await upstream.blocks.put_blocks(stored)
        await upstream.blocks.flush()
        asked: list[str] = []
        call = client.call

        async def counted(method: str, path: str, **more: object) -> object:
            asked.append(path)
            return await call(method, path, **more)  # type: ignore[arg-type]

        monkeypatch.setattr(client, "call", counted)
        for each in stored:
            part = await upstream.blocks.get_block_part(each.id, 3, 400)
            assert (bytes(part.data), part.size) == (each.data[3:403], len(each.data))
            assert bytes(await upstream.blocks.get_block(each.id)) == each.data
        assert len(asked) < len(stored), "of twice as many reads"
        asked.clear()
        await upstream.blocks.get_block_again(stored[0].id)
        await upstream.blocks.get_block(stored[0].id)
        assert len(asked) == 2, "what may be wrong was taken from memory"
        await upstream.close()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"x",
        wire.encode_blocks([block()]),
        wire.encode_blocks([block(), SealedBlock(BlockId(bytes(32)), b"asked for")]),
    ],
)
async def test_an_answer_without_the_block_is_refused(content: bytes) -> None:
    answers = httpx.MockTransport(lambda _: httpx.Response(200, stream=httpx.ByteStream(content)))
    blocks = RemoteBlocks(HubClient("http://hub", bytes(32), transport=answers), DRIVE)
    with pytest.raises((CorruptError, FormatError)):
        await blocks.get_block(BlockId(bytes(32)))
