"""Requests as they come over a connection, taken apart by llhttp (httptools), without I/O.

Invariants:
1. A request whose framing could be read in two ways is no request (RFC 9112, 6.1 and 6.3: request smuggling):
   with both Content-Length and Transfer-Encoding, two of either, another coding than `chunked`, and all that
   llhttp refuses, whose lenient modes are off.
2. What follows a request in the same bytes is looked at when the request was taken, and 16 KiB at a time.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import Final

import httptools

from gateway.http.limits import Limits

PIECE: Final = 16 << 10
"""So much is parsed at once, where it is not the body of a request that says its length."""


class RefusedError(Exception):
    """A request, or the rest of its body, that no application sees. The connection ends with an answer of
    this status, unless another one was begun."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Signal(Enum):
    """What there is beside heads and parts of bodies."""

    NEED_DATA = 1
    END = 2
    """of a request"""


@dataclass(slots=True)
class Head:
    """Of a request. `headers`: lower-case names, and values without white space around them. `keeps_alive`:
    the client may send another request. `expects_continue`: its body comes when it was told to go on."""

    method: str
    target: bytes
    version: str
    headers: list[tuple[bytes, bytes]]
    keeps_alive: bool
    expects_continue: bool


class RequestReader:
    """See the module. `receive` what came, when `next` wants it. The methods `on_...` are for
    httptools: what they meet after a failure, in the same bytes, is no request."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._parser = httptools.HttpRequestParser(self)
        self._events: deque[Head | bytes | Signal] = deque()
        self._failure: RefusedError | None = None
        self._data = memoryview(b"")
        self._silent = 0
        """bytes that were parsed since there was something to give"""
        self._target = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._is_in_head = self._is_in_message = False
        self._body_left = 0

    @property
    def is_between(self) -> bool:
        """Whether nothing of a next request has come."""
        return not (self._is_in_message or self._events or self._data)

    @property
    def has_more(self) -> bool:
        """Whether something is here that was not taken."""
        return bool(self._events or self._data)

    def receive(self, data: bytes) -> None:
        """Take bytes of the client, when `next` has asked for them; empty: it sends nothing more."""
        assert not self._data
        self._data = memoryview(data)
        if not data:
            self._fail(400, "the client ended in the middle of a request")

    def next(self) -> Head | bytes | Signal:
        """A head, parts of its body, `END`; or `NEED_DATA`. `RefusedError`: nothing comes after it."""
        while not self._events:
            if self._failure is not None:
                raise self._failure
            if not self._data:
                return Signal.NEED_DATA
            self._parse()
        return self._events.popleft()

    def _parse(self) -> None:
        size = self._body_left or PIECE
        piece, self._data = self._data[:size], self._data[size:]
        try:
            self._parser.feed_data(piece)
        except httptools.HttpParserUpgrade as upgrade:
            # No protocol is changed to: what follows is a request.
            self._data = memoryview(b"".join((piece[upgrade.args[0] :], self._data)))
            self._parser = httptools.HttpRequestParser(self)
        except httptools.HttpParserError as error:
            self._fail(400, str(error))
        self._silent = 0 if self._events else self._silent + len(piece)
        if self._silent > self._limits.head_bytes:
            if self._is_in_head:
                self._fail(431, "the request's head is too large")
            else:
                self._fail(400, "the body has too much around its bytes")

    def _fail(self, status: int, reason: str) -> None:
        """The first failure counts."""
        if self._failure is None:
            self._failure = RefusedError(status, reason)

    # What httptools calls

    def on_message_begin(self) -> None:
        self._target, self._headers = b"", []
        self._is_in_head = self._is_in_message = True

    def on_url(self, part: bytes) -> None:
        self._target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._is_in_head:  # what follows a body counts for nothing
            self._headers.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        if self._failure is not None:
            return
        parser, headers = self._parser, self._headers
        version = parser.get_http_version()
        try:
            self._body_left = _checked(version, self._target, headers, self._limits)
            if parser.should_upgrade() and (self._body_left or _is_chunked(headers)):
                raise RefusedError(501, "another protocol is not changed to, and not with a body")
        except RefusedError as refused:
            self._failure = refused
            return
        keeps_alive = version == "1.1" and parser.should_keep_alive()
        expects = version == "1.1" and any(
            b"100-continue" in value.lower() for name, value in headers if name == b"expect"
        )
        method = parser.get_method().decode("ascii")
        self._events.append(Head(method, self._target, version, headers, keeps_alive, expects))

    def on_body(self, part: bytes) -> None:
        if self._failure is None:
            self._body_left = max(0, self._body_left - len(part))
            self._events.append(part)

    def on_message_complete(self) -> None:
        self._is_in_message = False
        if self._failure is None:
            self._events.append(Signal.END)


def _checked(version: str, target: bytes, headers: list[tuple[bytes, bytes]], limits: Limits) -> int:
    """The length of the body that the head says, 0 without. `RefusedError`."""
    size = len(target) + sum(len(name) + len(value) for name, value in headers)
    if len(headers) > limits.headers or size > limits.head_bytes:
        raise RefusedError(431, "the request's head is too large")
    if version not in ("1.1", "1.0"):
        raise RefusedError(505, "the door speaks HTTP/1.1")
    names = [name for name, _ in headers]
    if names.count(b"host") != 1 and (version == "1.1" or b"host" in names):
        raise RefusedError(400, "a request has one header Host")
    if b"transfer-encoding" in names:
        _check_coding(version, names, headers)
    if b"content-length" not in names:
        return 0
    length = int(dict(headers)[b"content-length"])
    if length > limits.body_bytes:
        raise RefusedError(413, "the body is larger than a body may be")
    return length


def _check_coding(version: str, names: list[bytes], headers: list[tuple[bytes, bytes]]) -> None:
    if b"content-length" in names or version == "1.0":
        raise RefusedError(400, "the request has a Transfer-Encoding where there may be none")
    if names.count(b"transfer-encoding") != 1 or not _is_chunked(headers):
        raise RefusedError(501, "of the transfer codings only chunked is served")


def _is_chunked(headers: list[tuple[bytes, bytes]]) -> bool:
    return any(name == b"transfer-encoding" and value.lower() == b"chunked" for name, value in headers)
