"""Compression (zstd, RFC 8878), with sizes checked before anything is decompressed. Thread-safe."""

from __future__ import annotations

from typing import Final

import zstandard

from backend.buffer import Buffer
from backend.errors import CorruptError

LEVEL: Final = 3
_SAMPLE: Final = 16 << 10
_WORTH: Final = 0.95


def compress(data: Buffer) -> bytes:
    """One frame that states its content's size."""
    return zstandard.ZstdCompressor(level=LEVEL).compress(data)


def compress_if_worth(data: Buffer) -> bytes | None:
    """One frame, or None where it would not be smaller; large data is judged by a sample first."""
    size = len(data)
    if size > 4 * _SAMPLE:
        middle = size // 2
        sample = memoryview(data)[middle : middle + _SAMPLE]
        if len(zstandard.ZstdCompressor(level=1).compress(sample)) > _WORTH * _SAMPLE:
            return None
    frame = compress(data)
    return frame if len(frame) < size else None


def decompress_exactly(body: bytes, length: int) -> bytes:
    """The `length` bytes that the frame `body` holds. `CorruptError` if it states another length
    (looked at first: python-zstandard ignores max_output_size when the frame states its size)."""
    try:
        stated = zstandard.get_frame_parameters(body).content_size
        if stated != length:
            raise CorruptError(f"a compressed frame states {stated} bytes instead of {length}")
        return zstandard.ZstdDecompressor().decompress(body, max_output_size=length)
    except zstandard.ZstdError as error:
        raise CorruptError(f"a frame does not decompress: {error}") from None
