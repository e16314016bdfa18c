"""`Compactor.sweep_debris`: which fragments go, over any listing, and that others have a
turn meanwhile."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from backend.blocks import compaction
from backend.blocks.compaction import Compactor
from backend.blocks.sqlite_index import SqliteBlockIndex
from backend.packs import FragmentListing, Pack, PackStore, fragment_key
from backend.system import THIS_MACHINE
from tests.memory_node import MemoryNode, memory_nodes

K, NODES = 4, 6
DRIVE = bytes(range(16))

places = st.sets(st.tuples(st.integers(0, NODES - 1), st.integers(0, NODES - 1)), min_size=1, max_size=7)
"""Of one pack: node, and fragment; the same fragment may lie on several."""
kinds = st.sampled_from(["unknown", "unknown", "in the index", "being written"])


def pack_id(number: int) -> bytes:
    return number.to_bytes(16)


def compactor(nodes: dict[str, MemoryNode], known: set[bytes], pending: set[bytes]) -> Compactor:
    """Its index knows the packs `known`."""
    index = SqliteBlockIndex(":memory:", DRIVE, 2)
    for each in sorted(known):
        index.add_pack(Pack(each, 100, 200, tuple(nodes)), [])
    codec = SimpleNamespace(code=SimpleNamespace(profile=SimpleNamespace(k=K)))
    packs = cast("PackStore", SimpleNamespace(nodes=nodes, codec=codec))
    return Compactor(packs, index, pending.__contains__, lambda: None, THIS_MACHINE)


@given(st.lists(st.tuples(places, kinds), max_size=8), st.integers(1, 3))
async def test_what_goes_is_too_little_to_read_and_known_to_nobody(
    packs: list[tuple[set[tuple[int, int]], str]], page: int
) -> None:
    nodes = memory_nodes(NODES)
    stay, go = set[tuple[str, str]](), set[tuple[str, str]]()
    for number, (found, kind) in enumerate(packs):
        for at, index in found:
            key = fragment_key(pack_id(number), index)
            nodes[f"node{at}"].objects[key] = b"."
            (go if len(found) < K and kind == "unknown" else stay).add((f"node{at}", key))
    of_kind = {
        kind: {pack_id(number) for number, (_, each) in enumerate(packs) if each == kind}
        for kind in ("in the index", "being written")
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compaction, "_PAGE", page)
        sweeper = compactor(nodes, of_kind["in the index"], of_kind["being written"])
        assert await sweeper.sweep_debris(trio.lowlevel.checkpoint) == len(go)
    assert {(name, key) for name, node in nodes.items() for key in node.objects} == stay


@pytest.mark.parametrize("known", [False, True])
async def test_others_have_a_turn_every_page_of_packs(known: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole packs, or packs of the index that lack fragments: nothing is to be deleted, so no call of a node
    lets others have theirs."""
    page, count = 10, 1000
    nodes = memory_nodes(NODES)
    since_turn = longest = 0

    class Looked(FragmentListing):
        def count(self, pack_id: bytes) -> int:
            nonlocal since_turn, longest
            since_turn += 1
            longest = max(longest, since_turn)
            return super().count(pack_id)

        def places(self, pack_id: bytes) -> list[tuple[str, int]]:
            raise AssertionError("nobody needs to know where")

    listing = Looked(list(nodes))
    ids = [pack_id(number) for number in range(count)]
    for each in ids:
        for at in range(K - 1 if known else NODES):
            listing.add(f"node{at}", each, at)

    async def listed(*_: Any) -> FragmentListing:
        await trio.lowlevel.checkpoint()
        return listing

    async def others() -> None:
        nonlocal since_turn
        while True:
            await trio.lowlevel.checkpoint()
            since_turn = 0

    monkeypatch.setattr(compaction, "_PAGE", page)
    monkeypatch.setattr(compaction, "list_fragments", listed)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(others)
        assert await compactor(nodes, set(ids) if known else set(), set()).sweep_debris(_never) == 0
        nursery.cancel_scope.cancel()
    assert 0 < longest <= 2 * page


async def _never() -> None:
    raise AssertionError("nothing is deleted")
