"""One connection: requests, one after the other, each an `Exchange` with the application.

Invariants:
1. A request whose framing could be read in two ways is refused, and its connection closed
   (`gateway.http.requests`).
2. Nothing is read of a next request before the answer to this one is whole.
3. An answer before the whole body was read is followed by the rest of the body if that is small; otherwise
   the connection ends, after a moment in which the client may see the answer.
"""

from __future__ import annotations

import logging
from typing import Final

import trio

from gateway.http.answers import head_of
from gateway.http.asgi import App
from gateway.http.counters import Counters
from gateway.http.exchange import CHUNK, Exchange, Peer
from gateway.http.limits import Limits
from gateway.http.requests import Head, RefusedError, RequestReader, Signal
from gateway.http.sending import SocketSender

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
        self._reader = RequestReader(limits)
        self._sender = SocketSender(stream)
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
                    pass
            except RefusedError as refused:
                await self._refuse(refused)

    async def _handshake(self, stream: trio.SSLStream[trio.abc.Stream]) -> bool:
        with trio.move_on_after(self._limits.head_seconds):
            await stream.do_handshake()
            return True
        return False

    async def _exchange(self, peer: Peer) -> bool:
        """Whether another one may follow."""
        self._current = None
        head = await self._request()
        if head is None:
            return False
        exchange = self._current = Exchange(
            self._stream, self._sender, self._reader, head, self._limits, peer
        )
        exchange.is_last = exchange.is_last or self._is_ending
        try:
            await self._answer(exchange)
        finally:
            self._note(exchange)
        if exchange.is_whole and await self._drain(exchange):
            return not exchange.is_last
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

    async def _request(self) -> Head | None:
        """The next request; None if the client has no more, or is not let have one. `RefusedError`."""
        event = self._reader.next()
        if event is Signal.NEED_DATA and self._reader.is_between:
            with self._idle as idle:
                idle.deadline = trio.current_time() + self._limits.idle_seconds
                data = bytes(await self._stream.receive_some(HEAD_CHUNK))
            if idle.cancelled_caught or not data:
                return None
            self._idle = trio.CancelScope()
            self._reader.receive(data)
            event = self._reader.next()
        if event is Signal.NEED_DATA:
            event = await self._rest_of_head()
        assert isinstance(event, Head)
        return event

    async def _rest_of_head(self) -> Head | bytes | Signal:
        with trio.move_on_after(self._limits.head_seconds):
            while True:
                self._reader.receive(bytes(await self._stream.receive_some(HEAD_CHUNK)))
                event = self._reader.next()
                if event is not Signal.NEED_DATA:
                    return event
        raise RefusedError(408, "the request's head did not arrive in time")

    async def _refuse(self, refused: RefusedError) -> None:
        self._counters.refused[refused.status] += 1
        if self._current is not None and self._current.has_begun:
            return
        text = f"{refused}\n".encode()
        headers = [
            (b"content-type", b"text/plain"),
            (b"content-length", b"%d" % len(text)),
            (b"connection", b"close"),
        ]
        is_head = self._current is not None and self._current.scope["method"] == "HEAD"
        data = head_of(refused.status, headers) + (b"" if is_head else text)
        with trio.move_on_after(self._limits.linger_seconds):
            await self._stream.send_all(data)
            await self._read_to_the_end()

    async def _drain(self, exchange: Exchange) -> bool:
        """Whether the rest of the request's body was small, and is read."""
        if exchange.body_is_over:
            return True
        if exchange.awaits_continue:
            return False
        try:
            return await exchange.skip_body(self._limits.drained_bytes)
        except RefusedError:
            return False

    async def _linger(self, exchange: Exchange) -> None:
        if exchange.is_whole and not exchange.body_is_over:
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
        counters.answered_at = trio.current_time()
        if self._access.isEnabledFor(logging.INFO):
            self._access.info("%s", exchange.line(seconds))
