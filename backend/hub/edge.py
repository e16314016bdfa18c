"""Around the hub's application: a least rate of bodies, a line in the log and numbers for each request.

A line names the route and not the path, so that no id of a block is in a log; headers are not logged at all.
Changes of accounts, devices and lists of drives, and what was refused to a person, go to a log of their own.

Invariants:
1. A body that comes slower than `rate` bytes a second is refused, from `GRACE` seconds after its begin on. A
   fast beginning pays for a pause of `_MOST_PAUSE` seconds at most.
2. A connection is closed after an answer that was given before the whole body was read: no client sends the
   rest for ever. Every connection is closed once the process is ending.
asyncio's thread.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

import anyio
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from backend.hub.decoding import RequestError
from backend.hub.metrics import HubMetrics

GRACE: Final = 15.0
_MOST_PAUSE: Final = 60.0
_QUIET: Final = frozenset({"/healthz", "/ready"})
_BY_DRIVE: Final = "/v1/drives/{uuid}/"
_REFUSED: Final = frozenset({401, 403, 429})

access = logging.getLogger("drivefs.access")
audit = logging.getLogger("drivefs.audit")


class Edge:
    """See the module: an ASGI application around another one."""

    def __init__(
        self,
        application: Starlette,
        metrics: HubMetrics,
        is_ending: Callable[[], bool],
        rate: int,
        grace: float = GRACE,
    ) -> None:
        self._application = application
        self._metrics = metrics
        self._is_ending = is_ending
        self._rate = rate
        self._grace = grace
        self._routes = {
            route.endpoint: route.path for route in application.routes if isinstance(route, Route)
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send, self._is_ending, self._rate, self._grace)
        with self._metrics.open.track_inprogress():
            try:
                await self._application(scope, exchange.receive, exchange.send)
            finally:
                self._note(scope, exchange)

    def _route(self, scope: Scope) -> str:
        endpoint = scope.get("endpoint")
        return "none" if endpoint is None else self._routes.get(endpoint, "none")

    def _note(self, scope: Scope, exchange: _Exchange) -> None:
        route = self._route(scope)
        seconds = anyio.current_time() - exchange.begun
        self._metrics.requests.labels(scope["method"], route, str(exchange.status)).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        self._metrics.received.inc(exchange.received)
        self._metrics.sent.inc(exchange.sent)
        if route not in _QUIET:
            fields = _fields(scope, route, exchange, seconds)
            log = audit if _is_audited(scope["method"], route, exchange.status) else access
            log.info("%s %s", scope["method"], route, extra={"fields": fields})


def _is_audited(method: str, route: str, status: int) -> bool:
    if status in _REFUSED:
        return True
    of_a_drive = route.startswith(_BY_DRIVE) or route in ("/v1/wait", "none")
    return method not in ("GET", "HEAD") and not of_a_drive


def _fields(scope: Scope, route: str, exchange: _Exchange, seconds: float) -> dict[str, Any]:
    client, parameters = scope.get("client"), scope.get("path_params", {})
    fields: dict[str, Any] = {
        "client": client[0] if client else "",
        "status": exchange.status,
        "seconds": round(seconds, 4),
        "received": exchange.received,
        "sent": exchange.sent,
    }
    device = scope.get("state", {}).get("device")
    if device is not None:
        fields |= {"account": device.account, "device": device.number}
    if "uuid" in parameters:
        fields["drive"] = str(parameters["uuid"])[:32]
    return fields


class _Exchange:
    """One request and its answer. `status`: 0 before it is answered."""

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        is_ending: Callable[[], bool],
        rate: int,
        grace: float,
    ) -> None:
        headers = Headers(scope=scope)
        self._has_all = headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers
        self._receive = receive
        self._send = send
        self._is_ending = is_ending
        self._rate = rate
        self.begun = anyio.current_time()
        self._until = self.begun + grace
        self.received = 0
        self.sent = 0
        self.status = 0

    async def receive(self) -> Message:
        """As of ASGI. `RequestError`: the body comes too slowly."""
        if self._has_all:  # what comes now is the client's leaving, however late
            return await self._receive()
        message = await self._in_time(self._receive)
        self._count(len(message.get("body", b"")))
        self._has_all = not message.get("more_body", False)
        return message

    async def _in_time(self, receive: Callable[[], Awaitable[Message]]) -> Message:
        with anyio.move_on_after(self._until - anyio.current_time()):
            return await receive()
        raise RequestError(408, "too_slow", f"a body comes with {self._rate} bytes a second at least")

    def _count(self, size: int) -> None:
        self.received += size
        self._until = min(self._until + size / self._rate, anyio.current_time() + _MOST_PAUSE)

    async def send(self, message: Message) -> None:
        """As of ASGI."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if not self._has_all or self._is_ending():
                MutableHeaders(scope=message)["Connection"] = "close"
        else:
            self.sent += len(message.get("body", b""))
        await self._send(message)
