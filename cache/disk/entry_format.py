"""Codec of one file of the disk cache (docs/format/cached_block.md): bytes of one sealed block.

The checksum finds what a disk, a power cut or a full file system did to a file. It proves nothing about who
wrote the file: the bytes are sealed, and the block codec authenticates them. Pure functions.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import blake3

from backend.buffer import Buffer
from backend.errors import CorruptError, FormatError
from backend.upstream import BLOCK_ID_SIZE, BlockId

MAGIC: Final = b"DFCB"
VERSION: Final = 1
MAX_BLOCK_BYTES: Final = 8 << 20
"""No sealed block is larger: a reader refuses it before it allocates."""

_FIELDS: Final = struct.Struct("<4sHxxIII32s")
_CHECKSUM_SIZE: Final = 16
HEADER_SIZE: Final = _FIELDS.size + _CHECKSUM_SIZE


@dataclass(frozen=True, slots=True)
class Piece:
    """The bytes [offset, offset+length) of the sealed block, which has `size` bytes."""

    block: BlockId
    offset: int
    length: int
    size: int

    @property
    def is_whole(self) -> bool:
        """Whether it is all of the block."""
        return self.length == self.size


def encode(piece: Piece, data: Buffer) -> Sequence[Buffer]:
    """The file's parts, to be written one after the other. `ValueError` if the sizes do not agree."""
    if len(data) != piece.length or piece.offset + piece.length > piece.size or piece.size > MAX_BLOCK_BYTES:
        raise ValueError(f"{len(data)} bytes are not what {piece} says")
    fields = _FIELDS.pack(MAGIC, VERSION, piece.offset, piece.length, piece.size, piece.block)
    return fields, _checksum(fields, data), data


def decode_header(header: Buffer, file_size: int) -> Piece:
    """The piece that a file of `file_size` bytes holds, by its first HEADER_SIZE bytes. `FormatError` for
    another magic, version, or size over the limit; `CorruptError` if the file has another size."""
    if len(header) != HEADER_SIZE:
        raise CorruptError(f"truncated: {len(header)} bytes are less than a header")
    magic, version, offset, length, size, block = _FIELDS.unpack_from(header)
    if magic != MAGIC or version != VERSION:
        raise FormatError(f"magic {magic!r}, version {version} is not known here (known: {VERSION})")
    if size > MAX_BLOCK_BYTES or offset + length > size:
        raise FormatError(f"sizes out of bounds: {offset}+{length} of {size}")
    if file_size != HEADER_SIZE + length:
        raise CorruptError(f"{file_size} bytes where {HEADER_SIZE + length} belong")
    return Piece(BlockId(block), offset, length, size)


def require_checksum(header: Buffer, data: Buffer) -> None:
    """`CorruptError` unless `data` is what was written behind `header`."""
    if _checksum(memoryview(header)[: _FIELDS.size], data) != bytes(header[_FIELDS.size :]):
        raise CorruptError("checksum mismatch")


def _checksum(fields: Buffer, data: Buffer) -> bytes:
    return blake3.blake3(fields).update(data).digest(length=_CHECKSUM_SIZE)


def file_name(block: BlockId, offset: int | None = None, length: int = 0) -> str:
    """The name of the file with the whole block, or with a part of it as a reader asks for it. The first
    character names the folder."""
    name = block.hex()
    return name if offset is None else f"{name}.{offset}.{length}"


def is_entry(name: str) -> bool:
    """Whether `file_name` makes such names."""
    block, *part = name.split(".")
    return (
        len(block) == 2 * BLOCK_ID_SIZE
        and set(block) <= set("0123456789abcdef")
        and len(part) in (0, 2)
        and all(number.isascii() and number.isdigit() for number in part)
    )
