"""Codec of one block: plaintext <-> sealed bytes; the format is specified in docs/format/block.md.

header (version, compression, plaintext length), then one or more segments, each key epoch + nonce +
ciphertext + tag under a key of the block's own, derived from the epoch's block key and the block's id. The
header, the drive, the id, the epoch and the segment's number are bound by each tag, so that part of a block
can be opened without the rest. Sizes are checked before anything is decompressed. Thread-safe.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from backend.buffer import Buffer
from backend.errors import CorruptError, FormatError
from backend.keys import KeyRing
from backend.system import SEAL_OVERHEAD, keyed_hash, open_into, open_sealed, seal_into
from backend.upstream import BlockId, SealedBlock
from cache.blocks.chunking import MAX_BLOCK
from cache.blocks.compression import compress_if_worth, decompress_exactly

VERSION: Final = 3
HEADER: Final = struct.Struct("<BBI")
PLAIN: Final = 0
ZSTD: Final = 1
SEGMENT: Final = 32 << 10
"""Plaintext bytes in a segment of a block that is not compressed; the last may be shorter."""
EPOCH: Final = struct.Struct("<I")
"""Each segment says its key epoch: who reads a few of them need not read the header."""
OVERHEAD: Final = EPOCH.size + SEAL_OVERHEAD
SEALED_SEGMENT: Final = SEGMENT + OVERHEAD
MAX_SEALED: Final = HEADER.size + MAX_BLOCK // SEGMENT * SEALED_SEGMENT
_NUMBER: Final = struct.Struct("<I")
_BOUND: Final = struct.Struct("<BBII")
"""The header and the key epoch, as each tag binds them."""


class BlockHeader(NamedTuple):
    """The header of a block; it is true only if a segment opens with it."""

    compression: int
    length: int
    """of the plaintext"""

    def encode(self) -> bytes:
        """The first bytes of the sealed block."""
        return HEADER.pack(VERSION, self.compression, self.length)


def sealed_range(first: int, last: int) -> tuple[int, int]:
    """(offset, length) of the segments `first` to `last` in a sealed block that is not compressed; it may
    end before."""
    return HEADER.size + first * SEALED_SEGMENT, (last + 1 - first) * SEALED_SEGMENT


def header_of_uncompressed(size: int) -> BlockHeader | None:
    """The header of a sealed block of `size` bytes, if it is not compressed: whoever has the size from
    an index need not read the header, as each tag binds it. None if no such block has this size."""
    segments = -(-(size - HEADER.size) // SEALED_SEGMENT)
    length = size - HEADER.size - segments * OVERHEAD
    fits = max(segments - 1, 0) * SEGMENT < length <= MAX_BLOCK
    return BlockHeader(PLAIN, length) if fits else None


def decode_header(data: Buffer) -> BlockHeader:
    """From the first bytes of a sealed block. `CorruptError` if they are too few, `FormatError` for an
    unknown version or a size over the limit."""
    if len(data) < HEADER.size:
        raise CorruptError(f"a block of {len(data)} bytes is outside the limits")
    version, compression, length = HEADER.unpack_from(data)
    if version != VERSION or compression not in (PLAIN, ZSTD) or length > MAX_BLOCK:
        raise FormatError(f"block version {version}, compression {compression}, length {length} is unknown")
    return BlockHeader(compression, length)


class BlockCodec:
    """Seals and opens the blocks of one drive."""

    def __init__(self, id_key: bytes, ring: KeyRing) -> None:
        self._binding = b"drivefs block\0" + ring.drive_id
        self._id_key = id_key
        self._ring = ring

    def block_id(self, plaintext: Buffer) -> BlockId:
        """The keyed hash that names this content."""
        return BlockId(keyed_hash(self._id_key, plaintext))

    def seal(self, block: BlockId, plaintext: Buffer) -> SealedBlock:
        """Compressed if that pays, encrypted under the newest key epoch, bound to drive and id."""
        packed = compress_if_worth(plaintext)
        header = BlockHeader(PLAIN if packed is None else ZSTD, len(plaintext))
        bodies = _segments(memoryview(plaintext), SEGMENT) if packed is None else [memoryview(packed)]
        epoch = self._ring.newest.number
        key, binding = self._key_and_binding(block, header, epoch)
        sealed = bytearray(HEADER.size + sum(map(len, bodies)) + len(bodies) * OVERHEAD)
        sealed[: HEADER.size] = header.encode()
        numbered = _numbered(bodies, binding, 0)
        seal_into(memoryview(sealed)[HEADER.size :], key, numbered, EPOCH.pack(epoch))
        return SealedBlock(block, sealed)

    def open(self, block: BlockId, sealed: Buffer) -> Buffer:
        """The plaintext. `CorruptError` unless these are the bytes that were sealed under this id, among them
        `UnknownEpochError`; `FormatError` for an unknown version or a size over the limit."""
        view = memoryview(sealed)
        if not HEADER.size + OVERHEAD <= len(view) <= MAX_SEALED:
            raise CorruptError(f"a block of {len(view)} bytes is outside the limits")
        header = decode_header(view)
        if header.compression == PLAIN:
            return self.open_segments(block, header, 0, view[HEADER.size :], header.length)
        (epoch,) = EPOCH.unpack_from(view, HEADER.size)
        key, binding = self._key_and_binding(block, header, epoch)
        frame = open_sealed(key, view[HEADER.size + EPOCH.size :], binding + _NUMBER.pack(0))
        return decompress_exactly(frame, header.length)

    def open_segments(
        self, block: BlockId, header: BlockHeader, first: int, sealed: Buffer, length: int
    ) -> Buffer:
        """The plaintext, `length` bytes, of consecutive segments of a block that is not compressed, from
        segment `first` on. `CorruptError` as `open`."""
        view = memoryview(sealed)
        count = max(-(-len(view) // SEALED_SEGMENT), 1)
        if len(view) != length + count * OVERHEAD:
            raise CorruptError("a block's length is not the one it states")
        (epoch,) = EPOCH.unpack_from(view)
        key, binding = self._key_and_binding(block, header, epoch)
        if count > 1:
            _check_same_epoch(view, count)
        starts, plaintext = range(0, len(view), SEALED_SEGMENT), bytearray(length)
        bodies = [view[start + EPOCH.size : start + SEALED_SEGMENT] for start in starts]
        open_into(memoryview(plaintext), key, _numbered(bodies, binding, first))
        return plaintext

    def _key_and_binding(self, block: BlockId, header: BlockHeader, epoch: int) -> tuple[bytes, bytes]:
        bound = _BOUND.pack(VERSION, header.compression, header.length, epoch)
        return keyed_hash(self._ring.of(epoch).block, block), self._binding + block + bound


def _check_same_epoch(segments: memoryview, count: int) -> None:
    """`CorruptError` unless all of the sealed segments say the same. The first bytes of all are looked at
    together, then the second ones: four steps, however many segments there are."""
    for at in range(EPOCH.size):
        if segments[at::SEALED_SEGMENT].tobytes() != bytes((segments[at],)) * count:
            raise CorruptError("the segments of a block are of several key epochs")


def _numbered(bodies: list[memoryview], binding: bytes, first: int) -> list[tuple[memoryview, bytes]]:
    """Each with what its tag binds."""
    return [(body, binding + _NUMBER.pack(number)) for number, body in enumerate(bodies, first)]


def _segments(data: memoryview, size: int) -> list[memoryview]:
    """Consecutive parts of `size` bytes, the last one perhaps shorter; one empty part of nothing."""
    return [data[start : start + size] for start in range(0, max(len(data), 1), size)]
