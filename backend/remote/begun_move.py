"""What a mover that takes a drive from its hub to nodes writes down before the hub closes the drive: so this
machine can still settle the move when that process is gone.

Spec of the file: docs/format/begun_move.md. Blocks; one call at a time.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from backend.errors import CorruptError
from backend.remote.kept_form import KeptForm
from backend.system import THIS_MACHINE, Environment
from backend.wire import NODES_SIZE, TICKET_SIZE

FILE: Final = "begun-move"
VERSION: Final = 1
MAX_SIZE: Final = 65536
_FORM: Final = KeptForm("note of a move", b"DFMOVE\0\0", VERSION, MAX_SIZE)


@dataclass(frozen=True, slots=True)
class BegunMove:
    """A move from `source` (HUB/NAME) to the drive in `folder`, whose nodes have the id `nodes`. `ticket`:
    of the mover."""

    source: str
    folder: str
    nodes: bytes
    ticket: bytes = field(repr=False)


def encode_move(move: BegunMove) -> bytes:
    """The file's bytes."""
    return _FORM.encode([move.source, move.folder, move.nodes, move.ticket])


def decode_move(data: bytes) -> BegunMove:
    """Errors as of `KeptForm.decode`."""
    move = BegunMove(*_FORM.decode(data))
    if (len(move.nodes), len(move.ticket)) != (NODES_SIZE, TICKET_SIZE):
        raise CorruptError("it names no nodes, or no ticket")
    return move


class BegunMoves:
    """The note in the state folder `folder`. There is one at most: a later move takes the place of one that
    another has settled."""

    def __init__(self, folder: Path, environment: Environment = THIS_MACHINE) -> None:
        self._path = folder / FILE
        self._disk = environment.disk

    def keep(self, move: BegunMove) -> None:
        """Durably. `OSError`."""
        self._disk.write_file(os.fspath(self._path), [encode_move(move)])

    def load(self) -> BegunMove | None:
        """None: no move is to be settled. `CorruptError`, `FormatError`: the file cannot be used."""
        advice = "remove it, and settle the move by drivefs move-to --undo"
        try:
            return _FORM.read(self._path, decode_move, advice)
        except FileNotFoundError:
            return None

    def forget(self) -> None:
        """Durably. Idempotent."""
        try:
            self._disk.unlink(os.fspath(self._path))
        except FileNotFoundError:
            return
        self._disk.sync_folder(os.fspath(self._path.parent))
