"""The short way to a client's socket."""

from __future__ import annotations

import os

import trio


class SocketSender:
    """Of a connection without TLS; of another one it sends nothing. Event-loop thread."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._socket = stream.socket if isinstance(stream, trio.SocketStream) else None

    def send_at_once(self, data: bytes) -> int:
        """Send it without waiting, and without letting other tasks go first: for the end of an answer, after
        which the client is waited for anyway. The number of bytes that the kernel took.
        `trio.BrokenResourceError` if the client is gone."""
        if self._socket is None:
            return 0
        try:
            return os.write(self._socket.fileno(), data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise trio.BrokenResourceError(str(error)) from error
