"""The authority section of a commit: its bytes, and what is none."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.commits.authority_format import MAX_EPOCH, decode_authority, encode_authority
from backend.errors import CorruptError, FormatError
from backend.upstream import KeyEpoch

FIRST = KeyEpoch(1, b"w" * 60, b"")
LATER = KeyEpoch(258, b"w" * 60, b"b" * 60)


def test_the_bytes_are_as_specified() -> None:
    assert encode_authority(None) == b""
    assert encode_authority(FIRST) == b"\1\0\1\0\1\0\0\0" + b"w" * 60
    assert encode_authority(LATER) == b"\1\0\1\0\2\1\0\0" + b"w" * 60 + b"b" * 60


@given(st.integers(2, MAX_EPOCH), st.binary(min_size=60, max_size=60), st.binary(min_size=60, max_size=60))
def test_round_trip(number: int, wrapped: bytes, before: bytes) -> None:
    for epoch in (None, FIRST, KeyEpoch(number, wrapped, before)):
        assert decode_authority(encode_authority(epoch)) == epoch


@pytest.mark.parametrize(
    ("offset", "value"), [(0, 0), (0, 2), (2, 0), (2, 2), (4, 0), (4, MAX_EPOCH + 1), (4, 2**16 - 1)]
)
def test_an_unknown_version_kind_or_number_is_refused(offset: int, value: int) -> None:
    section = bytearray(encode_authority(LATER))
    section[offset : offset + 2] = struct.pack("<H", value)
    if offset == 4:
        section[6:8] = b"\0\0"
    with pytest.raises(FormatError):
        decode_authority(bytes(section))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_section_or_refused(data: bytes) -> None:
    for section in (data, b"\1\0\1\0" + data, encode_authority(FIRST) + data, encode_authority(LATER) + data):
        try:
            epoch = decode_authority(section)
        except (CorruptError, FormatError):
            continue
        assert encode_authority(epoch) == section


def test_any_other_length_is_refused() -> None:
    for epoch in (FIRST, LATER):
        section = encode_authority(epoch)
        for size in range(1, len(section)):
            with pytest.raises(CorruptError):
                decode_authority(section[:size])
        with pytest.raises(CorruptError):
            decode_authority(section + b"\0")
