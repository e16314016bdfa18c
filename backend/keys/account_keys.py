"""The keys of an account at a hub: those by which a person logs in, and what the account root seals.

The account root is 32 random bytes that no hub ever sees. A passphrase, and a recovery key, give two keys
each: one that is shown to the hub, and one that wraps the root. Whoever has the one cannot know the other.
The root seals what the hub keeps for the account and may not read: name and key of each drive, the names of
devices. What is sealed is bound to the drive or the device that it is said of, so that a hub cannot
interchange two.

A hub names salt and cost before anything can be authenticated, hence the floor (no downgrade), and a ceiling
that a laptop can bear. Spec: docs/format/account.md. `login_keys` blocks for a tenth of a second or more.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, field
from typing import Any, Final

import msgpack

from backend.errors import CorruptError, FormatError, UsageError, WrongKeyError
from backend.keys.key_slots import DEFAULT_COST, FLOOR, SALT_SIZE, Argon2Cost, Secret, SlotKind
from backend.system import KEY_SIZE, derive, open_sealed, seal

VERSION: Final = 1
CEILING: Final = Argon2Cost(memory_kib=1024 * 1024, iterations=16, lanes=16)
MAX_SEALED: Final = 4096
MAX_NAME: Final = 255
_PADDING: Final = 64
_DRIVE_ID: Final = struct.Struct("<16s")
_DEVICE: Final = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class Stretching:
    """How a passphrase becomes keys. Not secret."""

    salt: bytes
    cost: Argon2Cost = DEFAULT_COST

    def check(self) -> None:
        """`FormatError` if no client may work by it."""
        if len(self.salt) != SALT_SIZE:
            raise FormatError(f"the hub names a salt of {len(self.salt)} bytes, and not of {SALT_SIZE}")
        if not self.cost.within(FLOOR, CEILING):
            raise FormatError("the hub names an Argon2id cost below the floor or above the ceiling")


@dataclass(frozen=True, slots=True)
class LoginKeys:
    """`auth_key` (32 bytes) is shown to the hub. The other never leaves the device."""

    auth_key: bytes = field(repr=False)
    _wrap_key: bytes = field(repr=False)
    _associated: bytes = field(repr=False)

    def wrap(self, root: bytes) -> bytes:
        """The account root, sealed."""
        return seal(self._wrap_key, root, self._associated)

    def unwrap(self, wrapped: bytes) -> bytes:
        """The account root. `WrongKeyError`: it is not what these keys have wrapped."""
        try:
            root = open_sealed(self._wrap_key, wrapped, self._associated)
        except CorruptError:
            root = b""
        if len(root) != KEY_SIZE:
            raise WrongKeyError("the account root that the hub gave is not what this secret has wrapped")
        return root


def new_account_root() -> bytes:
    """A fresh random account root."""
    return os.urandom(KEY_SIZE)


def new_stretching() -> Stretching:
    """A fresh salt, and the cost of today."""
    return Stretching(os.urandom(SALT_SIZE))


def login_keys(secret: Secret, stretching: Stretching) -> LoginKeys:
    """The keys of a passphrase or a recovery key. `FormatError`: the cost is refused; `UsageError`: it is of
    another kind. Blocks."""
    if secret.kind == "key-file":
        raise UsageError("an account opens by a passphrase or its recovery key, and by no key file")
    stretching.check()
    salt = stretching.salt
    stretched = secret.stretched(salt, stretching.cost if secret.kind == "passphrase" else None)
    return LoginKeys(
        derive(stretched, f"account {secret.kind} auth", salt),
        derive(stretched, f"account {secret.kind} wrap", salt),
        _associated_with(secret.kind, stretching),
    )


def _associated_with(kind: SlotKind, stretching: Stretching) -> bytes:
    cost = stretching.cost
    numbers = struct.pack("<III", cost.memory_kib, cost.iterations, cost.lanes)
    return b"drivefs account root 1\0" + kind.encode().ljust(16, b"\0") + stretching.salt + numbers


@dataclass(frozen=True, slots=True)
class HubDrive:
    """A drive at a hub, as its account knows it: `name` is for people, `key` is the drive key (32 bytes)."""

    name: str
    key: bytes = field(repr=False)


def check_name(name: str) -> str:
    """The name of a drive or a device. `UsageError`: it is none: it stands in addresses and on terminals."""
    size = len(name.encode("utf-8", "surrogateescape"))
    if not 0 < size <= MAX_NAME or not name.isprintable() or "/" in name or name.strip() != name:
        raise UsageError(
            f"a name has 1 to {MAX_NAME} bytes, all printable, no slash, and no space at an end: {name!r}"
        )
    return name


class AccountKeys:
    """What the account root seals and opens. Immutable, thread-safe; never shows a key in its repr."""

    __slots__ = ("_device", "_drive")

    def __init__(self, root: bytes) -> None:
        """`ValueError`: a root has 32 bytes."""
        if len(root) != KEY_SIZE:
            raise ValueError("an account root has 32 bytes")
        self._drive = derive(root, "account drive")
        self._device = derive(root, "account device")

    def seal_drive(self, uuid: bytes, drive: HubDrive) -> bytes:
        """For the hub: at most `MAX_SEALED` bytes. `UsageError`: the name is none."""
        record = [VERSION, drive.key, check_name(drive.name)]
        return _seal(self._drive, record, b"drivefs account drive 1\0" + _DRIVE_ID.pack(uuid))

    def open_drive(self, uuid: bytes, sealed: bytes) -> HubDrive:
        """`CorruptError`: the hub gave what this account has not sealed for that drive; `FormatError`: it is
        of another version."""
        key, name = _open(self._drive, sealed, b"drivefs account drive 1\0" + _DRIVE_ID.pack(uuid), 2)
        if not isinstance(key, bytes) or len(key) != KEY_SIZE:
            raise FormatError("what a drive is sealed as has no key")
        return HubDrive(_name(name), key)

    def seal_device(self, number: int, name: str) -> bytes:
        """The name of the hub's device of that number, as `seal_drive`."""
        record = [VERSION, check_name(name)]
        return _seal(self._device, record, b"drivefs account device 1\0" + _DEVICE.pack(number))

    def open_device(self, number: int, sealed: bytes) -> str:
        """The name. Errors as of `open_drive`."""
        (name,) = _open(self._device, sealed, b"drivefs account device 1\0" + _DEVICE.pack(number), 1)
        return _name(name)

    def __repr__(self) -> str:
        return "AccountKeys(hidden)"

    def __reduce__(self) -> str:
        raise TypeError("keys are not pickled")


def _seal(key: bytes, record: list[Any], associated: bytes) -> bytes:
    """Padded, so that the size tells little of a name. The name comes last, and has no NUL."""
    packed: bytes = msgpack.packb(record, use_bin_type=True)
    return seal(key, packed + bytes(-len(packed) % _PADDING), associated)


def _open(key: bytes, sealed: bytes, associated: bytes, count: int) -> list[Any]:
    if len(sealed) > MAX_SEALED:
        raise FormatError(f"the hub gave a name of over {MAX_SEALED} bytes")
    try:
        packed = open_sealed(key, sealed, associated)
    except CorruptError:
        raise CorruptError("the hub gave a name that this account has not sealed for this") from None
    try:
        version, *found = msgpack.unpackb(packed.rstrip(b"\0"))
    except (ValueError, TypeError, msgpack.UnpackException):
        raise FormatError("a name at the hub is malformed") from None
    if version != VERSION or len(found) != count:
        raise FormatError(f"a name at the hub is of version {version!r}; this drivefs knows {VERSION}")
    fields: list[Any] = found
    return fields


def _name(said: object) -> str:
    try:
        return check_name(str(said))
    except UsageError as error:
        raise FormatError(str(error)) from None
