"""The authority section of a commit: what begins with it that its readers must know before its payload opens.

Spec: docs/format/key_epoch.md. Little endian. Pure functions; who reads a section needs no key.
"""

from __future__ import annotations

import struct
from typing import Final

from backend.errors import CorruptError, FormatError
from backend.upstream import KeyEpoch

VERSION: Final = 1
NEW_EPOCH: Final = 1
SEALED_KEY_SIZE: Final = 60
"""Bytes of a key that is sealed under another: nonce (12), ciphertext (32), tag (16)."""
MAX_EPOCH: Final = 8192
"""Epochs of a drive: a root names all of them (docs/format/snapshot.md)."""
_HEADER: Final = struct.Struct("<HHI")
"""version, kind, number of the epoch"""


def encode_authority(epoch: KeyEpoch | None) -> bytes:
    """The section of a commit with which `epoch` begins; empty if none does."""
    if epoch is None:
        return b""
    return _HEADER.pack(VERSION, NEW_EPOCH, epoch.number) + epoch.wrapped + epoch.before


def decode_authority(section: bytes) -> KeyEpoch | None:
    """The epoch that begins with the commit, if one does. `FormatError` for an unknown version or kind, or a
    number over the limit, `CorruptError` for anything else that an encoder does not write."""
    if not section:
        return None
    if len(section) < _HEADER.size:
        raise CorruptError("an authority section is shorter than its header")
    version, kind, number = _HEADER.unpack_from(section)
    if version != VERSION or kind != NEW_EPOCH or not 0 < number <= MAX_EPOCH:
        raise FormatError(f"authority section version {version}, kind {kind}, epoch {number} is unknown")
    wrapped, before = section[_HEADER.size :][:SEALED_KEY_SIZE], section[_HEADER.size + SEALED_KEY_SIZE :]
    if len(wrapped) != SEALED_KEY_SIZE or len(before) != (SEALED_KEY_SIZE if number > 1 else 0):
        raise CorruptError(f"an authority section of {len(section)} bytes begins no key epoch")
    return KeyEpoch(number, wrapped, before)
