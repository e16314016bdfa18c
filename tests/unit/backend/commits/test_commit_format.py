"""The binary form of commits: hand-made bytes, round trips, and refusal of everything else."""

from __future__ import annotations

import struct
from dataclasses import replace

import blake3
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from backend.commits import commit_format
from backend.errors import CorruptError, FormatError
from backend.system import verifying_key
from backend.upstream import BlockId, Commit

ids = st.lists(st.binary(min_size=32, max_size=32).map(BlockId), max_size=5).map(tuple)
number = st.integers(0, 2**64 - 1)
commits = st.builds(
    Commit,
    number,
    st.binary(min_size=32, max_size=32),
    st.integers(0, 2**32 - 1),
    number,
    number,
    ids,
    ids,
    st.binary(max_size=200),
    number,
    st.integers(0, 2**32 - 1),
    st.binary(max_size=50),
    st.binary(min_size=64, max_size=64),
)
ADDED, DROPPED = BlockId(b"a" * 32), BlockId(b"d" * 32)
SEQUENCE, KEY_EPOCH = 5, 6
COMMIT = Commit(
    *(7, b"p" * 32, 3, 2, 1_700_000_000_000_000_000, (ADDED,), (DROPPED,), b"payload"),
    *(SEQUENCE, KEY_EPOCH, b"authority", b"s" * 64),
)
BYTES = (
    b"DFCOMMIT\x03\x00\x00\x00\x03\x00\x00\x00"
    + b"\x07\0\0\0\0\0\0\0"
    + b"p" * 32
    + b"\x02\0\0\0\0\0\0\0"
    + struct.pack("<Q", 1_700_000_000_000_000_000)
    + b"\x05\0\0\0\0\0\0\0"
    + b"\x06\0\0\0"
    + b"\x09\0\0\0"
    + b"\x01\0\0\0\x01\0\0\0"
    + b"a" * 32
    + b"d" * 32
    + b"authority"
    + b"\x07\0\0\0payload"
    + b"s" * 64
)


def test_the_bytes_are_as_specified() -> None:
    assert commit_format.encode(COMMIT) == BYTES
    assert commit_format.decode(BYTES) == COMMIT
    assert commit_format.commit_hash(COMMIT) == blake3.blake3(BYTES).digest()
    bound = b"drivefs commit payload 3\0" + bytes(16) + BYTES[: -len(b"\x07\0\0\0payload") - 64]
    assert associated_data(COMMIT) == bound


@given(commits)
def test_round_trip(commit: Commit) -> None:
    data = commit_format.encode(commit)
    assert commit_format.decode(data) == commit
    assert commit_format.decode(memoryview(bytearray(data))) == commit


@given(commits, st.data())
def test_any_other_length_is_refused(commit: Commit, data: st.DataObject) -> None:
    encoded = commit_format.encode(commit)
    cut = data.draw(st.integers(0, len(encoded) - 1))
    for wrong in (encoded[:cut], encoded + b"\0"):
        with pytest.raises(CorruptError):
            commit_format.decode(wrong)


@given(st.integers(0, len(BYTES) * 8 - 1))
def test_a_flipped_bit_is_refused_or_changes_the_hash(bit: int) -> None:
    changed = bytearray(BYTES)
    changed[bit // 8] ^= 1 << bit % 8
    try:
        commit = commit_format.decode(changed)
    except (CorruptError, FormatError):
        return
    assert commit != COMMIT
    assert commit_format.encode(commit) == changed


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (0, b"X", "magic"),
        (8, b"\x01", "version 1, of a drive made before commits were signed"),
        (8, b"\x02", "version 2, of a drive made before there were key epochs"),
        (8, b"\x04", "unknown version 4"),
        (10, b"\x01", "flags 1"),
        (84, b"\xff\xff\xff\xff", "authority section of 4294967295"),
        (88, b"\xff\xff\xff\xff", "4294967295 block references"),
        (92, b"\xff\xff\xff\xff", "4294967295 block references"),
        (96 + 64 + 9, b"\xff\xff\xff\xff", "payload says 4294967295 bytes"),
    ],
)
def test_unknown_versions_and_sizes_over_the_limit_are_refused(
    offset: int, value: bytes, message: str
) -> None:
    with pytest.raises(FormatError, match=message):
        commit_format.decode(BYTES[:offset] + value + BYTES[offset + len(value) :])


