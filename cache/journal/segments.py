"""The files of the journal's segments: made, let go, emptied, and used again.

A segment that is not needed any more holds plaintext; it is overwritten with zeros. A few of these files
are kept for later segments, because an fsync of blocks that were written before is cheaper than one of
blocks that were only preallocated.

Invariants:
1. A file is emptied after it has durably lost its name. Otherwise a power cut could bring the name back,
   and with it a segment that is whole up to some point: replay would end there.
2. For the same reason a file is used for a later segment only after that.
3. A descriptor is closed by `finish_dropping`, which its caller never lets run beside an fdatasync: the
   number of a closed descriptor may belong to another file by then. Closing frees the space of an unlinked
   file, which takes the disk tens of milliseconds for 64 MiB. So it is done in a thread.
4. A file without a name that an earlier process left is removed: its content is unknown.
5. A file is made before it is needed: the disk may take long to find so much room, and the event loop must
   not wait for it. The event loop makes a file only where that has failed, or a segment fills faster.

Event-loop thread only, but for `finish_dropping` and `preallocated`. Errors are the `OSError` of the disk.
"""

from __future__ import annotations

import errno
import logging
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from backend.failpoints import declare
from backend.system import Durable, Environment
from cache.journal.custody import is_at, nameless_file
from cache.journal.format import SEGMENT_HEADER_SIZE, SegmentHeader, decode_segment_header
from cache.journal.salvage import COPY_SUFFIX, Loss, read, read_first, set_aside

MAX_SPARES: Final = 2
SUFFIX: Final = ".journal"
SPARE_SUFFIX: Final = ".spare"
_NAME: Final = re.compile("[0-9a-f]{16}")
_SMALLEST: Final = 64 << 10
_ZEROS: Final = bytes(1 << 20)

SEGMENT_STARTED = declare("journal.segment-started", "a new segment has its header, no record yet")
SEGMENT_EMPTYING = declare(
    "journal.segment-emptying", "a spent segment has lost its name durably; its bytes are still there"
)


log = logging.getLogger(__name__)


@dataclass(slots=True)
class Segment:
    """One file. `end`: offset behind the last record; `size`: what it takes on the disk; `written`: behind
    this offset nothing but zeros was ever written; `ready`: what lies before it was written to the disk, be
    it zeros (`cache.journal.syncing`)."""

    number: int
    seed: int
    path: str
    descriptor: int
    end: int
    size: int
    written: int
    ready: int = 0


@dataclass(frozen=True, slots=True)
class Dropped:
    """A file that was let go: its descriptor, and if it is to be used again, its path, how many bytes were
    written to it, and how many of its blocks are, be it with zeros."""

    descriptor: int
    spare: str = ""
    written: int = 0
    ready: int = 0


@dataclass(frozen=True, slots=True)
class Spare:
    """A file for a later segment; `ready` as in `Segment`."""

    path: str
    ready: int = 0


