"""Content-defined chunking: where a run of bytes is cut into blocks.

FastCDC (Xia et al., USENIX ATC 2016) with normalised chunking, keyed: the gear table is perturbed by a
secret seed of the drive, so that block lengths do not tell known content to who only sees sizes
(what this does not hide is said in docs/threat_model.md). Cut points depend on the bytes since the
last cut only, so an insertion moves boundaries near it and no others. Thread-safe, holds no state.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pyfastcdc import FastCDC

from backend.buffer import Buffer

MIN_BLOCK: Final = 256 << 10
AVERAGE_BLOCK: Final = 1 << 20
MAX_BLOCK: Final = 4 << 20


class Chunker:
    """Cuts buffers. `key` is the drive's chunker key."""

    def __init__(self, key: bytes) -> None:
        # 63 bits: pyfastcdc doubles the seed, and refuses what then is over 64 bits. 0 is no seed.
        seed = int.from_bytes(key[:8], "little") % (1 << 63) | 1
        self._cutter = FastCDC(avg_size=AVERAGE_BLOCK, min_size=MIN_BLOCK, max_size=MAX_BLOCK, seed=seed)

    def cut(self, data: Buffer, *, last: bool) -> Iterator[tuple[int, int]]:
        """(start, end) of each block in `data`, which begins at a cut. Unless `last`, the final
        piece, whose end the buffer's end decided, is left out: more bytes follow."""
        size = len(data)
        for chunk in self._cutter.cut_buf(data):
            end = chunk.offset + chunk.length
            if end < size or last or chunk.length == MAX_BLOCK:
                yield chunk.offset, end
