"""The socket that a hub listens on."""

from __future__ import annotations

import socket
from typing import Final

BACKLOG: Final = 4096


def listener_at(host: str, port: int, family: int = socket.AF_INET) -> socket.socket:
    """A socket that listens there; port 0: a free one. `OSError`.

    asyncio sets TCP_NODELAY only on sockets whose protocol was said, which `create_server` does not. Without
    it each answer of two writes waits 40 ms for an acknowledgement. Connections have it from the listener
    (Linux)."""
    listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener
