"""Operations: the small immutable records that are the only way a namespace changes.

They name inodes and raw names, never positions, and say what they meant to replace
(`SetExtents.replaces`, `Unlink.inode`, `Rename.replaced`), so that they can be applied again on
a base that others have changed. Encoding: docs/format/operation.md (a msgpack array whose first
item is the kind). Times are nanoseconds since 1970, from `OLDEST_TIME` to `NEWEST_TIME`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any, Final

import msgpack

from backend.errors import FormatError

ROOT_INODE: Final = 1
DEVICE_SHIFT: Final = 40
"""An inode number is device << 40 | counter; 1 is the root; bit 63 marks past entries, bit 62 is for a
door that puts more than the inode into a handle. Doors give the numbers of the device after the last."""
MAX_DEVICE: Final = (1 << 22) - 2
MAX_INODE: Final = ((MAX_DEVICE + 1) << DEVICE_SHIFT) - 1
DOOR_INODES: Final = MAX_INODE + 1

MAX_NAME: Final = 255
DEVICE_KEY_SIZE: Final = 32
"""Bytes of an Ed25519 public key."""
MAX_SYMLINK: Final = 4095
MAX_SIZE: Final = (1 << 63) - 1
OLDEST_TIME: Final = -(1 << 31) * 10**9
NEWEST_TIME: Final = ((1 << 34) - (1 << 31) - 1) * 10**9
"""1901-12-13T20:45:52Z to 2446-05-10T22:38:55Z, what ext4 keeps too."""


@dataclass(frozen=True, slots=True)
class Create:
    """A new inode of any type with its first name. `target` is a symbolic link's, else empty."""

    parent: int
    name: bytes
    inode: int
    mode: int
    uid: int
    gid: int
    rdev: int
    target: bytes
    time_ns: int


@dataclass(frozen=True, slots=True)
class Link:
    """One more name for an inode that is no directory."""

    inode: int
    parent: int
    name: bytes
    time_ns: int


@dataclass(frozen=True, slots=True)
class Unlink:
    """Take the name away (of an empty directory too). The inode stays, with one link less, until
    `Delete`: somebody may have it open."""

    parent: int
    name: bytes
    inode: int
    time_ns: int


@dataclass(frozen=True, slots=True)
class Rename:
    """Move a name. `replaced` is the inode whose name this takes (0: none); with `exchange` the two
    names swap their inodes instead."""

    parent: int
    name: bytes
    new_parent: int
    new_name: bytes
    inode: int
    replaced: int
    exchange: bool
    time_ns: int


@dataclass(frozen=True, slots=True)
class SetAttributes:
    """Set the attributes that are not None. A change of `atime_ns` alone makes no new version.
    `size` here only states the size: what the bytes are is said by the `SetExtents` of the same
    commit (bytes that no extent covers are zero)."""

    inode: int
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
    ctime_ns: int | None = None


@dataclass(frozen=True, slots=True)
class SetExtents:
    """New content for the byte ranges `cleared` ((start, end), sorted, disjoint): first nothing is
    there, then `extents` ((offset, length, block id, offset in block), sorted, disjoint, inside the
    cleared ranges). `replaces` is the commit of the content that this was made on (0: none)."""

    inode: int
    replaces: int
    cleared: tuple[tuple[int, int], ...]
    extents: tuple[tuple[int, int, bytes, int], ...]


@dataclass(frozen=True, slots=True)
class SetXattr:
    inode: int
    name: bytes
    value: bytes
    time_ns: int


@dataclass(frozen=True, slots=True)
class RemoveXattr:
    inode: int
    name: bytes
    time_ns: int


@dataclass(frozen=True, slots=True)
class Delete:
    """The end of an inode that has no name and that nobody has open: its row, extents, xattrs go."""

    inode: int


@dataclass(frozen=True, slots=True)
class Pin:
    """The whole drive as of `commit`, which is published and retained, stays under a new name."""

    name: bytes
    commit: int


@dataclass(frozen=True, slots=True)
class Unpin:
    """The pin goes; what it alone retained goes with the next `Forget`."""

    name: bytes


@dataclass(frozen=True, slots=True)
class SetRetention:
    """The drive's policy from here on: seconds for which all points, and the last of each hour, day,
    week and month, are retained (`cache.retention.retention`)."""

    keep_all: int
    hourly: int
    daily: int
    weekly: int
    monthly: int


@dataclass(frozen=True, slots=True)
class Forget:
    """The commits strictly between `low` and `high` of each of `gaps` (sorted, disjoint) are no retained
    points any more, and past rows that were true only there go. It takes effect when the commit that holds
    it is recorded. All of them were published before, so nothing that can be undone needs those rows."""

    gaps: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Release:
    """No row names these blocks any more: the envelope of the commit lists them as dropped."""

    blocks: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class SetWriter:
    """The commits from this one on are made by `device`, which its owner calls `host`."""

    device: int
    host: bytes


