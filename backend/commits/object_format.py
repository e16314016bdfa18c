"""The frame around a small replicated object: the ballot of its last writer, a keyed tag, a checksum. Pure.

Spec: docs/format/commit.md, "Copies". The checksum binds drive and key, so that a copy that was damaged or
put in another's place is recognised by anyone. The tag is keyed and binds the same: only a copy whose tag
fits was written by somebody who has the drive's key, and under that ballot.
"""

from __future__ import annotations

import hmac
import struct
from dataclasses import dataclass
from typing import Final

from backend.buffer import Buffer
from backend.errors import CorruptError, FormatError
from backend.system import keyed_hash, plain_hash

MAGIC: Final = b"DFCOPY\0\0"
VERSION: Final = 2
TAG_SIZE: Final = 32
_FOOTER: Final = struct.Struct("<8sHHIQQ32s")
"""magic, version, flags (0), reserved (0), length of the data, ballot, hash"""
OVERHEAD: Final = TAG_SIZE + _FOOTER.size


@dataclass(frozen=True, slots=True)
class Copy:
    """A whole copy: its data, the epoch under which it was written (0: no epoch), its tag (zeros: none)."""

    ballot: int
    data: bytes
    tag: bytes = bytes(TAG_SIZE)


def signed(secret: bytes, drive_id: bytes, key: str, ballot: int, data: bytes) -> Copy:
    """The copy with its tag. `secret` is the drive's key for objects, 32 bytes."""
    return Copy(ballot, data, _tag(secret, drive_id, key, ballot, data))


def is_signed(secret: bytes, drive_id: bytes, key: str, copy: Copy) -> bool:
    """Whether the tag fits: who has the key wrote this data for `key`, under this ballot."""
    return hmac.compare_digest(copy.tag, _tag(secret, drive_id, key, copy.ballot, copy.data))


def frame(drive_id: bytes, key: str, copy: Copy) -> bytes:
    """The stored bytes: the data, the tag, then the footer."""
    digest = _digest(drive_id, key, copy)
    footer = _FOOTER.pack(MAGIC, VERSION, 0, 0, len(copy.data), copy.ballot, digest)
    return b"".join((copy.data, copy.tag, footer))


def unframe(drive_id: bytes, key: str, stored: Buffer) -> Copy:
    """The copy in `stored`, its tag not looked at. `CorruptError` if it is not what was stored for `key` of
    this drive, `FormatError` if its version is unknown."""
    view = memoryview(stored)
    if len(view) < _FOOTER.size:
        raise CorruptError(f"{key}: cut off")
    magic, version, flags, reserved, length, ballot, digest = _FOOTER.unpack(view[-_FOOTER.size :])
    if magic != MAGIC:
        raise CorruptError(f"{key}: damaged, its footer is not in place")
    if version != VERSION or flags or reserved:
        raise FormatError(f"{key}: version {version} of another drivefs; this one knows only {VERSION}")
    if length != len(view) - OVERHEAD:
        raise CorruptError(f"{key}: damaged, its length is not what its footer says")
    copy = Copy(ballot, bytes(view[:length]), bytes(view[length : length + TAG_SIZE]))
    if digest != _digest(drive_id, key, copy):
        raise CorruptError(f"{key}: damaged, or of another drive or place: its checksum does not fit")
    return copy


def _place(purpose: bytes, drive_id: bytes, key: str, ballot: int, data: bytes) -> bytes:
    """A digest of a copy."""
    return purpose + struct.pack("<HQ", len(key), ballot) + drive_id + key.encode() + plain_hash(data)


def _tag(secret: bytes, drive_id: bytes, key: str, ballot: int, data: bytes) -> bytes:
    return keyed_hash(secret, _place(b"drivefs copy tag 2\0", drive_id, key, ballot, data))


def _digest(drive_id: bytes, key: str, copy: Copy) -> bytes:
    return plain_hash(_place(b"drivefs copy 2\0", drive_id, key, copy.ballot, copy.data) + copy.tag)
