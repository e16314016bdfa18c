"""Calls on files that give something to compare: plain values, or the error that the kernel gave.

Each works on one file system; `tests.mount.random_operations` makes the same call on two.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.mount.reading import Order, read_whole

RENAME_EXCHANGE: Final = 2
AT_FDCWD: Final = -100
DIRECT_UNIT: Final = 4096
"""What offsets, lengths and memory of O_DIRECT are multiples of."""

libc = ctypes.CDLL(None, use_errno=True)


def outcome(call: Callable[[int], object], side: int) -> object:
    """What `call` returns, or the name of its errno."""
    try:
        return call(side)
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def write_all(descriptor: int, data: bytes, offset: int) -> None:
    """A write that is cut short is not the end: how far one goes is the kernel's choice."""
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written


def append(descriptor: int, data: bytes) -> None:
    """At the end, wherever that is."""
    os.lseek(descriptor, 0, os.SEEK_END)
    while data:
        data = data[os.write(descriptor, data) :]


def copy_range(source: int, target: int, start: int, offset: int, length: int) -> int:
    """copy_file_range(2) until all is copied or the source ends; how much that was."""
    done = 0
    while done < length:
        copied = os.copy_file_range(source, target, length - done, start + done, offset + done)
        if copied == 0:
            break
        done += copied
    return done


def send(source: int, target: int, start: int, length: int) -> int:
    """sendfile(2) to the end of `target`; how much was sent."""
    os.lseek(target, 0, os.SEEK_END)
    done = 0
    while done < length:
        sent = os.sendfile(target, source, start + done, length - done)
        if sent == 0:
            break
        done += sent
    return done


def read_direct(path: str, offset: int, length: int) -> bytes:
    """With O_DIRECT, to memory that begins at a page."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        with mmap.mmap(-1, length) as memory:
            return memory[: os.preadv(descriptor, [memory], offset)]
    finally:
        os.close(descriptor)


def write_direct(path: str, offset: int, data: bytes) -> int:
    """With O_DIRECT, from memory that begins at a page."""
    descriptor = os.open(path, os.O_WRONLY | os.O_DIRECT)
    try:
        with mmap.mmap(-1, len(data)) as memory:
            memory[:] = data
            return os.pwritev(descriptor, [memory], offset)
    finally:
        os.close(descriptor)


def exchange(old: str, new: str) -> None:
    """renameat2(2) with RENAME_EXCHANGE."""
    if libc.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), RENAME_EXCHANGE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), old)


def set_times(path: str, times: tuple[int, int]) -> tuple[int, int]:
    """Access and change time in nanoseconds, and what stat(2) then says of them."""
    os.utime(path, ns=times, follow_symlinks=False)
    found = os.lstat(path)
    return found.st_atime_ns, found.st_mtime_ns


def open_file(descriptor: int) -> tuple[object, ...]:
    """What an open file is: attributes and, if it may be read, all of its bytes."""
    found = os.fstat(descriptor)
    attributes = found.st_mode, found.st_nlink, found.st_size
    try:
        return *attributes, os.pread(descriptor, found.st_size + 1, 0)
    except OSError as error:
        return *attributes, error.errno


def tree(top: str, order: Order = "in order", seed: int = 0) -> list[tuple[object, ...]]:
    """All that is under `top`, by name, with attributes, and with contents as they are read in `order`."""
    return [(str(path.relative_to(top)), *_named(path, order, seed)) for path in sorted(Path(top).rglob("*"))]


def _named(path: Path, order: Order, seed: int) -> tuple[object, ...]:
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode):
        return found.st_mode, found.st_nlink, os.readlink(path)
    attributes = {name: os.getxattr(path, name) for name in sorted(os.listxattr(path))}
    if stat.S_ISDIR(found.st_mode):
        return found.st_mode, found.st_nlink, attributes
    return found.st_mode, found.st_nlink, found.st_size, attributes, read_whole(path, order, seed)


def difference(first: object, second: object) -> str:
    """Where two outcomes part, in a few words even if they are megabytes."""
    if isinstance(first, bytes) and isinstance(second, bytes):
        return _different_bytes(first, second)
    if isinstance(first, tuple | list) and isinstance(second, tuple | list) and len(first) == len(second):
        parts = [difference(*pair) for pair in zip(first, second, strict=True) if pair[0] != pair[1]]
        return f"{_names(first)}{'; '.join(parts)}"
    return f"{str(first)[:2000]} is not {str(second)[:2000]}"


def _names(items: tuple[object, ...] | list[object]) -> str:
    return f"{items[0]}: " if items and isinstance(items[0], str) else ""


def _different_bytes(first: bytes, second: bytes) -> str:
    if len(first) != len(second):
        return f"{len(first)} bytes are not {len(second)}"
    wrong = [at for at, (one, other) in enumerate(zip(first, second, strict=True)) if one != other]
    start, end = wrong[0], wrong[0] + 8
    place = f"{len(wrong)} bytes from {start} to {wrong[-1]}"
    return f"{place}: {first[start:end]!r} is not {second[start:end]!r}"
