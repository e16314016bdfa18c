"""Requests to the hub, decoded: bodies within limits, JSON objects, ids, numbers. Else `RequestError`.

A body may come for hours. So the rights of its sender are asked for once more when it is whole (`ask_again`
of the request's state), and its bytes count in the account's share of the process (`share`). A request
without a token has neither.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, Final

import anyio
from starlette.requests import ClientDisconnect, Request

from backend import wire
from backend.errors import FormatError
from backend.upstream import BLOCK_ID_SIZE, BlockId

_MAX_CONTROL: Final = 1 << 16
_LATE: Final = 1.0
"""Seconds of a body after which its device may have been revoked."""


class RequestError(Exception):
    """A request that is refused before it is looked at: status and reason."""

    def __init__(self, status: int, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.kind = kind


async def read_body(request: Request, limit: int) -> bytes:
    """The body, of at most `limit` bytes. One that its client does not end is refused, though nobody hears
    it; one that is not what its `Content-Digest` says, too. Errors of who shows a token that counts no more;
    `ThrottledError`."""
    parts, size, began = [], 0, anyio.current_time()
    said, hashed = wire.said_digest(request.headers.get("content-digest", "")), hashlib.sha256()
    taken = _number(request.headers.get("content-length", "0"), "Content-Length")
    if taken > limit:
        raise RequestError(413, "too_large", f"at most {limit} bytes are allowed")
    _take(request, taken)
    try:
        async for part in request.stream():
            size += len(part)
            if size > limit:
                raise RequestError(413, "too_large", f"at most {limit} bytes are allowed")
            if size > taken:
                _take(request, size - taken)
                taken = size
            if said is not None:  # as it comes: all at once would keep other requests waiting
                hashed.update(part)
            parts.append(part)
    except ClientDisconnect:
        raise RequestError(400, "bad_request", "the body has no end") from None
    if said is not None and hashed.digest() != said:
        raise RequestError(422, "damaged", "the body is not what its Content-Digest says: send it again")
    if anyio.current_time() - began > _LATE and hasattr(request.state, "ask_again"):
        await request.state.ask_again()
    return b"".join(parts)


def _take(request: Request, size: int) -> None:
    if hasattr(request.state, "share"):
        request.state.share.take(size)


async def json_object(request: Request) -> dict[str, Any]:
    try:
        said = json.loads(await read_body(request, _MAX_CONTROL))
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        raise RequestError(400, "bad_request", "a JSON object is asked for")
    return said


def parse_uuid(text: object) -> bytes:
    found = _from_digits(text)
    if len(found) != 16:
        raise RequestError(400, "bad_request", "a drive's id has 32 hexadecimal digits")
    return found


def named_drive(request: Request) -> bytes:
    """The bytes that the path has where a drive's id belongs, if they are some: nobody has shown a token yet
    who could be told that they are none."""
    return _from_digits(request.path_params.get("uuid", ""))


def block_id(request: Request) -> BlockId:
    found = _from_digits(request.path_params["block"])
    if len(found) != BLOCK_ID_SIZE:
        raise RequestError(400, "bad_request", "a block's id has 64 hexadecimal digits")
    return BlockId(found)


def query_number(request: Request, name: str, default: int) -> int:
    return _number(request.query_params.get(name, str(default)), name)


def query_id(request: Request, name: str) -> bytes:
    """The block's id of that name; empty if none is given."""
    text = request.query_params.get(name, "")
    found = _from_digits(text)
    if len(found) not in (0, BLOCK_ID_SIZE) or bool(found) != bool(text):
        raise RequestError(400, "bad_request", f"{name} is a block's id, of 64 hexadecimal digits")
    return found


def root_name(request: Request) -> str:
    """The name of a root, in the path."""
    found = str(request.path_params["name"])
    if not re.fullmatch(wire.ROOT_NAME, found):
        raise RequestError(400, "bad_request", f"a root's name is {wire.ROOT_NAME}")
    return found


def device_number(request: Request) -> int:
    """The number of a device, in the path."""
    return _number(request.path_params["device"], "a device")


def _number(text: str, name: str) -> int:
    try:
        return wire.decode_number(text)
    except FormatError:
        raise RequestError(400, "bad_request", f"{name} is a number below 2^63") from None


def _from_digits(text: object) -> bytes:
    """The bytes of hexadecimal digits, without anything between them; none if it is something else."""
    is_digits = isinstance(text, str) and re.fullmatch("[0-9a-fA-F]*", text) and len(text) % 2 == 0
    return bytes.fromhex(str(text)) if is_digits else b""


def text(said: Mapping[str, Any], name: str, most: int, default: str | None = None) -> str:
    """The text that a JSON object has by that name, of at most so many letters."""
    found = said.get(name, default)
    if not isinstance(found, str) or len(found) > most or not _is_stored_as_text(found):
        raise RequestError(400, "bad_request", f"{name} is a text of at most {most} letters")
    return found


def _is_stored_as_text(found: str) -> bool:
    """Whether PostgreSQL takes it: no NUL, no half of a surrogate pair, which JSON can have both."""
    return "\0" not in found and not any("\ud800" <= letter <= "\udfff" for letter in found)


def octets(said: Mapping[str, Any], name: str, least: int, most: int) -> bytes:
    """The bytes that it has by that name in hexadecimal digits, so many."""
    digits = text(said, name, 2 * most)
    found = _from_digits(digits)
    if len(found) * 2 != len(digits) or not least <= len(found) <= most:
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
