"""Files of a journal that cannot be used, whole or from some byte on: they are kept in `lost/`.

A person may try again there. Of a segment that the disk cannot read to its end, a copy of the readable
beginning takes its place. So bytes that can be read again later never stand before what was accepted since.
After a crash in between, the file is where it was, and the work is done again.

Replay only finds the bytes that are to be kept aside (`Loss`). They are moved when the journal starts: an
opening that fails before that changes nothing, and the next one finds the same.

Blocks.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from backend.failpoints import declare
from backend.system import Durable, Environment, free_path, read_all

LOST: Final = "lost"
_PAGE: Final = 4096
_MOST_BAD: Final = 64
COPY_SUFFIX: Final = ".salvaged"
"""of a copy that is being made"""


SALVAGING: Final = declare(
    "journal.salvaging", "a segment's readable beginning is copied; the segment is where it was"
)
SALVAGED: Final = declare(
    "journal.salvaged", "a segment is kept in lost/ too; its beginning does not have its place yet"
)


@dataclass(frozen=True, slots=True)
class Loss:
    """Something that replay could not use, or did not need. `why`: for people; `keep` moves it aside, and
    tells where it is then; None: it stays where it is. `harmless`: it is stored, or nobody was told that it
    is durable."""

    why: str
    keep: Callable[[], Path] | None
    harmless: bool = False

    def settle(self) -> str:
        """Keep it aside, if it is to be moved; what to say of it."""
        return self.why if self.keep is None else f"{self.why}; kept: {self.keep()}"


class Readable(NamedTuple):
    """The bytes of a file, up to where it cannot be read."""

    data: bytes
    is_whole: bool


def read(path: str, start: int = 0) -> Readable:
    """From byte `start` on; zeros stand for what is before. Errors other than EIO are raised."""
    with _opened(path) as descriptor:
        size = os.fstat(descriptor).st_size
        found = _read(descriptor, max(size - start, 0), start)
        if found is not None:
            return Readable(bytes(start) + found if start else found, is_whole=True)
        return Readable(b"".join(_pages(descriptor, size, most_bad=0)), is_whole=False)


def read_first(path: str, length: int) -> bytes | None:
    """The first bytes of a file; None if they cannot be read. Errors other than EIO are raised."""
    with _opened(path) as descriptor:
        return _read(descriptor, length, 0)


def read_around(path: str) -> bytes:
    """The bytes of a file, with zeros in the place of pages that cannot be read; after `_MOST_BAD` of them it
    ends, as a dying disk may take seconds for each. Errors other than EIO are raised."""
    with _opened(path) as descriptor:
        return b"".join(_pages(descriptor, os.fstat(descriptor).st_size, _MOST_BAD))


def _pages(descriptor: int, size: int, most_bad: int) -> Iterator[bytes]:
    """All pages, up to where one more than so many cannot be read."""
    for offset in range(0, size, _PAGE):
        page = _read(descriptor, _PAGE, offset)
        if page is None:
            most_bad -= 1
            if most_bad < 0:
                return
        yield bytes(_PAGE) if page is None else page


@contextmanager
def _opened(path: str) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _read(descriptor: int, length: int, offset: int) -> bytes | None:
    """None if a sector of it cannot be read."""
    try:
        return read_all(descriptor, length, offset)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return None


def set_aside(folder: Path, paths: Iterable[str], disk: Durable) -> Path:
    """Move files of a journal to its `lost/`, beside what is kept there already; where that is."""
    lost = _lost_in(folder, disk)
    for path in paths:
        disk.rename(path, str(free_path(lost / os.path.basename(path))))
    return lost


def keep_beginning(folder: Path, path: str, beginning: bytes, environment: Environment) -> Path:
    """The file at `path` says this and no more from now on; where what it was is kept."""
    io, lost = environment.disk, _lost_in(folder, environment.disk)
    kept = free_path(lost / os.path.basename(path))  # a run that a crash ended may have left the plain name
    copy = path + COPY_SUFFIX
    descriptor = io.open(copy, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    try:
        io.write(descriptor, [beginning], 0)
        io.sync_data(descriptor)
    finally:
        os.close(descriptor)
    environment.failpoints.reached(SALVAGING)
    io.link(path, str(kept))
    io.sync_folder(str(lost))
    environment.failpoints.reached(SALVAGED)
    io.rename(copy, path)
    io.sync_folder(str(folder))
    return kept


def _lost_in(folder: Path, disk: Durable) -> Path:
    """The folder for what is kept aside."""
    lost = folder / LOST
    if not lost.is_dir():
        disk.make_folder(str(lost))
    return lost
