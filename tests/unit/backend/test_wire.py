"""The bytes between hub and device: what was encoded comes back, and nothing else is taken."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend import wire
from backend.errors import FormatError
from backend.upstream import BlockId, Head, SealedBlock

IDS = st.binary(min_size=32, max_size=32).map(BlockId)


@given(st.lists(IDS, max_size=20))
def test_ids_come_back(ids: list[BlockId]) -> None:
    assert wire.decode_ids(wire.encode_ids(ids)) == ids


@given(st.lists(st.builds(SealedBlock, IDS, st.binary(max_size=50)), max_size=10))
def test_blocks_come_back(blocks: list[SealedBlock]) -> None:
    assert wire.decode_blocks(wire.encode_blocks(blocks)) == blocks


@given(st.lists(st.binary(max_size=50), max_size=10))
def test_commits_come_back(commits: list[bytes]) -> None:
    assert list(wire.decode_commits(wire.encode_commits(commits))) == commits


@given(st.lists(st.none() | st.tuples(st.integers(0, 1 << 23), st.booleans()), max_size=10))
def test_sizes_come_back(sizes: list[tuple[int, bool] | None]) -> None:
    assert wire.decode_sizes(wire.encode_sizes(sizes), len(sizes)) == sizes


@given(st.integers(0, (1 << 63) - 1), st.binary(min_size=32, max_size=32))
def test_a_head_comes_back(number: int, digest: bytes) -> None:
    assert wire.decode_head(wire.encode_head(Head(number, digest))) == Head(number, digest)


@given(st.binary(max_size=200))
def test_any_bytes_are_taken_or_refused(data: bytes) -> None:
    for decode in (wire.decode_ids, wire.decode_blocks, lambda each: list(wire.decode_commits(each))):
        with contextlib.suppress(FormatError):
            decode(data)


@given(st.text(max_size=80))
def test_any_text_is_a_head_or_refused(text: str) -> None:
    with contextlib.suppress(FormatError):
        assert wire.decode_head(text).number >= 0


def test_limits_and_ends_are_looked_at() -> None:
    with pytest.raises(FormatError):
        wire.decode_ids(bytes(32 * (wire.MAX_IDS + 1)))
    with pytest.raises(FormatError):
        wire.decode_ids(bytes(33))
    whole = wire.encode_blocks([SealedBlock(BlockId(bytes(32)), b"abc")])
    for end in range(1, len(whole)):
        with pytest.raises(FormatError):
            wire.decode_blocks(whole[:end])
    with pytest.raises(FormatError):
        wire.decode_sizes(b"", 1)
    for text in ("", "1", "1:", "-1:" + "00" * 32, f"{1 << 63}:" + "00" * 32, "1:" + "00" * 31):
        with pytest.raises(FormatError):
            wire.decode_head(text)
