"""Files that were read lately, kept open, so that what the page cache has is read without a thread.

Blocks that were written together lie together in a fragment, and are read together. A read that goes on
near where the one before it ended asks the kernel for what follows (posix_fadvise(2)); the next ones find
it in the page cache: preadv2(2) with RWF_NOWAIT says so without ever waiting for the disk. Other reads are
random, and the kernel is told not to read more than they want.

`OpenFiles` is used on the event-loop thread only, an `OpenFile` in threads too. A file is closed when
nobody refers to it any more, so one that an abandoned thread opened is not left behind.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from contextlib import suppress
from typing import Final

MOST: Final = 32
NEAR: Final = 64 * 1024
READ_AHEAD: Final = 512 * 1024


class OpenFile:
    """A descriptor that is closed with its last reference."""

    __slots__ = ("_end", "descriptor")

    def __init__(self, path: str) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._end = -1
        os.posix_fadvise(self.descriptor, 0, 0, os.POSIX_FADV_RANDOM)

    def __del__(self) -> None:
        with suppress(AttributeError):  # the open failed
            os.close(self.descriptor)

    def leads_from(self, path: str) -> bool:
        """Whether `path` still leads to this file. `FileNotFoundError` if to none."""
        return os.path.samestat(os.fstat(self.descriptor), os.stat(path))

    def read_now(self, offset: int, length: int) -> bytes | None:
        """The bytes if the page cache has all of them. `OSError`; EAGAIN if it has none."""
        data = bytearray(length)
        if os.preadv(self.descriptor, [data], offset, os.RWF_NOWAIT) != length:
            return None
        self._end = offset + length
        return bytes(data)

    def read(self, offset: int, length: int | None) -> bytes:
        """The bytes [offset, offset+length) or to the end of the file, fewer if it ends before; in a
        thread, as it waits for the disk. Concurrent reads only spoil the guess of what comes next."""
        there = max(os.fstat(self.descriptor).st_size - offset, 0)
        wanted = there if length is None else min(length, there)
        follows = 0 <= offset - self._end <= NEAR and self._end >= 0
        data = self._read_all(offset, wanted)
        self._end = offset + len(data)
        if follows and self._end < offset + there:
            os.posix_fadvise(self.descriptor, self._end, READ_AHEAD, os.POSIX_FADV_WILLNEED)
        return data

    def _read_all(self, offset: int, length: int) -> bytes:
        data = os.pread(self.descriptor, length, offset)
        while len(data) < length:
            more = os.pread(self.descriptor, length - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data


class OpenFiles:
    """The files that were read last, by path."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._files: OrderedDict[str, OpenFile] = OrderedDict()

    def get(self, path: str) -> OpenFile | None:
        """The file, if it is open here; the path may lead elsewhere by now."""
        return self._files.get(path)

    def read_now(self, path: str, offset: int, length: int) -> bytes | None:
        """The bytes, if the file is open here, is still what the path leads to, and the page cache has all
        of them. So a node whose disk went away is seen to be away."""
        file = self._files.get(path)
        if file is None:
            return None
        self._files.move_to_end(path)
        # EAGAIN: the disk would have to be waited for. Any other error is for the slow way to find and tell.
        with suppress(OSError):
            data = file.read_now(offset, length)
            if data is not None and file.leads_from(path):
                return data
        return None

    def keep(self, path: str, file: OpenFile) -> None:
        """Remember an open file of `path`."""
        self._files[path] = file
        self._files.move_to_end(path)
        if len(self._files) > self._most:
            self._files.popitem(last=False)

    def forget(self, path: str) -> None:
        """The file is replaced or removed: the next read opens it anew."""
        self._files.pop(path, None)
