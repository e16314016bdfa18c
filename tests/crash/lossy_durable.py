"""A disk that forgets: `Durable` whose unsynced writes and names can be lost, torn or reordered.

Invariants:
1. While the process lives, reads see all writes (they go to the real files).
2. `cut` leaves each file as some disk could have it: what was synced is there; of the writes since the
   last sync of the file, in sectors of 512 or 4096 bytes, any subset is there.
3. A name that was made, moved or removed since its folder was synced may be as it was before. The names
   of one folder change in order: some first part of the changes survives, as a journaling file system has
   it. Folders do not wait for each other; a move to another one is a change of the one that it leaves.
4. Nothing is really synced: a life on this disk ends by `cut` or as a killed process leaves it.

SQLite does its own I/O: `tests.crash.lossy_sqlite` brings it here. Thread-safe.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from stat import S_ISDIR
from typing import Final

from backend.buffer import Buffer
from backend.system.durable import Durable, NotBegunError

SECTORS = (512, 4096)
Write = tuple[int, bytes | None]
"""Where, and what; None: the file ends there from now on."""


@dataclass
class _File:
    """What the disk surely holds, and what came since."""

    synced: bytes
    writes: list[Write] = field(default_factory=list)


class LossyDurable(Durable):
    """In force from the first write of the test on. `kept` is a folder on the same file system for what has
    lost its name and may get it back. One that `lies` says that it synced, and keeps nothing: with it,
    tests of power cuts must fail."""

    def __init__(self, chance: random.Random, kept: Path, *, lies: bool = False) -> None:
        kept.mkdir(parents=True, exist_ok=True)
        self._chance = chance
        self._kept = kept
        self._files: dict[int, _File] = {}
        self._folders: set[int] = set()
        self._undo: dict[str, list[Callable[[], None]]] = {}
        self.lock: Final = threading.RLock()
        """held from a change to its note"""
        self._lies = lies
        self._at_stop: dict[str, int] | None = None
        self.syncs = 0

    def stop(self) -> None:
        """The power goes now, though the process runs on (and closes its files): nothing from here on is
        kept, or seen by `cut`."""
        with self.lock:
            self._at_stop = {below: len(changes) for below, changes in self._undo.items()}

    # Files

    def open(self, path: str, flags: int, mode: int = 0o600, *, folder: int | None = None) -> int:
        with self.lock:
            existed = os.path.exists(path)
            descriptor = super().open(path, flags, mode, folder=folder)
            if not existed:
                self.note_created(path, os.fstat(descriptor).st_ino)
            elif flags & os.O_TRUNC:
                self.note_write(descriptor, 0, None)
            return descriptor

    def write(self, descriptor: int, parts: Sequence[Buffer], offset: int) -> int:
        with self.lock:
            self.note_write(descriptor, offset, b"".join(parts))
            return super().write(descriptor, parts, offset)

    def sync_data(self, descriptor: int) -> None:
        self.sync(descriptor)

    def sync(self, descriptor: int) -> None:
        with self.lock:
            self.syncs += 1
            if self._lies or self._at_stop is not None:
                return
            file = self._file(descriptor)
            writes, file.writes = file.writes, []
            file.synced = _apply(file.synced, writes)

    def preallocate(self, descriptor: int, size: int) -> None:
        with self.lock:
            if os.fstat(descriptor).st_size < size:
                self.note_write(descriptor, size - 1, b"\0")
            super().preallocate(descriptor, size)

    def truncate(self, descriptor: int, size: int) -> None:
        with self.lock:
            self.note_write(descriptor, size, None)
            super().truncate(descriptor, size)

    def note_write(self, file: int | str, offset: int, data: bytes | None) -> None:
        """Before the real write, of the file of that descriptor or path."""
        with self.lock:
            writes = self._file(file).writes
            if self._at_stop is None:
                writes.append((offset, data))

    def note_created(self, path: str, number: int) -> None:
        """The file of inode `number` was made just now."""
        with self.lock:
            self._files[number] = _File(b"")
            self._names_of(path).append(lambda: Path(path).unlink(missing_ok=True))

    def note_empty(self, number: int) -> None:
        """The file of inode `number` is empty, and durable so; what is known of an earlier one is not its."""
        with self.lock:
            self._files[number] = _File(b"")

    def note_synced(self, path: str) -> None:
        """As `sync`, by path."""
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.sync(descriptor)
        finally:
            os.close(descriptor)

    def knows(self, path: Path) -> bool:
        """Whether the file was written, or the folder made, by this disk; or is gone by now."""
        with self.lock:
            try:
                found = path.lstat()
            except FileNotFoundError:
                return True
            return found.st_ino in (self._folders if S_ISDIR(found.st_mode) else self._files)

    def _file(self, file: int | str) -> _File:
        number = os.stat(file).st_ino
        if number not in self._files:
            path = f"/proc/self/fd/{file}" if isinstance(file, int) else file
            self._files[number] = _File(Path(path).read_bytes())
        return self._files[number]

    # Names

    def make_folder(self, path: str, *, folder: int | None = None) -> None:
        with self.lock:
            super().make_folder(path, folder=folder)
            self._folders.add(os.stat(path).st_ino)
            self._names_of(path).append(lambda: shutil.rmtree(path, ignore_errors=True))

    def rename(self, old: str, new: str, *, folder: int | None = None) -> None:
        with self.lock:
            replaced = self._keep(new) if os.path.exists(new) else None
            super().rename(old, new, folder=folder)

            def back() -> None:
                os.rename(new, old)
                if replaced is not None:
                    os.rename(replaced, new)

            self._names_of(old).append(back)

    def link(self, old: str, new: str, *, folder: int | None = None) -> None:
        with self.lock:
            super().link(old, new, folder=folder)
            self._names_of(new).append(lambda: os.unlink(new))

    def unlink(self, path: str, *, folder: int | None = None) -> None:
        with self.lock:
            kept = self._keep(path)
            super().unlink(path, folder=folder)
            self._names_of(path).append(lambda: os.rename(kept, path))

    def sync_folder(self, path: str, *, folder: int | None = None) -> None:
        if folder is None and not os.path.isdir(path):
            raise NotBegunError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        with self.lock:
            if not self._lies and self._at_stop is None:
                self._undo.pop(os.path.abspath(path), None)

    def _names_of(self, path: str) -> list[Callable[[], None]]:
        return self._undo.setdefault(os.path.dirname(os.path.abspath(path)), [])

    def _keep(self, path: str) -> str:
        """Hold on to the file: it may come back, and its number must not go to another."""
        kept = str(self._kept / f"{len(os.listdir(self._kept))}")
        os.link(path, kept)
        return kept

    # The end

    def cut(self, *folders: Path) -> None:
        """The power goes: leave under `folders` what a disk could hold. All files are closed, or nobody goes
        on: who would write waits for ever."""
        self.lock.acquire()
        for below in sorted(self._undo, key=len, reverse=True):
            changes = self._undo[below]
            then = len(changes) if self._at_stop is None else self._at_stop.get(below, 0)
            survivors = 0 if self._lies else self._chance.randint(0, then)
            for undo in reversed(changes[survivors:]):
                undo()
        for path in (path for folder in folders for path in folder.rglob("*")):
            file = self._files.get(path.stat().st_ino)
            if file is not None and path.is_file():
                path.write_bytes(_apply(file.synced, self._survivors(file.writes)))
        shutil.rmtree(self._kept)
        self._undo.clear()
        self._files.clear()
        self._folders.clear()

    def _survivors(self, writes: list[Write]) -> list[Write]:
        """Some sectors of the writes."""
        how = self._chance.choice(["none", "all", "prefix", "any"])
        if how == "none" or self._lies:
            return []
        if how == "all":
            return writes
        sector = self._chance.choice(SECTORS)
        sectors = [part for write in writes for part in _sectors(*write, sector)]
        if how == "prefix":
            return sectors[: self._chance.randint(0, len(sectors))]
        return [part for part in sectors if self._chance.random() < 0.7]


def _sectors(offset: int, data: bytes | None, sector: int) -> list[Write]:
    """The write in parts that a disk writes whole."""
    if data is None:
        return [(offset, None)]
    end = offset + len(data)
    borders = [offset, *range((offset // sector + 1) * sector, end, sector), end]
    return [(low, data[low - offset : high - offset]) for low, high in pairwise(borders)]


def _apply(content: bytes, writes: Sequence[Write]) -> bytes:
    """`content` after the writes."""
    result = bytearray(content)
    for offset, data in writes:
        if data is None:
            del result[offset:]
            continue
        if len(result) < offset:
            result.extend(bytes(offset - len(result)))
        result[offset : offset + len(data)] = data
    return bytes(result)
