"""Key slots: every kind opens, nothing else does, and no slot can be altered, moved or weakened."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.errors import FormatError, UsageError, WrongKeyError
from backend.keys.key_slots import CEILING, FLOOR, Argon2Cost, Secret, Slot, create_slot, open_slots
from backend.keys.recovery_key import ALPHABET, new_recovery_key, parse_recovery_key, print_recovery_key

KEY = bytes(range(32))
DRIVE = b"0123456789abcdef"
FILE = Secret.key_file(bytes(range(100)))


def test_a_passphrase_opens_its_slot_and_another_does_not() -> None:
    slot = create_slot(Secret.passphrase("correct horse"), KEY, DRIVE)
    assert slot.cost is not None
    assert slot.cost.memory_kib >= 64 * 1024
    assert open_slots([slot], Secret.passphrase("correct horse"), DRIVE) == KEY
    with pytest.raises(WrongKeyError, match=r"^wrong passphrase"):
        open_slots([slot], Secret.passphrase("battery staple"), DRIVE)


def test_the_right_slot_is_found_among_several() -> None:
    recovery = Secret.recovery(new_recovery_key())
    other = create_slot(Secret.key_file(bytes(32)), bytes(32), DRIVE)
    slots = [other, create_slot(FILE, KEY, DRIVE), create_slot(recovery, KEY, DRIVE)]
    assert open_slots(slots, FILE, DRIVE) == KEY
    assert open_slots(slots, recovery, DRIVE) == KEY
    with pytest.raises(WrongKeyError, match="no key slot of kind passphrase"):
        open_slots(slots, Secret.passphrase("x"), DRIVE)


@pytest.mark.parametrize("field", ["salt", "wrapped"])
@given(position=st.integers(0, 31), bit=st.integers(0, 7))
def test_no_bit_of_a_slot_can_be_changed(field: str, position: int, bit: int) -> None:
    slot = create_slot(FILE, KEY, DRIVE)
    changed = bytearray(getattr(slot, field))
    changed[position] ^= 1 << bit
    with pytest.raises(WrongKeyError):
        open_slots(
            [
                replace(slot, salt=bytes(changed))
                if field == "salt"
                else replace(slot, wrapped=bytes(changed))
            ],
            FILE,
            DRIVE,
        )


def test_a_slot_is_bound_to_its_drive_and_kind() -> None:
    slot = create_slot(FILE, KEY, DRIVE)
    with pytest.raises(WrongKeyError):
        open_slots([slot], FILE, bytes(16))
    recovery = Secret.recovery(new_recovery_key())
    moved = replace(create_slot(recovery, KEY, DRIVE), kind="key-file")
    with pytest.raises(WrongKeyError):
        open_slots([moved], FILE, DRIVE)


@pytest.mark.parametrize(
    "cost",
    [
        replace(FLOOR, memory_kib=FLOOR.memory_kib - 1),
        replace(FLOOR, iterations=FLOOR.iterations - 1),
        replace(FLOOR, lanes=0),
        replace(CEILING, memory_kib=CEILING.memory_kib + 1),
        replace(CEILING, iterations=CEILING.iterations + 1),
        replace(CEILING, lanes=CEILING.lanes + 1),
    ],
)
def test_a_cost_below_the_floor_or_above_the_ceiling_is_refused_before_work(cost: Argon2Cost) -> None:
    with pytest.raises(ValueError, match="not between"):
        create_slot(Secret.passphrase("x"), KEY, DRIVE, cost)
    with pytest.raises(FormatError, match="floor"):
        open_slots([Slot("passphrase", bytes(32), bytes(60), cost)], Secret.passphrase("x"), DRIVE)


def test_a_passphrase_slot_without_argon2_is_refused() -> None:
    with pytest.raises(FormatError, match="cost"):
        open_slots([Slot("passphrase", bytes(32), bytes(60))], Secret.passphrase("x"), DRIVE)


def test_two_slots_of_one_secret_share_nothing() -> None:
    one, two = create_slot(FILE, KEY, DRIVE), create_slot(FILE, KEY, DRIVE)
    assert one.salt != two.salt
    assert one.wrapped[12:] != two.wrapped[12:]


@pytest.mark.parametrize("content", [b"", bytes(31), bytes(64 * 1024 + 1)])
def test_a_key_file_of_the_wrong_size_is_refused(content: bytes) -> None:
    with pytest.raises(UsageError, match="32 to 65536"):
        Secret.key_file(content)


@pytest.mark.parametrize("text", ["", "x" * 4097])
def test_a_passphrase_of_the_wrong_length_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="passphrase is"):
        Secret.passphrase(text)


def test_two_ways_to_type_an_accent_are_one_passphrase() -> None:
    composed, decomposed = Secret.passphrase("caf\u00e9"), Secret.passphrase("cafe\u0301")
    assert composed.wrapping_key(bytes(32), None) == decomposed.wrapping_key(bytes(32), None)


def test_secrets_are_not_shown_or_pickled() -> None:
    secret = Secret.passphrase("correct horse")
    assert "horse" not in repr(secret)
    with pytest.raises(TypeError):
        pickle.dumps(secret)


@given(st.binary(min_size=25, max_size=25))
def test_a_recovery_key_round_trips_however_it_is_typed(secret: bytes) -> None:
    printed = print_recovery_key(secret)
    assert parse_recovery_key(printed) == secret
    careless = printed.removeprefix("DRIVEFS-").lower().replace("-", "  ").replace("0", "o").replace("1", "l")
    assert parse_recovery_key(careless) == secret


@given(st.binary(min_size=25, max_size=25), st.integers(0, 44), st.sampled_from(ALPHABET))
def test_a_mistyped_digit_is_seen(secret: bytes, position: int, digit: str) -> None:
    digits = print_recovery_key(secret).removeprefix("DRIVEFS-").replace("-", "")
    changed = digits[:position] + digit + digits[position + 1 :]
    if changed == digits:
        return
    with pytest.raises(UsageError, match="mistyped"):
        parse_recovery_key(changed)


@pytest.mark.parametrize("text", ["", "DRIVEFS-12345", "U" * 45])
def test_what_is_no_recovery_key_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_recovery_key(text)
    assert not text or text not in str(caught.value)


def test_new_recovery_keys_look_as_promised() -> None:
    key = new_recovery_key()
    assert key.startswith("DRIVEFS-")
    assert [len(group) for group in key.split("-")[1:]] == [5] * 9
    assert new_recovery_key() != key
