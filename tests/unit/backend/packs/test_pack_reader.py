"""Reading packs from nodes that are far away, and around one that is slow for what it is."""

from __future__ import annotations

import math
import random
from collections.abc import Awaitable, Callable, Mapping

import anyio
import pytest
import trio.testing

from backend.coding.erasure import Profile, code_for
from backend.coding.placement import ClusterMap, ClusterNode
from backend.packs.fragment_format import fragment_key
from backend.packs.pack import Pack
from backend.packs.pack_codec import PackCodec
from backend.packs.pack_reader import PackReader
from backend.packs.pack_store import PackStore
from backend.upstream import BlockId, SealedBlock
from tests.contents import STORED_KINDS, Kind, content
from tests.memory_node import MemoryNode, memory_nodes

CODEC = PackCodec(code_for(Profile.parse("4+2")), bytes(range(16)), bytes(range(32)))
PART = 32 << 10
BLOCK = 4100
UNEVEN = 3_600_001
"""No fragment ends where a window does."""


class Far:
    """Six nodes, each with a latency of its own; counts what is asked of them."""

    def __init__(self, latencies: Mapping[int, float]) -> None:
        self.memory = memory_nodes(6)
        self.latencies = {f"node{number}": latencies.get(number, 0.0) for number in range(6)}
        self.reads = 0
        for node in self.memory.values():
            node.before = self._delay(node)
        cluster = ClusterMap(1, tuple(ClusterNode(name, name) for name in self.memory))
        self.packs = PackStore(self.memory, CODEC, cluster, self.found_wrong)

    @staticmethod
    def found_wrong(pack: Pack, index: int) -> None:
        raise AssertionError(f"fragment {index} is called wrong")

    def _delay(self, node: MemoryNode) -> Callable[[str, str], Awaitable[None]]:
        async def before(operation: str, _key: str) -> None:
            if operation == "get":
                self.reads += 1
                await anyio.sleep(self.latencies[node.name])

        return before

    async def write(self, kind: Kind, seed: int, size: int = 4 << 20) -> tuple[Pack, bytes]:
        block = SealedBlock(BlockId(bytes([seed]) * 32), content(kind, size, seed))
        data, _ = CODEC.encode(bytes([seed]) * 16, [block])
        async with trio.open_nursery() as nursery:
            write = await self.packs.write(nursery, bytes([seed]) * 16, data)
            await write.ended.wait()
        return write.pack, data

    async def known(self, kind: Kind) -> tuple[Pack, bytes]:
        """A new pack on nodes of which it is known how long they take."""
        pack, data = await self.write(kind, 1)
        for offset in range(0, len(data) - PART, len(data) // 9):
            await self.read(pack, offset)
        return await self.write(kind, 2, UNEVEN)

    async def read_small(self, pack: Pack, offset: int) -> bytes:
        """As a small block is read."""
        return bytes(await self.packs.reader.read_range(pack, offset, BLOCK, has_neighbours=True))

    async def read(self, pack: Pack, offset: int) -> tuple[bytes, int]:
        """The bytes, and how many requests they took."""
        before = self.reads
        data = await self.packs.reader.read_range(pack, offset, PART)
        return bytes(data), self.reads - before


@pytest.fixture
def clock() -> trio.testing.MockClock:
    return trio.testing.MockClock(autojump_threshold=0.02)


@pytest.mark.parametrize("kind", STORED_KINDS)
async def test_a_small_read_of_far_nodes_is_one_request(clock: trio.testing.MockClock, kind: Kind) -> None:
    """Each answer takes longer than a disk may; only the first reads, of nodes that were never read, are
    slow."""
    far = Far(dict.fromkeys(range(6), 0.9))
    pack, data = await far.write(kind, 1)
    for offset in range(0, len(data) - PART, len(data) // 7):
        assert (await far.read(pack, offset))[0] == data[offset : offset + PART]
    for seed in (2, 3):
        pack, data = await far.write(kind, seed)
        for offset in (len(data) - PART - 5, 0, len(data) // 2 + 7, 100_000):
            found, requests = await far.read(pack, offset)
            assert found == data[offset : offset + PART]
            assert requests <= 2, "one for each fragment that the part lies in"


async def test_a_node_that_begins_to_hang_is_read_around(clock: trio.testing.MockClock) -> None:
    far = Far(dict.fromkeys(range(6), 0.2))
    pack, data = await far.known("text")
    far.latencies[pack.nodes[0]] = math.inf
    begun = trio.current_time()
    assert (await far.read(pack, 0))[0] == data[:PART]
    assert trio.current_time() - begun < 5


async def test_a_pack_is_decoded_from_near_nodes(clock: trio.testing.MockClock) -> None:
    """Two of six are across an ocean. Once that is known they are not asked for what others have."""
    far = Far({0: 2.0, 3: 2.0})
    pack, _ = await far.write("log", 1)
    assert len((await far.packs.reader.fragments.inspect(pack, 60)).good) == 6
    begun = trio.current_time()
    for seed in range(5, 9):
        pack, data = await far.write("log", seed)
        assert await far.packs.reader.read_whole(pack) == data
    assert trio.current_time() - begun < 1


@pytest.mark.parametrize("order", ["in order", "backwards", "at random"])
@pytest.mark.parametrize("kind", STORED_KINDS)
async def test_small_blocks_of_far_nodes_are_right_in_any_order(
    clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch, kind: Kind, order: str
) -> None:
    """Also those that lie in two fragments or two windows, and the last. No pack is decoded for it."""
    far = Far(dict.fromkeys(range(6), 0.2))
    pack, data = await far.known(kind)
    offsets = [*range(0, len(data) - BLOCK, BLOCK), len(data) - BLOCK]
    if order == "backwards":
        offsets.reverse()
    elif order == "at random":
        random.Random(kind).shuffle(offsets)
    monkeypatch.delattr(PackReader, "read_whole")
    before = far.reads
    for offset in offsets:
        assert await far.read_small(pack, offset) == data[offset : offset + BLOCK]
    assert far.reads - before < len(offsets) / 10


async def test_wrong_bytes_beside_a_small_block_are_read_again(clock: trio.testing.MockClock) -> None:
    """The node has said something else than what it keeps: nothing but the window is wrong."""
    far = Far(dict.fromkeys(range(6), 0.2))
    pack, data = await far.known("json")
    key, node = fragment_key(pack.id, 0), far.memory[pack.nodes[0]]
    right = node.objects[key]
    node.objects[key] = right[: 3 * BLOCK] + bytes(2 * BLOCK) + right[5 * BLOCK :]
    for offset in (0, BLOCK):
        assert await far.read_small(pack, offset) == data[offset : offset + BLOCK]
    node.objects[key] = right
    assert await far.read_small(pack, 3 * BLOCK) == bytes(BLOCK), "it is of the window, and unchecked"
    far.packs.reader.forget(pack.id)
    assert await far.read_small(pack, 3 * BLOCK) == data[3 * BLOCK : 4 * BLOCK]
