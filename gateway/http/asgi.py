"""The types of ASGI 3 (asgi.readthedocs.io, "HTTP & WebSocket ASGI Message Format"), of which `http` is
served.

Of a scope: `raw_path` is the path as the client sent it, `headers` a list of (lower-case name, value),
`client` and `server` as ASGI says. `state` belongs to one request; its `audit`, a dict of texts, is written
into the access line: an application puts no secret there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

Scope = dict[str, Any]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
