"""O_DIRECT beside the page cache: what a write that has ended wrote is what everybody reads from then on."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.contents import KINDS, content

pytestmark = pytest.mark.mount

BLOCK: Final = 16 << 10
BLOCKS: Final = 64
ROUNDS: Final = 15
_CALLS: Final = {"x86_64": (206, 207, 209, 208), "aarch64": (0, 1, 2, 4)}
"""io_setup, io_destroy, io_submit, io_getevents (syscalls(2)); glibc has no functions for them"""
_PWRITE: Final = 1


class Iocb(ctypes.Structure):
    """`struct iocb` of linux/aio_abi.h."""

    _fields_ = (
        *(("data", ctypes.c_uint64), ("key", ctypes.c_uint32), ("rw_flags", ctypes.c_uint32)),
        *(("opcode", ctypes.c_uint16), ("priority", ctypes.c_int16), ("descriptor", ctypes.c_uint32)),
        *(("buffer", ctypes.c_uint64), ("length", ctypes.c_uint64), ("offset", ctypes.c_int64)),
        *(("reserved", ctypes.c_uint64), ("flags", ctypes.c_uint32), ("event", ctypes.c_uint32)),
    )


class Event(ctypes.Structure):
    """`struct io_event`."""

    _fields_ = (
        *(("data", ctypes.c_uint64), ("object", ctypes.c_uint64)),
        *(("result", ctypes.c_int64), ("result2", ctypes.c_int64)),
    )


class Asynchronous:
    """io_submit(2) and its relatives."""

    def __init__(self) -> None:
        if platform.machine() not in _CALLS:
            pytest.skip(f"the numbers of the calls on {platform.machine()} are not known here")
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._setup, self._destroy, self._submit, self._events = _CALLS[platform.machine()]
        self._context = ctypes.c_ulong()
        self._call(self._setup, BLOCKS, ctypes.byref(self._context))

    def _call(self, number: int, *arguments: object) -> int:
        result = int(self._libc.syscall(ctypes.c_long(number), *arguments))
        if result < 0:
            if ctypes.get_errno() == errno.ENOSYS:
                pytest.skip("this kernel has no asynchronous I/O")
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return result

    def write_all(self, descriptor: int, window: mmap.mmap, order: list[int]) -> None:
        """Write the blocks of `window` to their places; returns when all have ended."""
        start = ctypes.addressof(ctypes.c_char.from_buffer(window))
        blocks = [
            Iocb(
                opcode=_PWRITE,
                descriptor=descriptor,
                buffer=start + number * BLOCK,
                length=BLOCK,
                offset=number * BLOCK,
            )
            for number in order
        ]
        for each in range(0, len(blocks), 8):
            some = blocks[each : each + 8]
            pointers = (ctypes.POINTER(Iocb) * len(some))(*map(ctypes.pointer, some))
            assert self._call(self._submit, self._context, len(some), pointers) == len(some)
        events = (Event * len(blocks))()
        found = self._call(self._events, self._context, len(blocks), len(blocks), events, None)
        assert [event.result for event in events[:found]] == [BLOCK] * len(blocks)

    def close(self) -> None:
        self._call(self._destroy, self._context)


@contextmanager
def readers(path: Path, count: int) -> Iterator[None]:
    """Others read the file all the time."""
    over = threading.Event()

    def read(seed: int) -> None:
        source = random.Random(seed)
        with path.open("rb", buffering=0) as file:
            while not over.is_set():
                os.pread(file.fileno(), BLOCK, source.randrange(BLOCKS) * BLOCK)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()


def test_asynchronous_direct_writes_leave_no_old_bytes_in_the_cache(place: Path) -> None:
    path, source, queue = place / "file", random.Random(5), Asynchronous()
    path.write_bytes(bytes(BLOCKS * BLOCK))
    descriptor = os.open(path, os.O_WRONLY | os.O_DIRECT)
    window = mmap.mmap(-1, BLOCKS * BLOCK)
    try:
        for number in range(ROUNDS):
            window[:] = content(source.choice(KINDS), BLOCKS * BLOCK, number)
            with readers(path, 3):
                queue.write_all(descriptor, window, source.sample(range(BLOCKS), BLOCKS))
            assert path.read_bytes() == window[:], number
    finally:
        os.close(descriptor)
        queue.close()
