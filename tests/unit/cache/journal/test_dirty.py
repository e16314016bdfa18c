"""Dirty files: layers, and what freezing, thawing and late sealing do to them."""

from __future__ import annotations

from cache.journal.dirty import DirtyFiles, Layer, replace_data
from cache.journal.pieces import Data, Hole, Stored
from cache.namespace.operations import MAX_SIZE, Delete, SetAttributes

FILE = 7


async def test_layers_lie_over_each_other() -> None:
    files = DirtyFiles()
    files.write(FILE, 0, 10, 100, 148, 1)
    files.freeze(FILE)
    files.write(FILE, 4, 2, 200, 248, 2)
    file = files.get(FILE)
    assert file is not None
    assert file.pieces(0, 10) == [Data(0, 4, 148), Data(4, 6, 248), Data(6, 10, 154)]
    assert file.data_bytes == files.data_bytes() == 12
    assert files.oldest_position() == 100
    files.thaw(FILE)
    assert file.pieces(0, 10) == [Data(4, 6, 248)]
    assert files.oldest_position() == 200
    files.freeze(FILE)
    files.thaw(FILE)
    assert len(files) == 0
    assert files.oldest_position() is None


async def test_sizes() -> None:
    files = DirtyFiles()
    layer = files.write(FILE, 10, 5, 1, 2, 3)
    assert (layer.size(0), layer.size(100)) == (15, 100)
    files.truncate(FILE, 12, 1, 3)
    assert layer.size(100) == 12
    files.write(FILE, 20, 1, 1, 2, 3)
    assert layer.size(100) == 21
    assert list(layer.pieces) == [Data(10, 12, 2), Hole(12, 20), Data(20, 21, 2), Hole(21, MAX_SIZE)]


async def test_truncating_to_the_largest_size_leaves_no_empty_piece() -> None:
    """Regression: an empty hole made the commit one that the namespace refuses."""
    files = DirtyFiles()
    assert list(files.truncate(FILE, MAX_SIZE, 1, 2).pieces) == []


async def test_settled_is_until_the_next_write() -> None:
    files = DirtyFiles()
    assert not files.settle(FILE)
    files.write(FILE, 0, 1, 1, 2, 3)
    assert files.settle(FILE)
    assert [layer.settled for _, layer in files.tops()] == [True]
    files.write(FILE, 0, 1, 1, 2, 3)
    assert [layer.settled for _, layer in files.tops()] == [False]


async def test_operations_are_observed() -> None:
    files = DirtyFiles()
    files.write(FILE, 0, 1, 1, 2, 3)
    files.observe(SetAttributes(FILE, mode=0))
    assert [layer.mtime_ns for _, layer in files.tops()] == [3]
    files.observe(SetAttributes(FILE, mtime_ns=9))
    assert [layer.mtime_ns for _, layer in files.tops()] == [None]
    assert files.open_writes == 1
    files.observe(Delete(FILE))
    assert len(files) == files.open_writes == 0


async def test_open_writes_are_those_of_top_layers() -> None:
    files = DirtyFiles()
    files.write(FILE, 0, 1, 1, 2, 3)
    files.truncate(FILE, 0, 1, 3)
    assert files.open_writes == 2
    files.freeze(FILE)
    files.write(FILE, 0, 1, 1, 2, 3)
    assert files.open_writes == 1
    files.thaw(FILE)
    assert files.open_writes == 1


def test_a_write_during_sealing_wins() -> None:
    layer = Layer(0, 0, 0)
    layer.pieces.put(Data(0, 10, 100))
    sources = [piece for piece in layer.pieces if isinstance(piece, Data)]
    layer.pieces.put(Data(3, 5, 900))
    layer.pieces.put(Hole(8, 9))
    replace_data(layer, 0, 10, Stored(0, 10, b"b", 0), sources)
    assert list(layer.pieces) == [
        Stored(0, 3, b"b", 0),
        Data(3, 5, 900),
        Stored(5, 8, b"b", 5),
        Hole(8, 9),
        Stored(9, 10, b"b", 9),
    ]
