"""Requests to the hub, decoded: bodies within limits, JSON objects, ids, numbers. Else `RequestError`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from starlette.requests import Request

from backend.upstream import BLOCK_ID_SIZE, BlockId

_MAX_CONTROL: Final = 1 << 16


class RequestError(Exception):
    """A request that is refused before it is looked at: status and reason."""

    def __init__(self, status: int, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.kind = kind


async def read_body(request: Request, limit: int) -> bytes:
    parts, size = [], 0
    if int(request.headers.get("content-length", "0")) > limit:
        raise RequestError(413, "too_large", f"at most {limit} bytes are allowed")
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise RequestError(413, "too_large", f"at most {limit} bytes are allowed")
        parts.append(part)
    return b"".join(parts)


async def json_object(request: Request) -> dict[str, Any]:
    try:
        said = json.loads(await read_body(request, _MAX_CONTROL))
    except ValueError:
        said = None
    if not isinstance(said, dict):
        raise RequestError(400, "bad_request", "a JSON object is asked for")
    return said


def parse_uuid(text: object) -> bytes:
    try:
        found = bytes.fromhex(str(text))
    except ValueError:
        found = b""
    if len(found) != 16:
        raise RequestError(400, "bad_request", "a drive's id has 32 hexadecimal digits")
    return found


def block_id(request: Request) -> BlockId:
    try:
        found = bytes.fromhex(request.path_params["block"])
    except ValueError:
        found = b""
    if len(found) != BLOCK_ID_SIZE:
        raise RequestError(400, "bad_request", "a block's id has 64 hexadecimal digits")
    return BlockId(found)


def query_number(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 19:
        raise RequestError(400, "bad_request", f"{name} is a number")
    return int(text)


def text(said: Mapping[str, Any], name: str, most: int, default: str | None = None) -> str:
    """The text that a JSON object has by that name, of at most so many letters."""
    found = said.get(name, default)
    if not isinstance(found, str) or len(found) > most:
        raise RequestError(400, "bad_request", f"{name} is a text of at most {most} letters")
    return found


def octets(said: Mapping[str, Any], name: str, least: int, most: int) -> bytes:
    """The bytes that it has by that name in hexadecimal digits, so many."""
    try:
        found = bytes.fromhex(text(said, name, 2 * most))
    except ValueError:
        found = b""
    if not least <= len(found) <= most:
        raise RequestError(400, "bad_request", f"{name} has {least} to {most} bytes in hexadecimal digits")
    return found


def part(said: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The JSON object that it has by that name."""
    found = said.get(name)
    if not isinstance(found, dict):
        raise RequestError(400, "bad_request", f"{name} is a JSON object")
    return found


def whole(said: Mapping[str, Any], name: str, most: int) -> int:
    """The number from 1 to `most` that it has by that name."""
    found = said.get(name)
    if type(found) is not int or not 1 <= found <= most:  # true is none
        raise RequestError(400, "bad_request", f"{name} is a number from 1 to {most}")
    return found
