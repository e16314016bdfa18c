"""Pieces: where the bytes of a file's dirty ranges are, and the ordered map of them.

A piece map is a sorted list of disjoint pieces; putting a piece cuts away what it covers. The list is
searched by bisection; a sequential writer only ever appends.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Data:
    """Bytes that are in the journal at `position`."""

    start: int
    end: int
    position: int


@dataclass(frozen=True, slots=True)
class Hole:
    """Zeros, whatever older content there was."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Stored:
    """Bytes of a block, from `block_offset` on. The block has been handed to the store."""

    start: int
    end: int
    block: bytes
    block_offset: int


Piece = Data | Hole | Stored


def clip(piece: Piece, start: int, end: int) -> Piece:
    """The part of the piece in [start, end), which must overlap it."""
    start, end = max(start, piece.start), min(end, piece.end)
    skipped = start - piece.start
    if isinstance(piece, Data):
        return Data(start, end, piece.position + skipped)
    if isinstance(piece, Stored):
        return replace(piece, start=start, end=end, block_offset=piece.block_offset + skipped)
    return Hole(start, end)


class PieceMap:
    """Sorted, disjoint pieces. Not thread-safe."""

    __slots__ = ("_pieces", "_starts")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._pieces: list[Piece] = []

    def __iter__(self) -> Iterator[Piece]:
        return iter(self._pieces)

    def __len__(self) -> int:
        return len(self._pieces)

    def put(self, piece: Piece) -> None:
        """Let `piece` say what its range is; what was there is cut away."""
        if not self._starts or piece.start >= self._pieces[-1].end:
            self._starts.append(piece.start)
            self._pieces.append(piece)
            return
        first, last = self._touched(piece.start, piece.end)
        kept: list[Piece] = []
        if first < last:
            before, after = self._pieces[first], self._pieces[last - 1]
            if before.start < piece.start:
                kept.append(clip(before, before.start, piece.start))
            kept.append(piece)
            if after.end > piece.end:
                kept.append(clip(after, piece.end, after.end))
        else:
            kept.append(piece)
        self._pieces[first:last] = kept
        self._starts[first:last] = [item.start for item in kept]

    def remove(self, start: int, end: int) -> None:
        """Let nothing be known of [start, end)."""
        first, last = self._touched(start, end)
        kept: list[Piece] = []
        for item in self._pieces[first:last]:
            if item.start < start:
                kept.append(clip(item, item.start, start))
            if item.end > end:
                kept.append(clip(item, end, item.end))
        self._pieces[first:last] = kept
        self._starts[first:last] = [item.start for item in kept]

    def overlapping(self, start: int, end: int) -> list[Piece]:
        """The pieces in [start, end), clipped to it, in order."""
        first, last = self._touched(start, end)
        found = self._pieces[first:last]
        if found:
            found[0] = clip(found[0], start, end)
            found[-1] = clip(found[-1], start, end)
        return found

    def _touched(self, start: int, end: int) -> tuple[int, int]:
        first = bisect_right(self._starts, start)
        if first and self._pieces[first - 1].end > start:
            first -= 1
        last = first
        count = len(self._pieces)
        while last < count and self._starts[last] < end:
            last += 1
        return first, last
