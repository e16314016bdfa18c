"""Several readers of one file are told apart."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from cache.blocks.read_streams import READ_AHEAD_MOST, READ_AHEAD_START, ReadStreams

PIECE = 128 << 10


@given(
    readers=st.lists(st.integers(0, 1 << 20), min_size=1, max_size=6, unique=True),
    seed=st.integers(0, 1 << 16),
)
def test_each_reads_ahead_for_himself(readers: list[int], seed: int) -> None:
    """Whatever the order in which they come, with somebody who jumps beside them: each of their reads but the
    first is in order, and all that they read later was fetched before, once."""
    source, streams = random.Random(seed), ReadStreams()
    offsets = {number << 40: number << 40 for number in readers}
    fetched = dict.fromkeys(offsets, 0)
    streams.note(1, 5, 6)
    for first in offsets:
        streams.note(1, first, first + PIECE)
        offsets[first] += PIECE
    for _ in range(300):
        if source.random() < 0.3:
            at = source.randrange(1, 1 << 62)
            assert not streams.note(1, at, at + 1)[0]
        first = source.choice([*offsets])
        start, end = offsets[first], offsets[first] + PIECE
        in_order, reader = streams.note(1, start, end)
        if not in_order:  # the one who jumps came too often before it was known to be in order
            assert not fetched[first]
        elif (ahead := reader.ahead(end)) is not None:
            low, high = ahead
            assert low == max(end, fetched[first])
            assert high - end <= READ_AHEAD_MOST
            fetched[first] = high
        assert not fetched[first] or fetched[first] >= end + READ_AHEAD_START // 2
        offsets[first] = end


def test_the_first_read_is_in_order_at_the_start_only() -> None:
    streams = ReadStreams()
    assert streams.note(1, 0, 10)[0]
    assert not streams.note(2, 7, 10)[0]
    assert streams.note(2, 10, 20)[0]
    assert not streams.note(1, 0, 10)[0]


def test_who_is_known_to_read_in_order_outlives_any_number_of_jumps() -> None:
    streams = ReadStreams()
    _, reader = streams.note(1, 0, 10)
    reader.ahead(10)
    for number in range(1000):
        streams.note(1, 1000 + 2 * number, 1001 + 2 * number)
    assert streams.note(1, 10, 20) == (True, reader)


def test_files_are_forgotten_the_oldest_first() -> None:
    streams = ReadStreams()
    for inode in range(1, 1000):
        streams.note(1, 10 * inode - 10, 10 * inode)
        streams.note(inode + 1, 0, 10)
    assert streams.note(1, 9990, 10000)[0]
    assert not streams.note(5, 10, 20)[0]
