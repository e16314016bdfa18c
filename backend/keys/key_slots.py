"""Key slots: the drive key, wrapped once for each secret that may open the drive.

A slot is AES-256-GCM of the drive key under a key made from one secret. The associated data binds
purpose, drive id, slot kind, salt and cost, so a slot cannot be moved to another drive, be taken for
another kind or have its cost changed. The cost must be read before it can be authenticated, hence the
reader's own FLOOR (no downgrade) and CEILING (no denial of service). Layout: docs/format/drive_file.md.

A passphrase goes through Argon2id (RFC 9106, section 4, second recommended option). A key file and a
recovery key are random and long: BLAKE3 key derivation is enough for them, guessing is hopeless.
Functions here block (Argon2id for a tenth of a second or more): call them in a thread.
"""

from __future__ import annotations

import os
import struct
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from backend.errors import CorruptError, FormatError, UsageError, WrongKeyError
from backend.keys.recovery_key import parse_recovery_key
from backend.system import KEY_SIZE, SEAL_OVERHEAD, argon2id, derive, open_sealed, plain_hash, seal

SlotKind = Literal["passphrase", "key-file", "recovery"]
KINDS: Final[tuple[SlotKind, ...]] = ("passphrase", "key-file", "recovery")
SALT_SIZE: Final = 32
WRAPPED_SIZE: Final = KEY_SIZE + SEAL_OVERHEAD
KEY_FILE_MIN: Final = 32
KEY_FILE_MAX: Final = 64 * 1024
PASSPHRASE_MAX: Final = 4096


@dataclass(frozen=True, slots=True)
class Argon2Cost:
    """The cost of one guess."""

    memory_kib: int
    iterations: int
    lanes: int

    def within(self, floor: Argon2Cost, ceiling: Argon2Cost) -> bool:
        """Is each number between the two?"""
        mine = (self.memory_kib, self.iterations, self.lanes)
        low = (floor.memory_kib, floor.iterations, floor.lanes)
        high = (ceiling.memory_kib, ceiling.iterations, ceiling.lanes)
        return all(a <= b <= c for a, b, c in zip(low, mine, high, strict=True))


DEFAULT_COST: Final = Argon2Cost(memory_kib=64 * 1024, iterations=3, lanes=4)
FLOOR: Final = Argon2Cost(memory_kib=64 * 1024, iterations=3, lanes=1)
CEILING: Final = Argon2Cost(memory_kib=4 * 1024 * 1024, iterations=64, lanes=64)


@dataclass(frozen=True, slots=True)
class Slot:
    """A wrapped drive key. Not secret; `cost` only for a passphrase."""

    kind: SlotKind
    salt: bytes
    wrapped: bytes
    cost: Argon2Cost | None = None


class Secret:
    """A person's means to open a drive. Hidden in reprs, not picklable."""

    __slots__ = ("_data", "kind")

    def __init__(self, kind: SlotKind, data: bytes) -> None:
        """Use the three constructors below."""
        self.kind: Final = kind
        self._data: Final = data

    @classmethod
    def passphrase(cls, text: str) -> Secret:
        """A passphrase; Unicode NFC, so that two keyboards give the same bytes. `UsageError` if it
        is empty or longer than 4096 bytes."""
        data = unicodedata.normalize("NFC", text).encode("utf-8", "surrogateescape")
        if not 0 < len(data) <= PASSPHRASE_MAX:
            raise UsageError("the passphrase is empty" if not data else "the passphrase is over 4096 bytes")
        return cls("passphrase", data)

    @classmethod
    def key_file(cls, content: bytes) -> Secret:
        """The bytes of a key file, which must be random: it is hashed without Argon2id. `UsageError`
        unless it has 32 bytes to 64 KiB."""
        if not KEY_FILE_MIN <= len(content) <= KEY_FILE_MAX:
            raise UsageError(f"a key file has 32 to 65536 bytes of random data, this one has {len(content)}")
        return cls("key-file", plain_hash(content))

    @classmethod
    def recovery(cls, text: str) -> Secret:
        """A printed recovery key as typed; `UsageError` if it was mistyped."""
        return cls("recovery", parse_recovery_key(text))

    def wrapping_key(self, salt: bytes, cost: Argon2Cost | None) -> bytes:
        """The key that wraps the drive key. Blocks if this is a passphrase."""
        return derive(self.stretched(salt, cost), f"key slot {self.kind}", salt)

    def stretched(self, salt: bytes, cost: Argon2Cost | None) -> bytes:
        """The bytes that keys are derived from, each for its purpose. Blocks if there is a `cost`, which is
        for a passphrase only."""
        if cost is None:
            return self._data
        return argon2id(
            self._data, salt, memory_kib=cost.memory_kib, iterations=cost.iterations, lanes=cost.lanes
        )

    def __repr__(self) -> str:
        return f"Secret({self.kind}, hidden)"

    def __reduce__(self) -> str:
        raise TypeError("secrets are not pickled")


def create_slot(secret: Secret, drive_key: bytes, drive_id: bytes, cost: Argon2Cost = DEFAULT_COST) -> Slot:
    """Wrap `drive_key` for `secret`. `cost` matters for a passphrase only; a cost that no reader
    would accept is a `ValueError`."""
    used = cost if secret.kind == "passphrase" else None
    if used is not None and not used.within(FLOOR, CEILING):
        raise ValueError(f"{used} is not between {FLOOR} and {CEILING}")
    salt = os.urandom(SALT_SIZE)
    key = secret.wrapping_key(salt, used)
    wrapped = seal(key, drive_key, _associated_data(secret.kind, salt, used, drive_id))
    return Slot(secret.kind, salt, wrapped, used)


def check_slot(slot: Slot) -> None:
    """`FormatError` if a reader must refuse `slot` before it spends work on it."""
    if slot.kind not in KINDS:
        raise FormatError(f"unknown key slot kind {slot.kind!r}")
    if len(slot.salt) != SALT_SIZE or len(slot.wrapped) != WRAPPED_SIZE:
        raise FormatError(f"the {slot.kind} key slot has a salt or key of the wrong length")
    if (slot.kind == "passphrase") != (slot.cost is not None):
        raise FormatError(f"the {slot.kind} key slot has an Argon2id cost missing or too many")
    if slot.cost is not None and not slot.cost.within(FLOOR, CEILING):
        raise FormatError("the passphrase key slot's Argon2id cost is below the floor or above the ceiling")


def open_slots(slots: Iterable[Slot], secret: Secret, drive_id: bytes) -> bytes:
    """The drive key from the first slot of the secret's kind that it opens. `WrongKeyError` if none
    does, `FormatError` if a slot of that kind is refused (below the floor: a downgrade)."""
    fitting = [slot for slot in slots if slot.kind == secret.kind]
    if not fitting:
        raise WrongKeyError(f"the drive has no key slot of kind {secret.kind}")
    for slot in fitting:
        check_slot(slot)
        key = secret.wrapping_key(slot.salt, slot.cost)
        try:
            return open_sealed(key, slot.wrapped, _associated_data(slot.kind, slot.salt, slot.cost, drive_id))
        except CorruptError:
            continue
    raise WrongKeyError(f"wrong {secret.kind.replace('-', ' ')}: it opens no key slot of the drive")


def _associated_data(kind: SlotKind, salt: bytes, cost: Argon2Cost | None, drive_id: bytes) -> bytes:
    shown = cost or Argon2Cost(0, 0, 0)
    numbers = struct.pack("<III", shown.memory_kib, shown.iterations, shown.lanes)
    return b"drivefs key slot 1\0" + kind.encode().ljust(16, b"\0") + drive_id + salt + numbers
