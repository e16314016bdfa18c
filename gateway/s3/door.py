"""The S3 door: an ASGI application on an object layer.

Invariants:
1. The order is: the signature, what the key may do, the body. A body is asked for (and `100 Continue` said)
   only by an operation that was allowed; but DeleteObjects and PutObjectTagging ask first, as what they may
   depends on the keys, or tags, in their bodies.
2. Every answer has a request id; the audit line has it too, and says who did what to which bucket, never a
   secret. No answer says anything of the machine: what an error of the drive says is in the log.
3. An error that the S3 API has no name for is a 500 or 503, which clients repeat, and is logged. So is one
   that is met before the first bytes of an object; a later one breaks the answer off.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Final

import trio

from backend.errors import DriveError, NoSpaceError
from cache.errors import DriveFullError, FileSystemError, NoSpaceLeftError, ReadOnlyFileSystemError
from gateway.http import Message, Receive, RefusedError, Scope, Send
from gateway.s3 import answer as answers
from gateway.s3.access import ANONYMOUS, Access, Identity, owner_of
from gateway.s3.access_keys import AccessKeys
from gateway.s3.answer import Answer
from gateway.s3.call import Call, Settings, failed_read
from gateway.s3.object_operations import delete_marker_headers
from gateway.s3.objects import ChangedError, DeleteMarkerError, NotModifiedError, ObjectLayer, S3Error
from gateway.s3.request import Request
from gateway.s3.routing import operation_of, place_of
from gateway.s3.signature import Verified, claim_of, verify

_FULL: Final = (NoSpaceLeftError, DriveFullError, NoSpaceError)
_OF_DRIVE: Final = (ChangedError, DriveError, FileSystemError, OSError)
_OF_BODIES: Final = {400: "IncompleteBody", 408: "RequestTimeout", 413: "EntityTooLarge"}

log = logging.getLogger(__name__)


class S3Door:
    """See the module. `clock`: nanoseconds since 1970."""

    def __init__(
        self, layer: ObjectLayer, keys: AccessKeys, clock: Callable[[], int], settings: Settings
    ) -> None:
        self._layer = layer
        self._keys = keys
        self._clock = clock
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI, `http` only."""
        audit: dict[str, str] = scope["state"]["audit"]
        audit["id"] = secrets.token_hex(8).upper()
        try:
            found = await self._answer(scope, receive, audit)
            await _send(found, send, audit)
        except S3Error as error:
            await _send_refusal(error, scope, send, audit)
        except RefusedError as error:
            await _send_refusal(_of_body(error), scope, send, audit)

    async def _answer(self, scope: Scope, receive: Receive, audit: dict[str, str]) -> Answer:
        try:
            request = Request.of(scope["method"], scope["raw_path"], scope["query_string"], scope["headers"])
        except ValueError as error:
            raise S3Error("InvalidURI", str(error)) from None
        request = self._as_signed(request)
        bucket, key = place_of(request, self._settings)
        operation = operation_of(request, bucket, key)
        audit["operation"], audit["bucket"] = operation.__name__, bucket
        who, verified = self._identified(request)
        audit["key"], audit["user"] = who.key_id, who.user
        context = partial(_context, request, scope, self._clock(), who)
        access = Access(self._layer, who, context, self._keys.users)
        _check_expected_owner(self._layer, request, bucket)
        call = Call(request, self._layer, access, verified, receive, self._settings, bucket, key)
        try:
            return await operation(call)
        except _OF_DRIVE as error:
            raise _of_drive(error, operation.__name__) from error

    def _as_signed(self, request: Request) -> Request:
        """With the host that the client meant, where a proxy has put another one."""
        external, host = self._settings.external, request.header("host")
        if not external or host == external or host.endswith(f".{external}"):
            return request
        return replace(request, headers={**request.headers, "host": external})

    def _identified(self, request: Request) -> tuple[Identity, Verified | None]:
        claim = claim_of(request)
        if claim is None:
            return ANONYMOUS, None
        if "x-amz-security-token" in request.headers or "X-Amz-Security-Token" in request.query:
            raise S3Error("InvalidToken", "The door gives no security tokens.")
        key = self._keys.find(claim.access_key)
        if key is None:
            raise S3Error("InvalidAccessKeyId", "", {"AWSAccessKeyId": claim.access_key})
        now = datetime.fromtimestamp(self._clock() / 1e9, UTC)
        verified = verify(claim, request, key.secret, now)
        return key.identity(), verified


