"""Codec of a pack: header, blocks, encrypted index, padding, trailer (docs/format/pack.md).

Blocks are opaque bytes that were sealed before they came here. The index (block id, offset, length) is
sealed with a key of its own per pack, so that a node sees no block boundaries; its associated data is
the pack's header, which binds drive, pack and version. Pure functions.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from backend.buffer import Buffer
from backend.errors import CorruptError, FormatError
from backend.system import crypto
from backend.upstream import BLOCK_ID_SIZE, BlockId, SealedBlock

MAGIC: Final = b"DFPK"
TRAILER_MAGIC: Final = b"DFPT"
VERSION: Final = 1
MAX_BLOCK_SIZE: Final = 4 * 1024 * 1024 + 8192
"""A sealed block is at most 4 MiB of plaintext and this much around it."""
MAX_BLOCKS: Final = 16384
MAX_CONTENT: Final = 16 * 1024 * 1024
"""The most that the blocks of one pack take together."""
MAX_PACK_SIZE: Final = 17 * 1024 * 1024
"""MAX_CONTENT with header, the largest index, padding and trailer; refused beyond."""
PADDING: Final = 512
"""Packs are padded to a multiple of this: 256 bytes on average, whatever the pack's size."""

_HEADER: Final = struct.Struct("<4sH2x16s16s")
_ENTRY: Final = struct.Struct(f"<{BLOCK_ID_SIZE}sII")
_TRAILER: Final = struct.Struct("<IIH2x4s")
HEADER_SIZE: Final = _HEADER.size
ENTRY_SIZE: Final = _ENTRY.size
TRAILER_SIZE: Final = _TRAILER.size


@dataclass(frozen=True, slots=True)
class PackEntry:
    """Where in its pack a block lies."""

    block: BlockId
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class PackTrailer:
    """Where in its pack the sealed index lies."""

    index_offset: int
    index_length: int


def encode_pack(
    drive_id: bytes, pack_id: bytes, pack_key: bytes, blocks: Sequence[SealedBlock]
) -> tuple[bytes, list[PackEntry]]:
    """A pack of `blocks` (one to MAX_BLOCKS, together at most MAX_CONTENT) and its index. Not
    deterministic (the index has a random nonce): one pack id must be encoded only once."""
    _check_blocks(blocks)
    entries = _lay_out(blocks)
    header = _header(drive_id, pack_id)
    index = crypto.seal(_index_key(pack_key, pack_id), _encode_entries(entries), header)
    index_offset = entries[-1].offset + entries[-1].length
    end = index_offset + len(index) + TRAILER_SIZE
    trailer = _TRAILER.pack(index_offset, len(index), VERSION, TRAILER_MAGIC)
    contents = (block.data for block in blocks)
    return b"".join((header, *contents, index, bytes(-end % PADDING), trailer)), entries


def encoded_size(content: int, count: int) -> int:
    """Bytes of a pack of `count` blocks that have `content` bytes together."""
    index = crypto.SEAL_OVERHEAD + count * ENTRY_SIZE
    size = HEADER_SIZE + content + index + TRAILER_SIZE
    return size + -size % PADDING


def decode_header(data: Buffer) -> tuple[bytes, bytes]:
    """(drive id, pack id) of a pack's first HEADER_SIZE bytes."""
    if len(data) < HEADER_SIZE:
        raise CorruptError(f"a pack's header has {HEADER_SIZE} bytes, not {len(data)}")
    magic, version, pack_id, drive_id = _HEADER.unpack_from(data)
    if magic != MAGIC:
        raise FormatError("no pack: its magic is missing")
    if version != VERSION:
        raise FormatError(f"pack format {version} is unknown here (known: {VERSION})")
    return drive_id, pack_id


