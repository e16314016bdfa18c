"""One connection: requests, one after the other, each an `Exchange` with the application.

Invariants:
1. A request whose framing could be read in two ways is refused, with 400, and its connection closed: with
   both Content-Length and Transfer-Encoding (RFC 9112, 6.1: request smuggling), or with anything that h11
   refuses.
2. Nothing is read of a next request before the answer to this one is whole.
3. An answer before the whole body was read is followed by the rest of the body if that is small; otherwise
   the connection ends, after a moment in which the client may see the answer.
"""

from __future__ import annotations

import logging
from typing import Final

import h11
import trio

from gateway.http.asgi import App
from gateway.http.counters import Counters
from gateway.http.exchange import CHUNK, Exchange, Peer, RefusedError, phrase_of
from gateway.http.limits import Limits

HEAD_CHUNK: Final = 16 << 10

log = logging.getLogger(__name__)


class Connection:
    """Serves `app` on `stream`, whose lowest socket is `socket`."""

    def __init__(
        self,
        stream: trio.abc.Stream,
        app: App,
        limits: Limits,
        counters: Counters,
        access: logging.Logger,
        socket: trio.socket.SocketType,
    ) -> None:
        self._stream = stream
        self._app = app
        self._limits = limits
        self._counters = counters
        self._access = access
        self._socket = socket
        self._wire = h11.Connection(h11.SERVER, max_incomplete_event_size=limits.head_bytes)
        self._idle = trio.CancelScope()
        self._is_ending = False
        self._current: Exchange | None = None

    def end(self) -> None:
        """Take no other request. Idempotent."""
        self._is_ending = True
        self._idle.cancel()
        if self._current is not None:
            self._current.is_last = True

    async def serve(self) -> None:
        """Until a side ends it. `trio.BrokenResourceError` if the client goes in the middle."""
        async with self._stream:
            if isinstance(self._stream, trio.SSLStream) and not await self._handshake(self._stream):
                return
            peer = Peer.of(self._socket, is_tls=isinstance(self._stream, trio.SSLStream))
            try:
                while await self._exchange(peer):
                    self._wire.start_next_cycle()
            except RefusedError as refused:
                await self._refuse(refused)

    async def _handshake(self, stream: trio.SSLStream[trio.abc.Stream]) -> bool:
        with trio.move_on_after(self._limits.head_seconds):
            await stream.do_handshake()
            return True
        return False

    async def _exchange(self, peer: Peer) -> bool:
        """Whether another one may follow."""
        request = await self._request()
        if request is None:
            return False
        exchange = self._current = Exchange(self._stream, self._wire, request, self._limits, peer)
        exchange.is_last = self._is_ending
        try:
            await self._answer(exchange)
        finally:
            self._note(exchange)
        if exchange.is_whole and self._wire.our_state is h11.DONE and await self._drain(exchange):
            return not self._is_ending
        await self._linger(exchange)
        return False

    async def _answer(self, exchange: Exchange) -> None:
        try:
            await self._app(exchange.scope, exchange.receive, exchange.send)
        except (RefusedError, trio.BrokenResourceError, trio.ClosedResourceError):
            raise
        except Exception:
            log.exception("%s failed", exchange.scope["method"])
            raise RefusedError(500, "this is a fault of drivefs; its log says more") from None

    async def _request(self) -> h11.Request | None:
        """The next request; None if the client has no more, or is not let have one. `RefusedError`."""
        try:
            event = self._wire.next_event()
            if event is h11.NEED_DATA and self._wire.trailing_data[0] == b"":
                with self._idle as idle:
                    idle.deadline = trio.current_time() + self._limits.idle_seconds
                    self._wire.receive_data(bytes(await self._stream.receive_some(HEAD_CHUNK)))
                if idle.cancelled_caught:
                    return None
                self._idle = trio.CancelScope()
                event = self._wire.next_event()
            if event is h11.NEED_DATA:
                event = await self._rest_of_head()
        except h11.RemoteProtocolError as error:
            raise RefusedError(error.error_status_hint, str(error)) from None
        return self._checked(event) if isinstance(event, h11.Request) else None

    async def _rest_of_head(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        with trio.move_on_after(self._limits.head_seconds):
            while True:
                self._wire.receive_data(bytes(await self._stream.receive_some(HEAD_CHUNK)))
                event = self._wire.next_event()
                if event is not h11.NEED_DATA:
                    return event
        raise RefusedError(408, "the request's head did not arrive in time")

    def _checked(self, request: h11.Request) -> h11.Request:
        size = len(request.target) + sum(len(name) + len(value) for name, value in request.headers)
        if len(request.headers) > self._limits.headers or size > self._limits.head_bytes:
            raise RefusedError(431, "the request's head is too large")
        names = {name for name, _ in request.headers}
        if b"transfer-encoding" in names and b"content-length" in names:
            raise RefusedError(400, "the request has both Content-Length and Transfer-Encoding")
        if (
            b"content-length" in names
            and int(dict(request.headers)[b"content-length"]) > self._limits.body_bytes
        ):
            raise RefusedError(413, "the body is larger than a body may be")
        return request

    async def _refuse(self, refused: RefusedError) -> None:
        self._counters.refused[refused.status] += 1
        if self._wire.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        text = f"{refused}\n".encode()
        headers = [
            ("content-type", "text/plain"),
            ("content-length", str(len(text))),
            ("connection", "close"),
        ]
        answer = [
            h11.Response(status_code=refused.status, headers=headers, reason=phrase_of(refused.status)),
            h11.Data(text),
            h11.EndOfMessage(),
        ]
        data = b"".join(self._wire.send(event) or b"" for event in answer)
        with trio.move_on_after(self._limits.linger_seconds):
            await self._stream.send_all(data)
            await self._read_to_the_end()

    async def _drain(self, exchange: Exchange) -> bool:
        """Whether the rest of the request's body was small, and is read. `RefusedError`."""
        if self._wire.their_state is h11.DONE:
            return True
        if self._wire.their_state is not h11.SEND_BODY or self._wire.they_are_waiting_for_100_continue:
            return False
        return await exchange.skip_body(self._limits.drained_bytes)

    async def _linger(self, exchange: Exchange) -> None:
        if exchange.is_whole and self._wire.their_state is not h11.DONE:
            with trio.move_on_after(self._limits.linger_seconds):
                await self._read_to_the_end()

    async def _read_to_the_end(self) -> None:
        """To close with bytes unread would reset the connection, and take the answer back."""
        if isinstance(self._stream, trio.SocketStream):
            await self._stream.send_eof()
        while await self._stream.receive_some(CHUNK):
            pass

    def _note(self, exchange: Exchange) -> None:
        counters, seconds = self._counters, exchange.seconds()
        if exchange.status:
            counters.answers[exchange.status] += 1
        counters.received_bytes += exchange.received
        counters.sent_bytes += exchange.sent
        counters.seconds += seconds
        if self._access.isEnabledFor(logging.INFO):
            self._access.info("%s", exchange.line(seconds))
