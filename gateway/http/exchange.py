"""One request and its answer, as ASGI sees them.

Invariants:
1. `100 Continue` is sent when the application first asks for the body, and never before: it authenticates
   first.
2. A body of more than `Limits.body_bytes` is answered with 413 and not read on.
3. A client that sends its body or takes the answer below `Limits.least_rate` is cut off.
4. Head and first part of an answer leave in one piece.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Any, Final, cast

import h11
import trio

from gateway.http.asgi import Message, Scope
from gateway.http.limits import Limits, Pace

CHUNK: Final = 256 << 10
JOINED: Final = 64 << 10
"""A part of a body up to this size is sent together with the head."""
_PHRASES: Final = {int(status): status.phrase for status in HTTPStatus}
_VERSION: Final = {"version": "3.0", "spec_version": "2.3"}


class ClientGoneError(trio.BrokenResourceError):
    """The client is gone, or takes its answer too slowly: there is nobody to answer to."""


@dataclass(frozen=True, slots=True)
class Peer:
    """The ends of a connection, as a scope has them."""

    scheme: str
    client: tuple[str, int]
    server: tuple[str, int]

    @classmethod
    def of(cls, socket: trio.socket.SocketType, *, is_tls: bool) -> Peer:
        """`ClientGoneError`: it went before it was looked at."""
        try:
            client, server = socket.getpeername(), socket.getsockname()
        except OSError as error:
            raise ClientGoneError(str(error)) from None
        return cls("https" if is_tls else "http", client[:2], server[:2])


class RefusedError(Exception):
    """A request, or the rest of its body, that no application sees. The connection ends with an answer of
    this status, unless another one was begun."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Exchange:
    """`is_last`: the connection ends after it."""

    def __init__(
        self, stream: trio.abc.Stream, wire: h11.Connection, request: h11.Request, limits: Limits, peer: Peer
    ) -> None:
        self.received = self.sent = self.status = 0
        self.is_whole = self.is_last = False
        self.scope = _scope(request, peer)
        self._stream = stream
        self._wire = wire
        self._limits = limits
        self._began = trio.current_time()
        self._head: h11.Response | None = None
        self._receiving, self._sending = Pace(limits), Pace(limits)
        self._body_is_over = False
        self._over = trio.Event()

    async def receive(self) -> Message:
        """ASGI's `receive`: the next part of the body; once there is no more, waits until the answer is
        whole. Instead of a disconnect message in the middle of a body, `trio.BrokenResourceError` if the
        client is gone, which the application lets through, and `RefusedError` (400, 408, 413), which it lets
        through or answers in its own words: the connection ends then."""
        if self._body_is_over:
            await self._over.wait()
            return {"type": "http.disconnect"}
        if self._wire.they_are_waiting_for_100_continue:
            go_on = h11.InformationalResponse(status_code=100, headers=[], reason=phrase_of(100))
            await self._send_all(self._wire.send(go_on) or b"")
        return await self._next_part()

    async def _next_part(self) -> Message:
        event = await self._event()
        if isinstance(event, h11.Data):
            self.received += len(event.data)
            if self.received > self._limits.body_bytes:
                raise self._refused(413, "the body is larger than a body may be")
            return {"type": "http.request", "body": event.data, "more_body": True}
        self._body_is_over = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def _event(self) -> h11.Data | h11.EndOfMessage:
        try:
            while (event := self._wire.next_event()) is h11.NEED_DATA:
                self._wire.receive_data(await self._receive_some())
        except h11.RemoteProtocolError as error:
            raise self._refused(400, str(error)) from None
        return cast("h11.Data | h11.EndOfMessage", event)

    async def _receive_some(self) -> bytes:
        since = trio.current_time()
        with self._receiving.wait():
            data = bytes(await self._stream.receive_some(CHUNK))
            self._receiving.waited(since, len(data))
            return data
        raise self._refused(408, "the body came too slowly")

    def _refused(self, status: int, reason: str) -> RefusedError:
        self.is_last = True
        return RefusedError(status, reason)

    async def skip_body(self, most: int) -> bool:
        """Whether what is left of the body had at most `most` bytes, and is read. The answer is whole.
        `RefusedError`."""
        while not self._body_is_over:
            before = self.received
            await self._next_part()
            most -= self.received - before
            if most < 0:
                return False
        return True

    async def send(self, message: Message) -> None:
        """ASGI's `send`. `ClientGoneError`."""
        if message["type"] == "http.response.start":
            self._start(message)
            return
        body, more = message.get("body", b""), message.get("more_body", False)
        pieces = [] if self._head is None else [self._wire.send(self._head) or b""]
        self._head = None
        if body and self.scope["method"] != "HEAD":
            self.sent += len(body)
            pieces += cast("list[bytes]", self._wire.send_with_data_passthrough(h11.Data(body)) or [])
        if not more:
            pieces += [self._wire.send(h11.EndOfMessage()) or b""]
        await self._send_pieces(pieces)
        if not more:
            self.is_whole = True
            self._over.set()

    def _start(self, message: Message) -> None:
        self.status = message["status"]
        headers = [(b"date", _date(int(time.time()))), *message.get("headers", ())]
        if self.is_last or self._wire.they_are_waiting_for_100_continue:
            headers.append((b"connection", b"close"))
        # Without its phrase botocore takes the answer to an Expect for none.
        self._head = h11.Response(status_code=self.status, headers=headers, reason=phrase_of(self.status))

    async def _send_pieces(self, pieces: list[bytes]) -> None:
        if sum(map(len, pieces)) <= JOINED:
            await self._send_all(b"".join(pieces))
            return
        for piece in pieces:
            await self._send_all(piece)

    async def _send_all(self, data: bytes | memoryview) -> None:
        if not data:
            return
        since = trio.current_time()
        with self._sending.wait(len(data)):
            await self._stream.send_all(data)
            self._sending.waited(since, len(data))
            return
        raise ClientGoneError("the answer was taken too slowly")

    def seconds(self) -> float:
        """Since its head was here."""
        return trio.current_time() - self._began

    def line(self, seconds: float) -> str:
        """The access line: one JSON object, without the query, which may hold a signature."""
        scope = self.scope
        return json.dumps(
            {
                "client": scope["client"][0],
                "method": scope["method"],
                "path": scope["raw_path"].decode("ascii"),
                "status": self.status,
                "received": self.received,
                "sent": self.sent,
                "ms": round(seconds * 1000, 1),
                "whole": self.is_whole,
                **scope["state"]["audit"],
            }
        )


def _scope(request: h11.Request, peer: Peer) -> Scope:
    target, _, query = request.target.partition(b"?")
    state: dict[str, Any] = {"audit": {}}
    return {
        "type": "http",
        "asgi": _VERSION,
        "http_version": request.http_version.decode("ascii"),
        "method": request.method.decode("ascii"),
        "scheme": peer.scheme,
        "path": target.decode("ascii"),
        "raw_path": target,
        "query_string": query,
        "root_path": "",
        "headers": list(request.headers),
        "client": peer.client,
        "server": peer.server,
        "state": state,
    }


def phrase_of(status: int) -> str:
    """The reason phrase that people know."""
    return _PHRASES.get(status, "Unknown")


@lru_cache(maxsize=1)
def _date(second: int) -> bytes:
    return formatdate(second, usegmt=True).encode("ascii")
