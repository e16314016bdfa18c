"""The form of the files that this machine keeps of a hub: a magic, a versioned msgpack array, a checksum.

Specs of the files: docs/format/login.md, docs/format/known_drives.md. Reading blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import msgpack

from backend.errors import CorruptError, FormatError
from backend.system import plain_hash

Content = TypeVar("Content")
_HASH_SIZE: Final = 32


@dataclass(frozen=True, slots=True)
class KeptForm:
    """See the module. `name`: of such a file, for people; `max_size` in bytes."""

    name: str
    magic: bytes
    version: int
    max_size: int

    def encode(self, fields: Sequence[object]) -> bytes:
        """The file's bytes."""
        packed: bytes = self.magic + msgpack.packb([self.version, *fields])
        return packed + plain_hash(packed)

    def decode(self, data: bytes) -> list[Any]:
        """The fields. `CorruptError`: it is no such file, or damaged; `FormatError`: of another version."""
        body, checksum = data[:-_HASH_SIZE], data[-_HASH_SIZE:]
        if not data.startswith(self.magic) or len(data) > self.max_size or plain_hash(body) != checksum:
            raise CorruptError(f"it is no {self.name}, or damaged")
        version: int
        fields: list[Any]
        version, *fields = msgpack.unpackb(body[len(self.magic) :])
        if version != self.version:
            raise FormatError(f"it is of version {version}; this drivefs knows {self.version}")
        return fields

    def read(self, path: Path, decode: Callable[[bytes], Content], advice: str) -> Content:
        """The content of the file by its codec, whose errors are told with the path and the `advice`.
        `OSError`."""
        with open(path, "rb") as file:
            data = file.read(self.max_size + 1)
        try:
            return decode(data)
        except (CorruptError, FormatError) as error:
            raise type(error)(f"{path}: {error}; {advice}") from None
