"""What is found on the nodes that are left, and how it comes to the new voters."""

from __future__ import annotations

import datetime
import random
from collections.abc import Awaitable, Callable

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from backend.cluster import recovery
from backend.cluster.drive_file import DriveFile, NodeEntry
from backend.coding.placement import ClusterMap, ClusterNode
from backend.commits.commit_search import commit_key
from backend.commits.object_format import frame, signed
from backend.commits.replicated_objects import ReplicatedObjects, ranking_of
from backend.errors import NodeError, UnavailableError
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
    st.sampled_from(["lease", "commits/", commit_key(3)]),
    st.sets(st.integers(0, LEFT - 1), min_size=1, max_size=LEFT),
)
def test_what_a_node_does_not_say_is_not_given_up(question: str, silent: set[int]) -> None:
    nodes = memory_nodes(LEFT)
    for at, node in enumerate(nodes.values()):
        for number in (1, 2, 3):
            put(node, commit_key(number), 1, random.Random(number).randbytes(100))
        if at in silent:
            node.before = failing(node.name, question)
    with pytest.raises(UnavailableError, match="nothing was changed, try again") as caught:
        trio.run(look, nodes)
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
