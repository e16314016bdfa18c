"""The block codec: round trips, binding, limits."""

from __future__ import annotations

import os
import struct

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from backend.errors import CorruptError, FormatError, UnknownEpochError
from backend.keys.key_ring import KeyRing
from backend.packs import check_block
from backend.system.crypto import keyed_hash, seal
from backend.upstream import BlockId
from cache.blocks.block_codec import (
    HEADER,
    MAX_SEALED,
    PLAIN,
    SEALED_SEGMENT,
    SEGMENT,
    BlockCodec,
    BlockHeader,
    decode_header,
    header_of_uncompressed,
    sealed_range,
)
from cache.blocks.chunking import MAX_BLOCK
from cache.blocks.compression import compress
from tests.contents import KINDS, Kind, content
from tests.key_rings import DRIVE, add_epochs, ring_of

ID_KEY = b"i" * 32
RING = ring_of()
CODEC = BlockCodec(ID_KEY, RING)


def by_hand(block: bytes, header: bytes, *segments: bytes, ring: KeyRing = RING) -> bytes:
    epoch = struct.pack("<I", ring.newest.number)
    binding = b"drivefs block\0" + DRIVE + block + header + epoch
    key = keyed_hash(ring.newest.block, block)
    sealed = [seal(key, body, binding + struct.pack("<I", number)) for number, body in enumerate(segments)]
    return header + b"".join(epoch + each for each in sealed)


def test_a_block_by_hand() -> None:
    block = CODEC.block_id(b"plain")
    assert block == keyed_hash(ID_KEY, b"plain")
    assert CODEC.open(block, by_hand(block, struct.pack("<BBI", 3, 0, 5), b"plain")) == b"plain"
    packed = compress(b"a" * 500)
    assert CODEC.open(block, by_hand(block, struct.pack("<BBI", 3, 1, 500), packed)) == b"a" * 500


def test_a_block_of_segments_by_hand() -> None:
    data = os.urandom(2 * SEGMENT + 1)
    block = CODEC.block_id(data)
    header = struct.pack("<BBI", 3, 0, len(data))
    assert CODEC.open(block, by_hand(block, header, data[:32768], data[32768:65536], data[65536:])) == data
    empty = CODEC.block_id(b"")
    assert CODEC.open(empty, by_hand(empty, struct.pack("<BBI", 3, 0, 0), b"")) == b""


@given(st.integers(1, 4 * SEGMENT), st.data())
def test_segments_open_alone(size: int, draw: st.DataObject) -> None:
    data = os.urandom(size)
    block = CODEC.block_id(data)
    sealed = bytes(CODEC.seal(block, data).data)
    header = decode_header(sealed)
    assume(header.compression == PLAIN)
    assert header == BlockHeader(PLAIN, size) == header_of_uncompressed(len(sealed))
    last_of_all = (size - 1) // SEGMENT
    first = draw.draw(st.integers(0, last_of_all))
    last = draw.draw(st.integers(first, last_of_all))
    offset, length = sealed_range(first, last)
    part = data[first * SEGMENT : (last + 1) * SEGMENT]
    assert CODEC.open_segments(block, header, first, sealed[offset : offset + length], len(part)) == part
    with pytest.raises(CorruptError):
        CODEC.open_segments(block, header, first + 1, sealed[offset : offset + length], len(part))
    with pytest.raises(CorruptError):
        CODEC.open_segments(block, header, first, sealed[offset : offset + length][:-1], len(part))


def test_segments_cannot_be_swapped_dropped_or_added() -> None:
    data = os.urandom(3 * SEGMENT)
    block = CODEC.block_id(data)
    sealed = bytes(CODEC.seal(block, data).data)
    parts = [sealed[6 + at * SEALED_SEGMENT :][:SEALED_SEGMENT] for at in range(3)]
    for order in ([0, 2, 1], [0, 1], [1, 2], [0, 1, 2, 2], [0, 0, 0]):
        with pytest.raises(CorruptError):
            CODEC.open(block, sealed[:6] + b"".join(parts[at] for at in order))
    shorter = struct.pack("<BBI", 3, 0, 2 * SEGMENT)
    with pytest.raises(CorruptError):
        CODEC.open(block, shorter + parts[0] + parts[1])


def test_no_uncompressed_block_has_a_size_in_between() -> None:
    """Of a last segment without plaintext, or above the limit."""
    one = HEADER.size + SEALED_SEGMENT
    for size in (0, HEADER.size, HEADER.size + 32, one + 1, one + 32, one + MAX_SEALED):
        assert header_of_uncompressed(size) is None
    assert header_of_uncompressed(one + 33) == BlockHeader(PLAIN, SEGMENT + 1)
    assert header_of_uncompressed(MAX_SEALED) == BlockHeader(PLAIN, MAX_BLOCK)


@given(st.binary(max_size=3000), st.integers(1, 4))
def test_round_trip(data: bytes, times: int) -> None:
    block = CODEC.block_id(data * times)
    sealed = CODEC.seal(block, data * times)
    assert sealed.id == block
    assert CODEC.open(block, sealed.data) == data * times


