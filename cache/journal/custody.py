"""Custody: whether the files of the state folder are still found under their names.

Somebody may remove or move the folder, or files in it, under a mount. The process then goes on with open
files that no later process finds. Whatever is only in them is lost when the process ends.

Invariants:
1. A lost name is noticed within a tick of the drive, before each step that works by name (a checkpoint of
   the namespace), and by each fsync for the files that it syncs. It is reported at once.
2. From then on nothing in the folder counts as durable. An fsync returns when the nodes have the data,
   everything is published without waiting, no journal file gets a name, and nothing is written by name.
3. That stays so until the drive is mounted anew: only a new mount makes a whole state folder.

Event-loop thread only. `check` asks the disk for the attributes of a few files.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from backend.system import Environment

log = logging.getLogger(__name__)


class Custody:
    """See the module. Nothing is lost before `watch`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._others: Callable[[], Iterable[tuple[str, int]]] = tuple
        self._own: dict[str, tuple[int, int]] = {}
        self.lost = ""
        """one line for people once something has lost its name; empty while all is well"""
        self.on_loss: list[Callable[[], None]] = []

    def watch(self, names: Iterable[str], others: Callable[[], Iterable[tuple[str, int]]]) -> None:
        """These files in the folder are what they are now, from now on. `others`: names and descriptors of
        files that come and go, as they are when it is called."""
        self._others = others
        self._own = {str(self._folder / name): _identity(os.stat(self._folder / name)) for name in names}

    def check(self) -> bool:
        """Whether everything has its name."""
        if not self.lost:
            misplaced = next(self._misplaced(), None)
            if misplaced is not None:
                self.lose(misplaced)
        return not self.lost

    def lose(self, path: str) -> None:
        """The file at `path` is not ours any more. Idempotent."""
        if self.lost or not self._own:
            return
        self.lost = (
            f"{path} was removed or replaced under the mount: there is no journal here any more, so what "
            "is written goes to the nodes at once; unmount, and mount again"
        )
        log.error("%s", self.lost)
        for told in self.on_loss:
            told()

    def _misplaced(self) -> Iterator[str]:
        for path, identity in self._own.items():
            if not _is_at(path, identity):
                yield path
        for path, descriptor in self._others():
            if not is_at(path, descriptor):
                yield path


def is_at(path: str, descriptor: int) -> bool:
    """Whether the open file is the one of that name."""
    return _is_at(path, _identity(os.fstat(descriptor)))


def nameless_file(folder: str, environment: Environment) -> int:
    """A new file that no name leads to, on the disk of `folder` or of what is left above it."""
    existing = next(each for each in (Path(folder), *Path(folder).parents) if each.is_dir())
    io, path = environment.disk, str(existing / f".drivefs-{environment.random_bytes(6).hex()}")
    descriptor = io.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    io.unlink(path)
    return descriptor


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _is_at(path: str, identity: tuple[int, int]) -> bool:
    """A disk that cannot be asked has not lost anything."""
    try:
        return _identity(os.stat(path)) == identity
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        log.info("%s cannot be looked at: %s", path, error.strerror)
        return True
