"""What a server shares with a mount (packs, care, rebalancing, compaction) works on trio and on asyncio,
and with any kind of block index: here on nodes and an index in memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import anyio
import pytest

from backend.blocks.compaction import Compactor
from backend.care.check_index import IndexCheck
from backend.care.check_store import StoreCheck
from backend.care.scrub import Scrub
from backend.cluster.rebalance import Rebalance
from backend.coding.erasure import Profile, code_for
from backend.coding.placement import ClusterMap, ClusterNode
from backend.errors import FencedError, UnavailableError
from backend.findings import Findings
from backend.nodes import DirectoryNode, NodeIdentity, initialise_directory_node
from backend.packs.fragment_format import fragment_key
from backend.packs.pack import Pack
from backend.packs.pack_codec import PackCodec
from backend.packs.pack_store import PackStore
from backend.system import THIS_MACHINE
from backend.upstream import BlockId, SealedBlock
from tests.contents import KINDS, content
from tests.faulty_node import Fault, FaultyNode
from tests.loops import on_both_loops
from tests.memory_index import MemoryBlockIndex
from tests.memory_node import MemoryNode, memory_nodes

CODEC = PackCodec(code_for(Profile.parse("4+2")), bytes(range(16)), bytes(range(32)))


def block(seed: int, size: int = 5000) -> SealedBlock:
    return SealedBlock(BlockId(bytes([seed]) * 32), content("random", size, seed))


def cluster(nodes: Iterable[str], *drained: str) -> ClusterMap:
    return ClusterMap(1, tuple(ClusterNode(name, name, float(name not in drained)) for name in nodes))


@dataclass
class Rig:
    """Packs on nodes in memory that the index knows, each behind a node with faults."""

    memory: dict[str, MemoryNode]
    nodes: dict[str, FaultyNode]
    packs: PackStore
    index: MemoryBlockIndex
    wrong: list[int]

    async def write(self, *blocks: SealedBlock) -> Pack:
        """One pack of the blocks, all its fragments durable and in the index."""
        pack_id = blocks[0].id[:16]
        data, entries = CODEC.encode(pack_id, blocks)
        async with anyio.create_task_group() as group:
            write = await self.packs.write(group, pack_id, data)
            await write.ended.wait()
        self.index.add_pack(replace(write.pack, missing=write.missing()), entries)
        return write.pack

    async def read(self, one: SealedBlock) -> bytes:
        place = self.index.locate(one.id)
        assert place is not None
        return bytes(await self.packs.reader.read_range(place.pack, place.offset, place.length))

    def damage(self, pack: Pack, index: int) -> None:
        node = self.memory[pack.nodes[index]]
        node.damage(next(key for key in node.objects if key.endswith(f"{pack.id.hex()}.{index}")))

    def fragments(self, pack: Pack) -> int:
        return sum(pack.id.hex() in key for node in self.memory.values() for key in node.objects)


def rig(count: int = 6, hedge_after: float = 60.0) -> Rig:
    """Reads are not hedged, however slow the machine is, unless the test says so."""
    memory, wrong = memory_nodes(count), list[int]()
    nodes = {name: FaultyNode(node) for name, node in memory.items()}
    packs = PackStore(nodes, CODEC, cluster(memory), lambda _pack, index: wrong.append(index), hedge_after)
    return Rig(memory, nodes, packs, MemoryBlockIndex(2), wrong)


def quiet(_done: int, _total: int) -> None:
    """No progress."""


async def confirmed() -> None:
    """The lease holds."""


@on_both_loops
async def test_what_is_written_is_read_with_any_two_nodes_away() -> None:
    site, blocks = rig(), [block(seed) for seed in range(1, 5)]
    pack = await site.write(*blocks)
    for first in range(6):
        for second in range(first):
            for number, node in enumerate(site.memory.values()):
                node.away = number in (first, second)
            site.packs.reader.forget(pack.id)
            assert [await site.read(one) for one in blocks] == [one.data for one in blocks]
    for node in site.memory.values():
        node.away = True
    site.packs.reader.forget(pack.id)
    with pytest.raises(UnavailableError):
        await site.packs.reader.read_whole(pack)


@on_both_loops
async def test_a_pack_is_written_around_a_node_that_refuses_and_one_that_hangs() -> None:
    site, gate = rig(7), anyio.Event()
    data, _ = CODEC.encode(b"p" * 16, [block(1)])
    names = site.packs.placement(b"p" * 16)
    site.memory[names[0]].full = True
    site.nodes[names[1]].faults = [Fault(("put",), until=gate)]
    async with anyio.create_task_group() as group:
        write = await site.packs.write(group, b"p" * 16, data)
        assert len(write.good) >= 5
        assert names[0] not in write.pack.nodes
        assert not write.ended.is_set()
        gate.set()
        await write.ended.wait()
    assert write.missing() == 0
    assert site.fragments(write.pack) == 6


@on_both_loops
async def test_a_slow_node_is_read_around_and_its_late_answer_disturbs_nobody() -> None:
    site, one, gate = rig(hedge_after=0.02), block(1), anyio.Event()
    pack = await site.write(one)
    for name in pack.nodes[:2]:
        site.nodes[name].faults = [Fault(("get",), until=gate)]
    with anyio.fail_after(10):
        assert await site.read(one) == one.data
    gate.set()


def folder_nodes(folder: Path) -> dict[str, DirectoryNode]:
    """Six of them."""
    made = [NodeIdentity(f"node{number}", bytes(range(16)), f"zone{number}") for number in range(6)]
    for each in made:
        initialise_directory_node(str(folder / each.name), each.drive_id, each.name, each.zone)
    return {each.name: DirectoryNode(str(folder / each.name), each) for each in made}


@on_both_loops
async def test_ranges_over_several_fragments_are_right_whichever_lack(tmp_path: Path) -> None:
    """Those of a pack that the page cache has: all; without one that is gone; and one that is cut off."""
    nodes = folder_nodes(tmp_path)
    packs = PackStore(nodes, CODEC, cluster(nodes), lambda _pack, _index: None, 60.0)
    blocks = [SealedBlock(BlockId(bytes([at]) * 32), content(kind, 700_000)) for at, kind in enumerate(KINDS)]
    data, _ = CODEC.encode(b"p" * 16, blocks)
    async with anyio.create_task_group() as group:
        write = await packs.write(group, b"p" * 16, data)
        await write.ended.wait()
    pack, size, quarter = write.pack, len(data), -(-len(data) // 4)
    near = [quarter * number + by for number in range(4) for by in (-1, 0, 1, 4096)]
    ranges = [(max(start, 0), end) for start in near for end in (*near, size) if max(start, 0) < end]
    paths = [tmp_path / name / fragment_key(pack.id, index) for index, name in enumerate(pack.nodes)]
    losses: list[Callable[[], None]] = [lambda: None, paths[1].unlink, lambda: os.truncate(paths[2], 1000)]
    for lose in losses:
        lose()
        for start, end in ranges:
            packs.reader.forget(pack.id)
            assert await packs.reader.read_range(pack, start, end - start) == data[start:end]


@on_both_loops
async def test_a_read_that_is_cancelled_leaves_its_pack_readable() -> None:
    site, one, gate = rig(), block(1), anyio.Event()
    pack = await site.write(one)
    for node in site.nodes.values():
        node.faults = [Fault(("get",), until=gate)]
    with anyio.move_on_after(0.05) as cut:
        await site.packs.reader.read_whole(pack)
    assert cut.cancelled_caught
    gate.set()
    assert await site.read(one) == one.data


@on_both_loops
async def test_many_readers_of_one_pack_decode_it_once() -> None:
    site, one = rig(), block(1)
    pack = await site.write(one)
    for name in pack.nodes[:1]:
        site.memory[name].away = True
    found: list[bytes] = []

    async def read() -> None:
        found.append(await site.read(one))

    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(read)
    assert found == [one.data] * 20
    fetched = [key for node in site.nodes.values() for call, key in node.calls if call == "get"]
    assert len(fetched) <= 20 + 5


@on_both_loops
async def test_repair_makes_a_pack_whole() -> None:
    site, one = rig(), block(1)
    pack = await site.write(one)
    site.damage(pack, 1)
    site.memory[pack.nodes[4]].objects.clear()
    assert await site.packs.repair(pack) == 0
    found = await site.packs.reader.fragments.inspect(pack, 10)
    assert sorted(found.good) == [0, 1, 2, 3, 4, 5]
    for index in range(3):
        site.damage(pack, index)
    with pytest.raises(UnavailableError):
        await site.packs.repair(pack)
    assert site.wrong == [0, 1, 2]


@pytest.mark.logs_warnings
@on_both_loops
async def test_scrub_queues_what_is_wrong_and_skips_who_does_not_answer(tmp_path: Path, loop: str) -> None:
    site, woken = rig(), list[int]()
    pack, other = await site.write(block(1)), await site.write(block(2))
    site.damage(pack, 3)
    site.memory[other.nodes[5]].away = True
    folder = tmp_path / loop
    folder.mkdir()
    scrub = Scrub(site.nodes, CODEC, site.index, lambda: woken.append(1), folder, interval=0)
    async with anyio.create_task_group() as group:
        group.start_soon(scrub.run)
        with anyio.fail_after(10):
            await scrub.request().wait()
        group.cancel_scope.cancel()
    assert (scrub.state.fragments, scrub.state.wrong, woken) == (12, 1, [1])
    assert scrub.state.unanswered >= 1
    assert site.index.packs.to_repair(9) == [replace(pack, missing=1 << 3)]


@on_both_loops
async def test_a_check_finds_and_mends_and_an_index_that_is_wrong_is_told() -> None:
    site = rig()
    pack, _ = await site.write(block(1)), await site.write(block(2), block(3))
    site.damage(pack, 2)
    site.memory[pack.nodes[0]].objects.clear()
    findings = Findings()
    check = StoreCheck(
        site.packs,
        site.index,
        findings,
        mend=True,
        verify=lambda _block, _sealed: None,
        read_index=CODEC.index_of,
    )
    await check.run(quiet)
    assert findings.count("mended") >= 1
    assert findings.count("left", "lost") == 0
    fresh = MemoryBlockIndex(2)
    fresh.add_pack(pack, site.index.blocks_of(pack.id))
    assert await IndexCheck(site.index, site.index, site.packs, set()).differences() == []
    wrong = await IndexCheck(fresh, site.index, site.packs, {block(3).id}).differences()
    assert wrong == ["it lacks 1 packs that are on the nodes", f"it lacks block {block(3).id.hex()[:16]}"]


@on_both_loops
async def test_a_drained_node_is_emptied_and_what_a_lost_one_held_is_rebuilt() -> None:
    site = rig(8)
    packs = [await site.write(block(seed)) for seed in range(1, 9)]
    names = sorted({name for pack in packs for name in pack.nodes})
    gone, lost = names[0], names[1]
    site.memory[lost].objects.clear()
    rebalance = Rebalance(site.nodes, cluster(site.memory, gone), CODEC, confirmed)
    report = await rebalance.run(quiet)
    assert report.left == []
    assert report.moved > 0
    assert report.rebuilt > 0
    assert site.memory[gone].objects == {}
    assert [site.fragments(pack) for pack in packs] == [6] * 8


@on_both_loops
async def test_what_nobody_needs_goes_and_thin_packs_are_rewritten() -> None:
    site = rig()
    dead, thin = await site.write(block(1), block(2)), await site.write(*(block(n) for n in range(3, 8)))
    compactor = Compactor(site.packs, site.index, lambda _pack: False, lambda: None, THIS_MACHINE)
    site.index.dying.mark(b"", None, [block(seed).id for seed in range(1, 6)], 1)
    report = await compactor.run(confirmed, 1, 1e12)
    assert (report.blocks, report.packs, report.rewritten) == (5, 2, 1)
    assert [site.fragments(pack) for pack in (dead, thin)] == [0, 0]
    assert [await site.read(block(seed)) for seed in (6, 7)] == [block(6).data, block(7).data]
    assert site.index.packs.statistics(0, 99).packs == 1


@on_both_loops
async def test_a_holder_that_lost_its_lease_deletes_nothing_more() -> None:
    site = rig()
    pack = await site.write(block(1))
    site.index.dying.mark(b"", None, [block(1).id], 1)
    asked: list[int] = []

    async def verify() -> None:
        asked.append(1)
        if len(asked) > 2:
            raise FencedError("taken over")

    compactor = Compactor(site.packs, site.index, lambda _pack: False, lambda: None, THIS_MACHINE)
    with pytest.raises(FencedError):
        await compactor.run(verify, 1, 1e12)
    assert site.fragments(pack) == 5
