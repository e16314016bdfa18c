"""The primitives: known answers, binding of associated data, separation of purposes."""

from __future__ import annotations

import blake3
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.errors import CorruptError
from backend.system.crypto import (
    SEAL_OVERHEAD,
    argon2id,
    derive,
    keyed_hash,
    open_into,
    open_sealed,
    plain_hash,
    seal,
    seal_into,
)

KEY = bytes(range(32))


@given(st.binary(max_size=300), st.binary(max_size=50))
def test_sealed_data_opens(plaintext: bytes, associated: bytes) -> None:
    sealed = seal(KEY, plaintext, associated)
    assert len(sealed) == len(plaintext) + SEAL_OVERHEAD
    assert open_sealed(KEY, sealed, associated) == plaintext
    assert open_sealed(KEY, memoryview(bytearray(sealed)), associated) == plaintext


@given(st.binary(max_size=50), st.data())
def test_any_flipped_bit_and_any_cut_is_refused(plaintext: bytes, data: st.DataObject) -> None:
    sealed = bytearray(seal(KEY, plaintext, b"place"))
    bit = data.draw(st.integers(0, len(sealed) * 8 - 1))
    cut = data.draw(st.integers(0, len(sealed) - 1))
    with pytest.raises(CorruptError):
        open_sealed(KEY, sealed[:cut], b"place")
    sealed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(CorruptError):
        open_sealed(KEY, sealed, b"place")


def test_another_key_or_place_is_refused() -> None:
    sealed = seal(KEY, b"text", b"place")
    with pytest.raises(CorruptError):
        open_sealed(bytes(32), sealed, b"place")
    with pytest.raises(CorruptError):
        open_sealed(KEY, sealed, b"other")


PARTS = st.lists(st.tuples(st.binary(max_size=100), st.binary(max_size=20)), max_size=5)


@given(PARTS)
def test_many_parts_are_sealed_and_opened_as_one_by_one(parts: list[tuple[bytes, bytes]]) -> None:
    sealed = bytearray(sum(len(plaintext) + SEAL_OVERHEAD for plaintext, _ in parts))
    seal_into(memoryview(sealed), KEY, parts)
    end, pieces = 0, []
    for plaintext, associated in parts:
        start, end = end, end + len(plaintext) + SEAL_OVERHEAD
        assert open_sealed(KEY, sealed[start:end], associated) == plaintext
        pieces.append((memoryview(sealed)[start:end], associated))
    opened = bytearray(sum(len(plaintext) for plaintext, _ in parts))
    open_into(memoryview(opened), KEY, pieces)
    assert opened == b"".join(plaintext for plaintext, _ in parts)
    assert len({bytes(piece[:12]) for piece, _ in pieces}) == len(pieces), "a nonce repeats"


def test_of_many_parts_none_may_be_changed_swapped_or_cut() -> None:
    one, two = memoryview(seal(KEY, b"one", b"1")), memoryview(seal(KEY, b"two", b"2"))
    target = memoryview(bytearray(6))
    open_into(target, KEY, [(one, b"1"), (two, b"2")])
    assert bytes(target) == b"onetwo"
    changed = memoryview(bytes(two[:-1]) + bytes([two[-1] ^ 1]))
    for parts in ([(one, b"2"), (two, b"1")], [(two, b"1"), (one, b"2")], [(one, b"1"), (changed, b"2")]):
        with pytest.raises(CorruptError):
            open_into(target, KEY, parts)
    with pytest.raises(CorruptError):
        open_into(memoryview(bytearray(1)), KEY, [(one[:27], b"1")])


def test_nonces_do_not_repeat() -> None:
    assert len({seal(KEY, b"", b"")[:12] for _ in range(1000)}) == 1000


def test_a_sealed_message_of_the_gcm_specification_opens() -> None:
    """Test case 14 of McGrew and Viega, "The Galois/Counter Mode of Operation" (AES-256, zero key)."""
    cipher = bytes.fromhex("cea7403d4d606b6e074ec5d3baf39d18")
    tag = bytes.fromhex("d0d1c8a799996bf0265b98b5d48ab919")
    assert open_sealed(bytes(32), bytes(12) + cipher + tag, b"") == bytes(16)


def test_derived_keys_differ_by_key_purpose_and_context() -> None:
    keys = [
        derive(KEY, "a"),
        derive(KEY, "b"),
        derive(bytes(32), "a"),
        derive(KEY, "a", b"x"),
        derive(KEY, "a", b"y"),
    ]
    assert len({*keys, KEY}) == 6
    assert {len(key) for key in keys} == {32}
    assert derive(KEY, "a", b"x") == derive(KEY, "a", b"x")


def test_hashes_are_blake3() -> None:
    # The BLAKE3 paper's own vectors: the empty input.
    assert plain_hash(b"").hex().startswith("af1349b9f5f9a1a6a0404dea36dcc949")
    assert keyed_hash(KEY, b"x") == blake3.blake3(b"x", key=KEY).digest() != plain_hash(b"x")


def test_argon2id_depends_on_everything_it_is_given() -> None:
    def run(
        secret: bytes = b"s", salt: bytes = bytes(16), memory: int = 64, iterations: int = 1, lanes: int = 1
    ) -> bytes:
        return argon2id(secret, salt, memory_kib=memory, iterations=iterations, lanes=lanes)

    runs = [run(), run(b"t"), run(salt=b"x" * 16), run(memory=128), run(iterations=2), run(lanes=2)]
    assert len(set(runs)) == 6
    assert run() == runs[0]
    assert len(runs[0]) == 32
