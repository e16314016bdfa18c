"""Answers as bytes (RFC 9112). Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from http import HTTPStatus
from typing import Final

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_PHRASES: Final = {int(status): status.phrase for status in HTTPStatus}
_TOKEN: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FORBIDDEN: Final = re.compile(rb"[\r\n\0]")
_WITHOUT_BODY: Final = (204, 304)

Piece = bytes | memoryview
Headers = Iterable[tuple[bytes, bytes]]


class FramingError(Exception):
    """The application gave an answer that cannot be sent: a header that would be two, more or fewer bytes
    than it said."""


def head_of(status: int, headers: Headers) -> bytes:
    """The head, with the reason phrase that people know: without it botocore takes the answer to an Expect
    for none. `FramingError`: a header with a line break in it, or a name that is none."""
    lines = [_status_line(status)]
    for name, value in headers:
        if _FORBIDDEN.search(value):
            raise FramingError(f"the header {name!r} has a line break in it")
        lines += (_beginning(name), value, b"\r\n")
    lines.append(b"\r\n")
    return b"".join(lines)


@lru_cache(maxsize=64)
def _status_line(status: int) -> bytes:
    return b"HTTP/1.1 %d %s\r\n" % (status, _PHRASES.get(status, "Unknown").encode("ascii"))


@lru_cache(maxsize=1024)
def _beginning(name: bytes) -> bytes:
    """Of the line of a header. A miss of the cache is checked."""
    if not _TOKEN.fullmatch(name):
        raise FramingError(f"{name!r} is no name of a header")
    return name + b": "


class AnswerFraming:
    """The bytes of one answer: `head`, then `part`s, then `end`. `closes`: the connection ends with it."""

    def __init__(self, status: int, headers: Headers, *, method: str, version: str, closes: bool) -> None:
        """`FramingError`."""
        told = [*headers]
        lengths = [value for name, value in told if name == b"content-length"]
        self._has_body = method != "HEAD" and status not in _WITHOUT_BODY
        self._left = int(lengths[0]) if lengths and self._has_body else None
        self._is_chunked = self._has_body and not lengths and version == "1.1"
        self.closes = closes or (self._has_body and not lengths and not self._is_chunked)
        if self._is_chunked:
            told.append((b"transfer-encoding", b"chunked"))
        if self.closes:
            told.append((b"connection", b"close"))
        self.head = head_of(status, told)

    def part(self, body: Piece) -> list[Piece]:
        """A part of the body; nothing where the answer has none. `FramingError`: more than was said."""
        if not self._has_body or not len(body):
            return []
        if self._is_chunked:
            return [b"%x\r\n" % len(body), body, b"\r\n"]
        if self._left is not None:
            self._left -= len(body)
            if self._left < 0:
                raise FramingError("the application gave more bytes than it said")
        return [body]

    def end(self) -> list[Piece]:
        """The bytes behind the body. `FramingError`: it has less than was said."""
        if self._left:
            raise FramingError("the application gave fewer bytes than it said")
        return [b"0\r\n\r\n"] if self._is_chunked else []
