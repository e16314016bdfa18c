"""HTTP/1.1 for the doors: ASGI applications, served on trio."""

from __future__ import annotations

from gateway.http.asgi import App, Message, Receive, Scope, Send
from gateway.http.counters import Counters
from gateway.http.limits import Limits
from gateway.http.listening import Address, listeners_at, tls_context
from gateway.http.requests import RefusedError
from gateway.http.server import HttpServer

__all__ = [
    "Address",
    "App",
    "Counters",
    "HttpServer",
    "Limits",
    "Message",
    "Receive",
    "RefusedError",
    "Scope",
    "Send",
    "listeners_at",
    "tls_context",
]
