"""Packs move to other nodes while the store writes, reads, repairs, compares and compacts."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
import trio
import trio.testing

from backend.blocks.pack_moves import PackTurns
from backend.care.check_store import StoreCheck
from backend.cluster import Rebalance
from backend.coding.placement import ClusterMap, ClusterNode, place
from backend.findings import Findings
from backend.packs import PackStore, parse_fragment_key
from backend.upstream import SealedBlock
from tests.faulty_node import Fault
from tests.unit.backend.blocks.test_block_store import Rig, blocks, build, running

FAST = float("inf")


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with running(build(tmp_path, count=8, repair_wait=0.02)) as rig:
        yield rig


def cluster(rig: Rig, *drained: str) -> ClusterMap:
    return ClusterMap(2, tuple(ClusterNode(name, name, float(name not in drained)) for name in rig.nodes))


async def rebalance(rig: Rig, *drained: str, rate: float | None = None) -> None:
    """To the map with these drained, which the store works by then."""
    now = cluster(rig, *drained)
    rig.store.have_cluster(now)
    await rig.store.wait_for_writes()
    moving = Rebalance(rig.nodes, now, rig.codec, rig.writer.verify, rate, rig.store.moves)
    report = await moving.run(lambda _done, _total: None)
    assert report.left == []


def holders(rig: Rig) -> dict[bytes, list[list[str]]]:
    """By pack, the nodes that have each fragment."""
    found: dict[bytes, list[list[str]]] = defaultdict(lambda: [[] for _ in range(6)])
    for path in rig.fragments():
        node, *key = path.relative_to(rig.path).parts
        parsed = parse_fragment_key("/".join(key))
        assert parsed is not None
        found[parsed[0]][parsed[1]].append(node)
    return found


def require_in_place(rig: Rig, *drained: str) -> None:
    """Each fragment is once on a node, those that the map wants, and the index knows where."""
    for pack_id, held in holders(rig).items():
        pack = rig.index.packs.get(pack_id)
        assert pack is not None
        assert [[name] for name in pack.nodes] == held
        assert set(pack.nodes) == set(place(cluster(rig, *drained), pack_id, 6))
        assert not pack.missing


async def test_a_store_in_use_is_told_where_everything_lies(rig: Rig) -> None:
    sealed = blocks(60)
    await rig.write(sealed, packs=6)
    await rebalance(rig, "node0", "node1")
    require_in_place(rig, "node0", "node1")
    for node in rig.nodes.values():
        node.calls.clear()
    await rig.check(sealed)
    asked = {key for name in ("node0", "node1") for _, key in rig.nodes[name].calls}
    assert not asked


@pytest.mark.logs_warnings
async def test_a_pack_that_was_stored_and_cannot_be_made_whole_is_told(rig: Rig) -> None:
    """Regression: with too few fragments it was taken for one whose write never finished, and a node that was
    away was let go of, although it had one more."""
    await rig.write(blocks(60), packs=2)
    (lost, *missing), whole = rig.packs().values()
    for path in missing[:3]:
        path.unlink()
    await rig.store.reconcile()
    now = cluster(rig, "node0")
    rig.store.have_cluster(now)
    moving = Rebalance(rig.nodes, now, rig.codec, rig.writer.verify, None, rig.store.moves)
    report = await moving.run(lambda _done, _total: None)
    assert report.left == [f"pack {lost.stem} cannot be made whole (fragments are missing)"]
    assert len(rig.packs()[lost.stem]) == 3
    assert len(rig.packs()[whole[0].stem]) == 6


async def test_the_index_names_the_new_node_before_the_old_one_lets_go(rig: Rig) -> None:
    await rig.write(blocks(60), packs=6)
    go_on = trio.Event()
    old = rig.nodes["node0"]
    old.faults = [Fault(("delete",), until=go_on)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(rebalance, rig, "node0")
        while not (going := [parse_fragment_key(key) for call, key in old.calls if call == "delete"]):
            await trio.sleep(0.001)
        for parsed in going:
            assert parsed is not None
            pack = rig.index.packs.get(parsed[0])
            assert pack is not None
            assert pack.nodes[parsed[1]] in {*holders(rig)[pack.id][parsed[1]]} - {"node0"}
        go_on.set()
    require_in_place(rig, "node0")


@pytest.mark.logs_warnings
@pytest.mark.parametrize("seed", range(3))
async def test_packs_move_while_everything_else_goes_on(rig: Rig, seed: int) -> None:
    """Nothing is lost, twice there or in a wrong place when all has ended; and no read ever fails."""
    chance = random.Random(seed)
    kept: list[SealedBlock] = []
    over = trio.Event()

    async def write() -> None:
        for number in range(12):
            new = blocks(12, seed=100 + number)
            await rig.store.put_blocks(new)
            await rig.store.flush()
            kept.extend(new[:4])
            await rig.store.release([block.id for block in new[4:]])

    async def read() -> None:
        while not over.is_set():
            for block in chance.sample(kept, min(len(kept), 8)):
                assert await rig.store.get_block(block.id) == block.data
            await trio.sleep(0.001)

    async def compact() -> None:
        while not over.is_set():
            await rig.store.release([])
            await rig.store.compact(0, FAST, debris=True)
            await trio.sleep(0.002)

    async def care() -> None:
        while not over.is_set():
            await rig.store.reconcile()
            for pack_id in chance.sample(rig.index.packs.ids(b"", 99), 1) if kept else ():
                rig.index.packs.want_repair(pack_id)
            await rig.store.repairs.repair_all()
            await trio.sleep(0.002)

    async def lose() -> None:
        """A fragment now and then, which a repair or the rebalance makes anew."""
        while not over.is_set():
            whole = [pack for pack in rig.packs().values() if len({path.suffix for path in pack}) == 6]
            for pack in chance.sample(whole, min(len(whole), 1)):
                with suppress(FileNotFoundError):  # it is moved, or its pack was deleted
                    chance.choice(pack).unlink()
            await trio.sleep(0.05)

    async with trio.open_nursery() as nursery:
        for work in (read, compact, care, lose):
            nursery.start_soon(work)
        async with trio.open_nursery() as writing:
            writing.start_soon(write)
            for drained in (("node0",), ("node1", "node2"), (), ("node5",)):
                await rebalance(rig, *drained)
        over.set()
    await rig.store.reconcile()
    await rig.settle()
    await rebalance(rig, "node5")
    await rig.store.compact(0, FAST, debris=True)
    await rig.store.reconcile()
    await rig.settle()
    require_in_place(rig, "node5")
    await rig.check(kept)


async def test_one_at_a_time_has_a_pack() -> None:
    turns, told = PackTurns(), list[str]()

    async def take(name: str, pack_id: bytes) -> None:
        async with turns.of(pack_id):
            told.append(f"{name} begins")
            assert turns.is_taken(pack_id)
            await trio.testing.wait_all_tasks_blocked()
            told.append(f"{name} ends")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(take, "one", b"a")
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(take, "two", b"a")
    assert told == ["one begins", "one ends", "two begins", "two ends"]
    assert not turns.is_taken(b"a")


async def test_packs_whose_turn_it_was_are_noted() -> None:
    turns = PackTurns()
    async with turns.of(b"before"):
        with turns.noted() as noted:
            async with turns.of(b"meanwhile"):
                pass
    async with turns.of(b"after"):
        pass
    assert set(noted) == {b"before", b"meanwhile"}


async def test_a_check_finds_nothing_wrong_with_what_moves_or_goes_meanwhile(rig: Rig) -> None:
    sealed = blocks(30)
    await rig.write(sealed, packs=3)
    first, gone, _ = rig.index.packs.ids(b"", 3)
    pack = rig.index.packs.get(first)
    assert pack is not None

    async def change() -> None:
        await rebalance(rig, *pack.nodes[:2])
        await rig.store.release([block.id for block in sealed])
        rig.index.dying.forget(1 << 62, 99)
        assert rig.index.dying.doom([gone])
        rig.index.dying.remove_pack(gone)

    done = trio.Event()
    for node in rig.nodes.values():
        node.faults = [Fault(("state",), until=done, times=18)]
    findings = Findings()
    looking = PackStore(rig.nodes, rig.codec, cluster(rig), lambda _pack, _index: None)
    check = StoreCheck(looking, rig.index, findings, mend=False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(check.run, lambda _done, _total: None)
        await trio.testing.wait_all_tasks_blocked()
        await change()
        done.set()
    assert [finding.text for finding in findings.all] == []


async def test_packs_that_move_while_an_index_is_made_anew_are_found(tmp_path: Path) -> None:
    """Regression: they were added as they had been listed, on nodes that had let go of them since, and one
    that was no node any more ended the mount."""
    sealed = blocks(60)
    async with running(build(tmp_path, count=8)) as before:
        await before.write(sealed, packs=6)
    rig, go_on = build(tmp_path, count=8), trio.Event()
    for node in rig.nodes.values():
        node.faults = [Fault(("state",), until=go_on)]
    async with running(rig):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.store.reconcile)
            while not any(fault.hits for node in rig.nodes.values() for fault in node.faults):
                await trio.sleep(0.001)
            await rebalance(rig, "node0", "node1")
            for name in ("node0", "node1"):  # they hold nothing now
                del rig.nodes[name]
            go_on.set()
        require_in_place(rig, "node0", "node1")
        await rig.check(sealed)
