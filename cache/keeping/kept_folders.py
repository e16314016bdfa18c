"""The list of the folders that this device keeps whole on its disk: a file in its state folder
(docs/format/kept_folders.md), and its codec."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from backend.errors import CorruptError, FormatError
from backend.system import Environment
from cache.errors import InvalidArgumentError

FILE: Final = "kept.json"
VERSION: Final = 1
MOST: Final = 1000
_LARGEST: Final = 1 << 20
_END: Final = 1 << 63


@dataclass(frozen=True, slots=True)
class KeptFolder:
    """The folder `inode`, which was made at `born_ns` (nanoseconds since 1970). The number alone may be given
    once more where changes that were not published were set aside."""

    inode: int
    born_ns: int


def encode(folders: Iterable[KeptFolder]) -> bytes:
    """The file's bytes."""
    listed = [{"inode": folder.inode, "born_ns": folder.born_ns} for folder in folders]
    return json.dumps({"version": VERSION, "folders": listed}).encode()


def decode(data: bytes) -> list[KeptFolder]:
    """The folders that a file lists. `FormatError`: of another version; `CorruptError`: no such list."""
    try:
        found = json.loads(data)
        version = found["version"]
        if version != VERSION:
            raise FormatError(f"version {version!r} is not known here (known: {VERSION})")
        folders = [_folder(each) for each in found["folders"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorruptError(f"no list of folders: {error}") from None
    if len(folders) > MOST:
        raise CorruptError(f"{len(folders)} folders are more than {MOST}")
    return folders


def _folder(found: Any) -> KeptFolder:
    return KeptFolder(_number(found["inode"], 1), _number(found["born_ns"]))


def _number(value: Any, low: int = -_END) -> int:
    if type(value) is not int or not low <= value < _END:
        raise ValueError(f"{value!r} is out of range")
    return value


class KeptFolders:
    """See the module. `problem`: why the file there cannot be used, one line; nothing is kept then, and
    nothing can be. Event-loop thread; a change blocks for a small file's fsync."""

    def __init__(self, state: Path, environment: Environment) -> None:
        self._path = state / FILE
        self._environment = environment
        self._folders: Sequence[KeptFolder] = ()
        self.problem = ""
        try:
            with open(self._path, "rb") as file:
                self._folders = decode(file.read(_LARGEST))
        except FileNotFoundError:
            pass
        except (CorruptError, FormatError, OSError) as error:
            self.problem = (
                f"{self._path}, the list of the folders that are kept here, cannot be read: {error}"
            )

    def __call__(self) -> Sequence[KeptFolder]:
        """All of them, in the order in which they came."""
        return self._folders

    def add(self, folder: KeptFolder) -> None:
        """Durable when it returns. Idempotent. `InvalidArgumentError`, `OSError`: nothing was changed."""
        if folder in self._folders:
            return
        if len(self._folders) >= MOST:
            raise InvalidArgumentError(f"{MOST} folders are kept here already: keep one above them")
        self._write([*self._folders, folder])

    def remove(self, folders: Iterable[KeptFolder]) -> None:
        """Durable when it returns. Idempotent. `InvalidArgumentError`, `OSError`: nothing was changed."""
        gone = set(folders)
        self._write([folder for folder in self._folders if folder not in gone])

    def move(self, moves: Mapping[KeptFolder, KeptFolder]) -> None:
        """Those on the left are those on the right now. Durable when it returns. Idempotent.
        `InvalidArgumentError`, `OSError`: nothing was changed."""
        self._write([*dict.fromkeys(moves.get(folder, folder) for folder in self._folders)])

    def _write(self, folders: Sequence[KeptFolder]) -> None:
        if self.problem:
            raise InvalidArgumentError(f"{self.problem}; move it away, and keep the folders anew")
        if folders != self._folders:
            self._environment.disk.write_file(str(self._path), [encode(folders)])
            self._folders = folders
