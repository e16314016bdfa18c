"""backend.packs.fragment_format against bytes made by hand, round trips, and everything that can be wrong."""

from __future__ import annotations

import struct

import blake3
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.coding.erasure import COPIES, REED_SOLOMON, Profile
from backend.errors import CorruptError, FormatError
from backend.packs.fragment_format import (
    FOOTER_SIZE,
    MAX_PAYLOAD,
    FragmentFooter,
    decode_footer,
    encode_footer,
    fragment_key,
    parse_fragment,
    parse_fragment_key,
)

DRIVE, PACK = bytes(range(16)), bytes(range(16, 32))
SECRET = bytes(range(32))
FOOTER = FragmentFooter(DRIVE, PACK, 5, Profile(REED_SOLOMON, 4, 2), 3, 12)


def by_hand(
    payload: bytes = b"abc",
    *,
    magic: bytes = b"DFFR",
    version: int = 2,
    kind: int = 1,
    k: int = 4,
    m: int = 2,
    index: int = 5,
    size: int = 3,
    pack_size: int = 12,
) -> bytes:
    fields = magic + struct.pack("<HBBBB", version, kind, k, m, index) + b"\0\0" + DRIVE + PACK
    fields += struct.pack("<II", size, pack_size)
    return payload + fields + blake3.blake3(payload + fields, key=SECRET).digest()


def test_bytes_made_by_hand_are_what_is_written_and_read() -> None:
    data = by_hand()
    assert FOOTER_SIZE == 84
    assert b"abc" + encode_footer(b"abc", FOOTER, SECRET) == data
    footer, payload = parse_fragment(data, SECRET)
    assert (footer, bytes(payload)) == (FOOTER, b"abc")


PROFILES = st.one_of(
    st.builds(Profile, st.just(REED_SOLOMON), st.integers(2, 20), st.integers(1, 12)),
    st.builds(Profile, st.just(COPIES), st.just(1), st.integers(0, 31)),
)
IDS = st.binary(min_size=16, max_size=16)


@given(PROFILES, IDS, IDS, st.binary(max_size=300), st.data())
def test_round_trip(profile: Profile, drive: bytes, pack: bytes, payload: bytes, draw: st.DataObject) -> None:
    index = draw.draw(st.integers(0, profile.total - 1))
    pack_size = draw.draw(st.integers(0, len(payload) * profile.k))
    footer = FragmentFooter(drive, pack, index, profile, len(payload), pack_size)
    found, content = parse_fragment(payload + encode_footer(payload, footer, SECRET), SECRET)
    assert (found, bytes(content)) == (footer, payload)


@given(st.integers(0, 86), st.integers(1, 255))
def test_no_changed_byte_goes_unnoticed(position: int, mask: int) -> None:
    data = bytearray(by_hand())
    data[position] ^= mask
    with pytest.raises((CorruptError, FormatError)):
        parse_fragment(bytes(data), SECRET)


@given(st.integers(0, 86))
def test_no_truncation_goes_unnoticed(length: int) -> None:
    with pytest.raises((CorruptError, FormatError)):
        parse_fragment(by_hand()[:length], SECRET)


@pytest.mark.parametrize("tail", [b"\0", b"abc", bytes(84)])
def test_no_extension_goes_unnoticed(tail: bytes) -> None:
    with pytest.raises((CorruptError, FormatError)):
        parse_fragment(by_hand() + tail, SECRET)
    with pytest.raises(CorruptError, match="payload of"):
        parse_fragment(tail + by_hand(), SECRET)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"magic": b"DFPK"}, "magic"),
        ({"version": 1}, "format 1 is unknown"),
        ({"version": 0}, "unknown"),
        ({"kind": 3}, "kind 3"),
        ({"k": 31}, r"31\+2"),
        ({"index": 6}, "index 6"),
        ({"kind": 2}, r"4\+2"),
        ({"size": MAX_PAYLOAD + 1}, "out of bounds"),
        ({"pack_size": 13}, "out of bounds"),
    ],
)
def test_the_unknown_is_refused_by_name(changed: dict[str, int], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        parse_fragment(by_hand(**changed), SECRET)  # type: ignore[arg-type]


def test_a_wrong_checksum_is_said_to_be_one() -> None:
    data = by_hand()
    with pytest.raises(CorruptError, match="checksum mismatch"):
        parse_fragment(b"abd" + data[3:], SECRET)


def test_what_is_made_without_the_key_is_no_fragment() -> None:
    """All is right but the key: a node knows everything else."""
    data = by_hand()
    with pytest.raises(CorruptError, match="checksum mismatch"):
        parse_fragment(data[:-32] + blake3.blake3(data[:-32]).digest(), SECRET)
    with pytest.raises(CorruptError, match="checksum mismatch"):
        parse_fragment(data, bytes(32))


def test_a_footer_alone_is_checked_for_its_length() -> None:
    assert decode_footer(by_hand()[3:]) == FOOTER
    with pytest.raises(CorruptError, match="84 bytes, not 83"):
        decode_footer(by_hand()[4:])


def test_a_payload_must_be_the_footers() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        encode_footer(b"ab", FOOTER, SECRET)


@given(IDS, st.integers(0, 31))
def test_keys_round_trip(pack: bytes, index: int) -> None:
    assert parse_fragment_key(fragment_key(pack, index)) == (pack, index)


def test_a_key_made_by_hand() -> None:
    assert fragment_key(PACK, 3) == "packs/10/101112131415161718191a1b1c1d1e1f.3"


@pytest.mark.parametrize(
    "key",
    [
        "",
        "lease",
        "packs/11/101112131415161718191a1b1c1d1e1f.3",
        "packs/10/101112131415161718191a1b1c1d1e1f",
        "packs/10/101112131415161718191a1b1c1d1e1f.03",
        "packs/10/101112131415161718191a1b1c1d1e1f.x",
        "packs/10/101112131415161718191a1b1c1d1e.3",
        "packs/zz/zz1112131415161718191a1b1c1d1e1f.3",
        "roots/10/101112131415161718191a1b1c1d1e1f.3",
        "packs/10/101112131415161718191a1b1c1d1e1f.3.tmp",
    ],
)
def test_other_keys_are_not_fragments(key: str) -> None:
    assert parse_fragment_key(key) is None
