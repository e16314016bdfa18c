"""The part of the hub's HTTP door by which a drive is moved here, or away: decode, call, encode.

Spec: docs/format/hub_api.md. asyncio's thread.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from backend import wire
from backend.hub.account_routes import Endpoint
from backend.hub.decoding import RequestError, json_object, octets, read_body
from backend.hub.heads import Heads
from backend.hub.imports import Imports
from backend.hub.packing import DriveNumber
from backend.hub.quotas import Quotas

DriveHandler = Callable[[Request, DriveNumber], Awaitable[Response]]
"""It answers what a device asks of one of its account's drives."""


def import_routes(
    imports: Imports, quotas: Quotas, heads: Heads, of_drive: Callable[[DriveHandler], Endpoint]
) -> list[Route]:
    """The routes. `of_drive` makes an endpoint of what is asked of a drive."""
    door = _Door(imports, quotas, heads)
    path, away = "/v1/drives/{uuid}/import", "/v1/drives/{uuid}/departure"
    return [
        Route(path, of_drive(door.take_over), methods=["PUT"]),
        Route(path, of_drive(door.open), methods=["DELETE"]),
        Route(f"{path}/log", of_drive(door.append), methods=["POST"]),
        Route(away, of_drive(door.begin), methods=["PUT"]),
        Route(f"{away}/end", of_drive(door.close), methods=["PUT"]),
        Route(away, of_drive(door.leave), methods=["POST"]),
        Route(away, of_drive(door.stay), methods=["DELETE"]),
    ]


@dataclass(frozen=True, slots=True)
class _Door:
    """One method for each route."""

    imports: Imports
    quotas: Quotas
    heads: Heads

    async def take_over(self, request: Request, drive: DriveNumber) -> Response:
        await self.imports.take_over(drive.number, *_mover(await json_object(request)))
        return Response(status_code=204)

    async def append(self, request: Request, drive: DriveNumber) -> Response:
        ticket, expected = _ticket(request), wire.decode_head(request.headers.get("expected-head", ""))
        encoded = await read_body(request, wire.MAX_COMMIT)
        await self.quotas.require_for_log(drive.number, len(encoded))
        head = await self.imports.append(drive.number, ticket, encoded, expected)
        return Response(wire.encode_head(head), 201, media_type="text/plain")

    async def open(self, request: Request, drive: DriveNumber) -> Response:
        head = wire.decode_head(request.headers.get("expected-head", ""))
        await self.imports.open(drive.number, _ticket(request), head)
        self.heads.moved(drive.number, head.number)
        return Response(status_code=204)

    async def begin(self, request: Request, drive: DriveNumber) -> Response:
        said = await json_object(request)
        await self.imports.begin(drive.number, *_mover(said), over=said.get("over") is True)
        return Response(status_code=204)

    async def close(self, request: Request, drive: DriveNumber) -> Response:
        head = await self.imports.close(drive.number, _ticket(request))
        return Response(wire.encode_head(head), media_type="text/plain")

    async def leave(self, request: Request, drive: DriveNumber) -> Response:
        await self.imports.leave(drive.number, _ticket(request))
        return Response(status_code=204)

    async def stay(self, request: Request, drive: DriveNumber) -> Response:
        await self.imports.stay(drive.number, _ticket(request))
        return Response(status_code=204)


def _mover(said: Mapping[str, object]) -> tuple[bytes, bytes]:
    """Its ticket, and the nodes that it moves the drive from or to."""
    ticket = octets(said, "ticket", wire.TICKET_SIZE, wire.TICKET_SIZE)
    return ticket, octets(said, "nodes", wire.NODES_SIZE, wire.NODES_SIZE)


def _ticket(request: Request) -> bytes:
    try:
        found = bytes.fromhex(request.headers.get("import-ticket", ""))
    except ValueError:
        found = b""
    if len(found) != wire.TICKET_SIZE:
        raise RequestError(400, "bad_request", "Import-Ticket has 32 hexadecimal digits")
    return found