def test_ids_of_equal_content_differ_between_drives() -> None:
    """Nobody who lacks the drive's key can tell that a file they know is in it."""
    other = BlockCodec(b"j" * 32, RING)
    assert CODEC.block_id(b"a file that many have") != other.block_id(b"a file that many have")


def test_every_byte_is_bound() -> None:
    block = CODEC.block_id(b"some text")
    sealed = bytes(CODEC.seal(block, b"some text").data)
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
    sealed = bytes(CODEC.seal(block, b"some text").data)
    with pytest.raises(CorruptError):
        CODEC.open(BlockId(bytes(32)), sealed)
    for other in (BlockCodec(ID_KEY, ring_of(drive=b"d" * 16)), BlockCodec(ID_KEY, ring_of(b"o" * 32))):
        with pytest.raises(CorruptError):
            other.open(block, sealed)


@pytest.mark.parametrize("header", [(1, 0, 5), (2, 0, 5), (4, 0, 5), (3, 2, 5), (3, 0, MAX_BLOCK + 1)])
def test_unknown_versions_and_sizes_are_refused(header: tuple[int, int, int]) -> None:
    block = CODEC.block_id(b"plain")
    with pytest.raises(FormatError):
        CODEC.open(block, by_hand(block, struct.pack("<BBI", *header), b"plain"))


@pytest.mark.parametrize("rest", [1, 31, 32])
def test_a_compressed_block_that_says_it_is_not_is_refused(rest: int) -> None:
    """As long as one that is not compressed could not be: its last segment would have no room for a tag."""
    sealed = bytes(SEALED_SEGMENT + rest)
    header = struct.pack("<BBI", 3, PLAIN, len(sealed) - 64)
    with pytest.raises(CorruptError):
        CODEC.open(BlockId(bytes(32)), header + sealed)


def test_a_bomb_under_the_right_key_is_refused() -> None:
    block = CODEC.block_id(b"x")
    with pytest.raises(CorruptError, match="states"):
        CODEC.open(block, by_hand(block, struct.pack("<BBI", 3, 1, 100), compress(bytes(1 << 28))))
    with pytest.raises(CorruptError):
        CODEC.open(block, by_hand(block, struct.pack("<BBI", 3, 0, 4), b"plain"))


def test_the_largest_block_passes_and_no_larger() -> None:
    data = os.urandom(MAX_BLOCK)
    block = CODEC.block_id(data)
    sealed = bytes(CODEC.seal(block, data).data)
    assert CODEC.open(block, sealed) == data
    with pytest.raises(CorruptError, match="outside the limits"):
        CODEC.open(block, sealed + b"x")


def test_equal_content_is_sealed_differently_each_time() -> None:
    block = CODEC.block_id(b"same")
    assert CODEC.seal(block, b"same").data != CODEC.seal(block, b"same").data


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_of_all_epochs_open_whole_and_in_part(kind: Kind) -> None:
    """Whichever epoch is the newest when they are read; ids are the same in all."""
    ring = ring_of(epochs=0)
    codec, epoch, stored = BlockCodec(ID_KEY, ring), None, []
    for number in range(1, 4):
        epoch = add_epochs(ring, epoch, 1)
        data = content(kind, 3 * SEGMENT + 77, number)
        stored.append((codec.block_id(data), data, bytes(codec.seal(codec.block_id(data), data).data)))
    for number, (block, data, sealed) in enumerate(stored, 1):
        assert block == keyed_hash(ID_KEY, data)
        assert sealed[HEADER.size : HEADER.size + 4] == struct.pack("<I", number)
        assert codec.open(block, sealed) == data
        header = decode_header(sealed)
        if header.compression == PLAIN:
            offset, length = sealed_range(1, 2)
            part = codec.open_segments(block, header, 1, sealed[offset : offset + length], 2 * SEGMENT)
            assert part == data[SEGMENT : 3 * SEGMENT]


def test_the_epoch_is_bound_in_every_segment() -> None:
    ring = ring_of(epochs=3)
    codec, data = BlockCodec(ID_KEY, ring), os.urandom(2 * SEGMENT)
    block = codec.block_id(data)
    sealed = bytes(codec.seal(block, data).data)
    for segment in range(2):
        at = HEADER.size + segment * SEALED_SEGMENT
        for epoch in (0, 1, 2, 4, 2**32 - 1):
            changed = sealed[:at] + struct.pack("<I", epoch) + sealed[at + 4 :]
            with pytest.raises(CorruptError):
                codec.open(block, changed)


def test_a_block_of_an_epoch_that_is_not_known_says_so() -> None:
    block = CODEC.block_id(b"plain")
    later = by_hand(block, struct.pack("<BBI", 3, 0, 5), b"plain", ring=ring_of(epochs=2))
    with pytest.raises(UnknownEpochError, match="epoch 2"):
        CODEC.open(block, later)


def test_a_block_of_the_largest_size_is_one_that_is_stored() -> None:
    """Regression: with a key epoch in each segment it was six bytes too large for a pack: the mount ended."""
    data = os.urandom(MAX_BLOCK)
    block = CODEC.seal(CODEC.block_id(data), data)
    assert len(block.data) == MAX_SEALED
    check_block(block)
