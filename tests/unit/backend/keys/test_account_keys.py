"""The keys of an account: one stretching gives two that tell nothing of each other, and what the root seals
is for one drive or device only."""

from __future__ import annotations

import os
import pickle
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.errors import CorruptError, FormatError, UsageError, WrongKeyError
from backend.keys import (
    AccountKeys,
    Argon2Cost,
    HubDrive,
    Secret,
    Stretching,
    login_keys,
    new_account_root,
    new_recovery_key,
    new_stretching,
)
from backend.keys.account_keys import CEILING, MAX_SEALED
from backend.keys.key_slots import FLOOR

ROOT = bytes(range(32))
KEYS = AccountKeys(ROOT)
UUID = b"0123456789abcdef"
STRETCHING = Stretching(b"s" * 32)
NAMES = st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters="/"), min_size=1, max_size=60)


def test_a_passphrase_opens_the_root_and_shows_the_hub_something_else() -> None:
    keys = login_keys(Secret.passphrase("correct horse"), STRETCHING)
    root = new_account_root()
    wrapped = keys.wrap(root)
    assert login_keys(Secret.passphrase("correct horse"), STRETCHING).unwrap(wrapped) == root
    other = login_keys(Secret.passphrase("battery staple"), STRETCHING)
    assert other.auth_key != keys.auth_key
    with pytest.raises(WrongKeyError):
        other.unwrap(wrapped)
    assert root not in wrapped
    assert keys.auth_key.hex() not in repr(keys)


def test_a_recovery_key_opens_it_too_and_no_key_file_does() -> None:
    recovery = new_recovery_key()
    keys = login_keys(Secret.recovery(recovery), STRETCHING)
    assert login_keys(Secret.recovery(recovery.lower()), STRETCHING).unwrap(keys.wrap(ROOT)) == ROOT
    with pytest.raises(UsageError):
        login_keys(Secret.key_file(os.urandom(32)), STRETCHING)


def test_salt_and_kind_give_other_keys() -> None:
    recovery = Secret.recovery(new_recovery_key())
    keys = [login_keys(recovery, new_stretching()) for _ in range(2)]
    assert keys[0].auth_key != keys[1].auth_key
    with pytest.raises(WrongKeyError):
        keys[1].unwrap(keys[0].wrap(ROOT))


@pytest.mark.parametrize(
    "cost",
    [
        replace(FLOOR, memory_kib=FLOOR.memory_kib - 1),
        replace(FLOOR, iterations=2),
        replace(CEILING, memory_kib=CEILING.memory_kib + 1),
        Argon2Cost(4 << 20, 64, 64),
    ],
)
def test_no_hub_makes_a_guess_cheap_or_a_login_dear(cost: Argon2Cost) -> None:
    """Refused before anything is stretched."""
    for secret in (Secret.passphrase("x"), Secret.recovery(new_recovery_key())):
        with pytest.raises(FormatError):
            login_keys(secret, Stretching(b"s" * 32, cost))
    with pytest.raises(FormatError):
        login_keys(Secret.passphrase("x"), Stretching(b"short"))


@given(name=NAMES, key=st.binary(min_size=32, max_size=32))
def test_a_drive_is_opened_as_it_was_sealed(name: str, key: bytes) -> None:
    sealed = KEYS.seal_drive(UUID, HubDrive(name, key))
    assert len(sealed) <= MAX_SEALED
    assert KEYS.open_drive(UUID, sealed) == HubDrive(name, key)
    assert name.encode() not in sealed or len(name.encode()) < 3
    assert key not in sealed
    assert KEYS.open_device(7, KEYS.seal_device(7, name)) == name


def test_names_of_like_lengths_are_sealed_in_one_size() -> None:
    sizes = {len(KEYS.seal_device(1, "n" * length)) for length in range(1, 60)}
    assert len(sizes) == 1


def test_what_is_sealed_is_for_one_drive_one_device_and_one_purpose() -> None:
    drive, device = KEYS.seal_drive(UUID, HubDrive("name", bytes(32))), KEYS.seal_device(1, "name")
    for open_it in (
        lambda: KEYS.open_drive(b"x" * 16, drive),
        lambda: KEYS.open_drive(UUID, device),
        lambda: KEYS.open_device(2, device),
        lambda: AccountKeys(bytes(32)).open_drive(UUID, drive),
        lambda: KEYS.open_drive(UUID, b""),
    ):
        with pytest.raises(CorruptError):
            open_it()
    with pytest.raises(FormatError):
        KEYS.open_drive(UUID, bytes(MAX_SEALED + 1))


@given(position=st.integers(0), bit=st.integers(0, 7))
def test_no_bit_can_be_changed(position: int, bit: int) -> None:
    changed = bytearray(KEYS.seal_drive(UUID, HubDrive("photos", bytes(32))))
    changed[position % len(changed)] ^= 1 << bit
    with pytest.raises(CorruptError):
        KEYS.open_drive(UUID, bytes(changed))


@pytest.mark.parametrize(
    "name", ["", " ", "a/b", "a\nb", "a\0", " a", "a ", "x" * 256, "é" * 128, "\x1b[1m", "\udcff"]
)
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(UsageError):
        KEYS.seal_device(1, name)
    with pytest.raises(UsageError):
        KEYS.seal_drive(UUID, HubDrive(name, bytes(32)))


def test_keys_are_not_shown_or_pickled() -> None:
    assert repr(KEYS) == "AccountKeys(hidden)"
    assert "key" not in repr(HubDrive("name", b"key" * 10))
    with pytest.raises(TypeError):
        pickle.dumps(KEYS)
