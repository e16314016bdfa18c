"""The drives of an account as its hub lists them, and the list that this machine keeps: the hub may be away.

A row is opaque here: name and key of the drive are sealed under the account root (docs/format/account.md).
Spec of the file: docs/format/known_drives.md. Files block; of two processes that keep one the later counts.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from backend import wire
from backend.errors import CorruptError, FormatError
from backend.remote.kept_form import KeptForm
from backend.system import THIS_MACHINE, Environment

FILE: Final = "drives"
VERSION: Final = 1
MAX_DRIVES: Final = wire.MAX_IDS
MAX_SIZE: Final = 8 << 20
_ID_SIZE: Final = 16
_FORM: Final = KeptForm("list of drives", b"DFDRIVES", VERSION, MAX_SIZE)


class ListedDrive(NamedTuple):
    """A drive's id, and its name and key, sealed."""

    uuid: bytes
    sealed: bytes


def _checked(uuid: bytes, sealed: bytes) -> ListedDrive:
    """`ValueError`: that is none."""
    if len(uuid) != _ID_SIZE or len(sealed) > wire.MAX_SEALED:
        raise ValueError("no drive")
    return ListedDrive(uuid, sealed)


def encode_drives(drives: Sequence[ListedDrive]) -> bytes:
    """The file's bytes."""
    return _FORM.encode([[[*drive] for drive in drives]])


def decode_drives(data: bytes) -> list[ListedDrive]:
    """Errors as of `KeptForm.decode`."""
    (rows,) = _FORM.decode(data)
    return [_checked(*row) for row in rows]


class KnownDrives:
    """The list of the hub whose login lies in `folder`, as it was last seen."""

    def __init__(self, folder: Path, environment: Environment = THIS_MACHINE) -> None:
        self._path = folder / FILE
        self._disk = environment.disk

    def keep(self, drives: Sequence[ListedDrive]) -> None:
        """Durably, in the place of what was kept, unless it is the same. `OSError`."""
        if drives != self._kept():
            self._disk.write_file(os.fspath(self._path), [encode_drives(drives)])

    def load(self) -> list[ListedDrive]:
        """Empty: none is kept. `CorruptError`, `FormatError`: the file cannot be used."""
        try:
            return _FORM.read(self._path, decode_drives, "it is made anew when the hub answers")
        except FileNotFoundError:
            return []

    def _kept(self) -> list[ListedDrive] | None:
        """None: there is nothing that can be used."""
        try:
            return self.load()
        except (CorruptError, FormatError):
            return None
