"""The S3 doors of a running drive.

In a mount they are opened by the option `s3=` or by `drivefs s3 serve MOUNTPOINT`, and end before the mount
stores what is left; without a mount by `drivefs s3 serve DRIVE`. The libraries of a door take as long to
import as a tenth of a mount does, so they are imported with the first call.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import trio

from backend.keys import DriveKeys
from cache.drive import Drive
from cache.messages import (
    S3_KEY_ADD,
    S3_KEY_POLICY,
    S3_KEY_REMOVE,
    S3_KEYS,
    S3_SERVE,
    Call,
    S3DoorOpened,
    S3DoorWanted,
    Service,
    by_name,
)
from gateway.control import Commands

if TYPE_CHECKING:
    from gateway.http import HttpServer

OF_KEYS: Final = (S3_KEY_ADD, S3_KEYS, S3_KEY_REMOVE, S3_KEY_POLICY)


class S3Doors:
    """See the module. Event-loop thread only; `run` is running while doors are open."""

    def __init__(self, drive: Drive, keys: DriveKeys) -> None:
        self._drive = drive
        self._keys = keys
        self._servers: list[HttpServer] = []
        self._wanted: trio.MemorySendChannel[tuple[HttpServer, list[trio.SocketListener]]]
        self._wanted, self._coming = trio.open_memory_channel(64)
        self._ended = trio.Event()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve the doors that are opened, until `end`."""
        try:
            async with self._coming, trio.open_nursery() as nursery:
                task_status.started()
                async for server, listeners in self._coming:
                    nursery.start_soon(server.serve, listeners)
        finally:
            self._ended.set()

    async def open(self, wanted: S3DoorWanted) -> S3DoorOpened:
        """Another door; connections are taken from now on. `UsageError`."""
        from tools.s3_opening import new_door

        server, listeners = await new_door(self._drive, self._keys, wanted)
        self._servers.append(server)
        await self._wanted.send((server, listeners))
        names = (listener.socket.getsockname() for listener in listeners)
        return S3DoorOpened(
            tuple(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port, *_ in names)
        )

    async def end(self) -> None:
        """No request is taken any more; returns when those under way are answered. Idempotent."""
        await self._wanted.aclose()
        for server in self._servers:
            server.end()
        await self._ended.wait()

    def beside(self, commands: Commands) -> Commands:
        """The commands of a control socket, with those about doors."""
        calls = {**commands.calls, **by_name(self.services())}
        return replace(commands, calls=calls, metrics=self._metrics)

    def services(self) -> list[Service[Any, Any]]:
        """The calls that a control socket answers."""
        of_keys: list[Service[Any, Any]] = [
            Service(call, partial(self._answer_of_keys, call)) for call in OF_KEYS
        ]
        return [*of_keys, Service(S3_SERVE, self.open)]

    async def _answer_of_keys(self, call: Call[Any, Any], question: Any) -> Any:
        from tools.s3_opening import services_of_keys

        services = by_name(services_of_keys(self._drive, self._keys))
        return await services[call.name].answer(question)

    def _metrics(self) -> Iterator[str]:
        """The lines of the first door, for Prometheus."""
        for server in self._servers[:1]:
            yield from server.counters.exposition("s3")
