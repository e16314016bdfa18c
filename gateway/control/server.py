"""The control socket of a mount: who may ask, how many at once, and where the socket is.

What can be asked: `gateway.control.routes`. Only the user who mounted and root are answered (SO_PEERCRED),
whatever the file modes say; others are hung up on. Clients find the socket by its file or by
`gateway.control_address`.

Invariants:
1. A client never holds up another one or the mount: each has a task of its own, a time limit until its
   request is whole and one for taking the answer; `MAX_CLIENTS` at most are served, the rest wait in the
   listen queue. Whoever waits for what may take for ever (nodes that are away) leaves his place meanwhile, so
   that status and unmounting are always answered; `MAX_WAITING` at most do, the rest get 503. So do those
   who watch, `MAX_WATCHING` at most, who keep no call out.
2. No error of a client or of a call ends the server. Where the process has no descriptor for a client
   (`trio.serve_listeners` logs it), he waits in the listen queue until it has one.
"""

from __future__ import annotations

import logging
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

import h11
import trio

from backend.errors import UsageError
from gateway.control.exchange import Answer, Refused, Stream, converse
from gateway.control.routes import Commands, answer_to
from gateway.control_address import new_address, peer, within_reach

MAX_CLIENTS: Final = 16
WAITING_CLIENTS: Final = 128
MAX_WAITING: Final = 64
MAX_WATCHING: Final = 64

log = logging.getLogger(__name__)


class _Limits(NamedTuple):
    """How many clients may be served at once, wait, and watch."""

    serving: trio.Semaphore
    waiting: trio.Semaphore
    watching: trio.Semaphore


class _Place:
    """One of the places for clients, while it is taken."""

    def __init__(self, limits: _Limits) -> None:
        self._limits = limits
        self._is_taken = True

    def leave(self) -> None:
        """Another client may have it. Idempotent."""
        if self._is_taken:
            self._is_taken = False
            self._limits.serving.release()

    def waiting(self) -> AbstractContextManager[None]:
        """Around what may take for ever. `Refused` if too many wait."""
        return self._left_for(self._limits.waiting)

    def watching(self) -> AbstractContextManager[None]:
        """The same around a watch. `Refused` if there are too many."""
        return self._left_for(self._limits.watching)

    @contextmanager
    def _left_for(self, others: trio.Semaphore) -> Iterator[None]:
        try:
            others.acquire_nowait()
        except trio.WouldBlock:
            raise Refused(503) from None
        self.leave()
        try:
            yield
        finally:
            others.release()


class _Bounded(trio.abc.Listener[trio.SocketStream]):
    """Takes a client from the listen queue when there is a place for him, and the place with him."""

    def __init__(self, listener: trio.SocketListener, places: trio.Semaphore) -> None:
        self._listener = listener
        self._places = places

    async def accept(self) -> trio.SocketStream:
        await self._places.acquire()
        try:
            return await self._listener.accept()
        except BaseException:
            self._places.release()
            raise

    async def aclose(self) -> None:
        await self._listener.aclose()


class ControlServer:
    """Answers `commands` of one mount. `path`: the socket's file."""

    def __init__(self, path: Path, commands: Commands) -> None:
        self.path = path
        self._commands = commands

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve on `path` until cancelled; the socket's file is gone then. `UsageError` as `listen`."""
        listener = listen(self.path)
        try:
            await self._serve(listener, task_status)
        finally:
            self.path.unlink(missing_ok=True)

    async def serve_device(
        self, device: int, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve where `control_address.addresses` of the mount `device` (`st_dev`) finds it, until
        cancelled."""
        await self._serve(_listen(new_address(device)), task_status)

    async def _serve(self, listener: trio.SocketListener, task_status: trio.TaskStatus[None]) -> None:
        limits = _Limits(*map(trio.Semaphore, (MAX_CLIENTS, MAX_WAITING, MAX_WATCHING)))

        async def serve_client(stream: trio.SocketStream) -> None:
            await self._serve_client(stream, _Place(limits))

        task_status.started()
        await trio.serve_listeners(serve_client, [_Bounded(listener, limits.serving)])

    async def _serve_client(self, stream: trio.SocketStream, place: _Place) -> None:
        async def answer(request: h11.Request, body: bytes) -> Answer | Stream:
            return await answer_to(request, body, self._commands, place.waiting, place.watching)

        try:
            async with stream:
                if _peer_is_allowed(stream):
                    await converse(stream, answer)
        except trio.BrokenResourceError:
            log.debug("a control client hung up")
        except Exception:
            log.exception("a control request failed")
        finally:
            place.leave()


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
