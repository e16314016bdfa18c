"""The files of the disk cache: what is written is read, and nothing else passes for it."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.errors import CorruptError, FormatError
from backend.upstream import BlockId
from cache.blocks.block_codec import MAX_SEALED
from cache.disk import entry_format
from cache.disk.entry_format import HEADER_SIZE, MAX_BLOCK_BYTES, Piece
from tests.contents import contents

BLOCK = BlockId(bytes(range(32)))


def encoded(piece: Piece, data: bytes) -> bytes:
    return b"".join(map(bytes, entry_format.encode(piece, data)))


def decoded(file: bytes) -> tuple[Piece, bytes]:
    header, data = file[:HEADER_SIZE], file[HEADER_SIZE:]
    piece = entry_format.decode_header(header, len(file))
    entry_format.require_checksum(header, data)
    return piece, data


@given(contents(), st.integers(0, 1000), st.integers(0, 1000))
def test_round_trip(data: bytes, before: int, after: int) -> None:
    piece = Piece(BLOCK, before, len(data), before + len(data) + after)
    assert decoded(encoded(piece, data)) == (piece, data)
    assert piece.is_whole == (before == after == 0)


@given(contents(max_size=2000), st.data())
def test_no_changed_file_passes(data: bytes, source: st.DataObject) -> None:
    file = encoded(Piece(BLOCK, 0, len(data), len(data)), data)
    place = source.draw(st.integers(0, len(file) - 1))
    changed = bytearray(file)
    changed[place] ^= source.draw(st.integers(1, 255))
    for wrong in (bytes(changed), file[:place], file + b"\0"):
        with pytest.raises((CorruptError, FormatError)):
            decoded(wrong)


def test_every_sealed_block_fits() -> None:
    assert MAX_SEALED <= MAX_BLOCK_BYTES


@pytest.mark.parametrize(
    ("offset", "length", "size"),
    [(0, 5, 4), (1, 4, 4), (0, 4, MAX_BLOCK_BYTES + 1), (0xFFFFFFFF, 0xFFFFFFFF, 4)],
)
def test_sizes_are_checked_before_anything_is_read(offset: int, length: int, size: int) -> None:
    header = struct.pack("<4sHxxIII32s16x", b"DFCB", 1, offset, length, size, BLOCK)
    with pytest.raises(FormatError, match="out of bounds"):
        entry_format.decode_header(header, HEADER_SIZE + length)


def test_another_version_is_refused() -> None:
    file = bytearray(encoded(Piece(BLOCK, 0, 1, 1), b"x"))
    file[4] = 2
    with pytest.raises(FormatError, match="version 2"):
        entry_format.decode_header(file[:HEADER_SIZE], len(file))


def test_a_piece_that_its_data_contradicts_is_not_written() -> None:
    for piece in (Piece(BLOCK, 0, 2, 2), Piece(BLOCK, 1, 1, 1), Piece(BLOCK, 0, 1, MAX_BLOCK_BYTES + 1)):
        with pytest.raises(ValueError, match="not what"):
            entry_format.encode(piece, b"x")


@pytest.mark.parametrize("name", ["", "x", "0" * 63, "g" * 64, f"{'0' * 64}.1", f"{'0' * 64}.1.x", ".tmp-1"])
def test_foreign_names_are_known(name: str) -> None:
    assert not entry_format.is_entry(name)
    assert entry_format.is_entry(entry_format.file_name(BLOCK))
    assert entry_format.is_entry(entry_format.file_name(BLOCK, 6, 9))
