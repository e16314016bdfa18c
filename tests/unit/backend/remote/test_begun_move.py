"""The note of a move that has begun."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.errors import CorruptError
from backend.remote import BegunMove, BegunMoves
from backend.remote.begun_move import FILE, encode_move

MOVE = BegunMove("https://hub.example.org/photos", "/srv/drive", b"n" * 16, b"t" * 16)


def test_one_move_is_kept(tmp_path: Path) -> None:
    moves = BegunMoves(tmp_path)
    assert moves.load() is None
    moves.forget()
    moves.keep(MOVE)
    moves.keep(BegunMove(MOVE.source, "/srv/other", MOVE.nodes, MOVE.ticket))
    moves.keep(MOVE)
    assert BegunMoves(tmp_path).load() == MOVE
    moves.forget()
    assert moves.load() is None


@pytest.mark.parametrize("at", range(0, len(encode_move(MOVE)), 3))
def test_no_damaged_one_is_used(tmp_path: Path, at: int) -> None:
    data = bytearray(encode_move(MOVE))
    data[at] ^= 1
    (tmp_path / FILE).write_bytes(data)
    with pytest.raises(CorruptError, match="--undo"):
        BegunMoves(tmp_path).load()


def test_one_without_nodes_or_ticket_is_none(tmp_path: Path) -> None:
    for wrong in (BegunMove("", "", b"", MOVE.ticket), BegunMove("", "", MOVE.nodes, b"")):
        BegunMoves(tmp_path).keep(wrong)
        with pytest.raises(CorruptError, match="no nodes, or no ticket"):
            BegunMoves(tmp_path).load()
