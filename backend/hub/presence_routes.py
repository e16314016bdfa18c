"""The part of the hub's HTTP door by which devices show their presence: decode, call, encode.

Spec: docs/format/hub_api.md. asyncio's thread.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from backend import wire
from backend.hub.account_routes import Endpoint
from backend.hub.decoding import read_body
from backend.hub.import_routes import DriveHandler
from backend.hub.packing import DriveNumber
from backend.hub.presences import Presences
from backend.upstream import MAX_PRESENCES


def presence_routes(presences: Presences, of_drive: Callable[[DriveHandler], Endpoint]) -> list[Route]:
    """The routes. `of_drive` makes an endpoint of what is asked of a drive."""
    door, path = _Door(presences), "/v1/drives/{uuid}/presence"
    return [
        Route(path, of_drive(door.show), methods=["PUT"]),
        Route(path, of_drive(door.of_others)),
    ]


@dataclass(frozen=True, slots=True)
class _Door:
    """One method for each route."""

    presences: Presences

    async def show(self, request: Request, drive: DriveNumber) -> Response:
        shown = wire.decode_presences(await read_body(request, wire.MAX_PRESENCES_BYTES), MAX_PRESENCES)
        await self.presences.show(drive.number, request.state.device.number, shown)
        return Response(status_code=204)

    async def of_others(self, request: Request, drive: DriveNumber) -> Response:
        shown = await self.presences.of_others(drive.number, request.state.device.number)
        return Response(wire.encode_presences(shown), media_type="application/octet-stream")
