"""backend.packs.fragment_listing: what nodes said, and nothing of one that did not come to its end."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from backend.packs import FragmentListing

NAMES = [f"node{number}" for number in range(4)]
fragments = st.sets(
    st.tuples(st.sampled_from(NAMES), st.integers(0, 5), st.sampled_from([0, 1, 5, 31])), max_size=30
)


def pack_id(number: int) -> bytes:
    return number.to_bytes(16)


@given(fragments, fragments, st.sets(st.sampled_from(NAMES)))
def test_it_says_what_was_listed_by_nodes_that_were_listed_to_their_end(
    before: set[tuple[str, int, int]], after: set[tuple[str, int, int]], gone: set[str]
) -> None:
    listing = FragmentListing(NAMES)
    for name, number, index in before:
        listing.add(name, pack_id(number), index)
    for name in sorted(gone):
        listing.forget(name)
    for name, number, index in after:
        if name not in gone:
            listing.add(name, pack_id(number), index)
    there = {each for each in before | after if each[0] not in gone}
    assert listing.away == sorted(gone)
    assert set(listing.packs()) == {pack_id(number) for _, number, _ in there}
    for number in range(6):
        places = {(name, index) for name, each, index in there if each == number}
        assert set(listing.places(pack_id(number))) == places
        assert listing.count(pack_id(number)) == len(places)
        assert listing.count_different(pack_id(number)) == len({index for _, index in places})
        assert listing.nodes_with(pack_id(number)) == sorted({name for name, _ in places})
        for index in (0, 1, 5, 30, 31):
            holders = sorted(name for name, each in places if each == index)
            assert listing.holders(pack_id(number), index) == holders
            assert listing.holder(pack_id(number), index) == (holders[0] if holders else None)


@given(st.integers(32, 99))
def test_no_pack_has_a_fragment_beyond_the_largest_code(index: int) -> None:
    listing = FragmentListing(NAMES)
    listing.add("node0", pack_id(1), index)
    assert listing.packs() == []
