"""Joining: a file's content made of parts of others', by references to the same blocks.

Invariants:
1. No data is read or written. The target's extents name blocks that live rows of published commits name, in
   the moment in which they are accepted: so the blocks are stored, and a collection meets them.
2. What is taken of a source is its state at one moment of `add`, or after it, whole.
3. All extents are one operation, on a file that had none before: it can be applied again in any commit.

Event-loop thread only.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from cache.drive import Drive
from cache.errors import UnreadableError
from cache.namespace import Extent, Operation, SetAttributes, SetExtents

_ROUNDS: Final = 8
"""So many commits are waited for. One may have been cut before the call, and one may leave the file out."""


class _Source(NamedTuple):
    """A range of a source, and the commit of its content."""

    inode: int
    start: int
    end: int
    content_commit: int


class Join:
    """Content for a new file, piece by piece. Who uses it holds the sources."""

    def __init__(self, drive: Drive) -> None:
        self._drive = drive
        self._sources: list[_Source] = []
        self.size = 0
        """bytes joined so far"""

    async def add(self, source: int, start: int = 0, end: int | None = None) -> None:
        """The bytes [start, end) of `source` (up to its end at most, None: up to that) come next. Publishes
        them first if that was not done. Raises what publishing raises; `UnreadableError`: they cannot be
        published."""
        await self._publish(source)
        row = self._drive.live_row(source)
        end = row.size if end is None else min(end, row.size)
        if start < end:
            self._sources.append(_Source(source, start, end, row.content_commit))
            self.size += end - start

    async def _publish(self, source: int) -> None:
        """Have what is accepted of the source in extents of published commits."""
        layer = self._drive.ledger.dirty.top(source)
        for _ in range(_ROUNDS):
            if not self._waits(source, layer):
                return
            await self._drive.settle(source)
            await self._drive.publisher.publish(everything=False)
            if not self._drive.live_row(source).nlink and self._waits(source, layer):
                break  # commits leave out what has no name any more
        raise UnreadableError(f"the content of inode {source} cannot be stored now")

    def _waits(self, source: int, layer: object) -> bool:
        ledger = self._drive.ledger
        file = ledger.dirty.get(source)
        if file is not None and (file.frozen is not None or (layer is not None and file.top is layer)):
            return True
        return self._drive.live_row(source).content_commit > ledger.head.number

    def operations(self, target: int, now: int) -> list[Operation]:
        """The operations that give `target`, an empty file, the content, to be accepted at once (`now`).
        `UnreadableError`: a source has changed since it was added."""
        pieces: list[tuple[int, int, bytes, int]] = []
        size = 0
        for source in self._sources:
            pieces += self._pieces(source, size - source.start)
            size += source.end - source.start
        if not size:
            return []
        content = SetExtents(target, 0, ((0, size),), tuple(pieces))
        return [content, SetAttributes(target, size=size, mtime_ns=now, ctime_ns=now)]

    def _pieces(self, source: _Source, shift: int) -> list[tuple[int, int, bytes, int]]:
        inode, start, end, content_commit = source
        if self._drive.live_row(inode).content_commit != content_commit:
            raise UnreadableError(f"the content of inode {inode} has changed meanwhile")
        extents = self._drive.ledger.namespace.extents(inode, start, end)
        return [_clipped(extent, start, end, shift) for extent in extents]


def _clipped(extent: Extent, start: int, end: int, shift: int) -> tuple[int, int, bytes, int]:
    low, high = max(extent.offset, start), min(extent.offset + extent.length, end)
    return low + shift, high - low, extent.block, extent.block_offset + low - extent.offset
