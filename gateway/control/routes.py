"""The requests of the control socket, and the answers of a mount.

| request | answer |
|---|---|
| GET /status | 200, the drive's status as JSON |
| GET /metrics | 200, its numbers (`gateway.control.metrics`) |
| POST /sync | 200 when all accepted so far is stored and published, `{}` or with texts (below); 503 if not |
| POST /write-back | 200 `{"problem": ...}` when the kernel was asked to hand over what it holds itself |
| POST /unmount | 202 `{}` at once; the mount then drains and ends as on SIGTERM |
| POST /watch | 200 and a line for each change below the folder `inode`, until the client hangs up |
| POST /calls/NAME | arguments as a JSON object; 200 and the answer (`cache.services.calls`), or 503 |

The texts of a sync: `notice`, what the mount has to say besides; `short`, if it is stored with less
redundancy than promised, and no more can be had now.

Anything else: 404, 405.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Final

import h11

from backend.errors import DriveError
from cache.errors import FileSystemError
from cache.messages import MountStatus, Service, Services, WatchWanted, from_plain, to_plain
from gateway.control.exchange import Answer, Refused, Send, Stream, as_json
from gateway.control.metrics import MEDIA_TYPE, exposition

CALLS: Final = "/calls/"
WATCH: Final = "/watch"

Waiting = Callable[[], AbstractContextManager[None]]
"""Around what may take for ever: `Refused` if too many do that already."""

log = logging.getLogger(__name__)


async def _whole() -> str:
    """Nothing is lacking."""
    return ""


@dataclass(frozen=True, slots=True)
class Commands:
    """What the socket can ask of a mount. `sync` and `calls` may raise the drive's errors; `write_back` says
    what is wrong, if anything."""

    status: Callable[[], Awaitable[MountStatus]]
    sync: Callable[[], Awaitable[None]]
    write_back: Callable[[], Awaitable[str]]
    unmount: Callable[[], None]
    notice: Callable[[], str] = str
    """what who asks for a sync is to be told besides"""
    redundancy: Callable[[], Awaitable[str]] = _whole
    """waits for it after a sync; what is lacking"""
    calls: Services = field(default_factory=dict)
    watch: Callable[[int], Callable[[Send], Awaitable[None]]] | None = None
    """the function that sends the changes below a folder, as `cache.messages.Watched`, for ever; None: there
    is none. It may raise the drive's errors"""
    metrics: Callable[[], Iterable[str]] = tuple
    """lines of other doors, beside those of the status"""


@dataclass(frozen=True, slots=True)
class _Route:
    method: bytes
    handler: Callable[[Commands], Awaitable[Answer]]
    takes_long: bool = False


async def answer_to(
    request: h11.Request, body: bytes, commands: Commands, waiting: Waiting, watching: Waiting
) -> Answer | Stream:
    """`Refused` if nobody can be asked that, or so."""
    target = request.target.decode("ascii").partition("?")[0]
    if target.startswith(CALLS):
        with waiting():
            return await _call(request, body, commands.calls.get(target.removeprefix(CALLS)))
    if target == WATCH and commands.watch is not None:
        return _watch(request, body, commands.watch, watching)
    route = _ROUTES.get(target)
    if route is None:
        raise Refused(404)
    if request.method != route.method:
        raise Refused(405)
    try:
        with waiting() if route.takes_long else nullcontext():
            return await route.handler(commands)
    except Refused:
        raise
    except Exception:
        log.exception("%s failed", target)
        raise Refused(500) from None


async def _call(request: h11.Request, body: bytes, call: Service[Any, Any] | None) -> Answer:
    if call is None:
        raise Refused(404)
    if request.method != b"POST":
        raise Refused(405)
    try:
        arguments = json.loads(body or b"{}")
    except ValueError:
        raise Refused(400) from None
    if not isinstance(arguments, dict):
        raise Refused(400)
    try:
        return as_json(200, await call(arguments))
    except (DriveError, FileSystemError, OSError) as error:
        return as_json(503, {"error": str(error)})
    except Exception:
        log.exception("a call failed")
        raise Refused(500) from None


def _watch(
    request: h11.Request,
    body: bytes,
    watch: Callable[[int], Callable[[Send], Awaitable[None]]],
    watching: Waiting,
) -> Answer | Stream:
    if request.method != b"POST":
        raise Refused(405)
    try:
        wanted = from_plain(WatchWanted, json.loads(body))
    except ValueError:
        raise Refused(400) from None
    try:
        return Stream(watch(wanted.inode), watching)
    except (DriveError, FileSystemError) as error:
        return as_json(503, {"error": str(error)})


async def _status(commands: Commands) -> Answer:
    return as_json(200, to_plain(await commands.status()))


async def _metrics(commands: Commands) -> Answer:
    text = "".join([*exposition(await commands.status()), *commands.metrics()])
    return Answer(200, text.encode(), MEDIA_TYPE)


async def _sync(commands: Commands) -> Answer:
    try:
        await commands.sync()
        short = await commands.redundancy()
    except (DriveError, FileSystemError, OSError) as error:
        return as_json(503, {"error": str(error)})
    told = {"notice": commands.notice(), "short": short}
    return as_json(200, {name: text for name, text in told.items() if text})


async def _write_back(commands: Commands) -> Answer:
    return as_json(200, {"problem": await commands.write_back()})


async def _unmount(commands: Commands) -> Answer:
    commands.unmount()
    return as_json(202, {})


_ROUTES: Final = {
    "/status": _Route(b"GET", _status),
    "/metrics": _Route(b"GET", _metrics),
    "/sync": _Route(b"POST", _sync, takes_long=True),
    "/write-back": _Route(b"POST", _write_back, takes_long=True),
    "/unmount": _Route(b"POST", _unmount),
}
