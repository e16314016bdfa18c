"""Reading a file's bytes: journal, blocks and zeros put together, with read-ahead.

Invariants:
1. What a read returns is the file's content at one moment: its plan is made, and journal bytes are
   copied, without a pause; blocks are immutable, so they may be fetched after.
2. Read-ahead only warms the block cache; its failures are nobody's error (the reader will meet them).

Used on the event-loop thread only.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

import trio

from backend.errors import DriveError
from cache.block_cache import BlockCache
from cache.dirty import DirtyFiles
from cache.journal import Journal
from cache.namespace import Namespace
from cache.pieces import Data, Hole, Piece, Stored
from cache.rows import Extent

READ_AHEAD_START = 2 << 20
READ_AHEAD_MOST = 16 << 20
WHOLE = 256 << 10
"""Blocks of files up to this size are fetched whole even if the file is not read in order."""
_TRACKED = 256

Part = bytes | memoryview | Stored
"""A part of a plan: bytes, or what is still to be fetched."""


class _Sequence:
    """How one file is being read."""

    __slots__ = ("ahead_to", "next_offset", "window")

    def __init__(self) -> None:
        self.next_offset = 0
        self.ahead_to = 0
        self.window = 0


class Content:
    """See the module."""

    def __init__(self, namespace: Namespace, dirty: DirtyFiles, journal: Journal, blocks: BlockCache) -> None:
        self._namespace = namespace
        self._dirty = dirty
        self._journal = journal
        self._blocks = blocks
        self._sequences: OrderedDict[int, _Sequence] = OrderedDict()
        self.tasks: trio.Nursery | None = None
        """where read-ahead runs; without it there is none"""

    async def read(self, inode: int, start: int, end: int, size: int) -> bytes | memoryview:
        """The bytes [start, end) of a file of `size` bytes, inside which they must lie. Raises what
        `BlockCache.get` raises."""
        plan = self._plan(inode, start, end)
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
        plan = self._cover(_clipped(extents, start, end), start, end)
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
            return self._journal.read_at(piece.position, piece.end - piece.start)
        if isinstance(piece, Hole):
            return bytes(piece.end - piece.start)
        start = piece.block_offset
        cached = self._blocks.get_cached_part(piece.block, start, start + piece.end - piece.start)
        return piece if cached is None else cached

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

        if len(pieces) == 1:
            await fetch(pieces[0])
            return found
        errors: list[DriveError] = []

        async def fetch_one(piece: Stored) -> None:
            try:
                await fetch(piece)
            except DriveError as error:
                errors.append(error)

        async with trio.open_nursery() as nursery:
            for piece in pieces:
                nursery.start_soon(fetch_one, piece)
        if errors:
            raise errors[0]
        return found

    # Read-ahead

    def _note_read(self, inode: int, start: int, end: int, size: int) -> bool:
        """Whether the read begins where the last one ended (the first: at the file's start). If so, what
        comes next is fetched ahead."""
        sequence = self._sequences.get(inode)
        if sequence is None:
            sequence = self._sequences[inode] = _Sequence()
            if len(self._sequences) > _TRACKED:
                self._sequences.popitem(last=False)
        in_order = start == sequence.next_offset
        sequence.next_offset = end
        if not in_order:
            sequence.window, sequence.ahead_to = 0, end
        elif self.tasks is not None and end < size:
            self._read_ahead(inode, end, sequence)
        return in_order

    def _read_ahead(self, inode: int, end: int, sequence: _Sequence) -> None:
        sequence.window = min(max(2 * sequence.window, READ_AHEAD_START), READ_AHEAD_MOST)
        if sequence.ahead_to - end < sequence.window // 2:
            low, high = max(end, sequence.ahead_to), end + sequence.window
            sequence.ahead_to = high
            self._prefetch(inode, low, high)

    def _prefetch(self, inode: int, start: int, end: int) -> None:
        assert self.tasks is not None
        for piece in self._stored(inode, start, end):
            assert isinstance(piece, Stored)
            if self._blocks.wanted(piece.block):
                self.tasks.start_soon(self._warm, piece.block)

    async def _warm(self, block: bytes) -> None:
        try:
            await self._blocks.get(block)
        except (DriveError, OSError):
            return  # invariant 2: the reader that needs it will meet the error itself


def _clipped(extents: Iterable[Extent], start: int, end: int) -> list[Piece]:
    pieces: list[Piece] = []
    for offset, length, block, block_offset, _ in extents:
        low, high = max(offset, start), min(offset + length, end)
        pieces.append(Stored(low, high, block, block_offset + low - offset))
    return pieces


def _joined(parts: list[bytes | memoryview]) -> bytes | memoryview:
    return parts[0] if len(parts) == 1 else b"".join(parts)
