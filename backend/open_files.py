"""Files that were read lately, kept open, so that what the page cache has is read without a thread.

Blocks that were written together lie together in a fragment, and are read together. The first read of a
fragment goes through a thread and asks the kernel for what follows (posix_fadvise(2)); the next ones find
it in the page cache: preadv2(2) with RWF_NOWAIT says so without ever waiting for the disk.

`OpenFiles` is used on the event-loop thread only. A file is closed when nobody refers to it any more, so
one that an abandoned thread opened is not left behind.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from contextlib import suppress
from typing import Final

MOST: Final = 16


class OpenFile:
    """A descriptor that is closed with its last reference."""

    __slots__ = ("descriptor",)

    def __init__(self, path: str) -> None:
        self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        with suppress(AttributeError):  # the open failed
            os.close(self.descriptor)


class OpenFiles:
    """The files that were read last, by path."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._files: OrderedDict[str, OpenFile] = OrderedDict()

    def read_now(self, path: str, offset: int, length: int) -> bytes | None:
        """The bytes, if the file is open here, is still what the path leads to, and the page cache has all
        of them. So a node whose disk went away is seen to be away."""
        file = self._files.get(path)
        if file is None:
            return None
        self._files.move_to_end(path)
        data = bytearray(length)
        # EAGAIN: the disk would have to be waited for. Any other error is for the slow way to find and tell.
        with suppress(OSError):
            if os.preadv(file.descriptor, [data], offset, os.RWF_NOWAIT) == length:
                if os.path.samestat(os.fstat(file.descriptor), os.stat(path)):
                    return bytes(data)
                self.forget(path)
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
