"""A folder of sealed blocks on this machine's disk, of bounded size, that several processes may use at once.

Invariants:
1. A file is complete when its name appears: it is written under another name and renamed.
2. What is read has the checksum of what was written. Anything else is removed, and counts as absent.
3. The folder has sixteen parts, by the first digit of the block's id, which is a keyed hash. Each part holds
   at most a sixteenth of the limit, and one block, and for each further process a tenth of that: a part that
   is over it loses those of its files that were not used for longest (as ccache does). No list is kept beside
   the files: no crash can make it untrue. Without a limit nothing goes for what comes.
4. `reserve` bytes of the file system stay free: the folder gives way to everything else on the disk.
5. Nothing here is needed: each error of the disk is told to the caller, who goes on without.

Thread-safe. Every call may block on the disk.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

from backend.buffer import Buffer
from backend.errors import CorruptError, FormatError
from backend.system import THIS_MACHINE, Environment
from backend.upstream import BlockId, BlockPart
from cache.disk import entry_format
from cache.disk.entry_format import HEADER_SIZE, Piece

PARTS: Final = 16
_KEPT: Final = 0.9
"""A part that was over its limit is brought down to this share of it."""
_LOOK_AGAIN: Final = 10
"""Other processes write too: after a tenth of its share was written here a part is counted anew."""
_TOUCH_AFTER: Final = 60.0
"""A use is noted in the file's time if the last one noted is older: readers seldom write."""
_TEMPORARY: Final = ".tmp-"
_ABANDONED: Final = 3600.0
"""A temporary file this old is of a process that ended in the middle."""
_AT_ONCE: Final = 64 << 10
"""So many bytes of a file are read with its header: all of a small block."""

Found = TypeVar("Found")


class _File(NamedTuple):
    used: float
    """when it was last used, in seconds since 1970"""
    size: int
    path: str


@dataclass(slots=True)
class _Part:
    """One sixteenth. `size`: bytes, as far as this process knows; None until it has looked. `written`: by
    this process since it looked."""

    folder: str
    size: int | None = None
    written: int = 0


