"""Files of a journal that cannot be used, whole or from some byte on: they are kept in `lost/`.

A person may try again there. Of a segment that the disk cannot read to its end, a copy of the readable
beginning takes its place. So bytes that can be read again later never stand before what was accepted since.
After a crash in between, the file is where it was, and the work is done again.

Replay only finds what is to be kept aside (`Loss`). It is moved when the journal starts: an opening that
fails before that changes nothing, and the next one finds the same.

Blocks.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from backend.failpoints import declare
from backend.system import Durable, Environment, read_all

LOST: Final = "lost"
_PAGE: Final = 4096
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
    """Something that replay could not use. `why`: for people; `keep` moves it aside, and tells where it is
    then; `by_power_cut`: so that nobody was told that it is durable."""

    why: str
    keep: Callable[[], Path]
    by_power_cut: bool = False


class Readable(NamedTuple):
    """The bytes of a file, up to where it cannot be read."""

    data: bytes
    is_whole: bool


def read(path: str) -> Readable:
    """Errors other than EIO are raised."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(descriptor).st_size
        try:
            return Readable(read_all(descriptor, size, 0), is_whole=True)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
        return Readable(_beginning(descriptor), is_whole=False)
    finally:
        os.close(descriptor)


def _beginning(descriptor: int) -> bytes:
    """All pages before the first that cannot be read."""
    pages: list[bytes] = []
    try:
        while page := read_all(descriptor, _PAGE, len(pages) * _PAGE):
            pages.append(page)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
    return b"".join(pages)


def set_aside(folder: Path, paths: Iterable[str], disk: Durable) -> Path:
    """Move files of a journal to its `lost/`, beside what is kept there already; where that is."""
    lost = _lost_in(folder, disk)
    for path in paths:
        disk.rename(path, str(_free_name(lost, os.path.basename(path))))
    return lost


def keep_beginning(folder: Path, path: str, beginning: bytes, environment: Environment) -> Path:
    """The file at `path` says this and no more from now on; where what it was is kept."""
    io, lost = environment.disk, _lost_in(folder, environment.disk)
    kept = _free_name(lost, os.path.basename(path))
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


def _free_name(folder: Path, name: str) -> Path:
    """A path in the folder that is free. A run that a crash ended may have left a file of the plain name."""
    number, path = 1, folder / name
    while path.exists():
        number += 1
        path = folder / f"{name}-{number}"
    return path
