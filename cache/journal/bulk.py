"""Bulk files: the bytes of large writes. Records of the journal say where in them a write's bytes are.

The bytes are kept apart from the records because they are often needed for a short time only. A commit
whose bytes are stored as blocks has only its records synced. Its bulk file is deleted soon after; pages of
it that the kernel has not written by then are never written.

Invariants:
1. A file is appended to by the process that made it only. While it is there, no other gets its number.
2. After a power cut the disk may have a record without its bytes. The checksum in the record tells
   (`holds`).
3. A file goes when the journal lets go of the last record that refers to it.

Event-loop thread only, but for `descriptor`. Errors are the `OSError` of the disk.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from backend.buffer import Buffer
from backend.failpoints import declare
from backend.system import Environment, read_all
from cache.journal.custody import nameless_file
from cache.journal.format import OFFSET_BITS, OFFSET_MASK, Bulk, bulk_checksum
from cache.journal.salvage import set_aside
from cache.journal.segments import remove_own

BULK_SUFFIX = ".bulk"

BULK_WRITTEN = declare(
    "journal.bulk-written", "a large write's bytes are in the page cache; no record refers to them"
)


@dataclass(eq=False, slots=True)
class BulkFile:
    """One file. `first` and `last`: positions of the records that refer to it; 0 if none does."""

    number: int
    path: str
    descriptor: int
    end: int
    synced_to: int = 0
    first: int = 0
    last: int = 0


class BulkFiles:
    """See the module. `folder` is the journal's, which gives out the numbers."""

    def __init__(self, folder: Path, environment: Environment) -> None:
        self._folder = folder
        self._environment = environment
        self._disk = environment.disk
        self._files: dict[int, BulkFile] = {}
        """in the order of their numbers"""
        self._appended: BulkFile | None = None
        self._other_bytes: int | None = 0
        """of all files but `_appended`; None: to be counted anew"""
        self.nameless = False
        """as in `cache.journal.segments`"""

    def find(self) -> None:
        """Take up what earlier processes left."""
        for path in sorted(self._folder.glob("[0-9a-f]" * 16 + BULK_SUFFIX)):
            descriptor = self._disk.open(str(path), os.O_RDWR)
            number = int(path.stem, 16)
            self._files[number] = BulkFile(number, str(path), descriptor, os.fstat(descriptor).st_size)
        self._other_bytes = None

    @property
    def used_bytes(self) -> int:
        """Bytes in all files. Each change asks for it."""
        appended = self._appended
        if self._other_bytes is None:
            self._other_bytes = sum(file.end for file in self._files.values() if file is not appended)
        return self._other_bytes + (0 if appended is None else appended.end)

    def bytes_before(self, record: int) -> int:
        """Bytes in the files to which only records before `record` refer."""
        return sum(file.end for file in self._files.values() if file.last < record)

    def append(self, data: Buffer, size: int, new_number: Callable[[], int]) -> int:
        """Write the bytes at the end of a file that is shorter than `size`; their position."""
        file = self._appended
        if file is None or file.end >= size:
            file = self._appended = self._create(new_number())
            self._other_bytes = None
        self._disk.write(file.descriptor, [data], file.end)
        self._environment.failpoints.reached(BULK_WRITTEN)
        position = file.number << OFFSET_BITS | file.end
        file.end += len(data)
        return position

    def _create(self, number: int) -> BulkFile:
        path = str(self._folder / f"{number:016x}{BULK_SUFFIX}")
        if self.nameless:
            descriptor = nameless_file(str(self._folder), self._environment)
        else:
            descriptor = self._disk.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        file = self._files[number] = BulkFile(number, path, descriptor, 0)
        return file

    def refer(self, position: int, record: int) -> None:
        """The record at `record` refers to the bytes at `position`; in the order of the records."""
        file = self._files.get(position >> OFFSET_BITS)
        if file is not None:
            file.first = file.first or record
            file.last = record

    def descriptor(self, position: int) -> int | None:
        """Of the file that holds the bytes at `position`; None if it is not there. Any thread."""
        file = self._files.get(position >> OFFSET_BITS)
        return None if file is None else file.descriptor

    def holds(self, bulk: Bulk) -> bool:
        """Whether the bytes that a record refers to are there; also if the disk cannot read them now."""
        descriptor = self.descriptor(bulk.position)
        if descriptor is None:
            return False
        try:
            data = read_all(descriptor, bulk.length, bulk.position & OFFSET_MASK)
        except OSError:
            return True  # a power cut leaves other bytes, or none; who needs these meets the error
        return len(data) == bulk.length and bulk_checksum(bulk.position, data) == bulk.checksum

    def leave(self) -> None:
        """Go on in a new file."""
        self._appended = self._other_bytes = None

    def named(self) -> list[tuple[str, int]]:
        """The files, by name and descriptor."""
        return [(file.path, file.descriptor) for file in self._files.values()]

    def unsynced(self, first: int, last: int) -> list[BulkFile]:
        """The files with bytes that may not be on the disk, to which records in [first, last) may refer."""
        return [
            file
            for file in self._files.values()
            if file.synced_to < file.end and file.first < last and file.last >= first
        ]

    def take_back(self, position: int) -> None:
        """The bytes at `position`, the last ones, have no record."""
        file = self._files[position >> OFFSET_BITS]
        file.end = position & OFFSET_MASK
        self._other_bytes = None
        file.synced_to = min(file.synced_to, file.end)

    def drop_before(self, record: int) -> list[int]:
        """Remove the files to which only records before `record` refer; their descriptors, still open."""
        dropped = []
        self._other_bytes = None
        for file in [file for file in self._files.values() if file.last < record]:
            if file is self._appended:
                self._appended = None
            if self.nameless:
                remove_own(file.path, file.descriptor, self._disk)
            else:
                self._disk.unlink(file.path)
            dropped.append(self._files.pop(file.number).descriptor)
        return dropped

    def set_unreferred_aside(self) -> None:
        """Keep files without a record aside. Records that are kept there may refer to them."""
        self._other_bytes = None
        for file in [file for file in self._files.values() if not file.last]:
            set_aside(self._folder, [file.path], self._disk)
            os.close(self._files.pop(file.number).descriptor)

    def clear(self) -> list[int]:
        """Forget all files; their descriptors, to be closed."""
        descriptors = [file.descriptor for file in self._files.values()]
        self._files.clear()
        self._appended = self._other_bytes = None
        return descriptors
