"""What is found on the nodes that are left, and how it comes to the new voters."""

from __future__ import annotations

import datetime
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import replace

import pytest
import trio
import trio.testing
from hypothesis import example, given
from hypothesis import strategies as st

from backend.cluster import recovery
from backend.cluster.drive_file import DriveFile
from backend.coding.placement import ClusterMap, ClusterNode
from backend.coding.voters import copies_of
from backend.commits import commit_format
from backend.commits.commit_log import ReplicatedCommitLog
from backend.commits.commit_search import commit_key
from backend.commits.lease import Lease
from backend.commits.object_format import frame, signed
from backend.commits.process_identity import this_process
from backend.commits.replicated_objects import Ranking, ReplicatedObjects, ranking_of
from backend.errors import NodeError, UnavailableError
from backend.failpoints import OF_PROCESS
from backend.nodes import NodeEntry
from backend.system import Environment, plain_hash
from backend.upstream import NO_COMMIT, Commit, Head
from tests.memory_node import MemoryNode, memory_nodes

DRIVE = bytes(range(16))
SECRET = bytes(range(32))
LEFT = 5


def drive_file(count: int) -> DriveFile:
    entries = tuple(NodeEntry(f"node{at}", f"/n/{at}", f"disk{at}") for at in range(count))
    return DriveFile(
        DRIVE, "drive", "4+2", entries, 7, (), datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    )


def on_all(nodes: dict[str, MemoryNode]) -> ReplicatedObjects:
    cluster = ClusterMap(1, tuple(ClusterNode(name, name) for name in nodes))
    return ReplicatedObjects(nodes, ranking_of(cluster, len(nodes)), len(nodes), DRIVE, SECRET)


def put(node: MemoryNode, key: str, ballot: int, data: bytes) -> None:
    node.objects[key] = frame(DRIVE, key, signed(SECRET, DRIVE, key, ballot, data))


async def look(nodes: dict[str, MemoryNode]) -> recovery.Remains:
    return await recovery.look(drive_file(12), nodes, on_all(nodes), SECRET, 1.0)


@given(
    st.sampled_from(["lease", "commits/", commit_key(3), "roots/", "roots/snapshot", commit_key(1)]),
    st.sets(st.integers(0, LEFT - 1), min_size=1, max_size=LEFT),
)
def test_what_a_node_does_not_say_is_not_given_up(question: str, silent: set[int]) -> None:
    nodes = memory_nodes(LEFT)
    for at, node in enumerate(nodes.values()):
        for number in (1, 2, 3):
            put(node, commit_key(number), 1, commit_format.encode(following(Head(number - 1, NO_COMMIT), 1)))
        put(node, "roots/snapshot", 1, b"root")
        if at in silent:
            node.before = failing(node.name, question)

    async def look_and_spread() -> None:
        remains = await look(nodes)
        objects = on_all(nodes)
        await recovery.Spreading(objects, drive_file(12), lambda _key: list(nodes), 3, remains).run()

    with pytest.raises(UnavailableError, match="the drive is as it was, try again") as caught:
        trio.run(look_and_spread)
    assert set(caught.value.nodes) == {f"node{at}" for at in silent}


def failing(name: str, question: str) -> Callable[[str, str], Awaitable[None]]:
    async def fail(_operation: str, key: str) -> None:
        await trio.lowlevel.checkpoint()
        if key == question:
            raise NodeError(f"{name}: does not say what it has", name)

    return fail


async def test_what_all_say_is_the_highest_of_it() -> None:
    nodes = memory_nodes(LEFT)
    put(nodes["node1"], commit_key(3), 4, b"older")
    put(nodes["node2"], commit_key(3), 9, b"newer")
    put(nodes["node3"], commit_key(2), 20, b"before")
    remains = await look(nodes)
    assert remains.copy is not None
    assert (remains.number, remains.copy.data, remains.epoch, remains.map_epoch) == (3, b"newer", 9, 7)


MAJORITY_LOST = 3
VOTERS = 5


