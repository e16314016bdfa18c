"""The file by which a state folder is a device of its drive: a number, and the private key that is its own.

Format: docs/format/device.md. The number can be read without a key, for a namespace that is new; it is true
only if the private key opens with it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from backend.errors import CorruptError, FormatError
from backend.system import KEY_SIZE, SEAL_OVERHEAD, Environment, free_path, open_sealed, seal
from cache.namespace import MAX_DEVICE

FILE: Final = "device.key"
VERSION: Final = 1
LOST: Final = "lost"
_MAGIC: Final = b"DFDEVICE"
_HEADER: Final = struct.Struct("<8sHHI")
"""magic, version, flags (0), number"""
_SIZE: Final = _HEADER.size + KEY_SIZE + SEAL_OVERHEAD
_PURPOSE: Final = b"drivefs device key 1\0"


@dataclass(frozen=True, slots=True)
class DeviceIdentity:
    """A device: its number, and its Ed25519 private key (32 bytes)."""

    number: int
    key: bytes = field(repr=False)


def encode(identity: DeviceIdentity, sealing_key: bytes, drive_id: bytes) -> bytes:
    """The file's bytes."""
    header = _HEADER.pack(_MAGIC, VERSION, 0, identity.number)
    return header + seal(sealing_key, identity.key, _PURPOSE + drive_id + header)


def number_in(data: bytes) -> int:
    """The number that a file says. `CorruptError`: it is no such file; `FormatError`: of another version."""
    if len(data) < _HEADER.size:
        raise CorruptError("it is cut off")
    magic, version, flags, number = _HEADER.unpack_from(data)
    if magic != _MAGIC:
        raise CorruptError("it is no device's key")
    if version != VERSION or flags:
        raise FormatError(f"version {version}, flags {flags}: this drivefs knows version {VERSION}")
    if len(data) != _SIZE or not 0 < number <= MAX_DEVICE:
        raise CorruptError(f"it has {len(data)} bytes, and says that it is of device {number}")
    return int(number)


def decode(data: bytes, sealing_key: bytes, drive_id: bytes) -> DeviceIdentity:
    """The device. Errors as of `number_in`; `CorruptError` also if it is another drive's."""
    number = number_in(data)
    key = open_sealed(sealing_key, data[_HEADER.size :], _PURPOSE + drive_id + data[: _HEADER.size])
    return DeviceIdentity(number, key)


class DeviceFile:
    """The file in the state folder `folder`. Blocks; any one thread at a time."""

    def __init__(self, folder: Path, environment: Environment) -> None:
        self._path = folder / FILE
        self._disk = environment.disk

    def number(self) -> int:
        """The number that it says; 0 if there is none, or it is damaged. `FormatError`."""
        try:
            return number_in(self._data())
        except (CorruptError, FileNotFoundError):
            return 0

    def load(self, sealing_key: bytes, drive_id: bytes) -> DeviceIdentity | None:
        """The device; None if there is none yet. `CorruptError`, `FormatError`: the file cannot be used."""
        try:
            data = self._data()
        except FileNotFoundError:
            return None
        return decode(data, sealing_key, drive_id)

    def _data(self) -> bytes:
        with open(self._path, "rb") as file:
            return file.read(_SIZE + 1)

    def keep(self, identity: DeviceIdentity, sealing_key: bytes, drive_id: bytes) -> None:
        """The folder is this device from now on, durably; in the place of what it was before."""
        self._disk.write_file(str(self._path), [encode(identity, sealing_key, drive_id)])

    def set_aside(self) -> Path:
        """Move the file, which cannot be used, among what was lost; where it is now."""
        folder = self._path.parent / LOST
        self._disk.make_folders(str(folder))
        kept = free_path(folder / FILE)
        self._disk.rename(str(self._path), str(kept))
        self._disk.sync_folder(str(folder))
        return kept
