"""Mounts that take the lease from each other without mercy, crash anywhere, while nodes come and go:
whatever was acknowledged stays, in order, and nothing else was ever acknowledged under its number."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

import trio
import trio.testing
from hypothesis import example, given, settings
from hypothesis import strategies as st

from backend.coding.placement import ClusterMap, ClusterNode
from backend.commits.commit_log import ReplicatedCommitLog
from backend.commits.lease import Lease
from backend.commits.lease_record import Holder
from backend.commits.replicated_objects import ReplicatedObjects, ranking_of
from backend.errors import (
    ConflictError,
    FencedError,
    LeaseHeldError,
    TransientError,
    UnavailableError,
)
from backend.system import Environment
from backend.upstream import Commit, Head
from tests.memory_node import memory_nodes

DRIVE = bytes(range(16))
SECRET = bytes(range(32))
HOLDER = Holder("machine", "boot", "ns", 1, 1, "host")
EXPECTED = (ConflictError, FencedError, LeaseHeldError, TransientError, UnavailableError)


@dataclass
class World:
    """What all mounts share, and what they were told."""

    chance: random.Random
    acknowledged: dict[int, bytes] = field(default_factory=dict)
    crashes: int = 0

    def __post_init__(self) -> None:
        self.nodes = memory_nodes(6)
        cluster = ClusterMap(1, tuple(ClusterNode(node.name, node.zone) for node in self.nodes.values()))
        self.objects = ReplicatedObjects(self.nodes, ranking_of(cluster, 3), 3, DRIVE, SECRET)
        for node in self.nodes.values():
            node.before = self.dawdle

    async def dawdle(self, operation: str, key: str) -> None:
        await trio.sleep(self.chance.choice((0.001, 0.01, 0.1, 0.5)) * self.chance.random())

    def note(self, head: Head) -> None:
        """The invariant: a number is acknowledged for one commit only."""
        assert self.acknowledged.setdefault(head.number, head.hash) == head.hash


async def mount_again_and_again(world: World, name: str) -> None:
    known: Head | None = None
    while True:
        with trio.move_on_after(world.chance.uniform(0.5, 20)) as crash:
            lease = Lease(
                world.nodes,
                DRIVE,
                SECRET,
                replace(HOLDER, host=name),
                environment=Environment(boot_clock=trio.current_time, random_bytes=random.randbytes),
                life=lambda holder, observer: "gone",
            )
            log = ReplicatedCommitLog(world.objects, lease.verify, lease.claimed)
            try:
                epoch = await lease.acquire()
                await log.open(known=known)
                known = await log.become_writer(epoch)
                world.note(known)
                while True:
                    known = await append(world, log, known, epoch)
            except EXPECTED:
                await trio.sleep(world.chance.uniform(0, 3))
        world.crashes += crash.cancelled_caught


async def append(world: World, log: ReplicatedCommitLog, head: Head, epoch: int) -> Head:
    payload = world.chance.randbytes(4)
    commit = Commit(head.number + 1, head.hash, 1, epoch, 0, (), (), payload)
    while True:
        try:
            found = await log.append(commit, head)
        except (TransientError, UnavailableError):
            continue
        world.note(found)
        return found


async def lose_nodes(world: World) -> None:
    while True:
        for name in world.chance.sample(sorted(world.nodes), world.chance.randint(0, 2)):
            world.nodes[name].away = True
        await trio.sleep(world.chance.uniform(0.1, 5))
        for node in world.nodes.values():
            node.away = False


async def check(world: World) -> None:
    log = ReplicatedCommitLog(world.objects)
    await log.open()
    there = {commit.number: commit_hash for commit, commit_hash in await log.commits_after(0, 10**6)}
    # The empty log is "acknowledged" too, as commit 0, by those who found it.
    told = {number: commit_hash for number, commit_hash in world.acknowledged.items() if number}
    assert told.items() <= there.items()


async def race(seed: int, mounts: int) -> World:
    world = World(random.Random(seed))
    with trio.move_on_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lose_nodes, world)
            for number in range(mounts):
                nursery.start_soon(mount_again_and_again, world, str(number))
    for node in world.nodes.values():
        node.away = False
    await check(world)
    return world


@settings(max_examples=15)
@example(1053492, 3)
@given(st.integers(0, 2**32), st.integers(1, 4))
def test_what_was_acknowledged_stays(seed: int, mounts: int) -> None:
    trio.run(race, seed, mounts, clock=trio.testing.MockClock(autojump_threshold=0))


def test_the_races_are_races() -> None:
    """The test above would show nothing if no commit got through or nobody was fenced or crashed."""
    worlds = [
        trio.run(race, seed, 2, clock=trio.testing.MockClock(autojump_threshold=0)) for seed in range(4)
    ]
    assert sum(len(world.acknowledged) for world in worlds) > 20
    assert sum(world.crashes for world in worlds) > 4
