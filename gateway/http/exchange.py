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
from typing import Any, Final

import trio

from gateway.http.answers import CONTINUE, AnswerFraming, Piece
from gateway.http.asgi import Message, Scope
from gateway.http.limits import Limits, Pace
from gateway.http.requests import Head, RefusedError, RequestReader, Signal
from gateway.http.sending import SocketSender

CHUNK: Final = 256 << 10
JOINED: Final = 64 << 10
"""A part of a body up to this size is sent together with the head."""
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


class Exchange:
    """`is_last`: the connection ends after it. `has_begun`: the client has something of the answer."""

    def __init__(
        self,
        stream: trio.abc.Stream,
        sender: SocketSender,
        reader: RequestReader,
        head: Head,
        limits: Limits,
        peer: Peer,
    ) -> None:
        self.received = self.sent = self.status = 0
        self.is_whole = self.has_begun = self.body_is_over = False
        self.is_last = not head.keeps_alive
        self.awaits_continue = head.expects_continue
        self.scope = _scope(head, peer)
        self._stream = stream
        self._sender = sender
        self._reader = reader
        self._limits = limits
        self._began = trio.current_time()
        self._answer: AnswerFraming | None = None
        self._receiving, self._sending = Pace(limits), Pace(limits)
        self._over: trio.Event | None = None

    async def receive(self) -> Message:
        """ASGI's `receive`: the next part of the body; once there is no more, waits until the answer is
        whole. Instead of a disconnect message in the middle of a body, `trio.BrokenResourceError` if the
        client is gone, which the application lets through, and `RefusedError` (400, 408, 413), which it lets
        through or answers in its own words: the connection ends then."""
        if self.body_is_over:
            await self._until_whole()
            return {"type": "http.disconnect"}
        if self.awaits_continue and not self._reader.has_more:
            await self._send_slowly(CONTINUE)
        self.awaits_continue = False
        return await self._next_part()

    async def _until_whole(self) -> None:
        if self.is_whole:
            return
        if self._over is None:  # few applications ask
            self._over = trio.Event()
        await self._over.wait()

    async def _next_part(self) -> Message:
        part = await self._part()
        if isinstance(part, bytes):
            self.received += len(part)
            if self.received > self._limits.body_bytes:
                raise self._refused(413, "the body is larger than a body may be")
            return {"type": "http.request", "body": part, "more_body": True}
        self.body_is_over = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def _part(self) -> Head | bytes | Signal:
        try:
            while (event := self._reader.next()) is Signal.NEED_DATA:
                self._reader.receive(await self._receive_some())
        except RefusedError:
            self.is_last = True
            raise
        return event

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
        while not self.body_is_over:
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
        assert self._answer is not None
        body, more = message.get("body", b""), message.get("more_body", False)
        pieces: list[Piece] = [] if self.has_begun else [self._answer.head]
        parts = self._answer.part(body)
        pieces += parts
        self.sent += len(body) if parts else 0
        if not more:
            pieces += self._answer.end()
        self.has_begun = True
        await self._send_pieces(pieces, more=more)
        if not more:
            self.is_whole = True
            if self._over is not None:
                self._over.set()

    def _start(self, message: Message) -> None:
        self.status = message["status"]
        self._answer = AnswerFraming(
            self.status,
            [(b"date", _date(int(time.time()))), *message.get("headers", ())],
            method=self.scope["method"],
            version=self.scope["http_version"],
            closes=self.is_last or self.awaits_continue,
        )
        self.is_last = self._answer.closes

    async def _send_pieces(self, pieces: list[Piece], *, more: bool) -> None:
        if sum(map(len, pieces)) > JOINED:
            for piece in pieces:
                await self._send_slowly(piece)
            return
        data = b"".join(pieces)
        sent = 0 if more or self._reader.has_more else self._sender.send_at_once(data)
        await self._send_slowly(memoryview(data)[sent:])

    async def _send_slowly(self, data: Piece) -> None:
        """As fast as the client takes it."""
        if not len(data):
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


def _scope(head: Head, peer: Peer) -> Scope:
    target, _, query = head.target.partition(b"?")
    state: dict[str, Any] = {"audit": {}}
    return {
        "type": "http",
        "asgi": _VERSION,
        "http_version": head.version,
        "method": head.method,
        "scheme": peer.scheme,
        "path": target.decode("ascii"),
        "raw_path": target,
        "query_string": query,
        "root_path": "",
        "headers": head.headers,
        "client": peer.client,
        "server": peer.server,
        "state": state,
    }


@lru_cache(maxsize=1)
def _date(second: int) -> bytes:
    return formatdate(second, usegmt=True).encode("ascii")
