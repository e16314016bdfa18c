"""The block codec: round trips, binding, limits."""

from __future__ import annotations

import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.crypto import derive, keyed_hash, seal
from backend.errors import CorruptError, FormatError
from backend.upstream import BlockId
from cache.block_codec import BlockCodec
from cache.chunking import MAX_BLOCK
from cache.compression import compress

DRIVE, ID_KEY, KEY = bytes(16), b"i" * 32, b"k" * 32
CODEC = BlockCodec(DRIVE, ID_KEY, KEY)


def by_hand(block: bytes, header: bytes, body: bytes) -> bytes:
    binding = b"drivefs block\0" + DRIVE + block + header
    return header + seal(derive(KEY, "one block", block), body, binding)


def test_a_block_by_hand() -> None:
    block = CODEC.block_id(b"plain")
    assert block == keyed_hash(ID_KEY, b"plain")
    assert CODEC.open(block, by_hand(block, struct.pack("<BBI", 1, 0, 5), b"plain")) == b"plain"
    packed = compress(b"a" * 500)
    assert CODEC.open(block, by_hand(block, struct.pack("<BBI", 1, 1, 500), packed)) == b"a" * 500


@given(st.binary(max_size=3000), st.integers(1, 4))
def test_round_trip(data: bytes, times: int) -> None:
    block = CODEC.block_id(data * times)
    sealed = CODEC.seal(block, data * times)
    assert sealed.id == block
    assert CODEC.open(block, sealed.data) == data * times


def test_ids_of_equal_content_differ_between_drives() -> None:
    """Nobody who lacks the drive's key can tell that a file they know is in it."""
    other = BlockCodec(bytes(16), b"j" * 32, KEY)
    assert CODEC.block_id(b"a file that many have") != other.block_id(b"a file that many have")


def test_every_byte_is_bound() -> None:
    block = CODEC.block_id(b"some text")
    sealed = CODEC.seal(block, b"some text").data
    for index in range(len(sealed)):
        changed = bytearray(sealed)
        changed[index] ^= 1
        with pytest.raises((CorruptError, FormatError)):
            CODEC.open(block, changed)
    for size in range(len(sealed)):
        with pytest.raises((CorruptError, FormatError)):
            CODEC.open(block, sealed[:size])


def test_a_block_is_bound_to_its_id_drive_and_key() -> None:
    block = CODEC.block_id(b"some text")
    sealed = CODEC.seal(block, b"some text").data
    with pytest.raises(CorruptError):
        CODEC.open(BlockId(bytes(32)), sealed)
    for other in (BlockCodec(b"d" * 16, ID_KEY, KEY), BlockCodec(DRIVE, ID_KEY, b"o" * 32)):
        with pytest.raises(CorruptError):
            other.open(block, sealed)


@pytest.mark.parametrize("header", [(2, 0, 5), (1, 2, 5), (1, 0, MAX_BLOCK + 1)])
def test_unknown_versions_and_sizes_are_refused(header: tuple[int, int, int]) -> None:
    block = CODEC.block_id(b"plain")
    with pytest.raises(FormatError):
        CODEC.open(block, by_hand(block, struct.pack("<BBI", *header), b"plain"))


def test_a_bomb_under_the_right_key_is_refused() -> None:
    block = CODEC.block_id(b"x")
    with pytest.raises(CorruptError, match="states"):
        CODEC.open(block, by_hand(block, struct.pack("<BBI", 1, 1, 100), compress(bytes(1 << 28))))
    with pytest.raises(CorruptError):
        CODEC.open(block, by_hand(block, struct.pack("<BBI", 1, 0, 4), b"plain"))


def test_the_largest_block_passes_and_no_larger() -> None:
    data = os.urandom(MAX_BLOCK)
    block = CODEC.block_id(data)
    sealed = CODEC.seal(block, data).data
    assert CODEC.open(block, sealed) == data
    with pytest.raises(CorruptError, match="outside the limits"):
        CODEC.open(block, sealed + b"x")


def test_equal_content_is_sealed_differently_each_time() -> None:
    block = CODEC.block_id(b"same")
    assert CODEC.seal(block, b"same").data != CODEC.seal(block, b"same").data
