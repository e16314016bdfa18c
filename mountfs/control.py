"""The control socket of a mount: HTTP/1.1 (RFC 9112, by h11) over a UNIX socket, for `drivefs`.

| request | answer |
|---|---|
| GET /status | 200, the drive's status as JSON |
| GET /metrics | 200, its numbers as Prometheus gauges (text format 0.0.4) |
| POST /sync | 200 when all accepted so far is stored and published, `{}` or with texts (below); 503 if not |
| POST /write-back | 200 `{"problem": ...}` when the kernel was asked to hand over what it holds itself |
| POST /unmount | 202 `{}` at once; the mount then drains and ends as on SIGTERM |
| POST /calls/NAME | arguments as a JSON object; 200 and the answer of the call (`cache.services.calls`), or
503 |

The texts of a sync: `notice`, what the mount has to say besides; `short`, if it is stored with less
redundancy than promised, and no more can be had now.

Anything else: 404, 405, or 400, 408, 413 for what is not a small, prompt HTTP request. One request per
connection. Only the user who mounted and root are answered (SO_PEERCRED), whatever the file modes say;
others are hung up on. `mountfs.control_address` says where the socket is.

Invariants:
1. A client never holds up another one or the mount: each has a task of its own, a time limit until its
   request is whole and one for taking the answer; `MAX_CLIENTS` at most are served, the rest wait in the
   listen queue. Whoever waits for what may take for ever (nodes that are away) leaves his place meanwhile, so
   that status and unmounting are always answered; `MAX_WAITING` at most do, the rest get 503.
2. No error of a client or of a call ends the server.
"""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import stat
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

import h11
import trio

from backend.errors import DriveError, UsageError
from cache.errors import FileSystemError
from cache.services import Call
from mountfs.control_address import new_address, peer, within_reach

MAX_CLIENTS: Final = 16
WAITING_CLIENTS: Final = 128
MAX_WAITING: Final = 64
MAX_HEADER: Final = 8192
MAX_BODY: Final = 64 << 10
CLIENT_SECONDS: Final = 10.0
CALLS: Final = "/calls/"

Status = Mapping[str, Any]

log = logging.getLogger(__name__)


async def _whole() -> str:
    """Nothing is lacking."""
    return ""


@dataclass(frozen=True, slots=True)
class Commands:
    """What the socket can ask of a mount. `sync` and `calls` may raise the drive's errors; `write_back` says
    what is wrong, if anything."""

    status: Callable[[], Awaitable[Status]]
    sync: Callable[[], Awaitable[None]]
    write_back: Callable[[], Awaitable[str]]
    unmount: Callable[[], None]
    notice: Callable[[], str] = str
    """what who asks for a sync is to be told besides"""
    redundancy: Callable[[], Awaitable[str]] = _whole
    """waits for it after a sync; what is lacking"""
    calls: Mapping[str, Call] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    code: int
    body: bytes
    media_type: str = "application/json"


class _Place:
    """One of the places for clients, while it is taken."""

    def __init__(self, places: trio.Semaphore, waiting: trio.Semaphore) -> None:
        self._places = places
        self._waiting = waiting
        self._is_taken = True

    def leave(self) -> None:
        """Another client may have it. Idempotent."""
        if self._is_taken:
            self._is_taken = False
            self._places.release()

    @contextmanager
    def left(self) -> Iterator[None]:
        """Around what may take for ever. `_Refused` if too many wait."""
        try:
            self._waiting.acquire_nowait()
        except trio.WouldBlock:
            raise _Refused(503) from None
        self.leave()
        try:
            yield
        finally:
            self._waiting.release()


