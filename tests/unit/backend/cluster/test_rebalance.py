"""backend.cluster.rebalance and backend.cluster.object_rebalance on nodes in memory: the order of steps,
rate, fencing."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext

import pytest
import trio
import trio.testing

from backend.cluster.object_rebalance import ObjectRebalance
from backend.cluster.rebalance import Nobody, Rebalance, left_on
from backend.coding.erasure import Profile, code_for
from backend.coding.placement import ClusterMap, ClusterNode, place
from backend.commits.commit_log import ReplicatedCommitLog
from backend.commits.commit_search import commit_key
from backend.commits.object_format import Copy, frame, signed, unframe
from backend.commits.replicated_objects import ReplicatedObjects, ranking_of
from backend.errors import FencedError, UnavailableError
from backend.nodes.node import PAGE
from backend.packs.fragment_format import fragment_key
from backend.packs.pack_codec import PackCodec
from backend.packs.pack_store import PackStore
from backend.upstream import Commit
from tests.memory_node import MemoryNode, memory_nodes

DRIVE = bytes(range(16))
SECRET = bytes(range(32))
CODE = code_for(Profile.parse("4+2"))
CODEC = PackCodec(CODE, DRIVE, SECRET)
PACKS = [bytes([number]) * 16 for number in range(12)]


def cluster(nodes: dict[str, MemoryNode], *drained: str) -> ClusterMap:
    return ClusterMap(1, tuple(ClusterNode(name, name, float(name not in drained)) for name in nodes))


async def filled(count: int, size: int = 40_000) -> dict[str, MemoryNode]:
    """Nodes with packs of random bytes on all of them."""
    nodes, source = memory_nodes(count), random.Random(4)
    packs = PackStore(nodes, CODEC, cluster(nodes), lambda _pack, _index: None)
    async with trio.open_nursery() as nursery:
        for pack_id in PACKS:
            await (await packs.write(nursery, pack_id, source.randbytes(size))).ended.wait()
    return nodes


def holders(nodes: dict[str, MemoryNode], key: str) -> set[str]:
    return {name for name, node in nodes.items() if key in node.objects}


async def confirmed() -> None:
    await trio.lowlevel.checkpoint()


def rebalance(
    nodes: dict[str, MemoryNode],
    *drained: str,
    rate: float | None = None,
    verify: Callable[[], Awaitable[None]] = confirmed,
) -> Rebalance:
    return Rebalance(nodes, cluster(nodes, *drained), CODEC, verify, rate)


def quiet(_done: int, _total: int) -> None:
    """No progress."""


async def test_no_copy_is_deleted_before_another_is_there() -> None:
    nodes = await filled(8)
    deleted = []

    async def look(operation: str, key: str) -> None:
        await trio.lowlevel.checkpoint()
        if operation == "delete":
            deleted.append(key)
            assert len(holders(nodes, key)) > 1, "the only copy is about to go"

    for node in nodes.values():
        node.before = look
    report = await rebalance(nodes, "node0", "node1").run(quiet)
    assert report.moved == len(deleted) > 6
    assert (report.rebuilt, report.deleted, report.left) == (0, 0, [])
    assert await left_on(nodes["node0"]) == await left_on(nodes["node1"]) == []
    for pack_id in PACKS:
        lie = [holders(nodes, fragment_key(pack_id, index)) for index in range(6)]
        assert sorted(name for held in lie for name in held) == sorted(
            place(cluster(nodes, "node0", "node1"), pack_id, 6)
        )


async def test_a_second_run_reads_nothing() -> None:
    nodes = await filled(8)
    await rebalance(nodes, "node0").run(quiet)
    calls = []

    async def count(operation: str, _key: str) -> None:
        await trio.lowlevel.checkpoint()
        calls.append(operation)

    for node in nodes.values():
        node.before = count
    await rebalance(nodes, "node0").run(quiet)
    assert set(calls) == {"keys"}


async def test_who_is_fenced_deletes_nothing_more() -> None:
    nodes = await filled(8)
    before = {name: set(node.objects) for name, node in nodes.items()}
    asked = 0

    async def fenced() -> None:
        nonlocal asked
        await trio.lowlevel.checkpoint()
        asked += 1
        raise FencedError("taken over")

    with pytest.RaisesGroup(FencedError, flatten_subgroups=True):
        await rebalance(nodes, "node0", verify=fenced).run(quiet)
    assert asked
    assert all(before[name] <= set(node.objects) for name, node in nodes.items())


async def test_nothing_moves_while_a_node_that_keeps_its_place_is_away() -> None:
    nodes = await filled(8)
    nodes["node3"].away = True
    with pytest.raises(UnavailableError, match="node3"):
        await rebalance(nodes, "node0").run(quiet)
    report = await rebalance(nodes, "node3").run(quiet)
    assert report.rebuilt > 0
    assert report.left == []
    for pack_id in PACKS:
        assert (
            len(
                {
                    name
                    for index in range(6)
                    for name in holders(nodes, fragment_key(pack_id, index))
                    if name != "node3"
                }
            )
            == 6
        )


class Index(Nobody):
    """One that names the same nodes for every pack, until it is told of others."""

    def __init__(self, names: Sequence[str]) -> None:
        self.known = {pack_id: list(names) for pack_id in PACKS}

    @asynccontextmanager
    async def exclusive(self, pack_id: bytes) -> AsyncIterator[Sequence[str] | None]:
        await trio.lowlevel.checkpoint()
        yield tuple(self.known[pack_id])

    def moved(self, pack_id: bytes, index: int, name: str) -> None:
        self.known[pack_id][index] = name

    def rebuilt(self, pack_id: bytes, nodes: Sequence[str]) -> None:
        self.known[pack_id] = list(nodes)


async def test_a_lost_node_that_the_index_names_is_named_by_it_no_more() -> None:
    """Its fragments are rebuilt, or known to be where they lie by now."""
    nodes = await filled(8)
    index = Index(["node3"] * 6)
    nodes["node3"].away = True
    moving = Rebalance(nodes, cluster(nodes, "node3"), CODEC, confirmed, users=index)
    report = await moving.run(quiet)
    assert report.left == []
    assert report.rebuilt > 0
    for pack_id in PACKS:
        lie = [holders(nodes, fragment_key(pack_id, number)) - {"node3"} for number in range(6)]
        assert lie == [{name} for name in index.known[pack_id]]


def test_a_rate_is_kept() -> None:
    """By the loop's own clock, so that it takes no time."""

    async def measure() -> tuple[int, float]:
        nodes = await filled(8, size=4_000_000)
        begun = trio.current_time()
        report = await rebalance(nodes, "node0", "node1", rate=1_000_000).run(quiet)
        return report.moved_bytes, trio.current_time() - begun

    moved, took = trio.run(measure, clock=trio.testing.MockClock(autojump_threshold=0))
    assert moved > 6_000_000
    assert took == pytest.approx(moved / 1_000_000 - 1, rel=0.05)