def _check_expected_owner(layer: ObjectLayer, request: Request, bucket: str) -> None:
    expected = request.header("x-amz-expected-bucket-owner")
    if expected and bucket and owner_of(layer.bucket(bucket)) != expected:
        raise S3Error("AccessDenied")


def _context(request: Request, scope: Scope, now_ns: int, who: Identity) -> dict[str, str]:
    """The condition keys of a request."""
    found = {
        "aws:sourceip": scope["client"][0],
        "aws:securetransport": "true" if scope["scheme"] == "https" else "false",
        "aws:currenttime": datetime.fromtimestamp(now_ns / 1e9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "aws:epochtime": str(now_ns // 1_000_000_000),
    }
    for name, header in (("aws:useragent", "user-agent"), ("aws:referer", "referer")):
        if header in request.headers:
            found[name] = request.headers[header]
    for name in ("prefix", "delimiter", "max-keys", "versionId"):
        if name in request.query:
            found[f"s3:{name.lower()}"] = request.query[name]
    found |= {f"s3:{name}": value for name, value in request.headers.items() if name.startswith("x-amz-")}
    return found | ({"aws:username": who.user, "aws:userid": who.user} if who.user else {})


def _of_drive(error: Exception, operation: str) -> S3Error:
    """The words of the error are for who has the machine: they name its folders."""
    if isinstance(error, ChangedError):
        return S3Error("SlowDown", "The object was changed while it was read.")
    if isinstance(error, _FULL):
        log.info("%s was refused: %s", operation, error)
        return S3Error("InsufficientStorage", "The drive has no room now.")
    if isinstance(error, ReadOnlyFileSystemError):
        log.info("%s was refused: %s", operation, error)
        return S3Error("ServiceUnavailable", "The drive cannot be written now.")
    log.warning("%s failed: %s", operation, error)
    return S3Error("ServiceUnavailable", "The drive cannot do that now; try again.")


def _of_body(error: RefusedError) -> S3Error:
    """A body that did not come as it was said to."""
    return S3Error(_OF_BODIES[error.status], f"{error}.")


def _refusal(error: S3Error, path: str, request_id: str) -> Answer:
    found = answers.of_error(error, path, request_id)
    if isinstance(error, NotModifiedError):
        found.headers |= failed_read(error)
    if isinstance(error, DeleteMarkerError):
        found.headers |= delete_marker_headers(error)
    elif error.code == "NoSuchKey":
        found.headers["x-amz-delete-marker"] = "false"
    return found


async def _send_refusal(error: S3Error, scope: Scope, send: Send, audit: dict[str, str]) -> None:
    """Apart from the call that caught the error: its traceback names that call's variables, and with itself
    among them it would stay, with all of the request, until all objects are looked at."""
    audit["code"] = error.code
    await _send(_refusal(error, scope["path"], audit["id"]), send, audit)


async def _send(answer: Answer, send: Send, audit: dict[str, str]) -> None:
    """`S3Error`: the drive did not give the bytes, and nothing of the answer was sent."""
    body, start = answer.body, _start_of(answer, audit["id"])
    if isinstance(body, bytes):
        await send(start)
        await send({"type": "http.response.body", "body": body})
        return
    left, has_begun = answer.size or 0, False
    try:
        # Whatever ends the sending, the object is let go of now.
        async with aclosing(body):
            async for piece in body:
                if not has_begun:
                    await send(start)
                has_begun, left = True, left - len(piece)
                await send({"type": "http.response.body", "body": piece, "more_body": left > 0})
    except _OF_DRIVE as error:
        refused = _of_drive(error, audit["operation"])
        raise trio.BrokenResourceError(refused.message) if has_begun else refused from error
    if not has_begun:
        await send(start)
        await send({"type": "http.response.body"})


def _start_of(answer: Answer, request_id: str) -> Message:
    answer.headers["x-amz-request-id"] = request_id
    size = len(answer.body) if isinstance(answer.body, bytes) else answer.size
    if "content-length" not in answer.headers and answer.status not in (204, 304):
        answer.headers["content-length"] = str(size)
    headers = [
        (name.encode("ascii"), value.strip(" \t").encode("utf-8", "surrogateescape"))
        for name, value in answer.headers.items()
    ]
    return {"type": "http.response.start", "status": answer.status, "headers": headers}
