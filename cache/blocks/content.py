"""Reading a file's bytes: journal, blocks and zeros put together, with read-ahead.

Invariants:
1. A read returns the file's content at one moment. Its plan is made and journal bytes are copied without a
   pause. Blocks are immutable, so they may be fetched after. If journal bytes are not in memory, a thread
   reads them, and the plan is made anew: they may have been overwritten meanwhile.
2. Read-ahead only warms the block cache, and is bounded for all files together. Its failures are ignored,
   for the reader will meet them.

Used on the event-loop thread only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import trio

from backend.errors import DriveError
from backend.system import each
from cache.blocks.block_cache import BlockCache
from cache.blocks.read_streams import ReadStreams
from cache.blocks.small_files import SMALL, SmallFiles
from cache.journal import Data, DirtyFiles, Hole, Journal, Piece, Stored
from cache.namespace import Extent, Namespace
from cache.slow_waits import SlowWaits

WHOLE = 256 << 10
"""Blocks of files up to this size are fetched whole even if the file is not read in order."""
MOST_AHEAD = 32 << 20
"""So many bytes are being fetched ahead at once for all readers together. Many fetch beside each other
anyway, and what comes long before it is wanted would push out of memory what is wanted now."""
_ATTEMPTS = 4
"""So often the journal's bytes are brought into memory before the disk is waited for: it may be scarce."""

Part = bytes | memoryview | Stored
"""A part of a plan: bytes, or what is still to be fetched."""


