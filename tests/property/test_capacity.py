"""What is said to fit is what fits: against packs that are laid one by one, as the pack store lays them."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping

from hypothesis import assume, given
from hypothesis import strategies as st

from backend.coding.capacity import CapacityModel, is_full, reserve
from backend.coding.erasure import Profile
from backend.coding.placement import ClusterMap, ClusterNode, place, stand_ins
from backend.nodes.node import Space
from backend.upstream import Capacity

PROFILES = [Profile.parse(text) for text in ("2+1", "4+2", "copies:1", "copies:3", "3+2")]


Made = tuple[ClusterMap, Profile, dict[str, int], dict[str, str]]
"""A cluster that the profile fits, the room of each file system, and the file system of each node."""


def lay(
    cluster: ClusterMap, profile: Profile, room: Mapping[str, int], systems: Mapping[str, str]
) -> list[int]:
    """Lay packs whose fragments take 1 until one is below the write quorum: how many were complete before the
    first that was not, and how many were stored."""
    left, source, complete, stored = Counter(room), random.Random(0), -1, 0
    while True:
        taken: Counter[str] = Counter()
        pack_id = source.randbytes(16)
        nodes = place(cluster, pack_id, profile.total)
        refused: set[str] = set()
        for index in range(len(nodes)):
            while left[systems[nodes[index]]] - taken[systems[nodes[index]]] < 1:
                refused.add(nodes[index])
                others = [*nodes[:index], *nodes[index + 1 :]]
                found = [name for name in stand_ins(cluster, pack_id, others) if name not in refused]
                if not found:
                    break
                nodes[index] = found[0]
            else:
                taken[systems[nodes[index]]] += 1
        if sum(taken.values()) < profile.total and complete < 0:
            complete = stored
        if sum(taken.values()) < profile.write_quorum:
            return [complete, stored]
        left.subtract(taken)
        stored += 1


@st.composite
def clusters(draw: st.DrawFn) -> Made:
    profile = draw(st.sampled_from(PROFILES))
    count = draw(st.integers(profile.total, profile.total + 4))
    names = [f"node{number}" for number in range(count)]
    zones = draw(st.lists(st.integers(0, count), min_size=count, max_size=count))
    weights = draw(st.lists(st.sampled_from([1.0, 1.0, 0.5, 3.0]), min_size=count, max_size=count))
    shared = draw(st.booleans())
    systems = {name: draw(st.sampled_from(["disk0", "disk1", name])) if shared else name for name in names}
    nodes = [
        ClusterNode(name, f"zone{zone}", weight)
        for name, zone, weight in zip(names, zones, weights, strict=True)
    ]
    room = {
        system: draw(st.sampled_from([0, 100, 150, 400, 1000])) for system in sorted(set(systems.values()))
    }
    return ClusterMap(1, tuple(nodes)), profile, room, systems


@given(clusters())
def test_what_fits_is_what_can_be_laid(
    made: Made,
) -> None:
    cluster, profile, room, systems = made
    fit = CapacityModel(cluster, profile).fit(systems, room)
    complete, stored = lay(cluster, profile, room, systems)
    most = sum(room.values()) / profile.total
    # Packs are laid at random, and a sample is one: some standard deviations of the largest room.
    tolerance = 0.08 * sum(room.values()) / len(room) + 8
    if len(cluster.nodes) == profile.total and len(set(systems.values())) == len(systems):
        tolerance = 1.5
    assert fit.complete <= most + 1e-6
    assert abs(fit.complete - complete) <= tolerance
    assert abs(fit.quorum - stored) <= tolerance
    assert fit.complete <= fit.quorum


@given(clusters(), st.data())
def test_room_more_is_never_capacity_less(made: Made, data: st.DataObject) -> None:
    """On as many nodes as the profile needs; with more, what a larger node draws may be wasted."""
    cluster, profile, room, systems = made
    assume(len(cluster.nodes) == profile.total)
    model = CapacityModel(cluster, profile)
    before = model.fit(systems, room)
    more = {**room, data.draw(st.sampled_from(sorted(room))): 2000}
    after = model.fit(systems, {system: max(more[system], room[system]) for system in room})
    assert after.complete >= before.complete - 1e-6


SPACES = st.integers(1 << 20, 1 << 44).flatmap(
    lambda total: st.builds(Space, st.just(total), st.integers(0, total))
)


@given(st.sampled_from(PROFILES), st.data())
def test_the_reserve_stands_between_what_is_free_and_what_is_given(
    profile: Profile, data: st.DataObject
) -> None:
    names = [f"node{number}" for number in range(profile.total)]
    cluster = ClusterMap(1, tuple(ClusterNode(name, name) for name in names))
    spaces = {name: data.draw(SPACES) for name in names}
    found = CapacityModel(cluster, profile).capacity(spaces)
    assert isinstance(found, Capacity)
    assert found.total >= found.free >= found.available
    assert found.storable_in_need >= found.storable >= found.available
    if any(map(is_full, spaces.values())):
        assert found.available == 0
    for space in spaces.values():
        assert found.free <= space.free * profile.k
        assert reserve(space.total) <= space.total / 4


def capacity_of(profile: str, totals: list[int], known: int | None = None) -> Capacity | None:
    """Of empty nodes of so many MiB, of which the first `known` are known."""
    names = [f"node{number}" for number in range(len(totals))]
    cluster = ClusterMap(1, tuple(ClusterNode(name, name) for name in names))
    spaces = {name: Space(size << 20, size << 20) for name, size in zip(names, totals, strict=True)}
    return CapacityModel(cluster, Profile.parse(profile)).capacity(dict([*spaces.items()][:known]))


def test_one_small_node_limits_what_has_all_its_redundancy() -> None:
    found = capacity_of("4+2", [60, 60, 60, 60, 60, 12])
    assert found is not None
    assert 47 << 20 < found.total < 48 << 20
    assert found.storable > 200 << 20
    assert found.limited_by == ("node5",)


def test_more_nodes_than_fragments_take_over_what_the_small_one_cannot() -> None:
    found = capacity_of("4+2", [60, 60, 60, 60, 60, 60, 12])
    assert found is not None
    assert found.total > 225 << 20
    assert found.limited_by == ()


def test_a_node_that_is_away_makes_no_drive_full() -> None:
    found = capacity_of("4+2", [60, 60, 60, 60, 60, 60], known=5)
    assert found is not None
    assert 235 << 20 < found.total < 240 << 20
    assert capacity_of("4+2", [60] * 6, known=0) is None
