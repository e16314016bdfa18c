"""The drives of an account as its hub lists them, and the list that this machine keeps: the hub may be away.

A row is opaque here: name and key of the drive are sealed under the account root (docs/format/account.md).
Spec of the file: docs/format/known_drives.md. Files block; of two processes that keep one the later counts.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgpack

from backend import wire
from backend.errors import CorruptError, FormatError
from backend.system import THIS_MACHINE, Environment, plain_hash

FILE: Final = "drives"
VERSION: Final = 1
MAX_DRIVES: Final = wire.MAX_IDS
MAX_SEALED: Final = 4096
MAX_SIZE: Final = 8 << 20
_ID_SIZE: Final = 16
_MAGIC: Final = b"DFDRIVES"
_HASH_SIZE: Final = 32


class ListedDrive(NamedTuple):
    """A drive's id, and its name and key, sealed."""

    uuid: bytes
    sealed: bytes


def _checked(uuid: bytes, sealed: bytes) -> ListedDrive:
    """`ValueError`: that is none."""
    if len(uuid) != _ID_SIZE or len(sealed) > MAX_SEALED:
        raise ValueError("no drive")
    return ListedDrive(uuid, sealed)


def encode_drives(drives: Sequence[ListedDrive]) -> bytes:
    """The file's bytes."""
    packed: bytes = _MAGIC + msgpack.packb([VERSION, [[*drive] for drive in drives]])
    return packed + plain_hash(packed)


def decode_drives(data: bytes) -> list[ListedDrive]:
    """`CorruptError`: it is no such file, or damaged; `FormatError`: it is of another version."""
    body, checksum = data[:-_HASH_SIZE], data[-_HASH_SIZE:]
    if not data.startswith(_MAGIC) or len(data) > MAX_SIZE or plain_hash(body) != checksum:
        raise CorruptError("it is no list of drives, or damaged")
    version, *fields = msgpack.unpackb(body[len(_MAGIC) :])
    if version != VERSION:
        raise FormatError(f"it is of version {version}; this drivefs knows {VERSION}")
    return [_checked(*row) for row in fields[0]]


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
            with open(self._path, "rb") as file:
                data = file.read(MAX_SIZE + 1)
        except FileNotFoundError:
            return []
        try:
            return decode_drives(data)
        except (CorruptError, FormatError) as error:
            raise type(error)(f"{self._path}: {error}; it is made anew when the hub answers") from None

    def _kept(self) -> list[ListedDrive] | None:
        """None: there is nothing that can be used."""
        try:
            return self.load()
        except (CorruptError, FormatError):
            return None
