"""The S3 doors of a running drive.

In a mount they are opened by the option `s3=` or by `drivefs s3 serve MOUNTPOINT`, and end before the mount
stores what is left; without a mount by `drivefs s3 serve DRIVE`. The libraries of a door take as long to
import as a tenth of a mount does, so they are imported with the first call.
"""

from __future__ import annotations

import math
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
    S3_UPLOAD_ABORT,
    S3_UPLOAD_KEEP,
    S3_UPLOADS,
    Call,
    S3DoorOpened,
    S3DoorWanted,
    Service,
    by_name,
)
from gateway.control import Commands

if TYPE_CHECKING:
    from tools.s3_opening import NewDoor

OF_KEYS: Final = (S3_KEY_ADD, S3_KEYS, S3_KEY_REMOVE, S3_KEY_POLICY)
OF_UPLOADS: Final = (S3_UPLOADS, S3_UPLOAD_ABORT, S3_UPLOAD_KEEP)


class S3Doors:
    """See the module. Event-loop thread only; `run` is running while doors are open."""

    def __init__(self, drive: Drive, keys: DriveKeys) -> None:
        self._drive = drive
        self._keys = keys
        self._doors: list[NewDoor] = []
        self._wanted: trio.MemorySendChannel[NewDoor]
        self._wanted, self._coming = trio.open_memory_channel(64)
        self._ended = trio.Event()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve the doors that are opened, until `end`."""
        try:
            async with self._coming, trio.open_nursery() as nursery:
                task_status.started()
                async for door in self._coming:
                    nursery.start_soon(self._serve, door)
        finally:
            self._ended.set()

    async def _serve(self, door: NewDoor) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(door.keeper.run)
            await door.server.serve(door.listeners)
            nursery.cancel_scope.cancel()

    async def open(self, wanted: S3DoorWanted) -> S3DoorOpened:
        """Another door; connections are taken from now on. `UsageError`."""
        from tools.s3_opening import new_door

        door = await new_door(self._drive, self._keys, wanted)
        self._doors.append(door)
        await self._wanted.send(door)
        names = (listener.socket.getsockname() for listener in door.listeners)
        return S3DoorOpened(
            tuple(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port, *_ in names)
        )

    async def end(self) -> None:
        """No request is taken any more; returns when those under way are answered. Idempotent."""
        await self._wanted.aclose()
        for door in self._doors:
            door.server.end()
        await self._ended.wait()

    def idle_seconds(self) -> float:
        """Seconds since a door answered a request."""
        return min((door.server.idle_seconds() for door in self._doors), default=math.inf)

    def beside(self, commands: Commands) -> Commands:
        """The commands of a control socket, with those about doors."""
        calls = {**commands.calls, **by_name(self.services())}
        return replace(commands, calls=calls, metrics=self._metrics)

    def services(self) -> list[Service[Any, Any]]:
        """The calls that a control socket answers."""
        asked: list[Service[Any, Any]] = [
            Service(call, partial(self._answer, call)) for call in (*OF_KEYS, *OF_UPLOADS)
        ]
        return [*asked, Service(S3_SERVE, self.open)]

    async def _answer(self, call: Call[Any, Any], question: Any) -> Any:
        from tools.s3_opening import services_of_keys, services_of_uploads

        services = by_name([*services_of_keys(self._drive, self._keys), *services_of_uploads(self._drive)])
        return await services[call.name].answer(question)

    def _metrics(self) -> Iterator[str]:
        """The lines of the first door, for Prometheus."""
        for door in self._doors[:1]:
            yield from door.server.counters.exposition("s3")
