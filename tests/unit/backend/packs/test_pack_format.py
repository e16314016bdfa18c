"""backend.packs.pack_format against bytes made by hand, round trips, and packs that are not what they should
be."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.errors import CorruptError, DriveError, FormatError
from backend.packs import pack_format
from backend.packs.pack_format import (
    HEADER_SIZE,
    MAX_BLOCK_SIZE,
    MAX_BLOCKS,
    MAX_PACK_SIZE,
    PackEntry,
    PackTrailer,
    decode_header,
    decode_index,
    decode_pack_index,
    decode_trailer,
    encode_pack,
)
from backend.system import crypto
from backend.upstream import BlockId, SealedBlock

DRIVE, PACK, KEY = bytes(range(16)), bytes(range(16, 32)), bytes(32)
FIRST, SECOND = BlockId(b"1" * 32), BlockId(b"2" * 32)


def by_hand(entries: bytes | None = None) -> bytes:
    """A pack of the blocks `ab` and `cde`, from the words of docs/format/pack.md."""
    header = b"DFPK" + struct.pack("<H", 1) + b"\0\0" + PACK + DRIVE
    if entries is None:
        entries = FIRST + struct.pack("<II", 40, 2) + SECOND + struct.pack("<II", 42, 3)
    index = crypto.seal(crypto.derive(KEY, "pack index", PACK), entries, header)
    trailer = struct.pack("<IIH", 45, len(index), 1) + b"\0\0DFPT"
    body = header + b"ab" + b"cde" + index
    return body + bytes(512 - len(body) - len(trailer)) + trailer


def test_bytes_made_by_hand_are_read() -> None:
    assert decode_header(by_hand()) == (DRIVE, PACK)
    found = decode_pack_index(DRIVE, PACK, KEY, by_hand())
    assert found == [PackEntry(FIRST, 40, 2), PackEntry(SECOND, 42, 3)]


def test_what_is_written_differs_from_it_only_where_the_index_is_sealed() -> None:
    data, entries = encode_pack(DRIVE, PACK, KEY, [SealedBlock(FIRST, b"ab"), SealedBlock(SECOND, b"cde")])
    expected = by_hand()
    end_of_index = 45 + 2 * 40 + crypto.SEAL_OVERHEAD
    assert data[:45] == expected[:45]
    assert data[end_of_index:] == expected[end_of_index:]
    assert len(data) == 512
    assert entries == [PackEntry(FIRST, 40, 2), PackEntry(SECOND, 42, 3)]


BLOCKS = st.lists(
    st.builds(
        SealedBlock, st.binary(min_size=32, max_size=32).map(BlockId), st.binary(min_size=1, max_size=900)
    ),
    min_size=1,
    max_size=30,
)


@given(BLOCKS)
def test_round_trip(blocks: list[SealedBlock]) -> None:
    data, entries = encode_pack(DRIVE, PACK, KEY, blocks)
    assert len(data) % pack_format.PADDING == 0
    assert decode_pack_index(DRIVE, PACK, KEY, data) == entries
    assert [SealedBlock(e.block, data[e.offset : e.offset + e.length]) for e in entries] == blocks


def test_the_index_shows_no_ids() -> None:
    data, _ = encode_pack(DRIVE, PACK, KEY, [SealedBlock(FIRST, b"ab")])
    assert bytes(FIRST) not in data


def test_the_overhead_is_small() -> None:
    data, _ = encode_pack(DRIVE, PACK, KEY, [SealedBlock(FIRST, bytes(5000))])
    assert len(data) - 5000 < 124 + 512


@pytest.mark.parametrize(
    ("drive", "pack", "key"),
    [
        (bytes(16), PACK, KEY),
        (DRIVE, bytes(16), KEY),
        (DRIVE, PACK, b"k" * 32),
    ],
)
def test_another_drive_pack_or_key_does_not_open_the_index(drive: bytes, pack: bytes, key: bytes) -> None:
    data = by_hand()
    trailer = decode_trailer(data[-16:], len(data))
    with pytest.raises(CorruptError):
        decode_index(drive, pack, key, trailer, data[45 : 45 + trailer.index_length])
    with pytest.raises(CorruptError):
        decode_pack_index(drive, pack, key, data)


@given(st.integers(0, 511), st.integers(1, 255))
def test_a_changed_byte_changes_no_entry(position: int, mask: int) -> None:
    data = bytearray(by_hand())
    data[position] ^= mask
    try:
        found = decode_pack_index(DRIVE, PACK, KEY, bytes(data))
    except DriveError:
        return
    assert found == [PackEntry(FIRST, 40, 2), PackEntry(SECOND, 42, 3)]


@given(st.binary(max_size=700))
def test_noise_is_refused(data: bytes) -> None:
    with pytest.raises(DriveError):
        decode_pack_index(DRIVE, PACK, KEY, data)


@pytest.mark.parametrize(
    ("trailer", "message"),
    [
        (struct.pack("<IIH", 45, 100, 2) + b"\0\0DFPT", "format 2 is unknown"),
        (struct.pack("<IIH", 45, 100, 1) + b"\0\0DFPK", "magic"),
        (struct.pack("<IIH", 39, 100, 1) + b"\0\0DFPT", "not within"),
        (struct.pack("<IIH", 45, 452, 1) + b"\0\0DFPT", "not within"),
        (struct.pack("<IIH", 2**32 - 1, 2**32 - 1, 1) + b"\0\0DFPT", "not within"),
    ],
)
def test_a_trailer_that_cannot_be_is_refused(trailer: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        decode_trailer(trailer, 512)


def test_a_pack_over_the_limit_is_refused() -> None:
    with pytest.raises(FormatError, match="not within"):
        decode_trailer(struct.pack("<IIH", 45, 100, 1) + b"\0\0DFPT", MAX_PACK_SIZE + 1)


@pytest.mark.parametrize("length", [0, 27, 28, 67, 69, 28 + 40 * (MAX_BLOCKS + 1)])
def test_an_index_of_an_impossible_length_is_refused(length: int) -> None:
    with pytest.raises(FormatError, match="cannot have"):
        decode_index(DRIVE, PACK, KEY, PackTrailer(45, length), bytes(length))


@pytest.mark.parametrize(("offset", "length"), [(39, 2), (44, 2), (40, 0), (2**32 - 1, 1), (40, 2**32 - 1)])
def test_an_entry_outside_the_blocks_is_refused(offset: int, length: int) -> None:
    with pytest.raises(FormatError, match="not among"):
        decode_pack_index(DRIVE, PACK, KEY, by_hand(FIRST + struct.pack("<II", offset, length)))


@pytest.mark.parametrize("header", [b"DFPX", b"DFPK\x02\0"])
def test_another_magic_or_version_is_refused(header: bytes) -> None:
    with pytest.raises(FormatError):
        decode_header(header + bytes(HEADER_SIZE))


@pytest.mark.parametrize(
    "blocks",
    [
        [],
        [SealedBlock(FIRST, b"")],
        [SealedBlock(BlockId(b"short"), b"x")],
        [SealedBlock(FIRST, bytes(MAX_BLOCK_SIZE + 1))],
        [SealedBlock(FIRST, bytes(4_200_000))] * 4,
        [SealedBlock(FIRST, b"x")] * (MAX_BLOCKS + 1),
    ],
)
def test_what_the_format_cannot_hold_is_refused(blocks: list[SealedBlock]) -> None:
    with pytest.raises(ValueError, match="block"):
        encode_pack(DRIVE, PACK, KEY, blocks)


def test_the_largest_pack_is_within_its_limit() -> None:
    overhead = HEADER_SIZE + MAX_BLOCKS * pack_format.ENTRY_SIZE + crypto.SEAL_OVERHEAD + 16 + 512
    assert pack_format.MAX_CONTENT + overhead <= MAX_PACK_SIZE