class SegmentFiles:
    """See the module. `folder` is the journal's."""

    def __init__(self, folder: Path, environment: Environment) -> None:
        self._folder = folder
        self._environment = environment
        self._disk = environment.disk
        self._spares: list[Spare] = []
        self._coming_spares = 0
        self.nameless = False
        """no file gets a name any more, and only names that are still ours are taken
        (`cache.journal.custody`)"""

    def find(self, losses: list[Loss], first: int = 0) -> list[tuple[str, SegmentHeader]]:
        """The segments that are there, by number. Files without a segment in them, and without anything else,
        go. `losses` is told of the others: each is lost with all that follow it, or alone if its number is
        below `first`, as nobody needs it, or its name is none of ours."""
        found = []
        self._spares = []
        self._remove_leftovers()
        paths = sorted(self._folder.glob("*" + SUFFIX))
        for index, path in enumerate(paths):
            begin = read_first(str(path), SEGMENT_HEADER_SIZE)
            header = None if begin is None else decode_segment_header(begin)
            if header is not None and f"{header.number:016x}" == path.stem:
                found.append((str(path), header))
            elif begin is not None and not _has_content(path):
                self._disk.unlink(str(path))  # preallocated, not begun yet
            else:
                why = f"the journal file {path} {'cannot be read' if begin is None else 'has no header'}"
                if _NAME.fullmatch(path.stem) and path.stem >= f"{first:016x}":
                    is_torn = begin is not None and not any(begin)
                    losses.append(
                        self._loss(f"{why}, so what follows it is not used", paths[index:], is_torn)
                    )
                    break
                losses.append(self._loss(why, [path], harmless=True))
        return found

    def _remove_leftovers(self) -> None:
        """Remove what a process that ended was making, or emptying."""
        for suffix in (SPARE_SUFFIX, COPY_SUFFIX):
            for path in self._folder.glob("*" + suffix):
                self._disk.unlink(str(path))

    def _loss(self, why: str, paths: list[Path], harmless: bool) -> Loss:
        return Loss(why, partial(set_aside, self._folder, [*map(str, paths)], self._disk), harmless)

    def path_of(self, number: int) -> str:
        """The path of the segment of that number."""
        return str(self._folder / f"{number:016x}{SUFFIX}")

    def allocate(self, path: str, header: bytes, size: int) -> tuple[int, int, int]:
        """A segment file with its header: descriptor, size, and how much of it is ready. Of at least `size`
        bytes, if the disk has so many."""
        io, ready = self._disk, 0
        if self.nameless:
            descriptor = nameless_file(str(self._folder), self._environment)
            io.write(descriptor, [header], 0)
            return descriptor, size, ready
        if self._spares:
            io.rename(self._spares[-1].path, path)
            ready = self._spares.pop().ready
        opened = None
        try:
            opened = descriptor = io.open(path, os.O_RDWR | os.O_CREAT)
            if os.fstat(descriptor).st_size < size:
                _preallocate(descriptor, size, io)
            io.write(descriptor, [header], 0)
            self._environment.failpoints.reached(SEGMENT_STARTED)
            return descriptor, os.fstat(descriptor).st_size, ready
        except OSError:
            with suppress(FileNotFoundError):
                io.unlink(path)
            if opened is not None:
                os.close(opened)
            raise

    def let_go(self, segment: Segment, size: int) -> Dropped:
        """Take the name of a segment that nobody needs; to be given to `finish_dropping`. It is kept for
        another one of `size` bytes if it has just that size, and not too many are kept."""
        if self.nameless:
            remove_own(segment.path, segment.descriptor, self._disk)
            return Dropped(segment.descriptor)
        if len(self._spares) + self._coming_spares >= MAX_SPARES or segment.size != size:
            self._disk.unlink(segment.path)
            return Dropped(segment.descriptor)
        spare = segment.path.removesuffix(SUFFIX) + SPARE_SUFFIX
        self._disk.rename(segment.path, spare)
        self._coming_spares += 1
        return Dropped(segment.descriptor, spare, segment.written, segment.ready)

    def finish_dropping(self, dropped: list[Dropped]) -> list[Spare]:
        """Empty those that are to be used again, and close all; the files for `take_spares`. One that
        cannot be emptied is removed. Blocks."""
        emptied = []
        kept = [each for each in dropped if each.spare]
        if kept:
            self._disk.sync_folder(str(self._folder))
            self._environment.failpoints.reached(SEGMENT_EMPTYING)
        for each in kept:
            try:
                _empty(each, self._disk)
                emptied.append(Spare(each.spare, max(each.written, each.ready)))
            except OSError:
                with suppress(OSError):
                    self._disk.unlink(each.spare)
        close_all(each.descriptor for each in dropped)
        return emptied

    def give_back_spares(self) -> None:
        """Remove those that can be used."""
        while self._spares:
            self._disk.unlink(self._spares[-1].path)
            self._spares.pop()

    def begin_spare(self, number: int) -> str | None:
        """The path for `preallocated`, if a file for segment `number` should be made before it is needed;
        `end_spare` is to be called then."""
        if self.nameless or self._spares or self._coming_spares:
            return None
        self._coming_spares += 1
        return str(self._folder / f"ahead-{number:016x}{SPARE_SUFFIX}")

    def end_spare(self, made: list[str]) -> None:
        """The file that `begin_spare` announced can be used, or was not made."""
        self._coming_spares -= 1
        self._spares += map(Spare, made)

    def take_spares(self, emptied: list[Spare], dropped: list[Dropped]) -> None:
        """Those of `dropped` that `finish_dropping` emptied can be used from now on."""
        self._spares += emptied
        self._coming_spares -= sum(bool(each.spare) for each in dropped)


def _has_content(path: Path) -> bool:
    """Whether anything but zeros is in it, or may be."""
    found = read(str(path))
    return any(found.data) or not found.is_whole


def remove_own(path: str, descriptor: int, disk: Durable) -> None:
    """Take the file's name, if it has it still."""
    if is_at(path, descriptor):
        disk.unlink(path)


def preallocated(path: str, size: int, disk: Durable) -> list[str]:
    """A new file of `size` bytes at `path`; nothing, and nothing is left, if the disk refuses. Blocks."""
    try:
        descriptor = disk.open(path, os.O_RDWR | os.O_CREAT)
        try:
            disk.preallocate(descriptor, size)
        finally:
            os.close(descriptor)
    except OSError as error:
        log.info("no journal file could be made beforehand: %s", error)
        with suppress(OSError):
            disk.unlink(path)
        return []
    return [path]


def _preallocate(descriptor: int, size: int, disk: Durable) -> None:
    """A disk that is nearly full has room for a small segment, perhaps."""
    while True:
        try:
            disk.preallocate(descriptor, size)
            return
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT) or size <= _SMALLEST:
                raise
        size = max(size // 4, _SMALLEST)


def _empty(dropped: Dropped, disk: Durable) -> None:
    write_zeros(dropped.descriptor, 0, dropped.written, disk)
    disk.sync_data(dropped.descriptor)


def write_zeros(descriptor: int, start: int, end: int, disk: Durable) -> None:
    """Zeros from `start` to `end`, in the page cache."""
    for offset in range(start, end, len(_ZEROS)):
        length = min(end - offset, len(_ZEROS))
        disk.write(descriptor, [memoryview(_ZEROS)[:length]], offset)


def close_all(descriptors: Iterable[int]) -> None:
    """Close files that nobody writes to any more."""
    for descriptor in descriptors:
        with suppress(OSError):
            os.close(descriptor)
