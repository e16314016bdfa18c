"""The hub's HTTP door for accounts, logins, devices and lists of drives: decode, call, encode.

Spec: docs/format/hub_api.md. Bytes are hexadecimal digits in JSON. asyncio's thread.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from backend import wire
from backend.errors import NotFoundError
from backend.hub.accounts import KINDS, MAX_EMAIL, Accounts
from backend.hub.decoding import (
    RequestError,
    device_number,
    json_object,
    octets,
    parse_uuid,
    part,
    text,
    whole,
)
from backend.hub.directory import Device, DeviceRow, Directory, DriveRow
from backend.hub.heads import Heads
from backend.hub.packing import DriveNumber
from backend.hub.quotas import Quotas
from backend.wire import Credential, Proof, SecretCost

Endpoint = Callable[[Request], Awaitable[Response]]
DeviceHandler = Callable[[Request, Device], Awaitable[Response]]
_MAX_NUMBER: Final = 2**32 - 1
_MAX_CODE: Final = 64


def account_routes(
    accounts: Accounts,
    directory: Directory,
    quotas: Quotas,
    heads: Heads,
    by_device: Callable[[DeviceHandler], Endpoint],
) -> list[Route]:
    """The routes. `by_device` makes an endpoint of what only a device may ask."""
    door = _Door(accounts, directory, quotas, heads)
    login, device, drive = "/v1/account/login", "/v1/devices/{device}", "/v1/drives/{uuid}"
    factor = "/v1/account/factor"
    return [
        Route("/v1/accounts", door.sign_up, methods=["POST"]),
        Route("/v1/login/start", door.start, methods=["POST"]),
        Route("/v1/login/finish", door.finish, methods=["POST"]),
        Route("/v1/account", by_device(door.account)),
        Route("/v1/account", by_device(door.delete_account), methods=["DELETE"]),
        Route(login, by_device(door.change), methods=["PUT"]),
        Route(factor, by_device(door.begin_factor), methods=["POST"]),
        Route(factor, by_device(door.confirm_factor), methods=["PUT"]),
        Route(factor, by_device(door.end_factor), methods=["DELETE"]),
        Route("/v1/devices", by_device(door.devices)),
        Route(device, by_device(door.device)),
        Route(device, by_device(door.name_device), methods=["PATCH"]),
        Route(device, by_device(door.revoke), methods=["DELETE"]),
        Route(f"{device}/rotate", by_device(door.rotate), methods=["POST"]),
        Route("/v1/drives", by_device(door.drives)),
        Route("/v1/drives", by_device(door.add_drive), methods=["POST"]),
        Route(drive, by_device(door.drive)),
        Route(drive, by_device(door.seal_drive), methods=["PATCH"]),
        Route(drive, by_device(door.delete_drive), methods=["DELETE"]),
    ]


@dataclass(frozen=True, slots=True)
class _Door:
    """One method for each route."""

    accounts: Accounts
    directory: Directory
    quotas: Quotas
    heads: Heads

    async def sign_up(self, request: Request) -> Response:
        said = await json_object(request)
        credentials = {kind: _credential(part(said, kind)) for kind in KINDS}
        await self.accounts.sign_up(_email(said), credentials, text(said, "invitation", _MAX_CODE, ""))
        return Response(status_code=201)

    async def start(self, request: Request) -> Response:
        said = await json_object(request)
        return JSONResponse(_cost(await self.accounts.start(_email(said), _kind(said))))

    async def finish(self, request: Request) -> Response:
        said = await json_object(request)
        login = await self.accounts.login(_email(said), _proof(said))
        answer = {"token": login.token.hex(), "device": login.device, "wrapped": login.wrapped.hex()}
        return JSONResponse(answer, headers={"Cache-Control": "no-store"})

    async def account(self, request: Request, device: Device) -> Response:
        row = await self.accounts.describe(device.account)
        room = await self.quotas.of_account(device.account)
        return JSONResponse(
            {
                "email": row.email,
                "created": _moment(row.created),
                "has_factor": row.has_factor,
                "device": device.number,
                "token_is_due": device.is_due,
                "quota": room.quota,
                "used": room.used,
                "kept": room.kept,
                "left": room.left,
            }
        )

    async def delete_account(self, request: Request, device: Device) -> Response:
        await self.accounts.delete(device.account, _proof(await json_object(request)))
        self.heads.look_at_devices()
        return Response(status_code=204)

    async def change(self, request: Request, device: Device) -> Response:
        said = await json_object(request)
        credentials = {kind: _credential(part(said, kind)) for kind in KINDS if kind in said}
        if not credentials:
            raise RequestError(400, "bad_request", "a passphrase or a recovery key is asked for")
        await self.accounts.change(device.account, _proof(part(said, "proof")), credentials)
        return Response(status_code=204)

    async def begin_factor(self, request: Request, device: Device) -> Response:
        factor = await self.accounts.begin_factor(device.account, _proof(await json_object(request)))
        return JSONResponse(factor._asdict(), headers={"Cache-Control": "no-store"})

    async def confirm_factor(self, request: Request, device: Device) -> Response:
        code = text(await json_object(request), "code", _MAX_CODE)
        await self.accounts.confirm_factor(device.account, code)
        return Response(status_code=204)

    async def end_factor(self, request: Request, device: Device) -> Response:
        await self.accounts.end_factor(device.account, _proof(await json_object(request)))
        return Response(status_code=204)

    async def devices(self, request: Request, device: Device) -> Response:
        rows = await self.directory.devices(device.account)
        return JSONResponse({"devices": [_device_row(row) for row in rows]})

    async def device(self, request: Request, device: Device) -> Response:
        asked = device_number(request)
        for row in await self.directory.devices(device.account):
            if row.number == asked:
                return JSONResponse(_device_row(row))
        raise NotFoundError("the account has no such device")

    async def name_device(self, request: Request, device: Device) -> Response:
        name = octets(await json_object(request), "name", 1, wire.MAX_SEALED)
        await self.directory.name_device(device.account, device_number(request), name)
        return Response(status_code=204)

    async def revoke(self, request: Request, device: Device) -> Response:
        await self.directory.revoke(device.account, device_number(request))
        self.heads.look_at_devices()
        return Response(status_code=204)

    async def rotate(self, request: Request, device: Device) -> Response:
        if device_number(request) != device.number:
            raise NotFoundError("a device makes a new token for itself only")
        token = await self.directory.rotate(device)
        return JSONResponse({"token": token.hex()}, headers={"Cache-Control": "no-store"})

    async def drives(self, request: Request, device: Device) -> Response:
        rows = await self.directory.listed_drives(device.account)
        return JSONResponse({"drives": [_drive_row(row) for row in rows]})

    async def add_drive(self, request: Request, device: Device) -> Response:
        said = await json_object(request)
        sealed = octets(said, "sealed", 1, wire.MAX_SEALED)
        ticket = octets(said, "ticket", wire.TICKET_SIZE, wire.TICKET_SIZE) if "ticket" in said else None
        await self.directory.add_drive(device.account, parse_uuid(said.get("uuid")), sealed, ticket)
        return Response(status_code=201)

    async def drive(self, request: Request, device: Device) -> Response:
        uuid = parse_uuid(request.path_params["uuid"])
        for row in await self.directory.listed_drives(device.account):
            if row.uuid == uuid:
                return JSONResponse(_drive_row(row))
        raise NotFoundError("there is no such drive")

    async def seal_drive(self, request: Request, device: Device) -> Response:
        drive = drive_asked_for(request, device)
        sealed = octets(await json_object(request), "sealed", 1, wire.MAX_SEALED)
        await self.directory.seal_drive(drive, sealed)
        return Response(status_code=204)

    async def delete_drive(self, request: Request, device: Device) -> Response:
        await self.directory.delete_drive(device, drive_asked_for(request, device))
        return Response(status_code=204)


# Decoding and encoding


def drive_asked_for(request: Request, device: Device) -> DriveNumber:
    """The drive that the path names. `NotFoundError`: there is none that the device may use."""
    uuid = parse_uuid(request.path_params["uuid"])
    if device.drive is None:
        raise NotFoundError("there is no such drive")
    return DriveNumber(device.drive, uuid)


def _email(said: Mapping[str, Any]) -> str:
    return text(said, "email", MAX_EMAIL)


def _kind(said: Mapping[str, Any]) -> str:
    kind = text(said, "kind", _MAX_CODE, "passphrase")
    if kind not in KINDS:
        raise RequestError(400, "bad_request", f"kind is one of {', '.join(KINDS)}")
    return kind


def _proof(said: Mapping[str, Any]) -> Proof:
    auth_key = octets(said, "auth_key", wire.KEY_SIZE, wire.KEY_SIZE)
    return Proof(_kind(said), auth_key, text(said, "code", _MAX_CODE, ""))


def _credential(said: Mapping[str, Any]) -> Credential:
    costs = (whole(said, name, _MAX_NUMBER) for name in SecretCost._fields[1:])
    return Credential(
        SecretCost(octets(said, "salt", wire.KEY_SIZE, wire.KEY_SIZE), *costs),
        octets(said, "auth_key", wire.KEY_SIZE, wire.KEY_SIZE),
        octets(said, "wrapped", 1, wire.MAX_SEALED),
    )


def _cost(found: SecretCost) -> dict[str, Any]:
    return {**found._asdict(), "salt": found.salt.hex()}


def _device_row(row: DeviceRow) -> dict[str, Any]:
    return {
        "number": row.number,
        "name": row.name.hex(),
        "created": _moment(row.created),
        "seen": _moment(row.seen),
        "expires": _moment(row.expires),
        "revoked": None if row.revoked is None else _moment(row.revoked),
    }


def _drive_row(row: DriveRow) -> dict[str, Any]:
    digits = {"uuid": row.uuid.hex(), "sealed": row.sealed.hex(), "nodes": row.nodes.hex()}
    return {**row._asdict(), **digits}


def _moment(moment: datetime) -> int:
    """Seconds since 1970."""
    return int(moment.timestamp())
