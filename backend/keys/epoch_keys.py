"""The keys of one key epoch: a random epoch key, and a sub-key for each thing that it seals.

The drive key wraps each epoch key, and each seals the one before it, so that who was given the newest can
read the past. Layout: docs/format/key_epoch.md. Pure functions, but for random bytes.
"""

from __future__ import annotations

import os
import struct
from typing import Final

from backend.system import KEY_SIZE, derive, open_sealed, seal

FIRST_EPOCH: Final = 1
_WRAPPED: Final = b"drivefs key epoch 1\0"
_BEFORE: Final = b"drivefs key epoch before 1\0"
_NUMBER: Final = struct.Struct("<I")


class EpochKeys:
    """The 32-byte sub-keys of an epoch. Immutable; never shows a key in its repr. Thread-safe."""

    __slots__ = ("block", "commit", "number", "root")

    number: Final[int]
    block: Final[bytes]
    """Seals blocks (by a key derived per block)."""
    commit: Final[bytes]
    """Seals the payload of commits."""
    root: Final[bytes]
    """Seals roots: the small named objects."""

    def __init__(self, number: int, epoch_key: bytes, drive_id: bytes) -> None:
        self.number = number
        self.block = derive(epoch_key, "epoch block", drive_id)
        self.commit = derive(epoch_key, "epoch commit", drive_id)
        self.root = derive(epoch_key, "epoch root", drive_id)

    def __repr__(self) -> str:
        return f"EpochKeys({self.number}, hidden)"

    def __reduce__(self) -> str:
        raise TypeError("keys are not pickled")


def new_epoch_key() -> bytes:
    """A fresh random epoch key."""
    return os.urandom(KEY_SIZE)


def wrap(wrapping_key: bytes, drive_id: bytes, number: int, epoch_key: bytes) -> bytes:
    """The key of epoch `number` of the drive, sealed under the drive's sub-key "epoch"."""
    return seal(wrapping_key, epoch_key, _WRAPPED + drive_id + _NUMBER.pack(number))


def unwrap(wrapping_key: bytes, drive_id: bytes, number: int, wrapped: bytes) -> bytes:
    """The epoch key. `CorruptError`: it is of another drive or number, or nobody who has the drive's key made
    it."""
    return open_sealed(wrapping_key, wrapped, _WRAPPED + drive_id + _NUMBER.pack(number))


def seal_before(epoch_key: bytes, drive_id: bytes, number: int, before: bytes) -> bytes:
    """The key of the epoch before `number`, sealed under that of `number`."""
    return seal(
        derive(epoch_key, "epoch before", drive_id), before, _BEFORE + drive_id + _NUMBER.pack(number)
    )


def open_before(epoch_key: bytes, drive_id: bytes, number: int, sealed: bytes) -> bytes:
    """The key that `seal_before` was given. `CorruptError` as of `unwrap`."""
    key = derive(epoch_key, "epoch before", drive_id)
    return open_sealed(key, sealed, _BEFORE + drive_id + _NUMBER.pack(number))
