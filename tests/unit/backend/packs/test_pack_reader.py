"""Reading packs from nodes that are far away, and around one that is slow for what it is."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping

import anyio
import pytest
import trio.testing

from backend.coding.erasure import Profile, code_for
from backend.coding.placement import ClusterMap, ClusterNode
from backend.packs.pack import Pack
from backend.packs.pack_codec import PackCodec
from backend.packs.pack_store import PackStore
from backend.upstream import BlockId, SealedBlock
from tests.contents import STORED_KINDS, Kind, content
from tests.memory_node import MemoryNode, memory_nodes

CODEC = PackCodec(code_for(Profile.parse("4+2")), bytes(range(16)), bytes(range(32)))
PART = 32 << 10


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

    async def write(self, kind: Kind, seed: int) -> tuple[Pack, bytes]:
        block = SealedBlock(BlockId(bytes([seed]) * 32), content(kind, 4 << 20, seed))
        data, _ = CODEC.encode(bytes([seed]) * 16, [block])
        async with trio.open_nursery() as nursery:
            write = await self.packs.write(nursery, bytes([seed]) * 16, data)
            await write.settled.wait()
        return write.pack, data

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
    pack, data = await far.write("text", 1)
    for offset in range(0, len(data) - PART, len(data) // 9):
        await far.read(pack, offset)
    pack, data = await far.write("text", 2)
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
