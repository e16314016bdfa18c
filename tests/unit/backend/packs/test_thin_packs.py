"""The rule by which packs are rewritten: never one of which all is needed, never more than fits in one."""

from __future__ import annotations

import os

from hypothesis import given, settings
from hypothesis import strategies as st

from backend.packs import MAX_BLOCKS, Pack, PackNeeds, encoded_size, together
from backend.packs.pack_format import encode_pack
from backend.packs.thin_packs import THIN
from backend.upstream import BlockId, SealedBlock

LENGTHS = st.lists(st.integers(1, 3000), min_size=1, max_size=60)


def pack(size: int) -> Pack:
    return Pack(os.urandom(16), size, 0, ())


@given(LENGTHS)
def test_a_pack_has_the_size_that_is_said_before(lengths: list[int]) -> None:
    blocks = [SealedBlock(BlockId(os.urandom(32)), bytes(length)) for length in lengths]
    data, _ = encode_pack(bytes(16), bytes(16), bytes(32), blocks)
    assert len(data) == encoded_size(sum(lengths), len(lengths))


@given(LENGTHS, st.data())
def test_a_pack_is_thin_if_it_would_shrink_and_is_not_thin_again(
    lengths: list[int], data: st.DataObject
) -> None:
    whole = pack(encoded_size(sum(lengths), len(lengths)))
    assert not PackNeeds(whole, sum(lengths), len(lengths)).is_thin()
    kept = data.draw(st.lists(st.sampled_from(lengths), max_size=len(lengths)))
    some = PackNeeds(whole, sum(kept), len(kept))
    new = encoded_size(sum(kept), len(kept))
    assert some.is_thin() == (bool(kept) and new < THIN * whole.size)
    assert not PackNeeds(pack(new), sum(kept), len(kept)).is_thin()


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(1, 9 << 20), st.integers(1, MAX_BLOCKS)), max_size=30))
def test_all_are_taken_in_order_and_what_is_together_fits(needs: list[tuple[int, int]]) -> None:
    packs = [PackNeeds(pack(17 << 20), size, count) for size, count in needs]
    groups = list(together(packs, 8 << 20))
    assert [one for group in groups for one in group] == packs
    for group in groups:
        size, count = sum(one.needed for one in group), sum(one.blocks for one in group)
        assert len(group) == 1 or (size <= 8 << 20 and count <= MAX_BLOCKS)