def small(
    nodes: dict[str, MemoryNode],
    *drained: str,
    still: Callable[[], AbstractAsyncContextManager[None]] = nullcontext,
) -> ObjectRebalance:
    ranking = ranking_of(cluster(nodes, *drained), 3)
    objects = ReplicatedObjects(nodes, ranking, 3, DRIVE, SECRET)
    return ObjectRebalance(objects, nodes, ranking, ReplicatedCommitLog(objects), confirmed, still)


def copy_of(ballot: int, data: bytes) -> Copy:
    return signed(SECRET, DRIVE, "roots/one", ballot, data)


def put(node: MemoryNode, ballot: int, data: bytes) -> None:
    node.objects["roots/one"] = frame(DRIVE, "roots/one", copy_of(ballot, data))


async def test_copies_elsewhere_go_only_when_enough_wanted_nodes_have_the_right_one() -> None:
    nodes = memory_nodes(8)
    rank = ranking_of(cluster(nodes), 3)(b"roots/one")
    put(nodes[rank[0]], 3, b"old")
    for name in (rank[1], rank[4], rank[5]):
        put(nodes[name], 7, b"new")
    put(nodes[rank[6]], 7, b"before")

    async def look(operation: str, key: str) -> None:
        await trio.lowlevel.checkpoint()
        if operation == "delete":
            copies = [unframe(DRIVE, key, nodes[name].objects[key]) for name in rank[:3]]
            assert copies == [copy_of(7, b"new")] * 3

    for node in nodes.values():
        node.before = look
    mover = small(nodes)
    await mover.run(quiet)
    assert mover.moved == 2
    assert holders(nodes, "roots/one") == set(rank[:3])


