"""The sealed blocks on this machine's disk: those of kept folders, and those that were used last.

Invariants:
1. Kept blocks and used blocks have a folder each. Kept blocks have no limit, and no read or write pushes them
   out. They go when the disk itself fills, after all used blocks.
2. A kept block was authenticated and is written anew: nobody vouches for the file that a read left. A block
   that is kept no more moves to the used ones by a rename.

Thread-safe. Every call may block on the disk.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import Final

from backend.buffer import Buffer
from backend.upstream import BlockId, BlockPart
from cache.disk.block_folder import BlockFolder
from cache.disk.entry_format import HEADER_SIZE

MOST_TOGETHER: Final = 4 << 20
"""Bytes of blocks that are read in one call; the last one may go beyond."""
LONGEST_TOGETHER: Final = 0.5
"""A disk that is slow is no disk that hangs, for which many blocks in one call could be taken."""
_MARGIN: Final = 4
"""A block is kept if a fraction of the reserve is free beside the reserve: what had to go when the disk
filled does not come back with the next byte that is free, to go again."""


class DiskCache:
    """See the module. `used` holds what was used last, `kept` has no limit; both on one file system.
    `limit`: bytes of what was used last."""

    def __init__(self, used: BlockFolder, kept: BlockFolder) -> None:
        assert used.limit is not None
        self.limit: Final = used.limit
        self._used = used
        self._kept = kept
        self._lock = threading.Lock()
        self.given_up = 0
        """how often kept blocks went, as the disk filled or as they were wrong"""

    def read(self, block: BlockId) -> bytes | None:
        """As `BlockFolder.read`."""
        found = self._kept.read(block)
        return self._used.read(block) if found is None else found

    def read_all(self, blocks: Iterable[BlockId]) -> dict[BlockId, bytes]:
        """Those of the blocks that are here whole, until they are `MOST_TOGETHER` bytes, or took
        `LONGEST_TOGETHER` seconds: others wait for what is read. `OSError`."""
        found: dict[BlockId, bytes] = {}
        left, end = MOST_TOGETHER, time.monotonic() + LONGEST_TOGETHER
        for block in blocks:
            data = self.read(block)
            if data is not None:
                found[block] = data
                left -= len(data)
            if left <= 0 or time.monotonic() >= end:
                break
        return found

    def read_part(self, block: BlockId, offset: int, length: int) -> BlockPart | None:
        """As `BlockFolder.read_part`."""
        found = self._kept.read_part(block, offset, length)
        return self._used.read_part(block, offset, length) if found is None else found

    def write(self, block: BlockId, data: Buffer) -> None:
        """The block was used. `OSError`: it is not here."""
        if not self._kept.has(block):
            self._used.write(block, data)

    def write_part(self, block: BlockId, offset: int, length: int, part: BlockPart) -> None:
        """As `BlockFolder.write_part`."""
        self._used.write_part(block, offset, length, part)

    def drop(self, block: BlockId) -> None:
        """The block that is here, if any, is not the right one. `OSError`."""
        self._used.drop(block)
        if self._kept.drop(block):
            self._note_given_up()

    def keep(self, block: BlockId, data: Buffer) -> bool:
        """Keep the block, which is `data`, until it is released; whether the disk has room. `OSError`."""
        self._used.drop(block)
        size = HEADER_SIZE + len(data) + self._used.reserve // _MARGIN
        return self._used.make_free(size) and self._kept.write(block, data)

    def kept(self) -> set[BlockId]:
        """The blocks that are kept and here. `OSError`."""
        return self._kept.blocks()

    def release(self, blocks: Iterable[BlockId]) -> None:
        """Keep these no more: they were used last when they were last read. `OSError`."""
        for block in blocks:
            self._used.take(self._kept, block)
        self._used.fit()

    def give_way(self) -> None:
        """Remove what was not used for longest until the reserve is free again; what is kept last of all.
        `OSError`."""
        self._used.give_way()
        if self._kept.give_way():
            self._note_given_up()

    def used(self) -> int:
        """The bytes of what was used last. `OSError`."""
        return self._used.used()

    def _note_given_up(self) -> None:
        with self._lock:
            self.given_up += 1
