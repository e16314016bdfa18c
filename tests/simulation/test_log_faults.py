"""The interleavings by which earlier logs and leases lost acknowledged commits, each by its name."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import cast

import pytest
import trio
import trio.testing

from backend.blocks import PackedBlockStore
from backend.buffer import Buffer
from backend.cluster import ObjectRebalance
from backend.coding import ClusterMap, ClusterNode, first_voters
from backend.commits import (
    Lease,
    LeaseVotes,
    ReplicatedCommitLog,
    ReplicatedObjects,
    commit_format,
    commit_key,
    ranking_of,
)
from backend.commits.object_format import frame, signed, unframe
from backend.errors import (
    ConflictError,
    DriveError,
    FencedError,
    TransientError,
    UnavailableError,
    UsageError,
)
from backend.local import LocalUpstream, SessionWriter
from backend.nodes import Node, RetryNode
from backend.nodes.forwarding import ForwardingNode
from backend.nodes.node import PAGE
from backend.upstream import Commit, Head
from tests.memory_node import MemoryNode, memory_nodes
from tests.simulation.run import DRIVE, ENVIRONMENT, HOLDER, SECRET, Blocks, World, clone_of, plan_of

Nodes = Mapping[str, Node]
Raw = dict[str, MemoryNode]


def cluster_of(names: Sequence[str]) -> ClusterMap:
    return ClusterMap(1, tuple(ClusterNode(name, name) for name in names))


def objects_on(nodes: Nodes) -> ReplicatedObjects:
    return ReplicatedObjects(nodes, ranking_of(cluster_of(sorted(nodes)), 3), 3, DRIVE, SECRET)


def lease_on(nodes: Nodes, host: str, map_epoch: int = 1) -> Lease:
    """Whoever held it is gone."""
    return Lease(
        nodes,
        DRIVE,
        SECRET,
        replace(HOLDER, host=host),
        map_epoch=map_epoch,
        environment=ENVIRONMENT,
        life=lambda holder, observer: "gone",
    )


class Writer:
    """A mount's lease and log, opened for writing."""

    def __init__(
        self, nodes: Nodes, host: str, names: Sequence[str] | None = None, map_epoch: int = 1
    ) -> None:
        self.lease = lease_on(nodes, host, map_epoch)
        self.log = ReplicatedCommitLog(objects_on(nodes), self.lease.verify, self.lease.claimed)

    async def open(self) -> Writer:
        epoch = await self.lease.acquire()
        await self.log.open()
        await self.log.become_writer(epoch)
        return self

    async def append(self, payload: bytes) -> Head:
        return await self.log.append(commit_after(self.log.head, self.lease.epoch, payload), self.log.head)


def commit_after(head: Head, epoch: int, payload: bytes) -> Commit:
    return Commit(head.number + 1, head.hash, 1, epoch, 0, (), (), payload)


async def read(raw: Nodes) -> Head:
    """What a reader finds."""
    claims = partial(LeaseVotes(raw, DRIVE, SECRET, ENVIRONMENT).claim, 5.0)
    return await ReplicatedCommitLog(objects_on(raw), claims=claims).open()


def order(nodes: Nodes, number: int) -> Sequence[str]:
    return ranking_of(cluster_of(sorted(nodes)), 3)(commit_key(number).encode())


def ballots(raw: Raw, number: int) -> dict[str, int]:
    key = commit_key(number)
    return {
        name: unframe(DRIVE, key, node.objects[key]).ballot
        for name, node in raw.items()
        if key in node.objects
    }


def leave_torn(raw: Raw, name: str, after: Head, epoch: int) -> None:
    """One copy of a commit that was never acknowledged."""
    key = commit_key(after.number + 1)
    data = commit_format.encode(commit_after(after, epoch, b"torn"))
    raw[name].objects[key] = frame(DRIVE, key, signed(SECRET, DRIVE, key, epoch, data))


class Held(ForwardingNode):
    """Writes of `key` wait for `gate`; `reached` says that one does. With `loses_answer` creations do not
    wait; the first one happens, and its answer is lost."""

    def __init__(
        self, node: Node, key: str, gate: trio.Event, reached: trio.Event, loses_answer: bool = False
    ) -> None:
        super().__init__(node)
        self._key = key
        self._gate = gate
        self._reached = reached
        self._loses_answer = loses_answer
        self._created: set[str] = set()

    async def put(self, key: str, parts: Sequence[Buffer]) -> None:
        await self._wait(key)
        await self._node.put(key, parts)

    async def create(self, key: str, parts: Sequence[Buffer]) -> None:
        if self._loses_answer and key == self._key:
            if key not in self._created:
                self._created.add(key)
                await self._node.create(key, parts)
                raise TransientError("answer lost")
        else:
            await self._wait(key)
        await self._node.create(key, parts)

    async def swap(self, key: str, expected: bytes | None, new: bytes) -> None:
        await self._wait(key)
        await self._node.swap(key, expected, new)

    async def _wait(self, key: str) -> None:
        if key == self._key:
            self._reached.set()
            await self._gate.wait()