class _Refused(Exception):
    """A client that gets an error answer, or with code 0 none at all."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def listen(path: Path) -> trio.SocketListener:
    """A listening socket, mode 0600, in a folder that is made 0700. One left by a killed mount is replaced
    (the caller holds the drive's lease, so nobody serves it). `UsageError`: something that is no socket is
    there."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.parent.chmod(0o700)
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise UsageError(f"{path} is in the way of the control socket")
        path.unlink()
    with within_reach(os.fspath(path)) as address:
        # Nobody else can enter the folder, so the short time between the two calls is no gap.
        listener = _listen(address)
        path.chmod(0o600)
    return listener


def _listen(address: str) -> trio.SocketListener:
    endpoint = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        endpoint.bind(address)
        endpoint.listen(WAITING_CLIENTS)
    except BaseException:
        endpoint.close()
        raise
    return trio.SocketListener(trio.socket.from_stdlib_socket(endpoint))


async def serve_control(
    path: Path, commands: Commands, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Serve `commands` on `path` until cancelled; the socket's file is gone then."""
    listener = listen(path)
    try:
        await _serve(listener, commands, task_status)
    finally:
        path.unlink(missing_ok=True)


async def serve_device(
    device: int, commands: Commands, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Serve `commands` where `control_address.addresses` of the mount `device` (`st_dev`) finds them, until
    cancelled."""
    await _serve(_listen(new_address(device)), commands, task_status)


async def _serve(
    listener: trio.SocketListener, commands: Commands, task_status: trio.TaskStatus[None]
) -> None:
    places, waiting = trio.Semaphore(MAX_CLIENTS), trio.Semaphore(MAX_WAITING)
    async with listener, trio.open_nursery() as nursery:
        task_status.started()
        while True:
            await places.acquire()
            place = _Place(places, waiting)
            nursery.start_soon(_serve_client, await listener.accept(), commands, place)


async def _serve_client(stream: trio.SocketStream, commands: Commands, place: _Place) -> None:
    try:
        async with stream:
            if _peer_is_allowed(stream):
                await _converse(stream, commands, place)
    except trio.BrokenResourceError:
        log.debug("a control client hung up")
    except Exception:
        log.exception("a control request failed")
    finally:
        place.leave()


def _peer_is_allowed(stream: trio.SocketStream) -> bool:
    _, user = peer(stream.socket)
    if user in (0, os.geteuid()):
        return True
    _warn_of(user)
    return False


@cache
def _warn_of(user: int) -> None:
    """Once, as nothing keeps a user from trying for ever."""
    log.warning("user %d tried the control socket", user)


async def _converse(stream: trio.SocketStream, commands: Commands, place: _Place) -> None:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEADER)
    try:
        request, body = await _receive(stream, connection)
        answer = await _answer(request, body, commands, place)
    except _Refused as refused:
        if not refused.code:
            return
        answer = _json(refused.code, {"error": _reason(refused.code)})
    with trio.move_on_after(CLIENT_SECONDS):
        await _send(stream, connection, answer)
        # To close with bytes unread would reset the connection and take the answer back.
        async for _ in stream:
            pass


def _reason(code: int) -> str:
    """What a refusal's number means, for a person."""
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
    """The one request and its body. `_Refused` if it is bad, big or slow."""
    with trio.move_on_after(CLIENT_SECONDS):
        try:
            return await _whole_request(stream, connection)
        except h11.RemoteProtocolError as error:
            # h11 says 431 for a head over its limit, and 400 for the rest.
            raise _Refused(400 if error.error_status_hint == 400 else 413) from None
    raise _Refused(408)


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
                raise _Refused(413)
        elif isinstance(event, h11.EndOfMessage) and request is not None:
            return request, bytes(body)
        else:
            raise _Refused(0)  # closed before a request


async def _answer(request: h11.Request, body: bytes, commands: Commands, place: _Place) -> Answer:
    target = request.target.decode("ascii").partition("?")[0]
    if target.startswith(CALLS):
        with place.left():
            return await _call(request, body, commands.calls.get(target.removeprefix(CALLS)))
    handlers: dict[str, tuple[bytes, Callable[[Commands], Awaitable[Answer]]]] = {
        "/status": (b"GET", _status),
        "/metrics": (b"GET", _metrics),
        "/sync": (b"POST", _sync),
        "/write-back": (b"POST", _write_back),
        "/unmount": (b"POST", _unmount),
    }
    if target not in handlers:
        raise _Refused(404)
    method, handler = handlers[target]
    if request.method != method:
        raise _Refused(405)
    try:
        with place.left() if handler in _SLOW else nullcontext():
            return await handler(commands)
    except _Refused:
        raise
    except Exception:
        log.exception("%s failed", target)
        raise _Refused(500) from None


async def _call(request: h11.Request, body: bytes, call: Call | None) -> Answer:
    if call is None:
        raise _Refused(404)
    if request.method != b"POST":
        raise _Refused(405)
    try:
        arguments = json.loads(body or b"{}")
    except ValueError:
        raise _Refused(400) from None
    if not isinstance(arguments, dict):
        raise _Refused(400)
    try:
        return _json(200, await call(arguments))
    except (DriveError, FileSystemError, OSError) as error:
        return _json(503, {"error": str(error)})
    except Exception:
        log.exception("a call failed")
        raise _Refused(500) from None


async def _status(commands: Commands) -> Answer:
    return _json(200, await commands.status())


async def _metrics(commands: Commands) -> Answer:
    text = "".join(gauge_lines(await commands.status()))
    return Answer(200, text.encode(), "text/plain; version=0.0.4; charset=utf-8")


async def _sync(commands: Commands) -> Answer:
    try:
        await commands.sync()
        short = await commands.redundancy()
    except (DriveError, FileSystemError, OSError) as error:
        return _json(503, {"error": str(error)})
    told = {"notice": commands.notice(), "short": short}
    return _json(200, {name: text for name, text in told.items() if text})


async def _write_back(commands: Commands) -> Answer:
    return _json(200, {"problem": await commands.write_back()})


async def _unmount(commands: Commands) -> Answer:
    commands.unmount()
    return _json(202, {})


_SLOW: Final = (_sync, _write_back)


def gauge_lines(status: Status, prefix: str = "drivefs") -> Iterator[str]:
    """Each number (and truth value) in `status` as one gauge, named by its path of keys; what is in lists is
    left out. Prometheus text format 0.0.4."""
    for key, value in status.items():
        name = f"{prefix}_{re.sub('[^a-zA-Z0-9_]', '_', key)}"
        if isinstance(value, Mapping):
            yield from gauge_lines(value, name)
        elif isinstance(value, int | float):
            yield f"# TYPE {name} gauge\n{name} {float(value)!r}\n"


def _json(code: int, value: Mapping[str, Any]) -> Answer:
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
