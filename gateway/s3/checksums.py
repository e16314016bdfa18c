"""The checksums of the S3 API: of whole objects, of parts, and of objects made of parts.

Source: AWS, "Checking object integrity in Amazon S3". A checksum is text: the base64 of its bytes, the most
significant first. Pure.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Protocol

from awscrt import checksums as crt

PREFIX: Final = "x-amz-checksum-"
FULL_OBJECT: Final = "FULL_OBJECT"
COMPOSITE: Final = "COMPOSITE"


class Running(Protocol):
    """A checksum while its data comes."""

    def update(self, data: bytes | memoryview, /) -> None: ...
    def digest(self) -> bytes: ...


class _Crc:
    def __init__(self, size: int, update: Callable[[bytes | memoryview, int], int]) -> None:
        self._size = size
        self._update = update
        self._value = 0

    def update(self, data: bytes | memoryview, /) -> None:
        self._value = self._update(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(self._size)


_NEW: Final[Mapping[str, Callable[[], Running]]] = {
    "CRC32": lambda: _Crc(4, zlib.crc32),
    "CRC32C": lambda: _Crc(4, crt.crc32c),
    "CRC64NVME": lambda: _Crc(8, crt.crc64nvme),
    "SHA1": hashlib.sha1,
    "SHA256": hashlib.sha256,
}
ALGORITHMS: Final = tuple(_NEW)
SIZES: Final = {"CRC32": 4, "CRC32C": 4, "CRC64NVME": 8, "SHA1": 20, "SHA256": 32}
_COMBINE: Final[Mapping[str, Callable[[int, int, int], int]]] = {
    "CRC32": crt.combine_crc32,
    "CRC32C": crt.combine_crc32c,
    "CRC64NVME": crt.combine_crc64nvme,
}
OF_WHOLE_OBJECTS: Final = frozenset(_COMBINE)
"""The algorithms by which the whole's checksum follows from those of its parts."""
OF_PARTS: Final = frozenset(ALGORITHMS) - {"CRC64NVME"}
"""The algorithms of which there are composite ones."""


def new(algorithm: str) -> Running:
    """`KeyError` for none of `ALGORITHMS`."""
    return _NEW[algorithm]()


def header_of(algorithm: str) -> str:
    """The header that has it."""
    return PREFIX + algorithm.lower()


def text_of(digest: bytes) -> str:
    """Its text."""
    return base64.b64encode(digest).decode()


def digest_of(algorithm: str, text: str) -> bytes | None:
    """The bytes of its text; None if it is none of this algorithm."""
    try:
        digest = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return digest if len(digest) == SIZES[algorithm] else None


def whole_of(algorithm: str, parts: Iterable[tuple[bytes, int]]) -> str:
    """The checksum of an object, from (checksum, size) of its parts. `algorithm`: of `OF_WHOLE_OBJECTS`."""
    combine, value = _COMBINE[algorithm], 0
    for digest, size in parts:
        value = combine(value, int.from_bytes(digest), size)
    return text_of(value.to_bytes(SIZES[algorithm]))


def composite_of(algorithm: str, parts: Iterable[bytes]) -> str:
    """The checksum of the parts' checksums, and their number."""
    running, count = new(algorithm), 0
    for digest in parts:
        running.update(digest)
        count += 1
    return f"{text_of(running.digest())}-{count}"