async def expect_refusal(work: Callable[[], Awaitable[object]]) -> None:
    with pytest.raises((ConflictError, FencedError, TransientError, UnavailableError)):
        await work()


async def test_a_repeated_creation_puts_nothing_over_a_later_commit(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Fault 1: a creation whose answer was lost ended in a put; a writer that stalled before it put its own
    copy over one of a commit that another writer was told is in the log."""
    raw, gate, reached = memory_nodes(6), trio.Event(), trio.Event()
    base = await Writer(raw, "0").open()
    await base.append(b"base")
    first = order(raw, 2)[0]
    slow: dict[str, Node] = dict(raw)
    slow[first] = RetryNode(Held(raw[first], commit_key(2), gate, reached, loses_answer=True))
    one = await Writer(slow, "1").open()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(expect_refusal, lambda: one.append(b"of the first writer"))
        await reached.wait()
        raw[first].away = True
        two = await Writer(raw, "2").open()
        raw[first].away = False
        told = await two.append(b"acknowledged")
        gate.set()
    assert ballots(raw, 2)[first] == two.lease.epoch
    for name in [name for name, ballot in ballots(raw, 2).items() if ballot == two.lease.epoch][:2]:
        raw[name].away = True
    assert (await Writer(raw, "3").open()).log.head == told


@pytest.mark.parametrize("away_after", [False, True])
async def test_a_stalled_rebalancing_puts_no_torn_commit_back(
    away_after: bool, autojump_clock: trio.testing.MockClock
) -> None:
    """Fault 2: rebalancing (and fsck, by the same call) put commits as it had read them."""
    raw, gate, reached = memory_nodes(6), trio.Event(), trio.Event()
    base = await Writer(raw, "0").open()
    head = await base.append(b"base")
    torn_on = order(raw, 2)[0]
    leave_torn(raw, torn_on, head, base.lease.epoch)
    held = {name: Held(node, commit_key(2), gate, reached) for name, node in raw.items()}
    mover = lease_on(raw, "rebalancer")
    await mover.acquire()
    objects = objects_on(held)
    ranking = ranking_of(cluster_of(sorted(raw)), 3)
    moving = ObjectRebalance(
        objects, held, ranking, ReplicatedCommitLog(objects, claims=mover.claimed), mover.verify
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(expect_refusal, lambda: moving.run(lambda done, of: None))
        await reached.wait()
        raw[torn_on].away = True
        two = await Writer(raw, "2").open()
        told = await two.append(b"acknowledged")
        raw[torn_on].away = False
        gate.set()
    good = [name for name, ballot in ballots(raw, 2).items() if ballot == two.lease.epoch]
    assert len(good) >= 3
    if away_after:
        for name in good[:2]:
            raw[name].away = True
    assert await read(raw) == told


async def test_a_list_that_is_late_hides_no_commit() -> None:
    """Fault 3: the head came from the list alone."""
    raw = memory_nodes(6)

    class Late(ForwardingNode):
        async def keys(self, prefix: str, after: str = "", limit: int = PAGE) -> list[str]:
            found = await self._node.keys(prefix, after, limit)
            return [key for key in found if key != commit_key(2)]

    one = await Writer(raw, "1").open()
    await one.append(b"one")
    told = await one.append(b"two, acknowledged")
    await one.lease.release()
    late = {name: Late(node) for name, node in raw.items()}
    assert await read(late) == told
    two = await Writer(late, "2").open()
    assert two.log.head == told
    await two.append(b"three")
    assert (await read(raw)).number == 3


@pytest.mark.parametrize("by_record", [True, False], ids=["the record says so", "drive.toml says so"])
async def test_a_mount_with_an_old_map_writes_nothing(by_record: bool) -> None:
    """Fault 4: a mount settled the head, on the nodes of the map that it knew, before it asked for it."""
    raw = memory_nodes(7)
    old = {name: node for name, node in raw.items() if name != "node6"}
    one = await Writer(old, "1").open()
    head = await one.append(b"base")
    leave_torn(raw, "node0", head, one.lease.epoch)
    await one.lease.release()
    if by_record:
        new = await Writer(raw, "2", map_epoch=2).open()
        await new.lease.release()

    async def require_map() -> None:
        await trio.lowlevel.checkpoint()
        if not by_record:
            raise ConflictError("the drive's nodes were changed")

    before = {name: {k: v for k, v in node.objects.items() if k != "lease"} for name, node in raw.items()}
    late = Writer(old, "3")
    writer = SessionWriter(late.lease)
    async with trio.open_nursery() as nursery:
        blocks = Blocks(World(plan_of(0), nursery), writer)
        session = LocalUpstream(
            cast(PackedBlockStore, blocks), late.log, objects_on(old), writer, require_map=require_map
        )
        with pytest.raises(ConflictError, match="nodes were changed"):
            await session.open()
    after = {name: {k: v for k, v in node.objects.items() if k != "lease"} for name, node in raw.items()}
    assert after == before


async def test_answers_from_the_past_confirm_no_lease() -> None:
    """Fault 5: behind a cache or a replica a writer read its own old record, and two were told yes."""
    raw = memory_nodes(6)
    past: dict[str, bytes] = {}

    class Late(ForwardingNode):
        async def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
            return past[self.name] if key == "lease" and past else await self._node.get(key, offset, length)

    one = await Writer({name: Late(node) for name, node in raw.items()}, "1").open()
    await one.append(b"base")
    past.update({name: node.objects["lease"] for name, node in raw.items()})
    two = await Writer(raw, "2").open()
    await expect_refusal(one.lease.verify)
    await expect_refusal(lambda: one.append(b"two of the first"))
    told = await two.append(b"two of the second")
    assert await read(raw) == told


async def test_a_fenced_writers_commit_is_not_adopted_after_anything_was_deleted(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Fault 6: the next holder deletes nothing before the log has a commit of its own, and after that the
    late commit, which may name what was deleted, is in the log no more, however late it comes."""
    raw, gate, reached = memory_nodes(6), trio.Event(), trio.Event()
    held = {name: Held(node, commit_key(2), gate, reached) for name, node in raw.items()}
    one = await Writer(held, "1").open()
    await one.append(b"base")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_append_in_vain, one)
        await reached.wait()
        two = Writer(raw, "2")
        writer = SessionWriter(two.lease)
        blocks = Blocks(World(plan_of(0), nursery), writer)
        session = LocalUpstream(cast(PackedBlockStore, blocks), two.log, objects_on(raw), writer)
        head = await session.open()
        with pytest.raises(UsageError):
            await blocks.compact(0, 0, debris=False)
        barrier = await session.log.append(commit_after(head, two.lease.epoch, b"barrier"), head)
        await blocks.compact(0, 0, debris=False)
        gate.set()
    await two.lease.release()
    assert (await Writer(raw, "3").open()).log.head == barrier


