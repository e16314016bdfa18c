"""Small objects in m+1 copies: where they go, what damage and absence do, and who may replace whom."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from backend.coding.placement import ClusterMap, ClusterNode
from backend.commits.object_format import OVERHEAD, TAG_SIZE, Copy, frame, is_signed, signed, unframe
from backend.commits.replicated_objects import MAX_OBJECT, ReplicatedObjects, ranking_of
from backend.errors import (
    ConflictError,
    CorruptError,
    FormatError,
    NoSpaceError,
    NotFoundError,
    ReadOnlyError,
    UnavailableError,
)
from tests.memory_node import MemoryNode, memory_nodes

DRIVE = bytes(range(16))
SECRET = bytes(range(32))
KEY = "roots/snapshot"


class Setup:
    """Six nodes, three copies; `order` is the rendezvous order of KEY."""

    def __init__(self, nodes: int = 6, copies: int = 3) -> None:
        self.nodes = memory_nodes(nodes)
        cluster = ClusterMap(1, tuple(ClusterNode(node.name, node.zone) for node in self.nodes.values()))
        ranking = ranking_of(cluster, copies)
        self.objects = ReplicatedObjects(self.nodes, ranking, copies, DRIVE, SECRET)
        self.order: list[MemoryNode] = [self.nodes[name] for name in ranking(KEY.encode())]

    def holders(self) -> list[int]:
        return [at for at, node in enumerate(self.order) if KEY in node.objects]


async def create(setup: Setup, data: bytes, ballot: int) -> None:
    await setup.objects.create(KEY, data, ballot, lambda: None)


@given(st.binary(max_size=100), st.integers(0, 2**64 - 1))
def test_frame_round_trip(data: bytes, ballot: int) -> None:
    assert unframe(DRIVE, KEY, frame(DRIVE, KEY, Copy(ballot, data))) == Copy(ballot, data)


@given(st.integers(0, (3 + OVERHEAD) * 8 - 1))
def test_no_bit_of_a_frame_can_change_unnoticed(bit: int) -> None:
    framed = bytearray(frame(DRIVE, KEY, signed(SECRET, DRIVE, KEY, 1, b"abc")))
    framed[bit // 8] ^= 1 << bit % 8
    with pytest.raises((CorruptError, FormatError)):
        unframe(DRIVE, KEY, framed)


@pytest.mark.parametrize(("drive", "key"), [(bytes(16), KEY), (DRIVE, "roots/other")])
def test_a_copy_in_anothers_place_is_recognised(drive: bytes, key: str) -> None:
    with pytest.raises(CorruptError):
        unframe(drive, key, frame(DRIVE, KEY, Copy(1, b"abc")))


@given(st.binary(max_size=50), st.integers(0, 2**64 - 1), st.binary(min_size=32, max_size=32))
def test_only_who_has_the_key_makes_a_copy_and_chooses_its_ballot(
    data: bytes, ballot: int, other: bytes
) -> None:
    copy = signed(SECRET, DRIVE, KEY, ballot, data)
    assert is_signed(SECRET, DRIVE, KEY, copy)
    for forged in (
        replace(copy, ballot=ballot ^ 1),
        replace(copy, data=data + b"x"),
        replace(copy, tag=other),
    ):
        assert not is_signed(SECRET, DRIVE, KEY, forged)
    assert not is_signed(SECRET, DRIVE, "roots/other", copy)
    assert not is_signed(SECRET, bytes(16), KEY, copy)
    assert not is_signed(bytes(32), DRIVE, KEY, copy)


async def test_what_a_node_made_up_is_never_given_to_anybody_and_is_replaced() -> None:
    setup = Setup()
    await create(setup, b"one", 1)
    setup.order[0].objects[KEY] = frame(DRIVE, KEY, Copy(2**64 - 1, b"forged"))
    assert await setup.objects.get_all(KEY) == [b"one"]
    assert set((await setup.objects.find_all(KEY)).damaged) == {setup.order[0].name}
    await create(setup, b"two", 2)
    assert setup.holders() == [0, 1, 2]
    assert {copy.data for copy in (await setup.objects.find_all(KEY)).good.values()} == {b"two"}


async def full_when_swapped(operation: str, _key: str) -> None:
    await trio.lowlevel.checkpoint()
    if operation == "swap":
        raise NoSpaceError("full")


@pytest.mark.parametrize("writing", [False, True])
async def test_what_is_no_good_does_not_stay_in_memory(writing: bool) -> None:
    """An error that is kept keeps its frames, and these what was read."""
    setup, size = Setup(), 4 << 20
    large = Copy(3, bytes(size))
    for node in setup.nodes.values():
        node.objects[KEY] = frame(DRIVE, KEY, signed(SECRET, DRIVE, KEY, 3, large.data) if writing else large)
        node.before = full_when_swapped
    kept: list[object] = []
    tracemalloc.start()
    try:
        if writing:
            with pytest.raises(NoSpaceError) as caught:
                await create(setup, b"new", 4)
            kept.append(caught)
        else:
            kept.append(await setup.objects.find_all(KEY))
        assert tracemalloc.get_traced_memory()[0] < size
    finally:
        tracemalloc.stop()


async def test_an_object_that_is_far_too_large_costs_one_node_and_not_the_memory() -> None:
    setup = Setup()
    await create(setup, b"one", 1)
    setup.order[0].objects[KEY] = bytes(MAX_OBJECT + OVERHEAD + 9)
    assert await setup.objects.get_all(KEY) == [b"one"]
    await create(setup, b"two", 2)
    assert setup.holders() == [0, 1, 2, 3], "the next node stands in"
    assert await setup.objects.get_all(KEY) == [b"two"]


def test_copies_go_to_different_zones_first_and_the_order_has_all_nodes() -> None:
    zones = {"a": "x", "b": "x", "c": "x", "d": "y", "e": "y", "f": "y", "old": "z"}
    nodes = tuple(ClusterNode(name, zone, float(name != "old")) for name, zone in zones.items())
    ranking = ranking_of(ClusterMap(1, nodes), 3)
    for number in range(50):
        order = ranking(b"%d" % number)
        assert sorted(order) == sorted(zones)
        assert {zones[name] for name in order[:3]} == {"x", "y"}
        assert order[-1] == "old"


async def test_copies_are_on_the_first_nodes_and_come_back() -> None:
    setup = Setup()
    await setup.objects.put(KEY, b"one")
    assert setup.holders() == [0, 1, 2]
    assert await setup.objects.get_all(KEY) == [b"one"]
    await setup.objects.put(KEY, b"two")
    assert await setup.objects.get_all(KEY) == [b"two"]


async def test_the_next_nodes_stand_in_and_nothing_is_lost_with_any_two() -> None:
    setup = Setup()
    setup.order[0].away = setup.order[2].away = True
    await setup.objects.put(KEY, b"one")
    assert setup.holders() == [1, 3, 4]
    setup.order[0].away = setup.order[2].away = False
    setup.order[1].away = setup.order[3].away = True
    assert await setup.objects.get_all(KEY) == [b"one"]


async def test_a_put_is_replaced_within_its_ballot_but_not_by_a_lower_one() -> None:
    setup = Setup()
    await setup.objects.put(KEY, b"one", 2)
    await setup.objects.put(KEY, b"two", 2)
    await setup.objects.put(KEY, b"three", 3)
    with pytest.raises(ConflictError, match="epoch 3"):
        await setup.objects.put(KEY, b"stale", 2)
    assert await setup.objects.get_all(KEY) == [b"three"]


async def test_stale_copies_are_all_shown_the_newest_first() -> None:
    setup = Setup()
    await setup.objects.put(KEY, b"old", 1)
    setup.order[0].away = True
    await setup.objects.put(KEY, b"new", 2)
    setup.order[0].away = False
    assert await setup.objects.get_all(KEY) == [b"new", b"old"]


async def test_damaged_copies_are_left_out_and_all_damaged_is_an_error() -> None:
    setup = Setup()
    await setup.objects.put(KEY, b"one")
    for node in setup.order[:2]:
        node.damage(KEY)
    assert await setup.objects.get_all(KEY) == [b"one"]
    setup.order[2].damage(KEY)
    with pytest.raises(CorruptError, match="every copy is damaged"):
        await setup.objects.get_all(KEY)


async def test_absent_is_told_from_cannot_know() -> None:
    setup = Setup()
    for node in setup.order[:2]:
        node.away = True
    assert await setup.objects.get_all(KEY) == []
    setup.order[2].away = True
    with pytest.raises(UnavailableError) as caught:
        await setup.objects.get_all(KEY)
    assert set(caught.value.nodes) == {node.name for node in setup.order[:3]}


async def test_put_takes_two_copies_and_create_needs_all() -> None:
    setup = Setup()
    for node in setup.order[2:]:
        node.away = True
    await setup.objects.put(KEY, b"one")
    assert setup.holders() == [0, 1]
    with pytest.raises(UnavailableError, match="stored on 2 nodes, 3 are needed") as caught:
        await create(setup, b"two", 1)
    assert len(caught.value.nodes) == 4


@pytest.mark.parametrize(("fault", "error"), [("full", NoSpaceError), ("read_only", ReadOnlyError)])
async def test_the_reason_is_told_when_all_nodes_have_it(fault: str, error: type[Exception]) -> None:
    setup = Setup()
    for node in setup.order:
        setattr(node, fault, True)
    with pytest.raises(error):
        await setup.objects.put(KEY, b"one")


async def test_create_is_exclusive_within_a_ballot_and_idempotent() -> None:
    setup = Setup()
    await create(setup, b"one", 1)
    await create(setup, b"one", 1)
    with pytest.raises(ConflictError):
        await create(setup, b"two", 1)
    assert await setup.objects.get_all(KEY) == [b"one"]


async def test_a_higher_ballot_replaces_and_a_lower_one_never_does() -> None:
    setup = Setup()
    await create(setup, b"one", 1)
    await create(setup, b"two", 2)
    assert await setup.objects.get_all(KEY) == [b"two"]
    with pytest.raises(ConflictError):
        await create(setup, b"one", 1)
    await create(setup, b"two", 1)
    copies = await setup.objects.find_all(KEY)
    assert set(copies.good.values()) == {signed(SECRET, DRIVE, KEY, 2, b"two")}


async def test_a_slow_lower_ballot_loses_even_between_its_look_and_its_swap() -> None:
    setup = Setup(nodes=1, copies=1)
    node = setup.order[0]
    await create(setup, b"zero", 0)

    async def overtake(operation: str, key: str) -> None:
        if operation == "swap":
            node.before = nothing
            await create(setup, b"two", 2)

    async def nothing(operation: str, key: str) -> None:
        return

    node.before = overtake
    with pytest.raises(ConflictError):
        await create(setup, b"one", 1)
    assert await setup.objects.get_all(KEY) == [b"two"]


async def test_create_mends_a_damaged_copy() -> None:
    setup = Setup()
    await create(setup, b"one", 1)
    setup.order[1].damage(KEY)
    await create(setup, b"one", 1)
    assert len((await setup.objects.find_all(KEY)).good) == 3


async def test_an_unknown_version_is_never_overwritten() -> None:
    setup = Setup()
    await create(setup, b"one", 1)
    data = bytearray(setup.order[0].objects[KEY])
    data[3 + TAG_SIZE + 8] = 9
    setup.order[0].objects[KEY] = bytes(data)
    await create(setup, b"two", 2)
    assert setup.order[0].objects[KEY] == bytes(data)
    assert setup.holders() == [0, 1, 2, 3], "the next node stands in"
    assert await setup.objects.get_all(KEY) == [b"two"]


async def test_find_skips_what_is_not_wanted_and_says_why_there_is_none() -> None:
    setup = Setup()
    damaged: list[str] = []

    async def find(data: bytes) -> Copy:
        return await setup.objects.find(KEY, lambda copy: copy.data == data, damaged.append)

    with pytest.raises(NotFoundError):
        await find(b"one")
    await create(setup, b"one", 1)
    setup.order[0].damage(KEY)
    assert (await find(b"one")).data == b"one"
    assert damaged == [setup.order[0].name]
    with pytest.raises(CorruptError):
        await find(b"two")
    setup.order[5].away = True
    with pytest.raises(UnavailableError, match=f"away: {setup.order[5].name}"):
        await find(b"two")


async def test_keys_says_who_holds_what_and_when_it_cannot_know() -> None:
    setup = Setup()
    await setup.objects.put(KEY, b"one")
    setup.order[0].away = True
    listing = await setup.objects.keys("roots/")
    assert listing.holders == {KEY: {setup.order[1].name, setup.order[2].name}}
    assert listing.away == {setup.order[0].name}
    for node in setup.order[:3]:
        node.away = True
    with pytest.raises(UnavailableError, match="3 of 6 nodes are away"):
        await setup.objects.keys("roots/")
