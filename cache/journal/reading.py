"""Reading back what was appended: bytes by position, in segments and in bulk files.

The event loop may let go of a file while a thread reads it. Then the bytes are not there any more, and the
reader gets an error.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

from backend.system import read_all
from cache.errors import InputOutputError
from cache.journal.bulk import BulkFiles
from cache.journal.format import OFFSET_MASK
from cache.journal.kept_segments import KeptSegments


class Reading:
    """See the module. `folder` is the journal's, for people."""

    def __init__(self, folder: Path, kept: KeptSegments, bulk: BulkFiles) -> None:
        self._folder = folder
        self._kept = kept
        self._bulk = bulk

    def read_at(self, position: int, length: int) -> bytes:
        """See `Journal.read_at`."""
        descriptor = self._descriptor(position)
        data = b"" if descriptor is None else read_all(descriptor, length, position & OFFSET_MASK)
        if len(data) == length:
            return data
        raise InputOutputError(f"the journal {self._folder} lacks {length} bytes at {position:#x}")

    def read_at_once(self, position: int, length: int) -> memoryview | None:
        """See `Journal.read_at_once`."""
        descriptor = self._descriptor(position)
        if descriptor is None:
            return None
        data = bytearray(length)
        try:
            found = os.preadv(descriptor, [data], position & OFFSET_MASK, os.RWF_NOWAIT)
        except OSError as error:
            if error.errno == errno.EOPNOTSUPP:  # the file system cannot tell
                return memoryview(self.read_at(position, length))
            return None
        return memoryview(data) if found == length else None

    def warm(self, ranges: list[tuple[int, int]]) -> None:
        """See `Journal.warm`."""
        for position, length in ranges:
            descriptor = self._descriptor(position)
            if descriptor is not None:
                with suppress(OSError):  # who needs it meets the error himself
                    read_all(descriptor, length, position & OFFSET_MASK)

    def _descriptor(self, position: int) -> int | None:
        """Of the file that holds the position."""
        descriptor = self._kept.descriptor(position)
        return self._bulk.descriptor(position) if descriptor is None else descriptor
