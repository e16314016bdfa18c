"""HTTP/1.1 connections of uvicorn with the limits that it has not: size and time of a request's head, and
time that a client may let its answer lie.

uvicorn reads heads of any size and waits for the first one for ever (its keep-alive limit begins after an
answer); a client that stops reading keeps its answer in memory for ever. asyncio's thread.
"""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from backend import wire

MAX_HEAD: Final = 32 << 10
_AROUND: Final = 4
"""Bytes around name and value: colon, space, line end."""
READING_SECONDS: Final = 60.0
"""After which a client must have taken so much of its answer:"""
READING_RATE: Final = 1024
"""bytes a second."""


class GuardedProtocol(HttpToolsProtocol):
    """See the module. `head_seconds` is that of a subclass."""

    head_seconds: float = 20.0
    reading_seconds: float = READING_SECONDS

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._head_timer: asyncio.TimerHandle | None = None
        self._reading_timer: asyncio.TimerHandle | None = None
        self._in_head = True
        self._size = 0
        self._is_refused = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        self._stop_reading()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        if self._in_head:
            self._size += len(data)
        super().data_received(data)
        if self._in_head and self._size > MAX_HEAD:
            self._refuse(431, "too_large", f"a head has at most {MAX_HEAD} bytes")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._head_timer is None:  # a first one is waited for since the connection was made
            self._wait_for_head()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._stop()
        size = len(self.url) + sum(len(name) + len(value) + _AROUND for name, value in self.headers)
        if size > MAX_HEAD:
            self._refuse(431, "too_large", f"a head has at most {MAX_HEAD} bytes")
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        if not self._is_refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._is_refused:
            super().on_message_complete()
        self._in_head, self._size = True, 0

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stop_reading()
        self._wait_for_reading()

    def resume_writing(self) -> None:
        self._stop_reading()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "bad_request", msg)

    def _wait_for_head(self) -> None:
        self._head_timer = self.loop.call_later(self.head_seconds, self._no_head)

    def _no_head(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing():
            self._refuse(408, "too_slow", f"a head is here within {self.head_seconds:g} seconds")

    def _wait_for_reading(self) -> None:
        left = self.transport.get_write_buffer_size()
        self._reading_timer = self.loop.call_later(self.reading_seconds, self._look_at_reading, left)

    def _look_at_reading(self, before: int) -> None:
        taken = before - self.transport.get_write_buffer_size()
        if taken < READING_RATE * self.reading_seconds:
            self.transport.abort()
        else:
            self._wait_for_reading()

    def _stop(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _stop_reading(self) -> None:
        if self._reading_timer is not None:
            self._reading_timer.cancel()
            self._reading_timer = None

    def _refuse(self, status: int, kind: str, detail: str) -> None:
        """Answer and close; what else comes is not looked at."""
        self._is_refused = True
        self._stop()
        said = {"type": wire.PROBLEM + kind, "title": kind, "status": status, "detail": detail}
        body = json.dumps(said).encode()
        head = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\nContent-Type: application/problem+json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()


def guarded(head_seconds: float) -> type[GuardedProtocol]:
    """The protocol with that limit."""
    return type("Guarded", (GuardedProtocol,), {"head_seconds": head_seconds})
