"""Sequential readers of a file, and how far ahead of each to fetch. A file may have several.

A reader is recognised by the offset at which its next read begins. A read that begins elsewhere may be the
first of a new sequential reader, or a random access. A few of these are remembered; they are dropped before
a reader that is known to be sequential.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

READ_AHEAD_START: Final = 2 << 20
READ_AHEAD_MOST: Final = 16 << 20
_FILES: Final = 256
_READERS: Final = 8


class Reader:
    """One that reads a file."""

    __slots__ = ("_ahead_to", "_window")

    def __init__(self, end: int) -> None:
        self._ahead_to = end
        self._window = 0

    @property
    def is_in_order(self) -> bool:
        """Whether he was seen to be."""
        return self._window > 0

    def ahead(self, end: int) -> tuple[int, int] | None:
        """He read in order up to `end`: the range to fetch now, if any."""
        self._window = min(max(2 * self._window, READ_AHEAD_START), READ_AHEAD_MOST)
        if self._ahead_to - end >= self._window // 2:
            return None
        low, self._ahead_to = max(end, self._ahead_to), end + self._window
        return low, self._ahead_to


class ReadStreams:
    """See the module."""

    def __init__(self) -> None:
        self._files: OrderedDict[int, dict[int, Reader]] = OrderedDict()
        """by inode, then by where the next read begins; the last reader is the last in each"""

    def note(self, inode: int, start: int, end: int) -> tuple[bool, Reader]:
        """The bytes [start, end) are read: whether that is in order (of the first read of a file: whether it
        is at its start), and who reads."""
        readers = self._files.get(inode)
        if readers is None:
            in_order, reader = not start, Reader(end)
            self._files[inode] = {end: reader}
            if len(self._files) > _FILES:
                self._files.popitem(last=False)
            return in_order, reader
        self._files.move_to_end(inode)
        known = readers.pop(start, None)
        reader = Reader(end) if known is None else known
        readers[end] = reader
        if len(readers) > _READERS:
            del readers[_least(readers)]
        return known is not None, reader


def _least(readers: dict[int, Reader]) -> int:
    """The one to forget: the oldest of those that were not seen to read in order, or the oldest."""
    jumping = (offset for offset, reader in readers.items() if not reader.is_in_order)
    return next(jumping, next(iter(readers)))