async def _append_in_vain(writer: Writer) -> None:
    with pytest.raises(DriveError):
        await writer.append(b"names a block")


async def test_with_one_zone_of_three_away_it_can_be_opened() -> None:
    """Fault 7: of twelve nodes in three zones all but m had to answer, so the lease was granted and opening
    refused."""
    raw = {f"node{at}": MemoryNode(f"node{at}", f"z{at % 3}") for at in range(12)}
    bare = [ClusterNode(name, node.zone) for name, node in raw.items()]
    chosen = first_voters(bare, 2)
    assert len(chosen) == 5
    nodes: Nodes = {name: raw[name] for name in chosen}
    one = await Writer(nodes, "1").open()
    told = [await one.append(b"x") for _ in range(3)][-1]
    await one.lease.release()
    for zone in ("z0", "z1", "z2"):
        for node in raw.values():
            node.away = node.zone == zone
        again = await Writer(nodes, zone).open()
        assert again.log.head == told
        told = await again.append(zone.encode())
        await again.lease.release()
        assert await read(nodes) == told


async def test_of_two_clones_of_one_process_one_is_fenced() -> None:
    """Fault 8: a machine that is resumed twice from one snapshot held one lease twice."""
    raw = memory_nodes(6)
    one = lease_on(raw, "1")
    await one.acquire()
    await one.renew()
    two = clone_of(one, raw.values())
    await one.renew()
    for call in (two.verify, two.renew):
        with pytest.raises(FencedError):
            await call()
    assert two.lost.is_set()
    await one.verify()
