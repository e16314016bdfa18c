"""The journal's codec against hand-made bytes, damaged ones and hypothesis."""

from __future__ import annotations

import struct

import msgpack
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from backend.errors import FormatError
from cache.journal.format import (
    MAX_PAYLOAD,
    RECORD_HEADER_SIZE,
    SEGMENT_HEADER_SIZE,
    Bulk,
    Rebased,
    RecordType,
    SegmentHeader,
    bulk_checksum,
    decode_batch,
    decode_bulk,
    decode_cut,
    decode_extents,
    decode_followed,
    decode_given_up,
    decode_published,
    decode_rebased,
    decode_record,
    decode_segment_header,
    decode_uncut,
    encode_batch,
    encode_bulk,
    encode_cut,
    encode_extents,
    encode_followed,
    encode_given_up,
    encode_published,
    encode_rebased,
    encode_record_header,
    encode_segment_header,
    encode_uncut,
)

numbers = st.integers(0, (1 << 64) - 1)


def record(segment: int, kind: int, sequence: int, *parts: bytes) -> bytes:
    length = sum(map(len, parts))
    return encode_record_header(segment, kind, sequence, parts, length) + b"".join(parts)


def decoded(segment: int, data: bytes | bytearray, offset: int, sequence: int) -> tuple[RecordType, bytes]:
    found = decode_record(segment, memoryview(data), offset, sequence)
    assert found is not None
    return found[0], bytes(found[1])


def test_a_segment_header_by_hand() -> None:
    body = b"drvfsjnl" + struct.pack("<HHI", 5, 0, 0xABCD) + struct.pack("<QQQ", 7, 1000, 42)
    by_hand = body + struct.pack("<Q", xxhash.xxh3_64_intdigest(body + bytes(8)))
    header = SegmentHeader(7, 1000, 42, 0xABCD)
    assert encode_segment_header(header) == by_hand
    assert decode_segment_header(by_hand) == header
    assert header.seed == 0xABCD_0000_0007
    assert SEGMENT_HEADER_SIZE == len(by_hand) == 48


def test_a_segment_of_version_1_is_read() -> None:
    body = b"drvfsjnl" + struct.pack("<HHI", 1, 0, 0) + struct.pack("<QQQ", 7, 1000, 42)
    by_hand = body + struct.pack("<Q", xxhash.xxh3_64_intdigest(body + bytes(8)))
    header = decode_segment_header(by_hand)
    assert header == SegmentHeader(7, 1000, 42)
    assert header.seed == 7


def test_an_unknown_version_is_refused() -> None:
    body = b"drvfsjnl" + struct.pack("<HHI", 6, 0, 0) + struct.pack("<QQQ", 7, 1000, 42)
    with pytest.raises(FormatError, match="version 6"):
        decode_segment_header(body + struct.pack("<Q", xxhash.xxh3_64_intdigest(body + bytes(8))))