class BlockFolder:
    """See the module. `limit` (None: there is none) and `reserve` in bytes."""

    def __init__(
        self, folder: Path, limit: int | None, reserve: int, environment: Environment = THIS_MACHINE
    ) -> None:
        self._parts = {digit: _Part(str(folder / digit)) for digit in "0123456789abcdef"}
        self.limit: Final = limit
        self._share: Final = None if limit is None else limit // PARTS
        self.reserve: Final = reserve
        self._environment = environment
        self._disk = environment.disk
        self._lock = threading.Lock()

    def read(self, block: BlockId) -> bytes | None:
        """The block whole; None if it is not here. `OSError`."""
        found = self._find(entry_format.file_name(block), partial(_checked, block, None), _AT_ONCE)
        return None if found is None else found[1]

    def read_part(self, block: BlockId, offset: int, length: int) -> BlockPart | None:
        """As `BlockStore.get_block_part`; None if neither the block nor this part of it is here. From a
        whole block it is read without the checksum: who asks authenticates it. `OSError`."""
        found = self._find(
            entry_format.file_name(block), partial(_inside, block, offset, length), HEADER_SIZE
        )
        if found is not None:
            return found
        name = entry_format.file_name(block, offset, length)
        stored = self._find(name, partial(_checked, block, (offset, length)), _AT_ONCE)
        return None if stored is None else BlockPart(stored[1], stored[0].size)

    def write(self, block: BlockId, data: Buffer) -> bool:
        """Keep the block; whether there is room for it. `OSError`: it is not kept."""
        piece = Piece(block, 0, len(data), len(data))
        return self._write(entry_format.file_name(block), piece, data)

    def write_part(self, block: BlockId, offset: int, length: int, part: BlockPart) -> None:
        """Keep what a reader got who asked for `length` bytes. `OSError`: it is not kept."""
        name = entry_format.file_name(block, offset, length)
        self._write(name, Piece(block, offset, len(part.data), part.size), part.data)

    def has(self, block: BlockId) -> bool:
        """Whether the block is here whole, as far as its file's name says."""
        return os.path.exists(self._path(entry_format.file_name(block)))

    def drop(self, block: BlockId) -> bool:
        """The block that is here is not the right one; whether one was. `OSError`."""
        return self._remove(self._path(entry_format.file_name(block)))

    def take(self, other: BlockFolder, block: BlockId) -> bool:
        """Move the block here from another folder of the same file system; whether it was there whole.
        `OSError`."""
        name = entry_format.file_name(block)
        source, part = other._parts[name[0]], self._parts[name[0]]
        os.makedirs(part.folder, mode=0o700, exist_ok=True)
        path = os.path.join(part.folder, name)
        try:
            self._disk.rename(os.path.join(source.folder, name), path)
            size = os.stat(path).st_size
        except FileNotFoundError:
            return False
        other._count(source, -size)
        self._count(part, size)
        return True

    def fit(self) -> None:
        """Bring parts that are over their limit below it. `OSError`."""
        if self._share is None:
            return
        for part in self._parts.values():
            if self._size_of(part) > self._share:
                self._shrink(part, int(self._share * _KEPT))

    def blocks(self) -> set[BlockId]:
        """Those that are here whole, as far as names and sizes say. What a power cut left empty is removed.
        `OSError`."""
        found: set[BlockId] = set()
        for file in chain.from_iterable(map(self._files, self._parts.values())):
            name = os.path.basename(file.path)
            if file.size <= HEADER_SIZE:
                self._remove(file.path)
            elif "." not in name:
                found.add(BlockId(bytes.fromhex(name)))
        return found

    def make_free(self, size: int) -> bool:
        """Remove what was not used for longest until so many bytes are free beside the reserve; whether they
        are. `OSError`."""
        lacking = self._lacking() + size
        return lacking <= 0 or (self._shrink_all(lacking) > 0 and self._lacking() + size <= 0)

    def give_way(self) -> int:
        """Remove what was not used for longest until the reserve is free again, or nothing is left; the bytes
        removed. `OSError`."""
        lacking = self._lacking()
        return self._shrink_all(lacking) if lacking > 0 else 0

    def used(self) -> int:
        """The bytes of all files. `OSError`."""
        return sum(self._size_of(part) for part in self._parts.values())

    def _find(self, name: str, read: Callable[[int, bytes, Piece], Found], at_once: int) -> Found | None:
        """The answer of `read` to the file's descriptor, its first `at_once` bytes and the piece that its
        header names; None if there is no file, or a damaged one, which is removed."""
        path = self._path(name)
        try:
            with _opened(path) as descriptor:
                status, start = os.fstat(descriptor), os.pread(descriptor, at_once, 0)
                piece = entry_format.decode_header(start[:HEADER_SIZE], status.st_size)
                found = read(descriptor, start, piece)
        except FileNotFoundError:
            return None
        except (CorruptError, FormatError):
            self._remove(path)
            return None
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            self._remove(path)  # a bad sector costs this file alone; where the disk is gone this raises
            return None
        self._touch(path, status.st_mtime)
        return found

    def _touch(self, path: str, noted: float) -> None:
        now = self._now()
        if abs(now - noted) > _TOUCH_AFTER:
            with suppress(FileNotFoundError, PermissionError):
                os.utime(path, (now, now))

    def _write(self, name: str, piece: Piece, data: Buffer) -> bool:
        path = self._path(name)
        if os.path.exists(path):
            return True
        size = HEADER_SIZE + len(data)
        part = self._parts[name[0]]
        if not self._make_room(part, size):
            return False
        os.makedirs(part.folder, mode=0o700, exist_ok=True)
        self._write_whole(part.folder, path, piece, data)
        self._count(part, size)
        return True

    def _count(self, part: _Part, size: int) -> None:
        """So many bytes came."""
        with self._lock:
            if part.size is not None:
                part.size += size
            part.written += size

    def _write_whole(self, folder: str, path: str, piece: Piece, data: Buffer) -> None:
        """Not fsynced: what a power cut leaves is found by its checksum."""
        temporary = os.path.join(folder, f"{_TEMPORARY}{self._environment.random_bytes(8).hex()}")
        descriptor = self._disk.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            try:
                self._disk.write(descriptor, entry_format.encode(piece, data), 0)
                os.utime(descriptor, (self._now(),) * 2)
            finally:
                os.close(descriptor)
            self._disk.rename(temporary, path)
        except BaseException:
            with suppress(FileNotFoundError):
                self._disk.unlink(temporary)
            raise

    def _make_room(self, part: _Part, size: int) -> bool:
        """Whether a file of this size may be written now."""
        if self._share is None:
            return self._lacking() + size <= 0
        if self._size_of(part) + size > self._share:
            self._shrink(part, max(int(self._share * _KEPT) - size, 0))
        return self.make_free(size)

    def _lacking(self) -> int:
        """The bytes by which the free space is below the reserve; negative: above."""
        folder = os.path.dirname(self._parts["0"].folder)
        os.makedirs(folder, mode=0o700, exist_ok=True)
        return self.reserve - self._disk.free_space(folder)[1]

    def _size_of(self, part: _Part) -> int:
        with self._lock:
            if part.size is not None and part.written <= (self._share or 0) // _LOOK_AGAIN:
                return part.size
        size = sum(file.size for file in self._files(part))
        with self._lock:
            part.size, part.written = size, 0
        return size

    def _shrink_all(self, bytes_wanted: int) -> int:
        """Remove so many bytes, if there are as many: a like share of each part, and of the larger ones what
        the smaller ones have not; the bytes removed."""
        removed = 0
        for others, part in zip(
            range(PARTS, 0, -1), sorted(self._parts.values(), key=self._size_of), strict=True
        ):
            share = -(-(bytes_wanted - removed) // others)
            removed += self._shrink(part, max(self._size_of(part) - share, 0))
        return removed

    def _shrink(self, part: _Part, goal: int) -> int:
        """Remove the part's oldest files until `goal` bytes are left; the bytes removed. It counts anew, as
        other processes write here too."""
        files = sorted(self._files(part))
        size = before = sum(file.size for file in files)
        for file in files:
            if size <= goal:
                break
            self._remove(file.path)
            size -= file.size
        with self._lock:
            part.size, part.written = size, 0
        return before - size

    def _files(self, part: _Part) -> Iterator[_File]:
        """The part's files; temporary ones that nobody writes any more are removed."""
        with suppress(FileNotFoundError), os.scandir(part.folder) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    if entry_format.is_entry(entry.name):
                        yield _File(status.st_mtime, status.st_size, entry.path)
                    elif entry.name.startswith(_TEMPORARY) and status.st_mtime < self._now() - _ABANDONED:
                        self._remove(entry.path)

    def _path(self, name: str) -> str:
        return os.path.join(self._parts[name[0]].folder, name)

    def _remove(self, path: str) -> bool:
        """Whether there was such a file."""
        try:
            self._disk.unlink(path)
        except FileNotFoundError:
            return False
        return True

    def _now(self) -> float:
        """Seconds since 1970."""
        return self._environment.wall_clock() / 1e9


@contextmanager
def _opened(path: str) -> Iterator[int]:
    """A descriptor. `OSError`."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _checked(
    block: BlockId, asked: tuple[int, int] | None, descriptor: int, start: bytes, piece: Piece
) -> tuple[Piece, bytes]:
    """All data of the file. `CorruptError`, also if it is not the answer to who asked for that offset and
    length of the block (None: for the whole)."""
    if piece.block != block or not (piece.is_whole if asked is None else _answers(piece, *asked)):
        raise CorruptError(f"not what is asked for of block {block.hex()}")
    data = start[HEADER_SIZE:]
    if len(data) < piece.length:
        data = os.pread(descriptor, piece.length, HEADER_SIZE)
    entry_format.require_checksum(start[:HEADER_SIZE], data)
    return piece, data


def _answers(piece: Piece, offset: int, length: int) -> bool:
    return piece.offset == offset and piece.length == min(length, piece.size - offset)


def _inside(
    block: BlockId, offset: int, length: int, descriptor: int, _start: bytes, piece: Piece
) -> BlockPart:
    """Part of the whole block, its bytes not checked. `CorruptError` if the file has another, or was cut off
    meanwhile."""
    wanted = max(min(length, piece.size - offset), 0)
    data = os.pread(descriptor, wanted, HEADER_SIZE + offset)
    if piece.block != block or not piece.is_whole or len(data) != wanted:
        raise CorruptError(f"not the whole of block {block.hex()}")
    return BlockPart(data, piece.size)