class LateNode(MemoryNode):
    """Answers a GET and a list with what it held at first, as a store may."""

    def __init__(self, name: str, held: dict[str, bytes]) -> None:
        super().__init__(name)
        self._held = held

    async def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        if key in self._held:
            await trio.lowlevel.checkpoint()
            return self._held[key][offset : None if length is None else offset + length]
        return await super().get(key, offset, length)

    async def keys(self, prefix: str, after: str = "", limit: int = PAGE) -> list[str]:
        held = {key for key in self._held if key.startswith(prefix) and key > after}
        return sorted(held.union(await super().keys(prefix, after, limit)))[:limit]


async def test_a_node_that_says_what_it_held_before_is_not_taken_for_one_that_has_it() -> None:
    """Seed 1636 of the simulator: a commit was moved away and back, and a store answered late in between."""
    nodes = memory_nodes(8)
    rank = ranking_of(cluster(nodes), 3)(b"roots/one")
    held = {"roots/one": frame(DRIVE, "roots/one", copy_of(1, b"root"))}
    for name in rank[1:3]:
        nodes[name] = LateNode(name, held)
    for name in (rank[0], rank[4], rank[5]):
        put(nodes[name], 1, b"root")
    await small(nodes).run(quiet)
    assert holders(nodes, "roots/one") == set(rank[:3])


async def test_a_node_that_says_what_it_held_before_gets_the_fragment() -> None:
    """A pack of which one fragment was moved away before, by another map."""
    nodes = await filled(8)
    places = place(cluster(nodes), PACKS[0], 6)
    key, target = fragment_key(PACKS[0], 0), places[0]
    other = next(name for name in nodes if name not in places)
    late = LateNode(target, {key: nodes[target].objects[key]})
    nodes[other].objects[key] = nodes[target].objects.pop(key)
    late.objects = nodes[target].objects
    nodes[target] = late
    report = await rebalance(nodes).run(quiet)
    assert holders(nodes, key) == {target}
    assert (report.moved, report.rebuilt, report.deleted, report.left) == (0, 0, 1, [])


@pytest.mark.parametrize("in_order", [True, False])
async def test_the_gate_is_closed_for_roots_that_are_moved_only(in_order: bool) -> None:
    nodes, closed = memory_nodes(8), []

    @asynccontextmanager
    async def still() -> AsyncIterator[None]:
        await trio.lowlevel.checkpoint()
        closed.append(True)
        yield

    rank = ranking_of(cluster(nodes), 3)(b"roots/one")
    for name in rank[: 3 if in_order else 4]:
        put(nodes[name], 1, b"root")
    await small(nodes, still=still).run(quiet)
    assert closed == ([] if in_order else [True])
    assert holders(nodes, "roots/one") == set(rank[:3])


async def test_a_drained_node_counts_for_nothing() -> None:
    nodes = memory_nodes(8)
    rank = ranking_of(cluster(nodes), 3)(b"roots/one")
    for name in rank[:3]:
        put(nodes[name], 1, b"root")
    await small(nodes, rank[0], rank[2]).run(quiet)
    assert await left_on(nodes[rank[0]]) == await left_on(nodes[rank[2]]) == []
    assert holders(nodes, "roots/one") == {
        rank[1],
        *ranking_of(cluster(nodes, rank[0], rank[2]), 3)(b"roots/one")[:3],
    }


async def test_a_lost_commit_keeps_no_other_from_its_place() -> None:
    nodes = memory_nodes(8)
    ranking = ranking_of(cluster(nodes), 3)
    log = ReplicatedCommitLog(ReplicatedObjects(nodes, ranking, 3, DRIVE, SECRET))
    await log.open()
    await log.become_writer(1)
    for number in range(1, 7):
        await log.append(Commit(number, log.head.hash, 1, 1, 0, (), (), b""), log.head)
    for node in nodes.values():
        node.objects.pop(commit_key(4), None)
    two = signed(SECRET, DRIVE, commit_key(2), 9, b"another")
    nodes[ranking(commit_key(2).encode())[5]].objects[commit_key(2)] = frame(DRIVE, commit_key(2), two)
    drained = ranking(commit_key(1).encode())[0]
    before = holders(nodes, commit_key(2))
    mover = small(nodes, drained)
    await mover.run(quiet)
    assert mover.missing is not None
    assert "commit 4" in str(mover.missing)
    assert holders(nodes, commit_key(2)) == before, "what nothing tells apart stays"
    for number in (1, 3, 5, 6):
        key = commit_key(number)
        assert holders(nodes, key) == set(ranking_of(cluster(nodes, drained), 3)(key.encode())[:3])