@given(numbers, numbers, numbers, st.integers(0, (1 << 32) - 1), st.integers(0, SEGMENT_HEADER_SIZE * 8 - 1))
def test_segment_headers_round_trip_and_no_bit_may_change(
    one: int, two: int, three: int, salt: int, bit: int
) -> None:
    header = SegmentHeader(one, two, three, salt)
    encoded = bytearray(encode_segment_header(header))
    assert decode_segment_header(encoded) == header
    assert decode_segment_header(encoded[:-1]) is None
    encoded[bit // 8] ^= 1 << bit % 8
    assert decode_segment_header(encoded) is None


def test_a_record_by_hand() -> None:
    checked = struct.pack("<IIQ", 5, 2, 99)
    checksum = xxhash.xxh3_64_intdigest(checked + b"hello", seed=7)
    by_hand = checked + struct.pack("<Q", checksum) + b"hello"
    assert record(7, 2, 99, b"he", b"llo") == by_hand
    assert decoded(7, by_hand, 0, 99) == (RecordType.DATA, b"hello")
    assert RECORD_HEADER_SIZE == 24


@given(st.binary(max_size=50), st.integers(0, 3), st.data())
def test_records_round_trip_and_no_bit_may_change(payload: bytes, offset: int, draw: st.DataObject) -> None:
    encoded = bytearray(bytes(offset) + record(3, RecordType.CUT, 8, payload))
    assert decoded(3, encoded, offset, 8) == (RecordType.CUT, payload)
    assert decode_record(4, memoryview(encoded), offset, 8) is None  # another life of the segment
    assert decode_record(3, memoryview(encoded), offset, 9) is None
    bit = draw.draw(st.integers(offset * 8, len(encoded) * 8 - 1))
    encoded[bit // 8] ^= 1 << bit % 8
    assert decode_record(3, memoryview(encoded), offset, 8) is None


def test_lengths_are_checked_against_the_limit_and_the_bytes_that_are_there() -> None:
    huge = struct.pack("<IIQQ", MAX_PAYLOAD + 1, 2, 1, 0) + b"x"
    assert decode_record(1, memoryview(huge), 0, 1) is None
    whole = record(1, 2, 1, b"payload")
    for size in range(len(whole)):
        assert decode_record(1, memoryview(whole)[:size], 0, 1) is None


def test_an_unknown_record_type_is_refused_not_taken_for_the_end() -> None:
    with pytest.raises(FormatError, match="type 99"):
        decode_record(1, memoryview(record(1, 99, 1, b"from the future")), 0, 1)


@given(numbers, st.integers(-(1 << 63), (1 << 63) - 1), st.lists(numbers), st.binary())
def test_payloads_round_trip(commit: int, time_ns: int, inodes: list[int], data: bytes) -> None:
    assert decode_cut(encode_cut(commit, time_ns, inodes)) == (commit, time_ns, inodes)
    assert decode_extents(encode_extents(commit, data)) == (commit, data)
    assert decode_published(encode_published(commit, time_ns, data, 7)) == (commit, time_ns, data, 7)
    assert decode_published(msgpack.packb([commit, time_ns, data])) == (commit, time_ns, data, 0)


def test_a_batch_by_hand() -> None:
    by_hand = b"\x92" + b"\xc4\x03one" + b"\xc4\x00"
    assert encode_batch([b"one", b""]) == by_hand
    assert decode_batch(memoryview(by_hand)) == [b"one", b""]


@given(st.lists(st.binary(max_size=20)))
def test_batches_round_trip_and_cut_ones_are_refused(operations: list[bytes]) -> None:
    encoded = encode_batch(operations)
    assert decode_batch(encoded) == operations
    for size in range(len(encoded)):
        with pytest.raises(FormatError):
            decode_batch(encoded[:size])
    with pytest.raises(FormatError):
        decode_batch(encoded + b"\0")


@pytest.mark.parametrize("packed", [b"\x05", b"\x80", b"\x91\x05", b"\x91\xa1x", b"\xdd\xff\xff\xff\xff"])
def test_what_is_no_batch_is_refused(packed: bytes) -> None:
    """A number, a table, a number or text in it, an array of four thousand million items."""
    with pytest.raises(FormatError):
        decode_batch(packed)


def test_a_large_write_by_hand() -> None:
    checksum = xxhash.xxh3_64_intdigest(b"hello", seed=3 << 32 | 17)
    by_hand = struct.pack("<QQqQIQ", 9, 4096, -5, 3 << 32 | 17, 5, checksum)
    bulk = Bulk(9, 4096, -5, 3 << 32 | 17, 5, bulk_checksum(3 << 32 | 17, b"hello"))
    assert encode_bulk(bulk) == by_hand
    assert decode_bulk(by_hand) == bulk
    assert len(by_hand) == 44


@given(numbers)
def test_given_up_round_trips(position: int) -> None:
    assert decode_given_up(encode_given_up(position)) == position


@given(numbers, numbers)
def test_a_cut_taken_back_round_trips(begin: int, end: int) -> None:
    assert decode_uncut(encode_uncut(begin, end)) == (begin, end)


@given(st.binary(max_size=60))
def test_payloads_of_another_length_are_refused(payload: bytes) -> None:
    if len(payload) != 44:
        with pytest.raises(FormatError, match="BULK"):
            decode_bulk(payload)
    if len(payload) != 8:
        with pytest.raises(FormatError, match="GIVEN_UP"):
            decode_given_up(payload)
    if len(payload) != 16:
        with pytest.raises(FormatError, match="UNCUT"):
            decode_uncut(payload)


@given(
    st.integers(0, 1 << 62),
    st.binary(min_size=32, max_size=32),
    st.lists(st.binary(max_size=50), max_size=5),
    st.dictionaries(st.integers(1, 1 << 62), st.integers(0, 1 << 62), max_size=4),
)
def test_a_rebase_is_read_back(
    base: int, base_hash: bytes, operations: list[bytes], moved: dict[int, int]
) -> None:
    rebased = Rebased(base, base_hash, tuple(operations), moved)
    assert decode_rebased(encode_rebased(rebased)) == rebased


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x90",
        msgpack.packb([1, b"", [1], []]),
        msgpack.packb([b"", b"", [], []]),
        msgpack.packb([1, b"", [], [1]]),
    ],
)
def test_what_is_no_rebase_is_refused(payload: bytes) -> None:
    with pytest.raises(FormatError):
        decode_rebased(payload)


def test_a_followed_commit_is_a_header_and_its_bytes() -> None:
    ((header, piece),) = encode_followed(7, b"commit")
    assert header + piece == struct.pack("<QII", 7, 0, 6) + b"commit"
    assert decode_followed(header + piece) == (7, 0, 6)


def test_a_followed_commit_that_is_larger_than_a_record_is_several() -> None:
    commit = bytes(range(256)) * (160 << 10)
    payloads = [header + bytes(piece) for header, piece in encode_followed(9, commit)]
    assert len(payloads) == 3
    assert all(len(payload) <= MAX_PAYLOAD for payload in payloads)
    found = b""
    for payload in payloads:
        number, offset, length = decode_followed(payload)
        assert (number, offset) == (9, len(found))
        found += payload[-length:]
    assert found == commit


@pytest.mark.parametrize("payload", [b"", bytes(16), struct.pack("<QII", 7, 5, 6) + b"ab"])
def test_what_is_no_piece_of_a_commit_is_refused(payload: bytes) -> None:
    with pytest.raises(FormatError, match="FOLLOWED"):
        decode_followed(payload)
