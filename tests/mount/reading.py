"""Reading a whole file in every order that programs read in; what was read is put together again.

The oracle is the bytes that were written. Nothing is taken from pages that the kernel has: each order asks
the file system for every byte anew. What cannot be read is an `OSError`, also where a program that maps the
file would be ended by a signal.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import random
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, Literal, get_args

Order = Literal["in order", "backwards", "at random", "tail first", "in streams", "mapped", "direct", "sent"]
ORDERS: Final[tuple[Order, ...]] = get_args(Order)
TO_THE_END: Final[tuple[Order, ...]] = ("direct", "sent")
"""Those that end where the file ends, also if it was cut meanwhile: an error to the others."""
STREAMS: Final = 4
Piece = tuple[int, int]
"""start, end"""


def read_whole(path: Path, order: Order, seed: int = 0) -> bytes:
    """The file's bytes, read in that order; `seed` decides where it is cut into pieces."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        return read_open(descriptor, order, seed)
    finally:
        os.close(descriptor)


def read_open(descriptor: int, order: Order, seed: int = 0) -> bytes:
    """As `read_whole`, of an open file that was synced: pages that are not written back stay."""
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    found = os.fstat(descriptor)
    if not found.st_size or not stat.S_ISREG(found.st_mode):  # folders have a size on some file systems
        return os.read(descriptor, 1)
    return _READERS[order](descriptor, found.st_size, random.Random(seed))


def wrong_orders(path: Path, data: bytes, seed: int = 0) -> list[str]:
    """What is wrong with the file at `path`, which must hold `data`, by the order in which it was read:
    nothing, if all is well."""
    return [
        f"{path.name}, {len(data)} bytes, read {order}: {said}"
        for order in ORDERS
        if (said := _wrong(path, data, order, seed))
    ]


def _wrong(path: Path, data: bytes, order: Order, seed: int) -> str:
    try:
        found = read_whole(path, order, seed)
    except (OSError, EOFError) as error:
        return str(error)
    return "" if found == data else f"{len(found)} bytes that differ"


def differing_files(original: Path, copy: Path, seed: int = 0) -> list[str]:
    """The regular files of `original` that are not the same in `copy`, each read there in an order of its
    own: none, if all is well."""
    paths = [path for path in sorted(original.rglob("*")) if path.is_file() and not path.is_symlink()]
    return [
        said
        for number, path in enumerate(paths)
        if (
            said := _wrong(
                copy / path.relative_to(original),
                path.read_bytes(),
                ORDERS[(number + seed) % len(ORDERS)],
                number,
            )
        )
    ]


def _pieces(size: int, source: random.Random) -> list[Piece]:
    """Of chance lengths; not too many, however large the file is."""
    longest = max(8192, size // 32)
    pieces, start = [], 0
    while start < size:
        end = min(start + source.randint(1, longest), size)
        pieces.append((start, end))
        start = end
    return pieces


def _fill(descriptor: int, pieces: list[Piece], target: memoryview) -> None:
    """Read the pieces one after the other to their places in `target`."""
    for start, end in pieces:
        while start < end:
            read = os.preadv(descriptor, [target[start:end]], start)
            if not read:
                raise EOFError(f"nothing at {start} of a file of {len(target)} bytes")
            start += read


def _in(arrange: Callable[[list[Piece], random.Random], None]) -> Callable[[int, int, random.Random], bytes]:
    """A reader of pieces, which `arrange` puts into their order."""

    def read(descriptor: int, size: int, source: random.Random) -> bytes:
        data, pieces = bytearray(size), _pieces(size, source)
        arrange(pieces, source)
        _fill(descriptor, pieces, memoryview(data))
        return bytes(data)

    return read


def _in_streams(descriptor: int, size: int, source: random.Random) -> bytes:
    """Several readers at once, each in order through its share."""
    data, pieces = bytearray(size), _pieces(size, source)
    share = -(-len(pieces) // STREAMS)
    with ThreadPoolExecutor(STREAMS) as pool:
        shares = [pieces[at : at + share] for at in range(0, len(pieces), share)]
        list(pool.map(lambda each: _fill(descriptor, each, memoryview(data)), shares))
    return bytes(data)


def _mapped(descriptor: int, size: int, source: random.Random) -> bytes:
    """Touched at random. The kernel copies from the map: EFAULT is told where a touch would be SIGBUS."""
    pieces = _pieces(size, source)
    source.shuffle(pieces)
    memory = os.memfd_create("mapped")
    try:
        with mmap.mmap(descriptor, size, prot=mmap.PROT_READ) as mapped, memoryview(mapped) as view:
            for start, end in pieces:
                while start < end:
                    start += os.pwrite(memory, view[start:end], start)
        return os.pread(memory, size, 0)
    finally:
        os.close(memory)


def _direct(descriptor: int, size: int, source: random.Random) -> bytes:
    """With O_DIRECT, which passes by the page cache: whole pages, backwards."""
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    starts = sorted({start // mmap.PAGESIZE * mmap.PAGESIZE for start, _ in _pieces(size, source)})
    data = bytearray(size)
    fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_DIRECT)
    try:
        for start, end in reversed([*zip(starts, [*starts[1:], size], strict=True)]):
            data[start:end] = _read_direct(descriptor, start, end)
    finally:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags)
    return bytes(data)


def _read_direct(descriptor: int, start: int, end: int) -> bytes:
    """Into memory that begins at a page and is as long as whole pages."""
    pages = -(-(end - start) // mmap.PAGESIZE) * mmap.PAGESIZE
    with mmap.mmap(-1, pages) as memory:
        return memory[: min(os.preadv(descriptor, [memory], start), end - start)]


def _sent(descriptor: int, size: int, source: random.Random) -> bytes:
    """By sendfile(2), piece after piece, from the last one to the first."""
    data = bytearray(size)
    for start, end in reversed(_pieces(size, source)):
        data[start:end] = _send(descriptor, start, end)
    return bytes(data)


def _send(descriptor: int, start: int, end: int) -> bytes:
    memory, length = os.memfd_create("sent"), end - start
    try:
        while start < end and (sent := os.sendfile(memory, descriptor, start, end - start)):
            start += sent
        return os.pread(memory, length, 0)
    finally:
        os.close(memory)


def _tail_first(pieces: list[Piece], _: random.Random) -> None:
    pieces.insert(0, pieces.pop())


_READERS: Final[dict[Order, Callable[[int, int, random.Random], bytes]]] = {
    "in order": _in(lambda pieces, source: None),
    "backwards": _in(lambda pieces, source: pieces.reverse()),
    "at random": _in(lambda pieces, source: source.shuffle(pieces)),
    "tail first": _in(_tail_first),
    "in streams": _in_streams,
    "mapped": _mapped,
    "direct": _direct,
    "sent": _sent,
}
