"""Codec of a commit's payload: the operations of a commit, sealed; docs/format/commit.md has the rest.

A msgpack array of encoded operations, compressed (zstd) and sealed under the drive's commit key; the
whole envelope is bound by the tag, so that no commit can be moved, cut or joined. Pure functions.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

import msgpack

from backend.errors import CorruptError, FormatError
from backend.system import open_sealed, seal
from cache.blocks import compress, decompress_exactly

VERSION: Final = 1
_HEADER: Final = struct.Struct("<BI")
"""version, length before compression"""
MAX_OPERATIONS: Final = 256 << 20
"""Limit of a payload before compression; a cut is made long before."""


def seal_operations(key: bytes, operations: Sequence[bytes], associated_data: bytes) -> bytes:
    """The payload of encoded operations."""
    packed: bytes = msgpack.packb(list(operations))
    compressed = compress(packed)
    return seal(key, _HEADER.pack(VERSION, len(packed)) + compressed, associated_data)


def open_operations(key: bytes, payload: bytes, associated_data: bytes) -> list[bytes]:
    """The operations that `seal_operations` was given. `CorruptError` if payload or envelope were changed."""
    data = open_sealed(key, payload, associated_data)
    if len(data) < _HEADER.size:
        raise CorruptError("a commit's payload is shorter than its header")
    version, length = _HEADER.unpack_from(data)
    if version != VERSION or length > MAX_OPERATIONS:
        raise FormatError(f"commit payload version {version}, {length} bytes: unknown or over the limit")
    packed = decompress_exactly(data[_HEADER.size :], length)
    try:
        operations = msgpack.unpackb(packed, max_array_len=length, max_bin_len=length)
    except (ValueError, msgpack.UnpackException) as error:
        raise CorruptError(f"a commit's payload does not decode: {error}") from None
    if type(operations) is not list or any(type(each) is not bytes for each in operations):
        raise CorruptError("a commit's payload is no list of operations")
    return operations
