"""Keys of a drive: different by purpose, drive and key; the same every time; never shown."""

from __future__ import annotations

import pickle

import pytest

from backend.keys.keys import DriveKeys, new_drive_key

KEY = bytes(range(32))
DRIVE = bytes(16)


def values(keys: DriveKeys) -> list[bytes]:
    return [getattr(keys, name) for name in DriveKeys.__slots__]


def test_each_purpose_has_a_key_of_its_own() -> None:
    found = values(DriveKeys(KEY, DRIVE))
    assert len(set(found)) == len(DriveKeys.__slots__)
    assert {len(key) for key in found} == {32}
    assert KEY not in found


def test_keys_are_the_same_every_time() -> None:
    assert values(DriveKeys(KEY, DRIVE)) == values(DriveKeys(KEY, DRIVE))
    # Kept: a change here would make every drive unreadable.
    assert DriveKeys(KEY, DRIVE).block_id.hex()[:16] == "4115d7ff09cfbe08"


@pytest.mark.parametrize(("key", "drive"), [(bytes(32), DRIVE), (KEY, bytes(15) + b"\1")])
def test_another_key_or_drive_shares_nothing(key: bytes, drive: bytes) -> None:
    assert not set(values(DriveKeys(KEY, DRIVE))) & set(values(DriveKeys(key, drive)))


@pytest.mark.parametrize(("key", "drive"), [(b"short", DRIVE), (KEY, b"short")])
def test_wrong_sizes_are_refused(key: bytes, drive: bytes) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        DriveKeys(key, drive)


def test_keys_are_not_shown_or_pickled() -> None:
    keys = DriveKeys(KEY, DRIVE)
    assert repr(keys) == "DriveKeys(hidden)"
    with pytest.raises(TypeError):
        pickle.dumps(keys)


def test_drive_keys_are_random() -> None:
    assert len({new_drive_key() for _ in range(10)}) == 10
