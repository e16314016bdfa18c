"""The frame around a small replicated object: who wrote it last, and a checksum. Pure functions.

Spec: docs/format/commit.md, "Copies". The checksum binds drive and key, so that a copy that was
damaged or put in another's place is recognised by anyone, without a key. It authenticates nothing.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from backend.crypto import plain_hash
from backend.errors import CorruptError, FormatError
from backend.node import Buffer

MAGIC: Final = b"DFCOPY\0\0"
VERSION: Final = 1
_FOOTER: Final = struct.Struct("<8sHHIQQ32s")
"""magic, version, flags (0), reserved (0), length of the data, ballot, hash"""
OVERHEAD: Final = _FOOTER.size


@dataclass(frozen=True, slots=True)
class Copy:
    """A good copy: its data, and the epoch under which it was written (0: no epoch)."""

    ballot: int
    data: bytes


def frame(drive_id: bytes, key: str, copy: Copy) -> bytes:
    """The stored bytes: the data, then the footer."""
    digest = _digest(drive_id, key, copy.ballot, copy.data)
    footer = _FOOTER.pack(MAGIC, VERSION, 0, 0, len(copy.data), copy.ballot, digest)
    return copy.data + footer


def unframe(drive_id: bytes, key: str, stored: Buffer) -> Copy:
    """The copy in `stored`. `CorruptError` if it is not what was stored for `key` of this drive,
    `FormatError` if its version is unknown."""
    view = memoryview(stored)
    if len(view) < OVERHEAD:
        raise CorruptError(f"{key}: cut off")
    data = view[:-OVERHEAD]
    magic, version, flags, reserved, length, ballot, digest = _FOOTER.unpack(view[-OVERHEAD:])
    if magic != MAGIC or length != len(data):
        raise CorruptError(f"{key}: damaged, its footer is not in place")
    if version != VERSION or flags or reserved:
        raise FormatError(f"{key}: unknown version {version}")
    if digest != _digest(drive_id, key, ballot, data):
        raise CorruptError(f"{key}: damaged, or of another drive or place: its checksum does not fit")
    return Copy(ballot, bytes(data))


def _digest(drive_id: bytes, key: str, ballot: int, data: Buffer) -> bytes:
    place = struct.pack("<HQ", len(key), ballot) + drive_id + key.encode()
    return plain_hash(b"drivefs copy 1\0" + place + plain_hash(data))
