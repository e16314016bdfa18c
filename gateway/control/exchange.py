"""One exchange of a control client: a small, prompt HTTP/1.1 request (RFC 9112, by h11), and its answer.

Anything else gets 400, 408 or 413. One request per connection. A client has `CLIENT_SECONDS` until its
request is whole, and as much for taking the answer.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from typing import Any, Final

import h11
import trio

MAX_HEADER: Final = 8192
MAX_BODY: Final = 64 << 10
CLIENT_SECONDS: Final = 10.0
LAST_SECONDS: Final = 1.0
"""For the end of a stream."""


@dataclass(frozen=True, slots=True)
class Answer:
    code: int
    body: bytes
    media_type: str = "application/json"


Send = Callable[[Mapping[str, Any]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Stream:
    """An answer without an end that is known: JSON objects, one a line. `run` gives them to its argument
    until it returns, or the client hangs up. `around` is held meanwhile; it may raise `Refused`."""

    run: Callable[[Send], Awaitable[None]]
    around: Callable[[], AbstractContextManager[None]]


class Refused(Exception):
    """A client that gets an error answer, or with code 0 none at all."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


async def converse(
    stream: trio.SocketStream, answer_to: Callable[[h11.Request, bytes], Awaitable[Answer | Stream]]
) -> None:
    """Receive a request and send what `answer_to` it and its body gives, or the answer to a `Refused`."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEADER)
    try:
        request, body = await _receive(stream, connection)
        answer = await answer_to(request, body)
        if isinstance(answer, Stream):
            with answer.around():
                await _send_lines(stream, connection, answer)
            return
    except Refused as refused:
        if not refused.code:
            return
        answer = as_json(refused.code, {"error": _reason(refused.code)})
    with trio.move_on_after(CLIENT_SECONDS):
        await _send(stream, connection, answer)
        # To close with bytes unread would reset the connection and take the answer back.
        async for _ in stream:
            pass


def _reason(code: int) -> str:
    """The meaning of a refusal's number, for a person."""
    return {
        400: "not an HTTP request",
        404: "no such path",
        405: "this path has another method",
        408: "the request did not arrive in time",
        413: "the request is too big",
        500: "this is a fault of drivefs; its log says more",
        503: "too many are waiting already",
    }[code]


async def _receive(stream: trio.SocketStream, connection: h11.Connection) -> tuple[h11.Request, bytes]:
    """The one request and its body. `Refused` if it is bad, big or slow."""
    with trio.move_on_after(CLIENT_SECONDS):
        try:
            return await _whole_request(stream, connection)
        except h11.RemoteProtocolError as error:
            # h11 says 431 for a head over its limit, and 400 for the rest.
            raise Refused(400 if error.error_status_hint == 400 else 413) from None
    raise Refused(408)


async def _whole_request(stream: trio.SocketStream, connection: h11.Connection) -> tuple[h11.Request, bytes]:
    request: h11.Request | None = None
    body = bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await stream.receive_some(MAX_HEADER))
        elif isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > MAX_BODY:
                raise Refused(413)
        elif isinstance(event, h11.EndOfMessage) and request is not None:
            return request, bytes(body)
        else:
            raise Refused(0)  # closed before a request


def as_json(code: int, value: Mapping[str, Any]) -> Answer:
    """`value` as the body."""
    return Answer(code, json.dumps(value).encode())


async def _send(stream: trio.SocketStream, connection: h11.Connection, answer: Answer) -> None:
    headers = [
        ("content-type", answer.media_type),
        ("content-length", str(len(answer.body))),
        ("connection", "close"),
    ]
    for event in (
        h11.Response(status_code=answer.code, headers=headers),
        h11.Data(data=answer.body),
        h11.EndOfMessage(),
    ):
        await stream.send_all(connection.send(event) or b"")
    await stream.send_eof()


async def _send_lines(stream: trio.SocketStream, connection: h11.Connection, answer: Stream) -> None:
    """All that it gives, and its end unless it failed: the client knows that something lacks then. The end is
    sent also where the mount ends, if the client takes it soon."""
    headers = [
        ("content-type", "application/x-ndjson"),
        ("transfer-encoding", "chunked"),
        ("connection", "close"),
    ]
    await stream.send_all(connection.send(h11.Response(status_code=200, headers=headers)) or b"")
    has_failed = False
    try:
        await _send_until_hung_up(stream, connection, answer)
    except* Exception:
        has_failed = True
        raise
    finally:
        if not has_failed:
            with trio.move_on_after(LAST_SECONDS, shield=True), suppress(trio.BrokenResourceError):
                await stream.send_all(connection.send(h11.EndOfMessage()) or b"")


async def _send_until_hung_up(stream: trio.SocketStream, connection: h11.Connection, answer: Stream) -> None:
    async with trio.open_nursery() as nursery:

        async def send(line: Mapping[str, Any]) -> None:
            data = connection.send(h11.Data(data=json.dumps(line).encode() + b"\n")) or b""
            try:
                await stream.send_all(data)
            except trio.BrokenResourceError:
                nursery.cancel_scope.cancel()
                await trio.lowlevel.checkpoint()

        nursery.start_soon(_cancel_when_hung_up, stream, nursery.cancel_scope)
        await answer.run(send)
        nursery.cancel_scope.cancel()


async def _cancel_when_hung_up(stream: trio.SocketStream, scope: trio.CancelScope) -> None:
    with suppress(trio.BrokenResourceError):  # it was killed, with bytes that it had not read
        async for _ in stream:
            pass
    scope.cancel()