class Twelve:
    """A drive of twelve nodes in memory, of which five vote, and writers that fail."""

    def __init__(self) -> None:
        self.nodes = memory_nodes(12)
        entries = tuple(
            NodeEntry(name, f"/n/{name}", name, votes=at < VOTERS) for at, name in enumerate(self.nodes)
        )
        self.file = replace(drive_file(12), nodes=entries)
        self.acknowledged: list[Head] = []

    def ranking(self, file: DriveFile) -> Ranking:
        return ranking_of(cluster_of(file), copies_of(cluster_of(file), 2))

    def objects(self, file: DriveFile) -> ReplicatedObjects:
        copies = copies_of(cluster_of(file), 2)
        return ReplicatedObjects(self.voting(file), self.ranking(file), copies, DRIVE, SECRET)

    def objects_on(self, nodes: Mapping[str, MemoryNode]) -> ReplicatedObjects:
        return ReplicatedObjects(nodes, lambda _key: list(nodes), len(nodes), DRIVE, SECRET)

    def voting(self, file: DriveFile) -> dict[str, MemoryNode]:
        return {entry.name: self.nodes[entry.name] for entry in file.nodes if entry.votes}

    def lease(self, file: DriveFile, map_epoch: int) -> Lease:
        return Lease(
            self.voting(file),
            DRIVE,
            SECRET,
            this_process(),
            map_epoch=map_epoch,
            environment=Environment(boot_clock=trio.current_time),
            life=lambda *_: "gone",
        )

    async def opened(self, file: DriveFile) -> tuple[ReplicatedCommitLog, int]:
        """As a mount does it that takes the last one for dead."""
        lease = self.lease(file, file.epoch)
        log = ReplicatedCommitLog(self.objects(file), lease.verify, lease.claimed)
        epoch = await lease.acquire()
        await log.open()
        await log.become_writer(epoch)
        return log, epoch

    async def write(self, away: Collection[str], count: int, is_torn: bool) -> None:
        """So many commits while nodes are away; the last one may reach one node only, and be given up."""
        self.lose(away)
        log, epoch = await self.opened(self.file)
        found = [Head(commit.number, known) for commit, known in await log.commits_after(0)]
        assert found[: len(self.acknowledged)] == self.acknowledged
        self.acknowledged = found
        for _ in range(count):
            self.acknowledged.append(await log.append(following(log.head, epoch), log.head))
        if is_torn:
            OF_PROCESS.arm("commit.after-first-copy", "eio")
            with pytest.raises(OSError, match="after-first-copy"):
                await log.append(following(log.head, epoch), log.head)
            OF_PROCESS.disarm_all()

    def lose(self, away: Collection[str]) -> None:
        for name, node in self.nodes.items():
            node.away = name in away

    async def right_on(self, nodes: Mapping[str, MemoryNode]) -> set[str]:
        """The keys of the root, and of the commits that count, of which these nodes have a copy."""
        objects = self.objects_on(nodes)
        right = {commit_key(head.number): head.hash for head in self.acknowledged}
        right["roots/snapshot"] = plain_hash(b"root")
        found = {key: (await objects.find_all(key)).good.values() for key in right}
        return {key for key in right if right[key] in {plain_hash(copy.data) for copy in found[key]}}

    async def recover(self, nodes: Mapping[str, MemoryNode], until: int) -> tuple[DriveFile, int, list[int]]:
        """Up to where `drive.toml` would be written, or until so many copies are written: the new map, the
        newest commit's number, and those of the commits that are lost before it."""
        objects = self.objects_on(nodes)
        remains = await recovery.look(self.file, nodes, objects, SECRET, 1.0)
        new = recovery.recovered(self.file, nodes.keys(), nodes.keys(), remains, 2)
        lease = self.lease(new, remains.map_epoch)
        await lease.acquire(minimum_epoch=remains.epoch + recovery.AHEAD)
        voting = self.objects(new)
        spreading = recovery.Spreading(objects, self.file, self.ranking(new), voting.copies, remains)
        OF_PROCESS.arm(recovery.COPIED, "eio", until)
        try:
            gaps = await spreading.run()
        finally:
            OF_PROCESS.disarm_all()
        if remains.is_past_doubt:
            await recovery.adopt(voting, remains, lease)
        return new, remains.number, gaps


def cluster_of(file: DriveFile) -> ClusterMap:
    return ClusterMap(
        file.epoch, tuple(ClusterNode(node.name, node.zone, node.weight, node.votes) for node in file.nodes)
    )


def following(head: Head, epoch: int) -> Commit:
    return Commit(head.number + 1, head.hash, 1, epoch, 1000, (), (), b"of epoch %d" % epoch)