class Content:
    """See the module. `run` reads ahead."""

    def __init__(
        self,
        namespace: Namespace,
        dirty: DirtyFiles,
        journal: Journal,
        blocks: BlockCache,
        slow_waits: SlowWaits,
        small_files: SmallFiles | None = None,
    ) -> None:
        self._namespace = namespace
        self._dirty = dirty
        self._journal = journal
        self._blocks = blocks
        self._slow_waits = slow_waits
        self._small_files = small_files
        self._streams = ReadStreams()
        self._tasks: trio.Nursery | None = None
        """where read-ahead runs; without it there is none"""
        self._ahead = 0
        """the bytes that are being fetched ahead"""
        self._missing: list[tuple[int, int]] = []
        """(position, length) of the journal's bytes that the plan needs and that are not in memory"""
        self._waits = False
        """whether the disk may be waited for"""

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Read ahead, until cancelled."""
        async with trio.open_nursery() as self._tasks:
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                self._tasks = None

    async def read(self, inode: int, start: int, end: int, size: int) -> bytes | memoryview:
        """The bytes [start, end) of a file of `size` bytes, inside which they must lie. Raises what
        `BlockCache.get` raises."""
        plan = await self._planned(lambda: self._plan(inode, start, end))
        in_order = self._note_read(inode, start, end, size)
        waiting = [part for part in plan if isinstance(part, Stored)]
        if not waiting:
            return _joined([part for part in plan if not isinstance(part, Stored)])
        fetched = await self._fetch(waiting, whole=in_order or size <= WHOLE)
        return _joined([fetched[id(part)] if isinstance(part, Stored) else part for part in plan])

    async def read_stored(self, inode: int, start: int, end: int) -> bytes:
        """The bytes that the extents say, whatever is dirty above them."""
        return bytes(await self.read_extents(self._namespace.extents(inode, start, end), start, end))

    async def read_extents(self, extents: Iterable[Extent], start: int, end: int) -> bytes | memoryview:
        """The bytes [start, end) of a file with these extents (sorted; zeros between them), of now or of
        the past. Raises what `BlockCache.get` raises."""
        pieces = _clipped(extents, start, end)
        plan = await self._planned(lambda: self._cover(pieces, start, end))
        fetched = await self._fetch([part for part in plan if isinstance(part, Stored)])
        return _joined([fetched[id(part)] if isinstance(part, Stored) else part for part in plan])

    def extent_before(self, inode: int, offset: int) -> tuple[int, int] | None:
        """(start, end) of the stored extent that ends exactly at `offset`."""
        for extent in self._namespace.extents(inode, max(offset - 1, 0), offset):
            if extent.offset + extent.length == offset:
                return extent.offset, offset
        return None

    def extent_after(self, inode: int, offset: int) -> tuple[int, int] | None:
        """(start, end) of the stored extent that begins exactly at `offset`."""
        for extent in self._namespace.extents(inode, offset, offset + 1):
            if extent.offset == offset:
                return offset, offset + extent.length
        return None

    # Planning

    async def _planned(self, plan: Callable[[], list[Part]]) -> list[Part]:
        """The result of `plan`, when all that it needs of the journal is in memory."""
        for _ in range(_ATTEMPTS):
            self._missing = []
            parts = plan()
            if not self._missing:
                return parts
            await trio.to_thread.run_sync(self._journal.warm, self._missing)
        self._waits = True
        try:
            return plan()
        finally:
            self._waits = False

    def _plan(self, inode: int, start: int, end: int) -> list[Part]:
        file = self._dirty.get(inode)
        layers: list[Piece] = file.pieces(start, end) if file is not None else []
        if not layers:
            return self._cover(self._stored(inode, start, end), start, end)
        merged: list[Piece] = []
        position = start
        for piece in layers:
            if position < piece.start:
                merged += self._stored(inode, position, piece.start)
            merged.append(piece)
            position = piece.end
        if position < end:
            merged += self._stored(inode, position, end)
        return self._cover(merged, start, end)

    def _stored(self, inode: int, start: int, end: int) -> list[Piece]:
        return _clipped(self._namespace.extents(inode, start, end), start, end)

    def _cover(self, pieces: list[Piece], start: int, end: int) -> list[Part]:
        """The parts of [start, end): gaps and holes are zeros, cached and journaled bytes are there."""
        parts: list[Part] = []
        position = start
        for piece in pieces:
            if position < piece.start:
                parts.append(bytes(piece.start - position))
            parts.append(self._part(piece))
            position = piece.end
        if position < end:
            parts.append(bytes(end - position))
        return parts

    def _part(self, piece: Piece) -> Part:
        if isinstance(piece, Data):
            return self._journaled(piece.position, piece.end - piece.start)
        if isinstance(piece, Hole):
            return bytes(piece.end - piece.start)
        start = piece.block_offset
        cached = self._blocks.get_cached_part(piece.block, start, start + piece.end - piece.start)
        return piece if cached is None else cached

    def _journaled(self, position: int, length: int) -> Part:
        """Bytes of the journal, or something in their place if they are missing."""
        if self._waits:
            return self._journal.read_at(position, length)
        data = self._journal.read_at_once(position, length)
        if data is None:
            self._missing.append((position, length))
            return b""
        return data

    async def _fetch(self, pieces: list[Stored], *, whole: bool = True) -> dict[int, memoryview]:
        """The bytes of each piece, by the piece's identity; several blocks in parallel. `whole`: the rest
        of their blocks will be wanted too."""
        found: dict[int, memoryview] = {}

        async def fetch(piece: Stored) -> None:
            start, end = piece.block_offset, piece.block_offset + piece.end - piece.start
            if whole:
                found[id(piece)] = memoryview(await self._blocks.get(piece.block))[start:end]
            else:
                found[id(piece)] = await self._blocks.get_part(piece.block, start, end)

        with self._slow_waits.wait():
            if len(pieces) == 1:
                await fetch(pieces[0])
            else:
                await each(fetch, pieces)
        return found

    # Read-ahead

    def _note_read(self, inode: int, start: int, end: int, size: int) -> bool:
        """Whether the read goes on where another ended. If so, what comes next is fetched ahead."""
        in_order, reader = self._streams.note(inode, start, end)
        if not start and size <= SMALL:
            self._bring_neighbours(inode)
        if in_order and self._tasks is not None and end < size:
            ahead = reader.ahead(end)
            if ahead is not None:
                self._prefetch(inode, *ahead)
        return in_order

    def _bring_neighbours(self, inode: int) -> None:
        if self._small_files is not None and self._tasks is not None:
            blocks = self._small_files.note(inode)
            if blocks:
                self._tasks.start_soon(self._small_files.bring, blocks)

    def _prefetch(self, inode: int, start: int, end: int) -> None:
        assert self._tasks is not None
        for piece in self._stored(inode, start, end):
            assert isinstance(piece, Stored)
            if self._ahead < MOST_AHEAD and self._blocks.wanted(piece.block):
                self._ahead += piece.end - piece.start
                self._tasks.start_soon(self._warm, piece.block, piece.end - piece.start)

    async def _warm(self, block: bytes, size: int) -> None:
        try:
            await self._blocks.get(block)
        except (DriveError, OSError):
            return  # invariant 2: the reader that needs it will meet the error itself
        finally:
            self._ahead -= size


def _clipped(extents: Iterable[Extent], start: int, end: int) -> list[Piece]:
    pieces: list[Piece] = []
    for offset, length, block, block_offset, _ in extents:
        low, high = max(offset, start), min(offset + length, end)
        pieces.append(Stored(low, high, block, block_offset + low - offset))
    return pieces


def _joined(parts: list[bytes | memoryview]) -> bytes | memoryview:
    return parts[0] if len(parts) == 1 else b"".join(parts)
