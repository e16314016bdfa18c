"""A disk of which chosen bytes of the journal cannot be read: EIO, by whatever call, until it is mended."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from cache.drive import Drive
from cache.journal.dirty import DirtyFile
from cache.journal.format import OFFSET_BITS
from cache.journal.pieces import Data


class Unreadable:
    """The ranges (positions of the journal below `folder`) that cannot be read."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self._ranges: list[tuple[int, int]] = []

    def break_file(self, drive: Drive, inode: int) -> bool:
        """Some bytes of the file that are only in the journal; whether there are any."""
        broken = [(piece.position, piece.position + 1) for piece in _data(drive.ledger.dirty.get(inode))]
        self._ranges += broken[:1]
        return bool(broken)

    def break_at(self, position: int) -> None:
        """The page of this position."""
        page = position >> 12 << 12
        self._ranges.append((page, page + 4096))

    def mend(self) -> None:
        """All can be read again."""
        self._ranges.clear()

    def hits(self, drive: Drive, inode: int) -> bool:
        """Whether the journal has bytes of the file that cannot be read."""
        pieces = _data(drive.ledger.dirty.get(inode))
        return any(self._is_hit(piece.position, piece.end - piece.start) for piece in pieces)

    def _is_hit(self, position: int, length: int) -> bool:
        return any(begin < position + length and position < end for begin, end in self._ranges)

    def _check(self, descriptor: int, length: int, offset: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}") if self._ranges else ""
        if path.startswith(self._folder) and "/journal/" in path:
            number = int(Path(path).name.split(".")[0], 16)
            if self._is_hit(number << OFFSET_BITS | offset, length):
                raise OSError(errno.EIO, "these bytes cannot be read")

    @contextmanager
    def installed(self) -> Iterator[None]:
        """For all calls that read at an offset."""
        pread, preadv = os.pread, os.preadv

        def read(descriptor: int, length: int, offset: int) -> bytes:
            self._check(descriptor, length, offset)
            return pread(descriptor, length, offset)

        def read_into(descriptor: int, buffers: Any, offset: int, flags: int = 0) -> int:
            self._check(descriptor, sum(map(len, buffers)), offset)
            return preadv(descriptor, buffers, offset, flags)

        with patch.object(os, "pread", read), patch.object(os, "preadv", read_into):
            yield


def _data(file: DirtyFile | None) -> list[Data]:
    layers = [] if file is None else [layer for layer in (file.top, file.frozen) if layer is not None]
    return [piece for layer in layers for piece in layer.pieces if isinstance(piece, Data)]
