"""backend.nodes.node_set: nodes come and go under those who look them up."""

from __future__ import annotations

from backend.nodes import Node, NodeSet
from backend.nodes.forwarding import ForwardingNode
from tests.memory_node import MemoryNode, memory_nodes


def wrapped_in(node: Node) -> Node:
    return ForwardingNode(node)


def test_what_is_made_of_a_set_follows_it_and_keeps_the_wrappers_of_nodes_that_stay() -> None:
    nodes: dict[str, Node] = dict(memory_nodes(3))
    bare = NodeSet(nodes)
    outer = bare.wrapped(wrapped_in).wrapped(wrapped_in)
    before = dict(outer)
    new = MemoryNode("node1")
    bare.have({"node0": nodes["node0"], "node1": new, "node3": MemoryNode("node3")})
    assert list(outer) == list(bare) == ["node0", "node1", "node3"]
    assert outer["node0"] is before["node0"]
    assert outer["node1"] is not before["node1"]
    assert outer["node3"].name == "node3"
    assert "node2" not in outer
    assert len(outer) == 3


def test_a_walk_sees_the_nodes_of_its_beginning() -> None:
    bare = NodeSet(memory_nodes(3))
    for walk in (iter(bare.items()), iter(bare.values()), iter(bare)):
        next(walk)
        bare.have(memory_nodes(5))
        assert len(list(walk)) == 2
        bare.have(memory_nodes(3))


def test_a_set_is_itself_and_a_mapping_becomes_one() -> None:
    bare = NodeSet(memory_nodes(2))
    assert NodeSet.of(bare) is bare
    assert dict(NodeSet.of(dict(bare))) == dict(bare)
