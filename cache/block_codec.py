"""Codec of one block: plaintext <-> sealed bytes; the format is specified in docs/format/block.md.

header (version, compression, plaintext length), then nonce + ciphertext + tag under a key of the
block's own, derived from the drive's block key and the block's id. The header, the drive and the id
are bound by the tag. Sizes are checked before anything is decompressed. Thread-safe.
"""

from __future__ import annotations

import struct
from typing import Final

from backend.crypto import SEAL_OVERHEAD, derive, keyed_hash, open_sealed, seal
from backend.errors import CorruptError, FormatError
from backend.node import Buffer
from backend.upstream import BlockId, SealedBlock
from cache.chunking import MAX_BLOCK
from cache.compression import compress_if_worth, decompress_exactly

VERSION: Final = 1
HEADER: Final = struct.Struct("<BBI")
PLAIN: Final = 0
ZSTD: Final = 1
MAX_SEALED: Final = MAX_BLOCK + HEADER.size + SEAL_OVERHEAD


class BlockCodec:
    """Seals and opens the blocks of one drive."""

    def __init__(self, drive_id: bytes, id_key: bytes, block_key: bytes) -> None:
        self._binding = b"drivefs block\0" + drive_id
        self._id_key = id_key
        self._block_key = block_key

    def block_id(self, plaintext: Buffer) -> BlockId:
        """The keyed hash that names this content."""
        return BlockId(keyed_hash(self._id_key, plaintext))

    def seal(self, block: BlockId, plaintext: Buffer) -> SealedBlock:
        """Compressed if that pays, encrypted, bound to drive and id."""
        packed = compress_if_worth(plaintext)
        compression = PLAIN if packed is None else ZSTD
        header = HEADER.pack(VERSION, compression, len(plaintext))
        body = plaintext if packed is None else packed
        sealed = seal(derive(self._block_key, "one block", block), body, self._binding + block + header)
        return SealedBlock(block, header + sealed)

    def open(self, block: BlockId, sealed: Buffer) -> bytes:
        """The plaintext. `CorruptError` unless these are the bytes that were sealed under this id;
        `FormatError` for an unknown version or a size over the limit."""
        view = memoryview(sealed)
        if not HEADER.size + SEAL_OVERHEAD <= len(view) <= MAX_SEALED:
            raise CorruptError(f"a block of {len(view)} bytes is outside the limits")
        header = bytes(view[: HEADER.size])
        version, compression, length = HEADER.unpack(header)
        if version != VERSION or compression not in (PLAIN, ZSTD) or length > MAX_BLOCK:
            raise FormatError(
                f"block version {version}, compression {compression}, length {length} is unknown"
            )
        key = derive(self._block_key, "one block", block)
        body = open_sealed(key, view[HEADER.size :], self._binding + block + header)
        if compression == ZSTD:
            body = decompress_exactly(body, length)
        if len(body) != length:
            raise CorruptError("a block's length is not the one it states")
        return body