def test_an_encoder_keeps_the_limits_too() -> None:
    with pytest.raises(FormatError, match="payload"):
        commit_format.encode(replace(COMMIT, payload=bytes(commit_format.MAX_PAYLOAD + 1)))
    with pytest.raises(FormatError, match="block references"):
        commit_format.encode(replace(COMMIT, added=(ADDED,) * (commit_format.MAX_BLOCKS + 1)))
    with pytest.raises(FormatError, match="authority"):
        commit_format.encode(replace(COMMIT, authority=bytes(commit_format.MAX_AUTHORITY + 1)))
    with pytest.raises(ValueError, match="64 bytes"):
        commit_format.encode(replace(COMMIT, signature=b"short"))
    with pytest.raises(ValueError, match="32 bytes"):
        commit_format.encode(replace(COMMIT, previous=b"short"))


def associated_data(commit: Commit, drive: bytes = bytes(16)) -> bytes:
    return commit_format.payload_associated_data(drive, commit)


def bare(commit: Commit) -> Commit:
    return replace(commit, payload=b"", signature=bytes(64))


@given(commits, commits)
def test_the_associated_data_binds_the_whole_envelope_and_not_the_payload(one: Commit, two: Commit) -> None:
    same_envelope = bare(one) == bare(two)
    assert (associated_data(one) == associated_data(two)) == same_envelope
    assert associated_data(replace(one, payload=b"other")) == associated_data(one)
    assert associated_data(one, b"x" * 16) != associated_data(one)


def test_a_reference_cannot_pass_from_added_to_dropped() -> None:
    moved = replace(COMMIT, added=(ADDED, DROPPED), dropped=())
    assert associated_data(moved) != associated_data(COMMIT)


KEY, DRIVE = b"k" * 32, b"d" * 16


@given(commits)
def test_a_signature_is_of_the_whole_commit_of_one_drive_by_one_key(commit: Commit) -> None:
    made = commit_format.signed(DRIVE, commit, KEY)
    assert replace(made, signature=commit.signature) == commit
    assert commit_format.is_signed_by(DRIVE, made, verifying_key(KEY))
    assert not commit_format.is_signed_by(DRIVE, made, verifying_key(b"l" * 32))
    assert not commit_format.is_signed_by(b"e" * 16, made, verifying_key(KEY))
    assert not commit_format.is_signed_by(DRIVE, made, bytes(32))
    assert commit_format.commit_hash(made) != commit_format.commit_hash(replace(made, signature=bytes(64)))


@given(st.integers(0, len(BYTES) * 8 - 1))
def test_no_bit_of_a_signed_commit_can_be_changed(bit: int) -> None:
    changed = bytearray(commit_format.encode(commit_format.signed(DRIVE, COMMIT, KEY)))
    changed[bit // 8] ^= 1 << bit % 8
    try:
        commit = commit_format.decode(changed)
    except (CorruptError, FormatError):
        return
    assert not commit_format.is_signed_by(DRIVE, commit, verifying_key(KEY))


def test_the_signature_is_the_one_of_the_page() -> None:
    made = commit_format.signed(DRIVE, COMMIT, KEY)
    message = b"drivefs commit 3\0" + DRIVE + blake3.blake3(BYTES[:-64]).digest()
    key = Ed25519PrivateKey.from_private_bytes(KEY)
    key.public_key().verify(made.signature, message)
    assert verifying_key(KEY) == key.public_key().public_bytes_raw()
