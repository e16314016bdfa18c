"""One call of an operation: the request, on what it works, for whom; and what operations ask of a request."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from gateway.http import Receive
from gateway.s3.access import Access
from gateway.s3.actions import Action
from gateway.s3.objects import Conditions, NotModifiedError, ObjectLayer, S3Error
from gateway.s3.payload import Payload
from gateway.s3.request import Request, whole_number
from gateway.s3.signature import Verified

MAX_LISTED: Final = 1000
_SECOND: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Settings:
    """`region`: what the door says it is in. `domains`: BUCKET.DOMAIN is a bucket. `external`: the host by
    which clients know the door, if a proxy stands before it and changes it; it is what they sign."""

    region: str = "us-east-1"
    domains: tuple[str, ...] = ("localhost",)
    external: str = ""


@dataclass(frozen=True, slots=True)
class Call:
    """`bucket` is empty of calls on the service, `key` of calls on a bucket."""

    request: Request
    layer: ObjectLayer
    access: Access
    verified: Verified | None
    receive: Receive
    settings: Settings
    bucket: str
    key: bytes

    @property
    def user(self) -> str:
        return self.access.who.user

    def payload(self, *, may_stream: bool = False, algorithm: str = "") -> Payload:
        """The body, which is read once. `S3Error`."""
        return Payload(self.request, self.verified, self.receive, may_stream=may_stream, algorithm=algorithm)

    async def document(self, limit: int, *, is_summed: bool = True) -> bytes:
        """The body, of an operation that takes a document. `is_summed`: a checksum in the headers is its."""
        payload = Payload(self.request, self.verified, self.receive, may_stream=False, is_summed=is_summed)
        return await payload.document(limit)

    def require(self, action: Action, permission: str = "") -> None:
        """`AccessDenied` if the caller may not do that to this bucket, or key."""
        self.access.require(action, self.bucket, self.key or None, permission)

    def require_object(self, action: Action, permission: str = "", version_id: str | None = None) -> None:
        """The same of an object that should be there; see `Access.require_object`."""
        self.access.require_object(action, self.bucket, self.key, permission, version_id)

    @property
    def version_id(self) -> str | None:
        """The version that the request names. `InvalidArgument`: none is named so."""
        found = self.request.query.get("versionId")
        if found == "":
            raise S3Error("InvalidArgument", "Version id cannot be the empty string.")
        if found is not None and not (found.isascii() and found.isprintable()):
            raise S3Error("InvalidArgument", "Invalid version id specified")
        return found

    def conditions(self, prefix: str = "", *, with_times: bool = True) -> Conditions:
        """The conditions in the headers that begin so."""
        header = self.request.header
        return Conditions(
            if_match=etags(header(f"{prefix}if-match")),
            if_none_match=etags(header(f"{prefix}if-none-match")),
            if_modified_since_ns=time_ns(header(f"{prefix}if-modified-since")) if with_times else None,
            if_unmodified_since_ns=time_ns(header(f"{prefix}if-unmodified-since")) if with_times else None,
        )

    def number(self, name: str, default: int, most: int = 2**31 - 1) -> int:
        """A number in the query; `InvalidArgument`. Larger ones are `most`."""
        text = self.request.query.get(name, "")
        if not text:
            return default
        found = whole_number(text)
        if found is None:
            raise S3Error("InvalidArgument", f"Argument {name} must be an integer between 0 and 2147483647")
        return min(found, most)

    def encoding(self) -> str:
        """The `encoding-type` of a listing."""
        found = self.request.query.get("encoding-type", "")
        if found not in ("", "url"):
            raise S3Error("InvalidArgument", "Invalid Encoding Method specified in Request")
        return found

    def parameter(self, name: str) -> bytes:
        """A parameter as bytes, empty if it is not there."""
        return self.request.query.get(name, "").encode("utf-8", "surrogateescape")


def etags(header: str) -> tuple[str, ...] | None:
    """The ETags of a condition, without quotes."""
    if not header.strip():
        return None
    return tuple(each.strip().removeprefix("W/").strip('"') for each in header.split(","))


def time_ns(header: str) -> int | None:
    """An HTTP date; one that is none says nothing (RFC 9110, 13.1.3)."""
    if not header:
        return None
    try:
        return _in_ns(parsedate_to_datetime(header))
    except (ValueError, TypeError):
        return None


def iso_time_ns(text: str) -> int:
    """A time in a document, or an HTTP date; UTC, unless it says otherwise. `S3Error`."""
    try:
        return _in_ns(datetime.fromisoformat(text))
    except ValueError:
        found = time_ns(text)
    if found is None:
        raise S3Error("InvalidArgument", f"{text} is no time.")
    return found


def _in_ns(at: datetime) -> int:
    return int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()) * _SECOND


def failed_read(error: NotModifiedError) -> dict[str, str]:
    """The headers of a 304."""
    return {"etag": f'"{error.etag}"'}