def decode_trailer(data: Buffer, pack_size: int) -> PackTrailer:
    """The trailer from a pack's last TRAILER_SIZE bytes; every number is within the pack."""
    if len(data) != TRAILER_SIZE:
        raise CorruptError(f"a pack's trailer has {TRAILER_SIZE} bytes, not {len(data)}")
    offset, length, version, magic = _TRAILER.unpack(data)
    if magic != TRAILER_MAGIC:
        raise FormatError("no pack: its trailer's magic is missing")
    if version != VERSION:
        raise FormatError(f"pack format {version} is unknown here (known: {VERSION})")
    if pack_size > MAX_PACK_SIZE or offset < HEADER_SIZE or offset + length + TRAILER_SIZE > pack_size:
        raise FormatError(f"index at {offset}, {length} long, is not within a pack of {pack_size} bytes")
    return PackTrailer(offset, length)


def decode_index(
    drive_id: bytes, pack_id: bytes, pack_key: bytes, trailer: PackTrailer, sealed: Buffer
) -> list[PackEntry]:
    """The index from its sealed bytes. `CorruptError` unless it is the one of this drive and pack."""
    count, rest = divmod(trailer.index_length - crypto.SEAL_OVERHEAD, ENTRY_SIZE)
    if len(sealed) != trailer.index_length or rest or not 1 <= count <= MAX_BLOCKS:
        raise FormatError(f"a pack's index cannot have {trailer.index_length} bytes")
    plain = crypto.open_sealed(_index_key(pack_key, pack_id), sealed, _header(drive_id, pack_id))
    entries = [PackEntry(*fields) for fields in _ENTRY.iter_unpack(plain)]
    for entry in entries:
        _check_entry(entry, trailer)
    return entries


def decode_pack_index(drive_id: bytes, pack_id: bytes, pack_key: bytes, pack: bytes) -> list[PackEntry]:
    """The index of a whole pack that is at hand, its header checked too."""
    if decode_header(pack) != (drive_id, pack_id):
        raise CorruptError("the pack's header names another drive or pack")
    trailer = decode_trailer(pack[-TRAILER_SIZE:], len(pack))
    start = trailer.index_offset
    return decode_index(drive_id, pack_id, pack_key, trailer, pack[start : start + trailer.index_length])


def _header(drive_id: bytes, pack_id: bytes) -> bytes:
    return _HEADER.pack(MAGIC, VERSION, pack_id, drive_id)


def _index_key(pack_key: bytes, pack_id: bytes) -> bytes:
    return crypto.derive(pack_key, "pack index", pack_id)


def _encode_entries(entries: Sequence[PackEntry]) -> bytes:
    return b"".join(_ENTRY.pack(entry.block, entry.offset, entry.length) for entry in entries)


def _lay_out(blocks: Sequence[SealedBlock]) -> list[PackEntry]:
    entries, offset = [], HEADER_SIZE
    for block in blocks:
        entries.append(PackEntry(block.id, offset, len(block.data)))
        offset += len(block.data)
    return entries


def _check_blocks(blocks: Sequence[SealedBlock]) -> None:
    if not 1 <= len(blocks) <= MAX_BLOCKS:
        raise ValueError(f"a pack has 1 to {MAX_BLOCKS} blocks, not {len(blocks)}")
    if sum(len(block.data) for block in blocks) > MAX_CONTENT:
        raise ValueError(f"the blocks of a pack have at most {MAX_CONTENT} bytes together")
    for block in blocks:
        check_block(block)


def check_block(block: SealedBlock) -> None:
    """`ValueError` unless id and length are as the format wants them."""
    if len(block.id) != BLOCK_ID_SIZE or not 0 < len(block.data) <= MAX_BLOCK_SIZE:
        raise ValueError(f"a block has an id of {BLOCK_ID_SIZE} bytes and 1 to {MAX_BLOCK_SIZE} bytes")


def _check_entry(entry: PackEntry, trailer: PackTrailer) -> None:
    within = entry.offset >= HEADER_SIZE and entry.offset + entry.length <= trailer.index_offset
    if not within or not 0 < entry.length <= MAX_BLOCK_SIZE:
        raise FormatError(f"a block at {entry.offset}, {entry.length} long, is not among the pack's blocks")
