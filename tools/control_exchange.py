"""One question to a control socket and its answer: HTTP/1.1 (RFC 9112) by h11, as at the other end
(`gateway.control.exchange`). One request per connection."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from typing import Any, Final

import h11

from tools.deadline import Deadline

CHUNK: Final = 64 << 10


class BrokenReplyError(Exception):
    """What came back is no answer, or a part of one."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer's code and body."""

    code: int
    body: bytes

    def json(self) -> Any:
        """The body's value. `ValueError`."""
        return json.loads(self.body)


def exchange(connection: socket.socket, method: str, path: str, body: bytes, deadline: Deadline) -> Reply:
    """Ask the peer of `connection`, which is of no use afterwards. `TimeoutError` if the answer is not whole
    by `deadline`; other OSError; `BrokenReplyError`."""
    http = h11.Connection(h11.CLIENT)
    headers = [("host", "drivefs"), ("content-length", str(len(body)))]
    for event in (
        h11.Request(method=method, target=path, headers=headers),
        h11.Data(data=body),
        h11.EndOfMessage(),
    ):
        connection.settimeout(deadline.left())
        connection.sendall(http.send(event) or b"")
    try:
        return _receive(connection, http, deadline)
    except h11.RemoteProtocolError as error:
        raise BrokenReplyError(str(error)) from None


def _receive(connection: socket.socket, http: h11.Connection, deadline: Deadline) -> Reply:
    code, body = 0, bytearray()
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            connection.settimeout(deadline.left())
            http.receive_data(connection.recv(CHUNK))
        elif isinstance(event, h11.Response):
            code = event.status_code
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            return Reply(code, bytes(body))
        else:
            raise BrokenReplyError("hung up without an answer")
