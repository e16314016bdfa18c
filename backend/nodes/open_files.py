"""Files that were read lately, kept open, so that what the page cache has is read without a thread.

Blocks that were written together lie together in a fragment, and are read together. A read that goes on
near where the one before it ended asks the kernel for what follows (posix_fadvise(2)); the next ones find
it in the page cache: preadv2(2) with RWF_NOWAIT says so without ever waiting for the disk. Other reads are
random, and the kernel is told not to read more than they want.

A solid-state disk answers a small read sooner than a thread is woken twice: `read_soon` asks the kernel for
the bytes and looks for them in the page cache, soon in turn with all other tasks, for a time as short as a
thread's turn may take. A disk that does not answer by then is left to threads for a while, for a longer one
each time, so that a slow one costs one short look in a second.

`OpenFiles` is used on the event-loop thread only, an `OpenFile` in threads too. A file is closed when
nobody refers to it any more, so one that an abandoned thread opened is not left behind.
"""

from __future__ import annotations

import errno
import os
import resource
import time
from collections import OrderedDict
from contextlib import suppress
from typing import Final

from backend.buffer import Buffer
from backend.nodes import files as node_files
from backend.system import checkpoint, read_all

MOST: Final = 2048
"""A drive's packs that are read at random, 16 GiB of them: to open a file that is not in memory is a
thread's turn and some reads of the disk."""
SHARE: Final = 64
"""A node keeps a 64th of the files that the process may open: there are others, and sockets and databases."""
NEAR: Final = 64 * 1024
READ_AHEAD: Final = 512 * 1024
SOON_MOST: Final = 128 * 1024
"""The disk is not asked for longer reads here: it takes longer than is waited for."""
NOW_MOST: Final = 2 << 20
"""Longer reads are worth a thread, even of what the page cache has: to copy them would hold the loop up."""
SOON_NS: Final = 400_000
SPIN_NS: Final = 80_000
"""So long the disk is looked at without a turn for others: what a few turns take, and what most small reads
of a solid-state disk do. One that is slower is not looked at like this, until it is quick again."""
FIRST_PAUSE_NS: Final = 10_000_000
LONGEST_PAUSE_NS: Final = 1_000_000_000


class OpenFile:
    """A descriptor that is closed with its last reference."""

    __slots__ = ("_end", "_inode", "descriptor", "path")

    def __init__(self, root: str, key: str) -> None:
        """`OSError`; as of `backend.nodes.files`."""
        self.descriptor = node_files.open_below(root, key)
        self.path = os.path.join(root, key)
        self._inode = _inode(os.fstat(self.descriptor))
        self._end = -1
        os.posix_fadvise(self.descriptor, 0, 0, os.POSIX_FADV_RANDOM)

    def __del__(self) -> None:
        with suppress(AttributeError):  # the open failed
            os.close(self.descriptor)

    def is_in_place(self) -> bool:
        """Whether the path still leads to this file. `FileNotFoundError` if to none."""
        return _inode(os.stat(self.path)) == self._inode

    def fill_now(self, data: bytearray, offset: int) -> bool:
        """Whether the page cache has all bytes that `data` has room for; then they are in it. `OSError`, but
        not EAGAIN."""
        try:
            count = os.preadv(self.descriptor, [data], offset, os.RWF_NOWAIT)
        except BlockingIOError:
            return False
        if count != len(data):
            return False
        self._end = offset + len(data)
        return True

    def ask(self, offset: int, length: int) -> bool:
        """Have the kernel read the bytes, and what follows if they follow what was read last. It waits for a
        place in the disk's queue at most. False if the file ends before them. `OSError`."""
        if os.fstat(self.descriptor).st_size < offset + length:
            return False
        wanted = max(length, READ_AHEAD) if self.follows(offset) else length
        os.posix_fadvise(self.descriptor, offset, wanted, os.POSIX_FADV_WILLNEED)
        return True

    def ask_for_next(self) -> None:
        """Have the kernel read what follows what was read last. Waits as `ask`. `OSError`."""
        os.posix_fadvise(self.descriptor, self._end, READ_AHEAD, os.POSIX_FADV_WILLNEED)

    def follows(self, offset: int) -> bool:
        """Whether a read from there goes on where the last one ended."""
        return 0 <= offset - self._end <= NEAR and self._end >= 0

    def read(self, offset: int, length: int | None) -> bytes:
        """The bytes [offset, offset+length) or to the end of the file, fewer if it ends before; in a
        thread, as it waits for the disk. Concurrent reads only spoil the guess of what comes next."""
        there = max(os.fstat(self.descriptor).st_size - offset, 0)
        wanted = there if length is None else min(length, there)
        follows = self.follows(offset)
        data = read_all(self.descriptor, wanted, offset)
        self._end = offset + len(data)
        if follows and self._end < offset + there:
            self.ask_for_next()
        return data