@dataclass(frozen=True, slots=True)
class AddDevice:
    """A device that may make commits from the next one on: its number, its Ed25519 public key, and what its
    owner calls its host."""

    device: int
    key: bytes
    host: bytes


@dataclass(frozen=True, slots=True)
class RevokeDevice:
    """`device` may make no commit after this one. Its number and its key are never given again."""

    device: int


@dataclass(frozen=True, slots=True)
class NewEpoch:
    """The commit begins key epoch `number`, and is sealed under it. `wrapped`: its key, sealed under the
    drive's; `before`: that of the epoch before, sealed under its own; of the first: empty."""

    number: int
    wrapped: bytes
    before: bytes


@dataclass(frozen=True, slots=True)
class RenameLeavingWhiteout:
    """A `Rename` without exchange that gives the old name, in the same moment, to the new inode `whiteout`: a
    character device 0/0 without permissions, by which union file systems know that a name is gone."""

    parent: int
    name: bytes
    new_parent: int
    new_name: bytes
    inode: int
    replaced: int
    whiteout: int
    uid: int
    gid: int
    time_ns: int


Operation = (
    Create
    | Link
    | Unlink
    | Rename
    | SetAttributes
    | SetExtents
    | SetXattr
    | RemoveXattr
    | Delete
    | Pin
    | Unpin
    | SetRetention
    | Forget
    | Release
    | SetWriter
    | RenameLeavingWhiteout
    | AddDevice
    | RevokeDevice
    | NewEpoch
)

KINDS: Final[dict[int, type[Any]]] = {
    1: Create,
    2: Link,
    3: Unlink,
    4: Rename,
    5: SetAttributes,
    6: SetExtents,
    7: SetXattr,
    8: RemoveXattr,
    9: Delete,
    10: Pin,
    11: Unpin,
    12: SetRetention,
    13: Forget,
    14: Release,
    15: SetWriter,
    16: RenameLeavingWhiteout,
    17: AddDevice,
    18: RevokeDevice,
    22: NewEpoch,
}
"""By the numbers of docs/format/operation.md."""

RESERVED: Final = {19: "Adopt", 20: "Attach", 21: "Grant"}
"""Kinds whose numbers and names are given, and whose fields are not."""


def _allowed(annotation: object) -> tuple[type, ...]:
    """The types that a field may hold, by its annotation."""
    text = str(annotation)
    if text.startswith("tuple"):
        return (tuple,)
    return {"int": (int,), "bytes": (bytes,), "bool": (bool,), "int | None": (int, type(None))}[text]


def _values_of(kind: type[Operation]) -> Callable[[Operation], tuple[object, ...]]:
    """The function that gives an operation's fields, in their order."""
    names = [field.name for field in fields(kind)]
    get = attrgetter(*names)
    return get if len(names) > 1 else lambda operation: (get(operation),)


_NUMBERS: Final = {kind: number for number, kind in KINDS.items()}
_VALUES: Final = {kind: _values_of(kind) for kind in _NUMBERS}
_TYPES: Final = {kind: tuple(_allowed(f.type) for f in fields(kind)) for kind in _NUMBERS}
_pack = msgpack.Packer(use_bin_type=True).pack
_RELEASE: Final = bytes(_pack([_NUMBERS[Release], ()]))[:2]
_NEW_EPOCH: Final = bytes(_pack([_NUMBERS[NewEpoch], 0, b"", b""]))[:2]


def _fits(item: object, allowed: tuple[type, ...]) -> bool:
    return type(item) in allowed


def encode(operation: Operation) -> bytes:
    """The operation as bytes."""
    kind = type(operation)
    return bytes(_pack((_NUMBERS[kind], *_VALUES[kind](operation))))


def is_release(encoded: bytes) -> bool:
    """Whether the encoded operation is a `Release`, without decoding it."""
    return encoded[:2] == _RELEASE


def is_new_epoch(encoded: bytes) -> bool:
    """Whether the encoded operation is a `NewEpoch`, without decoding it."""
    return encoded[:2] == _NEW_EPOCH


def decode(data: bytes | memoryview) -> Operation:
    """The operation that `encode` made. `FormatError` for anything else."""
    try:
        items = msgpack.unpackb(data, use_list=False, raw=False)
        if items[0] in RESERVED:
            raise ValueError(f"{RESERVED[items[0]]} is reserved for shared folders, which this drivefs lacks")
        kind = KINDS[items[0]]
        types = _TYPES[kind]
        if len(items) != len(types) + 1 or not all(map(_fits, items[1:], types)):
            raise ValueError("wrong fields")
    except (ValueError, KeyError, TypeError, IndexError, msgpack.UnpackException) as error:
        raise FormatError(f"not an operation: {error}") from None
    operation: Operation = kind(*items[1:])
    return operation
