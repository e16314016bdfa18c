"""A commit's payload: round trip, binding, limits."""

from __future__ import annotations

import struct

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.errors import CorruptError, FormatError
from backend.system.crypto import seal
from cache.blocks.compression import compress
from cache.publish.commit_payload import MAX_OPERATIONS, open_operations, seal_operations

KEY, BINDING = b"k" * 32, b"envelope"


@given(st.lists(st.binary(max_size=100), max_size=20))
def test_round_trip(operations: list[bytes]) -> None:
    assert open_operations(KEY, seal_operations(KEY, operations, BINDING), BINDING) == operations


def test_a_payload_by_hand() -> None:
    packed = msgpack.packb([b"one", b"two"])
    payload = seal(KEY, struct.pack("<BI", 1, len(packed)) + compress(packed), BINDING)
    assert open_operations(KEY, payload, BINDING) == [b"one", b"two"]


def test_key_envelope_and_every_byte_are_bound() -> None:
    payload = seal_operations(KEY, [b"one"], BINDING)
    with pytest.raises(CorruptError):
        open_operations(b"o" * 32, payload, BINDING)
    with pytest.raises(CorruptError):
        open_operations(KEY, payload, BINDING + b"x")
    for index in range(len(payload)):
        with pytest.raises(CorruptError):
            open_operations(
                KEY, payload[:index] + bytes([payload[index] ^ 1]) + payload[index + 1 :], BINDING
            )


@pytest.mark.parametrize(("version", "length"), [(2, 10), (1, MAX_OPERATIONS + 1)])
def test_unknown_versions_and_sizes_are_refused(version: int, length: int) -> None:
    payload = seal(KEY, struct.pack("<BI", version, length) + compress(bytes(10)), BINDING)
    with pytest.raises(FormatError):
        open_operations(KEY, payload, BINDING)


def test_a_bomb_and_a_stub_are_refused() -> None:
    bomb = seal(KEY, struct.pack("<BI", 1, 100) + compress(bytes(1 << 28)), BINDING)
    with pytest.raises(CorruptError, match="states"):
        open_operations(KEY, bomb, BINDING)
    with pytest.raises(CorruptError, match="shorter"):
        open_operations(KEY, seal(KEY, b"\1", BINDING), BINDING)


@pytest.mark.parametrize(
    "packed", [b"", b"\x93\xc4\x01a", b"\x01", b"\x80", b"\x91\x05", b"\x91\xa1a", b"\xc1"]
)
def test_a_payload_that_is_no_list_of_operations_is_refused(packed: bytes) -> None:
    """Whoever has the key may seal anything."""
    payload = seal(KEY, struct.pack("<BI", 1, len(packed)) + compress(packed), BINDING)
    with pytest.raises(CorruptError):
        open_operations(KEY, payload, BINDING)
