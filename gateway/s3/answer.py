"""An answer of the door, before it is HTTP. Pure."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field

from gateway.s3.error_codes import MESSAGES, STATUS
from gateway.s3.objects import S3Error
from gateway.s3.xml_answers import DECLARATION, element

XML = {"content-type": "application/xml"}


@dataclass(slots=True)
class Answer:
    """`body`: bytes, or pieces that have `size` bytes together."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | AsyncGenerator[bytes | memoryview, None] = b""
    size: int | None = None


def xml(body: bytes, headers: Mapping[str, str] | None = None) -> Answer:
    """200 with a document."""
    return Answer(200, {**XML, **(headers or {})}, body)


def nothing(status: int = 204, headers: Mapping[str, str] | None = None) -> Answer:
    """An answer without a body."""
    return Answer(status, dict(headers or {}))


def of_error(error: S3Error, resource: str, request_id: str) -> Answer:
    """The refusal, as every S3 client reads it."""
    status = STATUS.get(error.code, 400)
    if status == 304:
        return nothing(304)
    parts = [
        element("Code", error.code),
        element("Message", error.message or _message(error.code)),
        *(element(name, value) for name, value in error.details.items()),
        element("Resource", resource),
        element("RequestId", request_id),
        element("HostId", "drivefs"),
    ]
    text = f"{DECLARATION}<Error>{''.join(parts)}</Error>"
    return Answer(status, dict(XML), text.encode("utf-8", "surrogateescape"))


def _message(code: str) -> str:
    return MESSAGES.get(code, code)
