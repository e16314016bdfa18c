"""A server of one ASGI application on trio: HTTP/1.1 by llhttp, TLS by the standard library.

Invariants:
1. A client holds up nobody else: each connection is a task of its own, and every wait for a client has an end
   (`gateway.http.limits`).
2. No error of a client or of the application ends the server.
3. After `end` no connection takes another request; those under way have `ending_seconds`.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Sequence

import trio

from gateway.http.asgi import App
from gateway.http.connection import Connection
from gateway.http.counters import Counters
from gateway.http.limits import Limits

log = logging.getLogger(__name__)

UNLIMITED = Limits()


class HttpServer:
    """Serves `app`. `name`: of the door, in the access lines. `context`: with TLS."""

    def __init__(
        self, app: App, name: str, *, limits: Limits = UNLIMITED, context: ssl.SSLContext | None = None
    ) -> None:
        self.counters = Counters()
        self._app = app
        self._limits = limits
        self._context = context
        self._access = logging.getLogger(f"drivefs.access.{name}")
        self._open: set[Connection] = set()
        self._ending = trio.Event()

    async def serve(
        self,
        listeners: Sequence[trio.SocketListener],
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until `end` and what is under way then, or until cancelled. The listeners are closed then."""
        async with trio.open_nursery() as clients:
            async with trio.open_nursery() as accepting:
                for listener in listeners:
                    accepting.start_soon(self._accept, listener, clients)
                task_status.started()
                await self._ending.wait()
                accepting.cancel_scope.cancel()
            clients.cancel_scope.deadline = trio.current_time() + self._limits.ending_seconds

    def end(self) -> None:
        """Accept nothing more, and let `serve` end. Idempotent."""
        self._ending.set()
        for connection in self._open:
            connection.end()

    def idle_seconds(self) -> float:
        """Seconds since an answer ended, which is the begin of trio's clock before the first one."""
        return trio.current_time() - self.counters.answered_at

    async def _accept(self, listener: trio.SocketListener, clients: trio.Nursery) -> None:
        await trio.serve_listeners(self._serve_client, [listener], handler_nursery=clients)

    async def _serve_client(self, stream: trio.SocketStream) -> None:
        self.counters.connections += 1
        if len(self._open) >= self._limits.connections:
            self.counters.refused[503] += 1
            await stream.aclose()
            return
        try:
            await self._serve_stream(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            log.debug("a client hung up: %s", error)
        except Exception:
            log.exception("a connection failed")

    async def _serve_stream(self, stream: trio.SocketStream) -> None:
        connection = Connection(
            self._over_tls(stream), self._app, self._limits, self.counters, self._access, stream.socket
        )
        self._open.add(connection)
        self.counters.open += 1
        if self._ending.is_set():
            connection.end()
        try:
            await connection.serve()
        finally:
            self._open.discard(connection)
            self.counters.open -= 1

    def _over_tls(self, stream: trio.SocketStream) -> trio.abc.Stream:
        if self._context is None:
            return stream
        return trio.SSLStream(stream, self._context, server_side=True, https_compatible=True)