VOTING = [f"node{at}" for at in range(VOTERS)]
WRITERS = st.lists(
    st.tuples(st.sets(st.sampled_from(VOTING), max_size=2), st.integers(0, 2), st.booleans()),
    min_size=1,
    max_size=5,
)
LOST = st.sets(st.sampled_from(VOTING), min_size=MAJORITY_LOST, max_size=VOTERS)


FIRST = ranking_of(cluster_of(Twelve().file), 3)(commit_key(2).encode())
UNKNOWN = {FIRST[0], FIRST[4]}
"""The one that has a commit that was given up, and another: they hear nothing of what came in its place."""


@pytest.mark.logs_warnings
@example([(set(), 1, True), (UNKNOWN, 1, False)], set(FIRST) - UNKNOWN, 1 << 30)
@given(WRITERS, LOST, st.integers(0, 12))
def test_lost_nodes_that_come_back_before_there_is_a_new_map_lose_nothing(
    writers: list[tuple[set[str], int, bool]], lost: set[str], until: int
) -> None:
    async def live() -> None:
        drive = Twelve()
        for away, count, is_torn in writers:
            await drive.write(away, count, is_torn)
        drive.lose(lost)
        with suppress(OSError):  # the failpoint
            await drive.recover({name: node for name, node in drive.nodes.items() if name not in lost}, until)
        drive.lose(())
        log, _ = await drive.opened(drive.file)
        found = [Head(commit.number, known) for commit, known in await log.commits_after(0)]
        assert found[: len(drive.acknowledged)] == drive.acknowledged

    trio.run(live, clock=trio.testing.MockClock(autojump_threshold=0))


@pytest.mark.parametrize("is_linked", [False, True])
async def test_a_commit_that_counts_is_not_replaced_by_one_of_a_higher_ballot(is_linked: bool) -> None:
    """Which was never acknowledged. The next commit says so if it is left."""
    drive = Twelve()
    first = following(Head(0, NO_COMMIT), 1)
    right, wrong = (commit_format.encode(replace(first, payload=payload)) for payload in (b"right", b"wrong"))
    second = commit_format.encode(following(Head(1, plain_hash(right)), 1))
    third = commit_format.encode(following(Head(2, plain_hash(second)), 1))
    put(drive.nodes["node0"], commit_key(1), 5, right)
    put(drive.nodes["node1"], commit_key(1), 7, wrong)
    put(drive.nodes["node5"], commit_key(3), 8, third)
    if is_linked:
        put(drive.nodes["node1"], commit_key(2), 8, second)
    left = {name: node for name, node in drive.nodes.items() if name not in ("node2", "node3", "node4")}
    new, newest, gaps = await drive.recover(left, 1 << 30)
    assert (newest, gaps) == (3, [] if is_linked else [2])
    found = (await drive.objects_on(left).find_all(commit_key(1))).good
    assert found["node0"].data == right
    holders = {name for name, copy in found.items() if copy.data == right} & drive.voting(new).keys()
    assert len(holders) >= (2 if is_linked else 1)


@pytest.mark.logs_warnings
@given(WRITERS, LOST)
def test_all_that_is_left_comes_to_the_new_voters_whatever_is_missing(
    writers: list[tuple[set[str], int, bool]], lost: set[str]
) -> None:
    async def live() -> None:
        drive = Twelve()
        for away, count, is_torn in writers:
            await drive.write(away, count, is_torn)
        await drive.objects(drive.file).put("roots/snapshot", b"root", 1)
        drive.lose(lost)
        left = {name: node for name, node in drive.nodes.items() if name not in lost}
        before = await drive.right_on(left)
        new, newest, gaps = await drive.recover(left, 1 << 30)
        assert before == await drive.right_on(left), "nothing that is right was replaced"
        objects = drive.objects(new)
        kept = {commit_key(number) for number in range(1, newest + 1) if number not in gaps}
        for key in kept | {key for key in before if key.startswith("roots/")}:
            places = drive.ranking(new)(key.encode())[: objects.copies]
            assert set(places) <= (await objects.find_all(key)).good.keys()
        if not gaps:
            log, _ = await drive.opened(new)
            assert log.head.number >= newest

    trio.run(live, clock=trio.testing.MockClock(autojump_threshold=0))
