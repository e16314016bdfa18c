"""SQLite on a disk that forgets: a VFS that tells `LossyDurable` of all that SQLite writes, names and syncs.

Each disk has its own, before SQLite's own; connections that write to databases on the disk are opened by it
(`Durable.database_vfs`). The index of a write-ahead log (`-shm`) is shared memory: after a power cut SQLite
makes it anew, so `cut_all` removes it.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw

from backend.system import Environment
from tests.crash.lossy_durable import LossyDurable

_UNDERLYING = "unix"
_LOGS = ("-wal", "-journal")
_numbers = itertools.count()


class _LossyFile(apsw.VFSFile):
    """A database or its log. SQLite syncs the folder with the first sync of a new log: so does this."""

    def __init__(self, disk: LossyDurable, name: apsw.URIFilename | str, flags: list[int]) -> None:
        self._disk = disk
        self._path = name if isinstance(name, str) else name.filename()
        with disk.lock:
            existed = os.path.exists(self._path)
            super().__init__(_UNDERLYING, name, flags)
            self._is_new = not existed
            if not existed:
                disk.note_created(self._path, os.stat(self._path).st_ino)
            elif not os.path.getsize(self._path):
                disk.note_empty(os.stat(self._path).st_ino)

    def xWrite(self, data: bytes, offset: int) -> None:
        self._disk.note_write(self._path, offset, bytes(data))
        super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:
        self._disk.note_write(self._path, newsize, None)
        super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:
        self._disk.note_synced(self._path)
        if self._is_new and self._path.endswith(_LOGS):
            self._disk.sync_folder(os.path.dirname(self._path))
            self._is_new = False


class _LossyVFS(apsw.VFS):
    def __init__(self, disk: LossyDurable) -> None:
        self._disk = disk
        self.name = f"lossy-{next(_numbers)}"
        super().__init__(self.name, _UNDERLYING)

    def xOpen(self, name: apsw.URIFilename | str | None, flags: list[int]) -> apsw.VFSFile:
        if name is None:  # a temporary file: gone with the process
            return apsw.VFSFile(_UNDERLYING, name, flags)
        return _LossyFile(self._disk, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        if not os.path.exists(filename):
            super().xDelete(filename, syncdir)
            return
        self._disk.unlink(filename)
        if syncdir:
            self._disk.sync_folder(os.path.dirname(filename))


@contextmanager
def all_lossy(disk: LossyDurable) -> Iterator[Environment]:
    """A device whose disk this is, for SQLite too. Connections must be closed when the block ends, or the
    process ends in it."""
    vfs = _LossyVFS(disk)
    disk.database_vfs = vfs.name
    try:
        yield Environment(disk)
    finally:
        disk.database_vfs = None
        vfs.unregister()


def cut_all(disk: LossyDurable, *folders: Path) -> None:
    """The power goes for everything under `folders`: see `LossyDurable.cut`."""
    disk.cut(*folders)
    for path in (path for folder in folders for path in folder.rglob("*-shm")):
        path.unlink()
