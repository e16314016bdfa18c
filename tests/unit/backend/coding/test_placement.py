"""backend.coding.placement: deterministic, fair, spread over zones, moving little."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.coding.placement import ClusterMap, ClusterNode, fill, place, require_nodes, settle, stand_ins
from backend.errors import UsageError


def cluster(zones: str, weights: dict[int, float] | None = None) -> ClusterMap:
    """One node for each letter, which is its zone."""
    return ClusterMap(
        1,
        tuple(
            ClusterNode(f"node{number}", zone, (weights or {}).get(number, 1.0))
            for number, zone in enumerate(zones)
        ),
    )


def objects(count: int) -> list[bytes]:
    return [number.to_bytes(16, "little") for number in range(count)]


def test_the_answer_never_changes() -> None:
    """Fragments of existing drives lie where this says: a change here loses them."""
    assert place(cluster("abcdef"), bytes(16), 6) == ["node4", "node2", "node1", "node5", "node3", "node0"]


def test_the_order_of_the_map_does_not_matter() -> None:
    nodes = cluster("abcdef").nodes
    for object_id in objects(20):
        assert place(ClusterMap(2, nodes[::-1]), object_id, 4) == place(ClusterMap(1, nodes), object_id, 4)


@given(st.text("abcd", min_size=1, max_size=12), st.binary(min_size=1, max_size=40), st.data())
def test_nodes_are_different_and_zones_as_even_as_can_be(
    zones: str, object_id: bytes, draw: st.DataObject
) -> None:
    count = draw.draw(st.integers(1, len(zones)))
    chosen = place(cluster(zones), object_id, count)
    assert len(set(chosen)) == count
    held = Counter(zones[int(name[4:])] for name in chosen)
    sizes = Counter(zones)
    fewest = min(limit for limit in range(1, 13) if sum(min(size, limit) for size in sizes.values()) >= count)
    assert max(held.values()) <= fewest


@pytest.mark.parametrize(
    ("zones", "most"), [("aabbcc", 2), ("aaabbbccc", 2), ("aaaabc", 4), ("aaabbb", 3), ("aabbccddeeff", 1)]
)
def test_a_zone_holds_no_more_than_it_must(zones: str, most: int) -> None:
    for object_id in objects(50):
        held = Counter(zones[int(name[4:])] for name in place(cluster(zones), object_id, 6))
        assert max(held.values()) <= most


def test_each_node_gets_its_weights_share() -> None:
    counts = Counter(place(cluster("abcd", {0: 2.0}), object_id, 1)[0] for object_id in objects(5000))
    assert counts["node0"] == pytest.approx(2000, rel=0.1)
    assert counts["node1"] == pytest.approx(1000, rel=0.15)


def test_a_new_node_takes_only_its_share() -> None:
    before, after = cluster("abcdefg"), cluster("abcdefgh")
    for object_id in objects(300):
        moved = set(place(after, object_id, 3)) - set(place(before, object_id, 3))
        assert moved <= {"node7"}


def test_weight_zero_takes_nothing() -> None:
    assert all("node3" not in place(cluster("abcdefg", {3: 0.0}), object_id, 6) for object_id in objects(50))


def test_too_few_nodes_are_refused() -> None:
    with pytest.raises(UsageError, match="needs 6 nodes and there are 5"):
        require_nodes(cluster("abcdef", {0: 0.0}), 6)
    with pytest.raises(UsageError, match="needs 7 nodes and there are 6"):
        place(cluster("abcdef"), b"x", 7)


@pytest.mark.parametrize(
    "nodes",
    [
        (ClusterNode("a", "z"), ClusterNode("a", "y")),
        (ClusterNode("a", "z", -1.0),),
        (ClusterNode("a", "z", float("nan")),),
        (ClusterNode("a", "z", float("inf")),),
    ],
)
def test_a_map_that_cannot_be_is_refused(nodes: tuple[ClusterNode, ...]) -> None:
    with pytest.raises(UsageError):
        ClusterMap(1, nodes)


@given(st.permutations("abcdef"), st.lists(st.sets(st.sampled_from("abcdefgh")), min_size=6, max_size=6))
def test_fragments_settle_on_different_wanted_nodes_and_few_move(
    wanted: list[str], holders: list[set[str]]
) -> None:
    settled = settle(wanted, holders)
    assert sorted(settled) == sorted(wanted)
    idle = [name for index, name in enumerate(settled) if name not in holders[index]]
    assert not any(
        name in held for name in idle for index, held in enumerate(holders) if settled[index] not in held
    ), "a fragment moved although its node was free"
    assert settle(wanted, [{name} for name in settled]) == settled


def test_only_fragments_of_nodes_that_are_not_wanted_move() -> None:
    before = cluster("abcdefg")
    for object_id in objects(200):
        lie = place(before, object_id, 6)
        wanted = place(cluster("abcdefg", {3: 0.0}), object_id, 6)
        settled = settle(wanted, [{name} for name in lie])
        moved = [index for index in range(6) if settled[index] != lie[index]]
        assert moved == [index for index in range(6) if lie[index] == "node3"]


def test_each_gap_is_filled_by_a_node_of_its_own() -> None:
    assert fill([None, "b", None], "abc", "abc") == ["a", "b", "c"]
    assert fill(["c", None, None], "abc", "abcd") == ["c", "b", "a"]
    assert fill(["c", None, None], "axc", "dab") == ["c", "d", "a"]
    assert fill(["c", None, None], "abc", "c") == ["c", "b", "c"]


def test_the_first_to_stand_in_is_of_the_emptiest_zone() -> None:
    nodes = cluster("aabbcd", {5: 0.0})
    for object_id in objects(20):
        assert stand_ins(nodes, object_id, ["node0", "node2", "gone"])[0] == "node4"
        assert "node5" not in stand_ins(nodes, object_id, [])
        assert (
            stand_ins(nodes, object_id, [])
            == place(nodes, object_id, 1) + stand_ins(nodes, object_id, [])[1:]
        )
