"""Content-defined chunking: limits, key, and that an insertion moves few cuts."""

from __future__ import annotations

import random

import pytest

from cache.blocks.chunking import MAX_BLOCK, MIN_BLOCK, Chunker

KEY = bytes(range(32))
DATA = random.Random(1).randbytes(24 << 20)


def blocks(data: bytes, key: bytes = KEY) -> list[bytes]:
    return [data[start:end] for start, end in Chunker(key).cut(data, last=True)]


def test_the_pieces_are_the_whole_within_limits() -> None:
    found = blocks(DATA)
    assert b"".join(found) == DATA
    assert all(MIN_BLOCK <= len(block) <= MAX_BLOCK for block in found[:-1])
    assert 8 < len(found) < 60


def test_an_insertion_at_the_front_moves_few_cuts() -> None:
    before, after = set(blocks(DATA)), set(blocks(b"one more byte" + DATA))
    assert len(after - before) <= 3


def test_another_key_gives_other_cuts() -> None:
    assert set(map(len, blocks(DATA))) != set(map(len, blocks(DATA, bytes(32))))
    assert blocks(DATA) == blocks(DATA)


@pytest.mark.parametrize("size", [0, 1, MIN_BLOCK, MIN_BLOCK + 1, MAX_BLOCK, MAX_BLOCK + 1])
def test_small_and_border_sizes(size: int) -> None:
    data = bytes(size)
    assert b"".join(blocks(data)) == data


def test_without_the_end_only_pieces_that_more_bytes_cannot_change() -> None:
    whole = list(Chunker(KEY).cut(DATA, last=True))
    for size in (MIN_BLOCK, 5 << 20, 9 << 20, 16 << 20):
        known = list(Chunker(KEY).cut(DATA[:size], last=False))
        assert known == whole[: len(known)]
        assert size < 9 << 20 or known
