"""A request as the S3 door looks at it: what the client sent, taken apart once.

Header values are text by UTF-8 with `surrogateescape`, so that no byte is lost to a signature. A header that
is there twice is one with a comma between (RFC 9110, 5.3). Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_to_bytes

MAX_PARAMETERS: Final = 200


def text(data: bytes) -> str:
    """As the module says."""
    return data.decode("utf-8", "surrogateescape")


def is_text(value: str) -> bool:
    """Whether the client sent UTF-8."""
    return value.isascii() or not any("\udc80" <= character <= "\udcff" for character in value)


@dataclass(frozen=True, slots=True)
class Request:
    """`path` is decoded once, `raw_path` as it was sent. `parameters`: of the query, decoded, in its order;
    one without `=` has an empty value."""

    method: str
    raw_path: bytes
    path: bytes
    parameters: tuple[tuple[bytes, bytes], ...]
    headers: Mapping[str, str]
    query: Mapping[str, str]

    @classmethod
    def of(
        cls, method: str, raw_path: bytes, query_string: bytes, headers: Iterable[tuple[bytes, bytes]]
    ) -> Request:
        """`ValueError`: more parameters than there may be."""
        parameters = parse_query(query_string) if query_string else ()
        found: dict[str, str] = {}
        for name, value in headers:
            key, new = name.decode("ascii"), text(value)
            found[key] = f"{found[key]},{new}" if key in found else new
        query = {text(name): text(value) for name, value in reversed(parameters)}
        return cls(method, raw_path, unquote_to_bytes(raw_path), parameters, found, query)

    def header(self, name: str) -> str:
        """Its value, empty if there is none."""
        return self.headers.get(name, "")


def whole_number(digits: str, most: int = 15) -> int | None:
    """The number that ASCII digits are, `most` of them; None for anything else."""
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= most else None


def parse_query(query: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """Its parameters; a plus sign is a space, as in forms. `ValueError`: more than `MAX_PARAMETERS`."""
    pieces = [piece for piece in query.replace(b"+", b" ").split(b"&") if piece]
    if len(pieces) > MAX_PARAMETERS:
        raise ValueError("too many parameters")
    pairs = (piece.partition(b"=") for piece in pieces)
    return tuple((unquote_to_bytes(name), unquote_to_bytes(value)) for name, _, value in pairs)
