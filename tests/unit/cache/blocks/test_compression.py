"""Compression: only where it pays, and nothing that states another size is opened."""

from __future__ import annotations

import os

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from backend.errors import CorruptError
from cache.blocks.compression import compress, compress_if_worth, decompress_exactly


@given(st.binary(max_size=2000), st.integers(1, 50))
def test_round_trip(data: bytes, times: int) -> None:
    assert decompress_exactly(compress(data * times), len(data) * times) == data * times


def test_what_does_not_pay_is_left() -> None:
    assert compress_if_worth(os.urandom(1 << 20)) is None
    assert compress_if_worth(b"") is None
    assert compress_if_worth(b"x") is None
    assert len(compress_if_worth(b"prose " * 100_000) or bytes(1 << 20)) < 1000


def test_a_bomb_is_refused_by_the_size_that_it_states() -> None:
    bomb = compress(bytes(1 << 30))
    assert len(bomb) < 100_000
    with pytest.raises(CorruptError, match="states 1073741824 bytes instead of 4096"):
        decompress_exactly(bomb, 4096)


def test_a_frame_that_states_no_size_is_refused() -> None:
    frame = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(1 << 20))
    with pytest.raises(CorruptError):
        decompress_exactly(frame, 4096)


@pytest.mark.parametrize("frame", [b"", b"not a frame", compress(b"x" * 1000)[:-3]])
def test_damage_is_refused(frame: bytes) -> None:
    with pytest.raises(CorruptError):
        decompress_exactly(frame, 1000)