class OpenFiles:
    """The files of a node that were read last, by key."""

    def __init__(self) -> None:
        self._most = min(MOST, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // SHARE)
        self._files: OrderedDict[str, OpenFile] = OrderedDict()
        self._can_tell = True
        """whether the file system knows RWF_NOWAIT; those of other machines do not, and looking may wait"""
        self._slow_until = 0
        self._pause_ns = FIRST_PAUSE_NS
        self._spin_ns = SPIN_NS

    def get(self, key: str) -> OpenFile | None:
        """The file, if it is open here; its path may lead elsewhere by now."""
        return self._files.get(key)

    async def read_soon(self, key: str, offset: int, length: int) -> Buffer | None:
        """The bytes, if the file is open here, is still what its path leads to (so a node whose disk went
        away is seen to be away), and the page cache has them or the disk is quick to bring
        them; else None, and they are to be read in a thread. A checkpoint, or none."""
        file = self._files.get(key)
        if file is None or length > NOW_MOST or not self._can_tell:
            return None
        self._files.move_to_end(key)
        goes_on = length > SOON_MOST and file.follows(offset)
        if goes_on and time.perf_counter_ns() < self._slow_until:
            return None  # a thread asks for what follows: to ask may wait for a place in the disk's queue
        data = bytearray(length)
        try:
            if file.fill_now(data, offset) or await self._brings(file, data, offset):
                if file.is_in_place():
                    if goes_on:
                        file.ask_for_next()
                    return data
                self.forget(key)
        except FileNotFoundError:  # and its space is given back when it is closed
            self.forget(key)
        except OSError as error:  # for the slow way to find and tell
            self._can_tell = error.errno != errno.EOPNOTSUPP
        return None

    async def _brings(self, file: OpenFile, data: bytearray, offset: int) -> bool:
        """Whether the disk fills `data` soon. `OSError`."""
        start = time.perf_counter_ns()
        if len(data) > SOON_MOST or start < self._slow_until or not file.ask(offset, len(data)):
            return False
        waited = 0
        while waited < SOON_NS:
            if waited >= self._spin_ns:
                await checkpoint()
            if file.fill_now(data, offset):
                self._note_quick(waited)
                return True
            waited = time.perf_counter_ns() - start
        self._note_slow(start)
        return False

    def _note_quick(self, waited: int) -> None:
        self._pause_ns = FIRST_PAUSE_NS
        self._spin_ns = SPIN_NS if waited < SPIN_NS else self._spin_ns // 2

    def _note_slow(self, start: int) -> None:
        self._spin_ns = 0
        if start >= self._slow_until:  # else another read was slow at the same time
            self._slow_until = time.perf_counter_ns() + self._pause_ns
            self._pause_ns = min(2 * self._pause_ns, LONGEST_PAUSE_NS)

    def keep(self, key: str, file: OpenFile) -> None:
        """Remember the open file of `key`."""
        self._files[key] = file
        self._files.move_to_end(key)
        if len(self._files) > self._most:
            self._files.popitem(last=False)

    def forget(self, key: str) -> None:
        """The file is replaced or removed: the next read opens it anew."""
        self._files.pop(key, None)


def _inode(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino
