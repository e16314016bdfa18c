"""Files that were read lately, kept open, so that what the page cache has is read without a thread.

Blocks that were written together lie together in a fragment, and are read together. A read that goes on
near where the one before it ended asks the kernel for what follows (posix_fadvise(2)); the next ones find
it in the page cache: preadv2(2) with RWF_NOWAIT says so without ever waiting for the disk. Other reads are
random, and the kernel is told not to read more than they want.

A solid-state disk answers a small read sooner than a thread is woken twice: `read_soon` asks the kernel for
the bytes and looks for them in the page cache, in turn with all other tasks, for a time as short as a
thread's turn may take. A disk that does not answer by then is left to threads for a while, for a longer one
each time, so that a slow one costs one short look in a second.

`OpenFiles` is used on the event-loop thread only, an `OpenFile` in threads too. A file is closed when
nobody refers to it any more, so one that an abandoned thread opened is not left behind.
"""

from __future__ import annotations

import errno
import os
import time
from collections import OrderedDict
from contextlib import suppress
from typing import Final

import trio

MOST: Final = 32
NEAR: Final = 64 * 1024
READ_AHEAD: Final = 512 * 1024
SOON_MOST: Final = 128 * 1024
"""Longer reads are worth a thread: to copy them would hold the loop up."""
SOON_NS: Final = 400_000
FIRST_PAUSE_NS: Final = 10_000_000
LONGEST_PAUSE_NS: Final = 1_000_000_000


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
        return bytes(data) if self.fill_now(data, offset) else None

    def fill_now(self, data: bytearray, offset: int) -> bool:
        """Whether the page cache has all bytes that `data` has room for; then they are in it. `OSError`."""
        if os.preadv(self.descriptor, [data], offset, os.RWF_NOWAIT) != len(data):
            return False
        self._end = offset + len(data)
        return True

    def ask(self, offset: int, length: int) -> bool:
        """Have the kernel read the bytes, and what follows if they follow what was read last. It waits for a
        place in the disk's queue at most. False if the file ends before them. `OSError`."""
        if os.fstat(self.descriptor).st_size < offset + length:
            return False
        wanted = max(length, READ_AHEAD) if self._follows(offset) else length
        os.posix_fadvise(self.descriptor, offset, wanted, os.POSIX_FADV_WILLNEED)
        return True

    def _follows(self, offset: int) -> bool:
        return 0 <= offset - self._end <= NEAR and self._end >= 0

    def read(self, offset: int, length: int | None) -> bytes:
        """The bytes [offset, offset+length) or to the end of the file, fewer if it ends before; in a
        thread, as it waits for the disk. Concurrent reads only spoil the guess of what comes next."""
        there = max(os.fstat(self.descriptor).st_size - offset, 0)
        wanted = there if length is None else min(length, there)
        follows = self._follows(offset)
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
        self._can_tell = True
        """whether the file system knows RWF_NOWAIT; those of other machines do not, and looking may wait"""
        self._slow_until = 0
        self._pause_ns = FIRST_PAUSE_NS

    def get(self, path: str) -> OpenFile | None:
        """The file, if it is open here; the path may lead elsewhere by now."""
        return self._files.get(path)

    def read_now(self, path: str, offset: int, length: int) -> bytes | None:
        """The bytes, if the file is open here, is still what the path leads to, and the page cache has all
        of them. So a node whose disk went away is seen to be away."""
        file = self._files.get(path)
        if file is None or not self._can_tell:
            return None
        self._files.move_to_end(path)
        try:
            data = file.read_now(offset, length)
            if data is not None and file.leads_from(path):
                return data
        except OSError as error:
            # EAGAIN: the disk would have to be waited for. Any other is for the slow way to find and tell.
            self._can_tell = error.errno != errno.EOPNOTSUPP
        return None

    async def read_soon(self, path: str, offset: int, length: int) -> bytes | None:
        """The bytes, if the file is open here and the disk is quick to bring them; else None, and they are
        to be read in a thread. To be called when `read_now` had nothing. A checkpoint, or none."""
        file = self._files.get(path)
        start = time.perf_counter_ns()
        if file is None or not self._can_tell or length > SOON_MOST or start < self._slow_until:
            return None
        data = bytearray(length)
        with suppress(OSError):  # for the slow way to find and tell
            if not file.ask(offset, length):
                return None
            while time.perf_counter_ns() - start < SOON_NS:
                await trio.lowlevel.checkpoint()
                with suppress(BlockingIOError):
                    if file.fill_now(data, offset):
                        self._pause_ns = FIRST_PAUSE_NS
                        return bytes(data) if file.leads_from(path) else None
        if start >= self._slow_until:  # else another read was slow at the same time
            self._slow_until = time.perf_counter_ns() + self._pause_ns
            self._pause_ns = min(2 * self._pause_ns, LONGEST_PAUSE_NS)
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
