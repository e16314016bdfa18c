"""A disk of which chosen bytes of the journal cannot be read, by whatever call, until it is mended.

As the kernel does it: a read that begins before them gives what lies before them, and EIO is for one that
begins in them.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from cache.drive import Drive
from cache.journal.dirty import DirtyFile
from cache.journal.format import OFFSET_BITS, OFFSET_MASK
from cache.journal.pieces import Data

PAGE = 4096


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
        page = position // PAGE * PAGE
        self._ranges.append((page, page + PAGE))

    def mend(self) -> None:
        """All can be read again."""
        self._ranges.clear()

    def hits(self, drive: Drive, inode: int) -> bool:
        """Whether the journal has bytes of the file that cannot be read."""
        pieces = _data(drive.ledger.dirty.get(inode))
        return any(self._is_hit(piece.position, piece.end - piece.start) for piece in pieces)

    def _is_hit(self, position: int, length: int) -> bool:
        return any(begin < position + length and position < end for begin, end in self._ranges)

    def _readable(self, descriptor: int, length: int, offset: int) -> int:
        """How many of the bytes a read gives."""
        path = os.readlink(f"/proc/self/fd/{descriptor}") if self._ranges else ""
        if not (path.startswith(self._folder) and "/journal/" in path):
            return length
        position = int(Path(path).name.split(".")[0], 16) << OFFSET_BITS | offset
        if self._is_hit(position, 1):
            raise OSError(errno.EIO, "these bytes cannot be read")
        return min([length, *(begin - position for begin, _ in self._ranges if begin > position)])

    @contextmanager
    def installed(self) -> Iterator[None]:
        """For all calls that read at an offset."""
        pread, preadv = os.pread, os.preadv

        def read(descriptor: int, length: int, offset: int) -> bytes:
            return pread(descriptor, self._readable(descriptor, length, offset), offset)

        def read_into(descriptor: int, buffers: Any, offset: int, flags: int = 0) -> int:
            length = sum(map(len, buffers))
            readable = self._readable(descriptor, length, offset)
            if readable == length:
                return preadv(descriptor, buffers, offset, flags)
            (buffer,) = buffers
            return preadv(descriptor, [memoryview(buffer)[:readable]], offset, flags)

        with patch.object(os, "pread", read), patch.object(os, "preadv", read_into):
            yield


def pages_of(folder: Path) -> list[int]:
    """Positions of all pages of the journal below `folder` that have anything."""
    found = []
    for path in sorted((folder / "journal").glob("*.journal")):
        data, number = path.read_bytes(), int(path.stem, 16)
        found += [number << OFFSET_BITS | at for at in range(0, len(data), PAGE) if any(data[at : at + PAGE])]
    return found


def is_before(position: int, page: int) -> bool:
    """Whether all that the page has comes before the position, and the header of its segment is not in it."""
    if page >> OFFSET_BITS < position >> OFFSET_BITS:
        return True
    return page & OFFSET_MASK > 0 and page + PAGE <= position


def _data(file: DirtyFile | None) -> list[Data]:
    """The bytes that a read of the file meets: a commit that was cut may have some that were overwritten."""
    pieces = [] if file is None else file.pieces(0, sys.maxsize)
    return [piece for piece in pieces if isinstance(piece, Data)]
