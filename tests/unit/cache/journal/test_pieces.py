"""Piece maps against an array with one cell per byte."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cache.journal.pieces import Data, Hole, Piece, PieceMap, Stored, clip

SIZE = 40
Cell = tuple[str, int] | None


def cells_of(piece: Piece) -> list[Cell]:
    """What each byte of the piece is: a journal position, a place in a block, or a zero."""
    length = range(piece.end - piece.start)
    if isinstance(piece, Data):
        return [("data", piece.position + index) for index in length]
    if isinstance(piece, Stored):
        return [(piece.block.decode(), piece.block_offset + index) for index in length]
    return [("hole", 0) for _ in length]


ranges = st.tuples(st.integers(0, SIZE - 1), st.integers(1, SIZE)).map(
    lambda r: (r[0], min(r[0] + r[1], SIZE))
)


@st.composite
def pieces(draw: st.DrawFn) -> Piece:
    start, end = draw(ranges)
    kind = draw(st.integers(0, 2))
    if kind == 0:
        return Data(start, end, draw(st.integers(0, 1000)))
    return Hole(start, end) if kind == 1 else Stored(start, end, draw(st.sampled_from([b"x", b"y"])), start)


@given(st.lists(st.one_of(pieces(), ranges), max_size=25), ranges)
def test_a_piece_map_is_what_a_naive_array_is(
    steps: list[Piece | tuple[int, int]], window: tuple[int, int]
) -> None:
    pieces, array = PieceMap(), [None] * SIZE
    naive: list[Cell] = list(array)
    for step in steps:
        if isinstance(step, tuple):
            pieces.remove(*step)
            naive[step[0] : step[1]] = [None] * (step[1] - step[0])
        else:
            pieces.put(step)
            naive[step.start : step.end] = cells_of(step)
    assert cells(list(pieces), 0, SIZE) == naive
    assert cells(pieces.overlapping(*window), *window) == naive[slice(*window)]
    assert len(pieces) == len(list(pieces))


def cells(found: list[Piece], start: int, end: int) -> list[Cell]:
    result: list[Cell] = [None] * (end - start)
    position = start
    for piece in found:
        assert position <= piece.start < piece.end <= end  # sorted, disjoint, not empty, inside
        result[piece.start - start : piece.end - start] = cells_of(piece)
        position = piece.end
    return result


def test_clip_keeps_what_the_bytes_are() -> None:
    assert clip(Data(10, 20, 100), 5, 15) == Data(10, 15, 100)
    assert clip(Data(10, 20, 100), 12, 99) == Data(12, 20, 102)
    assert clip(Stored(10, 20, b"x", 3), 11, 12) == Stored(11, 12, b"x", 4)
    assert clip(Hole(10, 20), 11, 12) == Hole(11, 12)
