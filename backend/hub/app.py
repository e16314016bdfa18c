"""The hub's HTTP door: decode, call, encode. One table maps our errors to answers (RFC 9457).

Spec: docs/format/hub_api.md. asyncio's thread.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from math import ceil
from typing import Any, Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from backend import wire
from backend.errors import (
    BlocksMissingError,
    CorruptError,
    DriveError,
    ExpiredError,
    FormatError,
    NotFoundError,
    ThrottledError,
    UnavailableError,
)
from backend.hub.account_routes import DeviceHandler, Endpoint, account_routes, drive_asked_for
from backend.hub.accounts import Accounts
from backend.hub.block_table import BlockTable
from backend.hub.commit_table import CommitTable
from backend.hub.decoding import (
    RequestError,
    block_id,
    json_object,
    named_drive,
    parse_uuid,
    query_id,
    query_number,
    read_body,
    root_name,
)
from backend.hub.directory import Device, Directory
from backend.hub.heads import Heads
from backend.hub.import_routes import DriveHandler, import_routes
from backend.hub.imports import Imports
from backend.hub.log_segments import commits_after
from backend.hub.openapi import with_description
from backend.hub.packing import DriveNumber, HubBlocks
from backend.hub.presence_routes import presence_routes
from backend.hub.presences import Presences
from backend.hub.quotas import Quotas
from backend.hub.request_rates import RequestRates
from backend.hub.under_way import UntilAnswered
from backend.packs import MAX_BLOCK_SIZE
from backend.system import plain_task_group
from backend.upstream import BLOCK_ID_SIZE, SealedBlock

_SAME: Final[dict[type[DriveError], str]] = {CorruptError: "malformed", UnavailableError: "later"}
"""Errors that a device need not tell from others."""


@dataclass(frozen=True, slots=True)
class Hub:
    """The parts that the door calls."""

    directory: Directory
    commits: CommitTable
    table: BlockTable
    blocks: HubBlocks
    heads: Heads
    accounts: Accounts
    quotas: Quotas
    rates: RequestRates
    imports: Imports
    presences: Presences


def app(hub: Hub) -> Starlette:
    """The application."""

    def by_device(handler: DeviceHandler) -> Endpoint:
        async def answer(request: Request) -> Response:
            response = await handler(request, await _device(hub, request))
            request.state.share.take(len(response.body))
            return response

        return answer

    def of_device(handler: Callable[[Hub, Request, Device], Awaitable[Response]]) -> Endpoint:
        return by_device(partial(handler, hub))

    def of_drive(handler: Callable[[Hub, Request, DriveNumber], Awaitable[Response]]) -> Endpoint:
        async def answer(hub: Hub, request: Request, device: Device) -> Response:
            return await handler(hub, request, drive_asked_for(request, device))

        return of_device(answer)

    def of_moved_drive(handler: DriveHandler) -> Endpoint:
        return of_drive(lambda _, request, drive: handler(request, drive))

    drive = "/v1/drives/{uuid}"
    application = Starlette(
        routes=with_description(
            [
                *account_routes(hub.accounts, hub.directory, hub.quotas, hub.heads, by_device),
                *import_routes(hub.imports, hub.quotas, hub.heads, of_moved_drive),
                *presence_routes(hub.presences, of_moved_drive),
                Route("/v1/wait", of_device(_wait), methods=["POST"]),
                Route(f"{drive}/head", of_drive(_head)),
                Route(f"{drive}/log", of_drive(_append), methods=["POST"]),
                Route(f"{drive}/log", of_drive(_log)),
                Route(f"{drive}/blocks", of_drive(_put_blocks), methods=["POST"]),
                Route(f"{drive}/blocks", of_drive(_list_blocks)),
                Route(f"{drive}/blocks/missing", of_drive(_missing), methods=["POST"]),
                Route(f"{drive}/blocks/sizes", of_drive(_sizes), methods=["POST"]),
                Route(f"{drive}/blocks/{{block}}", of_drive(_get_block)),
                Route(f"{drive}/blocks/{{block}}", of_drive(_put_block), methods=["PUT"]),
                Route(f"{drive}/blocks/{{block}}/wrong", of_drive(_wrong), methods=["POST"]),
                Route(f"{drive}/usage", of_drive(_usage)),
                Route(f"{drive}/roots/{{name}}", of_drive(_get_root)),
                Route(f"{drive}/roots/{{name}}", of_drive(_put_root), methods=["PUT"]),
            ]
        ),
        middleware=[Middleware(UntilAnswered)],
        exception_handlers={
            Exception: _refused,
            DriveError: _refused,
            RequestError: _refused,
            HTTPException: _refused,
        },
    )
    # A path with a slash too many is none: to redirect it would repeat the host that the client named.
    application.router.redirect_slashes = False
    return application


async def _refused(_request: Request, error: Exception) -> Response:
    return problem(error)


def problem(error: Exception) -> JSONResponse:
    """The answer that says what is wrong."""
    status, kind, detail = _described(error)
    body: dict[str, Any] = {
        "type": wire.PROBLEM + kind,
        "title": kind,
        "status": status,
        "detail": detail,
    }
    if isinstance(error, BlocksMissingError):
        body["blocks"] = [block.hex() for block in error.blocks]
    seconds = error.seconds if isinstance(error, ThrottledError) else 1
    headers = {"Retry-After": str(ceil(seconds))} if status in (429, 503) else {}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, HTTPException):
        headers |= error.headers or {}
    return JSONResponse(body, status, headers=headers, media_type="application/problem+json")


def _described(error: Exception) -> tuple[int, str, str]:
    """Status, kind and detail."""
    if isinstance(error, RequestError):
        return error.status, error.kind, str(error)
    if isinstance(error, HTTPException):
        return error.status_code, "bad_request", error.detail
    same = next((kind for each, kind in _SAME.items() if isinstance(error, each)), None)
    for kind, (status, each) in wire.PROBLEMS.items():
        if kind == same or isinstance(error, each):
            return status, kind, str(error)
    return 500, "internal", "an error of the hub"


# Requests about a drive


async def _head(hub: Hub, request: Request, drive: DriveNumber) -> Response:
    return Response(wire.encode_head(await hub.commits.head(drive.number)), media_type="text/plain")


async def _append(hub: Hub, request: Request, drive: DriveNumber) -> Response:
    expected = wire.decode_head(request.headers.get("expected-head", ""))
    encoded = await read_body(request, wire.MAX_COMMIT)
    await hub.quotas.require_for_log(drive.number, len(encoded))
    head = await hub.commits.append(drive.number, encoded, expected)
    hub.heads.moved(drive.number, head.number)
    return Response(wire.encode_head(head), 201, media_type="text/plain")


async def _log(hub: Hub, request: Request, drive: DriveNumber) -> Response:
    after, limit = query_number(request, "after", 0), query_number(request, "limit", 256)
    most = min(limit, 256)
    commits = await commits_after(hub.commits, hub.blocks, drive, after, most, wire.MAX_COMMITS)
    return _bytes(wire.encode_commits(commits))


async def _missing(hub: Hub, request: Request, drive: DriveNumber) -> Response:
    ids = wire.decode_ids(await read_body(request, wire.MAX_IDS * BLOCK_ID_SIZE))
    present = await hub.table.present(drive.number, ids)
    return _bytes(wire.encode_ids(block for block in ids if block not in present))


async def _sizes(hub: Hub, request: Request, drive: DriveNumber) -> Response:
    ids = wire.decode_ids(await read_body(request, wire.MAX_IDS * BLOCK_ID_SIZE))
    found = await hub.table.sizes(drive.number, ids)
    return _bytes(wire.encode_sizes([found.get(block) for block in ids]))


async def _put_block(hub: Hub, request: Request, drive: DriveNumber) -> Response:
    block, data = block_id(request), await read_body(request, MAX_BLOCK_SIZE)
    await _put(hub, drive, [SealedBlock(block, data)])
    return Response(status_code=204)


async def _put_blocks(hub: Hub, request: Request, drive: DriveNumber) -> Response:
    await _put(hub, drive, wire.decode_blocks(await read_body(request, wire.MAX_BATCH)))
    return Response(status_code=204)


async def _put(hub: Hub, drive: DriveNumber, blocks: list[SealedBlock]) -> None:
    await hub.quotas.require_for_blocks(drive.number, sum(len(block.data) for block in blocks))
    try:
        await hub.blocks.put(drive, blocks)
    except ValueError as error:
        raise FormatError(str(error)) from error


async def _list_blocks(hub: Hub, request: Request, drive: DriveNumber) -> Response:
    after, limit = query_id(request, "after"), query_number(request, "limit", wire.MAX_IDS)
    return _bytes(wire.encode_ids(await hub.table.ids_after(drive.number, after, min(limit, wire.MAX_IDS))))


async def _get_block(hub: Hub, request: Request, drive: DriveNumber) -> Response:
    block = block_id(request)
    if "again" in request.query_params:
        return _bytes(await hub.blocks.read_again(drive, block))
    if "near" in request.query_params and (found := await hub.blocks.read_near(drive, block)):
        return _bytes(wire.encode_blocks(found))
    offset, length = query_number(request, "offset", 0), query_number(request, "length", MAX_BLOCK_SIZE)
    part = await hub.blocks.read(drive, block, offset, length)
    return _bytes(memoryview(part.data), {"Drivefs-Block-Size": str(part.size)})


async def _wrong(hub: Hub, request: Request, drive: DriveNumber) -> Response:
    return JSONResponse({"elsewhere": await hub.table.doubt(drive.number, block_id(request))})


async def _usage(hub: Hub, request: Request, drive: DriveNumber) -> Response:
    usage, room = await hub.table.usage(drive.number), await hub.quotas.of_drive(drive.number)
    return JSONResponse({**asdict(usage), "quota": room.quota, "left": room.left})


async def _get_root(hub: Hub, request: Request, drive: DriveNumber) -> Response:
    return _bytes(await hub.directory.get_root(drive, root_name(request)))


async def _put_root(hub: Hub, request: Request, drive: DriveNumber) -> Response:
    name, data = root_name(request), await read_body(request, wire.MAX_ROOT)
    await hub.quotas.require_for_log(drive.number, len(data))
    await hub.directory.put_root(drive, name, data)
    return Response(status_code=204)


# Requests of a device


async def _wait(hub: Hub, request: Request, device: Device) -> Response:
    said = await json_object(request)
    drives, seconds = said.get("drives"), said.get("timeout", 30)
    if not isinstance(drives, dict) or not 0 < len(drives) <= wire.MAX_IDS:
        raise RequestError(400, "bad_request", "drives are asked for")
    if not all(type(number) is int and number >= 0 for number in drives.values()):
        raise RequestError(400, "bad_request", "a drive's commit is a number")
    if type(seconds) not in (int, float) or not 0 <= seconds <= wire.MAX_WAIT:  # NaN is neither
        raise RequestError(400, "bad_request", f"timeout is from 0 to {wire.MAX_WAIT:g} seconds")
    known = {parse_uuid(text): number for text, number in drives.items()}
    found = await hub.directory.drives(device, known)
    asked = {found[uuid].number: number for uuid, number in known.items()}
    marks = _marks(said.get("presence", {}), {uuid: drive.number for uuid, drive in found.items()})
    try:
        newer, others = await _while_connected(
            request,
            hub.heads.wait(device.number, asked, seconds),
            hub.presences.wait(marks) if marks else None,
        )
    except NotFoundError:
        await request.state.ask_again()  # it was revoked, which is for ever, or is locked, which may end
        newer, others = {}, {}
    if not (newer or others):
        return Response(status_code=204)
    names = {each.number: each.uuid.hex() for each in found.values()}
    heads = {names[number]: head for number, head in newer.items()}
    told = {"presence": {names[number]: mark for number, mark in others.items()}} if others else {}
    return JSONResponse({"drives": heads, **told})


def _marks(said: object, drives: Mapping[bytes, int]) -> dict[int, int]:
    """The marks of presences that the device knows, by the numbers of drives."""
    if not isinstance(said, dict) or not all(type(mark) is int and mark >= 0 for mark in said.values()):
        raise RequestError(400, "bad_request", "a mark of presences is a number")
    known = {parse_uuid(text): mark for text, mark in said.items()}
    if not known.keys() <= drives.keys():
        raise RequestError(400, "bad_request", "presences are of drives that are waited for")
    return {drives[uuid]: mark for uuid, mark in known.items()}


async def _while_connected(
    request: Request,
    waiting: Awaitable[dict[int, int]],
    beside: Awaitable[dict[int, int]] | None,
) -> tuple[dict[int, int], dict[int, int]]:
    """The answers of both, of which one is mostly empty: `beside` ends with `waiting`, or ends it. Nothing
    when the client has gone: the server does not cancel who answers it."""
    found: dict[int, int] = {}
    told: dict[int, int] = {}
    async with plain_task_group() as group:

        async def listen(told_of: Awaitable[dict[int, int]]) -> None:
            told.update(await told_of)
            group.cancel_scope.cancel()

        async def watch() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass
            group.cancel_scope.cancel()

        group.start_soon(watch)
        if beside is not None:
            group.start_soon(listen, beside)
        try:
            found = await waiting
        finally:
            group.cancel_scope.cancel()
    return found, told


# Decoding


async def _device(hub: Hub, request: Request) -> Device:
    device = await _shown(hub, request)
    request.state.device = device
    request.state.ask_again = partial(_shown, hub, request)
    hub.rates.take(device.account)
    one = hub.rates.under_way.one(device.account)
    request.state.share = request.state.until_answered.enter_context(one)
    return device


async def _shown(hub: Hub, request: Request) -> Device:
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    try:
        if kind.lower() != "bearer":
            raise ValueError
        return await hub.directory.device(bytes.fromhex(token), named_drive(request))
    except ExpiredError as error:
        raise RequestError(401, "expired", str(error)) from None
    except (ValueError, NotFoundError):
        raise _no_device() from None


def _no_device() -> RequestError:
    return RequestError(401, "unauthorised", "a token of a device is asked for")


def _bytes(data: bytes | memoryview, headers: dict[str, str] | None = None) -> Response:
    return Response(data, media_type="application/octet-stream", headers=headers)
