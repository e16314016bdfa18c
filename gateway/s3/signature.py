"""Signature version 4 of the S3 API, by header and in the query (presigned).

Source: AWS, "Authenticating Requests (AWS Signature Version 4)". The canonical path is the path as sent,
decoded and encoded once, nothing normalised.

Invariants:
1. Nothing of a request counts before its signature was compared, in constant time.
2. Every `x-amz-*` header and `host` are signed, by header and presigned alike: an unsigned one is refused.
3. A request by header is at most 15 minutes off; a presigned one is good until its own time is over, and
   never over seven days.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Final, NoReturn
from urllib.parse import quote

from gateway.s3.objects import S3Error
from gateway.s3.request import Request, whole_number

ALGORITHM: Final = "AWS4-HMAC-SHA256"
UNSIGNED: Final = "UNSIGNED-PAYLOAD"
MAX_SKEW: Final = timedelta(minutes=15)
MAX_EXPIRES: Final = 7 * 24 * 3600
_STAMP: Final = "%Y%m%dT%H%M%SZ"
_SAFE: Final = "~-._"
_PAYLOAD: Final = re.compile(r"[0-9a-fA-F]{64}|UNSIGNED-PAYLOAD|STREAMING-[A-Z0-9-]+")
_FIELD: Final = re.compile(r"\s*(Credential|SignedHeaders|Signature)=([^,\s]*)\s*")


@dataclass(frozen=True, slots=True)
class Scope:
    """`date/region/service/aws4_request`."""

    date: str
    region: str

    def __str__(self) -> str:
        return f"{self.date}/{self.region}/s3/aws4_request"


@dataclass(frozen=True, slots=True)
class Claim:
    """The signature of a request as it says itself. `expires`: seconds, of a presigned one; None: by
    header."""

    access_key: str
    scope: Scope
    stamp: str
    signed_headers: tuple[str, ...]
    signature: str
    payload: str
    expires: int | None = None


@dataclass(frozen=True, slots=True)
class Verified:
    """A claim that holds, and what signs the parts of its body."""

    claim: Claim
    signing_key: bytes


def claim_of(request: Request) -> Claim | None:
    """None if the request is anonymous. `S3Error`."""
    by_header, presigned = "authorization" in request.headers, "X-Amz-Signature" in request.query
    if by_header and presigned:
        raise S3Error("InvalidArgument", "Only one authentication mechanism is allowed.")
    if by_header:
        return _by_header(request)
    if presigned or "X-Amz-Algorithm" in request.query:
        return _presigned(request)
    if "AWSAccessKeyId" in request.query and "Signature" in request.query:
        refuse_version_2()
    return None


def verify(claim: Claim, request: Request, secret: str, now: datetime) -> Verified:
    """`S3Error`: `SignatureDoesNotMatch`, `RequestTimeTooSkewed`, `AccessDenied` (expired, or something that
    should be signed is not). `now` has a time zone."""
    _check_signed(claim, request)
    canonical = canonical_request(claim, request)
    to_sign = string_to_sign(claim, canonical)
    key = signing_key(secret, claim.scope.date, claim.scope.region)
    good = hmac.digest(key, to_sign.encode("ascii"), "sha256").hex()
    if not hmac.compare_digest(good.encode(), claim.signature.encode("utf-8", "surrogateescape")):
        raise _does_not_match(claim, to_sign, canonical)
    _check_time(claim, now)
    return Verified(claim, key)


def canonical_request(claim: Claim, request: Request) -> bytes:
    """As AWS writes it down to be signed."""
    names = claim.signed_headers
    headers = "".join(f"{name}:{' '.join(request.header(name).split())}\n" for name in names)
    lines = (
        request.method,
        quote(request.path, safe=f"/{_SAFE}"),
        canonical_query(request.parameters),
        headers,
        ";".join(names),
        claim.payload,
    )
    return "\n".join(lines).encode("utf-8", "surrogateescape")


def canonical_query(parameters: tuple[tuple[bytes, bytes], ...]) -> str:
    """Encoded first, sorted then; without the signature itself."""
    if not parameters:
        return ""
    encoded = sorted(
        (quote(name, safe=_SAFE), quote(value, safe=_SAFE))
        for name, value in parameters
        if name != b"X-Amz-Signature"
    )
    return "&".join(f"{name}={value}" for name, value in encoded)


def string_to_sign(claim: Claim, canonical: bytes) -> str:
    """As AWS writes it down."""
    return f"{ALGORITHM}\n{claim.stamp}\n{claim.scope}\n{hashlib.sha256(canonical).hexdigest()}"


@lru_cache(maxsize=1024)
def signing_key(secret: str, date: str, region: str) -> bytes:
    """The key of one secret for a day and a region: four hashes, so the last ones are kept."""
    key = f"AWS4{secret}".encode()
    for part in (date, region, "s3", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def _by_header(request: Request) -> Claim:
    header = request.header("authorization")
    algorithm, _, rest = header.partition(" ")
    if algorithm == "AWS" and ":" in rest:
        refuse_version_2()
    if algorithm != ALGORITHM:
        if not header.strip():
            raise S3Error("AccessDenied", "The Authorization header is empty.")
        raise S3Error("InvalidArgument", f"Unsupported Authorization type; this door knows {ALGORITHM}.")
    parts = [_FIELD.fullmatch(part) for part in rest.split(",")]
    fields = {part[1]: part[2] for part in parts if part is not None}
    if len(parts) != 3 or fields.keys() != {"Credential", "SignedHeaders", "Signature"}:
        raise _malformed("it needs Credential, SignedHeaders and Signature, once each")
    access_key, scope = _credential(fields["Credential"], "AuthorizationHeaderMalformed")
    payload = request.header("x-amz-content-sha256")
    if not payload:
        raise S3Error("InvalidRequest", "Missing required header for this request: x-amz-content-sha256")
    claim = Claim(
        access_key,
        scope,
        _stamp_of(request),
        _names(fields["SignedHeaders"]),
        fields["Signature"],
        _payload(payload),
    )
    if not claim.stamp.startswith(scope.date):
        raise _malformed("the credential's date is not the request's")
    return claim


def _presigned(request: Request) -> Claim:
    query = request.query
    names = ("X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires", "X-Amz-SignedHeaders")
    lacking = [name for name in (*names, "X-Amz-Signature") if not query.get(name)]
    if lacking:
        raise _wrong_query(f"{lacking[0]} is missing")
    if query["X-Amz-Algorithm"] != ALGORITHM:
        raise _wrong_query(f'X-Amz-Algorithm only supports "{ALGORITHM}"')
    access_key, scope = _credential(query["X-Amz-Credential"], "AuthorizationQueryParametersError")
    expires = whole_number(query["X-Amz-Expires"])
    if expires is None or not 1 <= expires <= MAX_EXPIRES:
        raise S3Error("AccessDenied", f"X-Amz-Expires must be from 1 to {MAX_EXPIRES} seconds.")
    stamp = query["X-Amz-Date"]
    if _time(stamp) is None or not stamp.startswith(scope.date):
        raise _wrong_query("X-Amz-Date must be in the ISO8601 form, of the credential's day")
    payload = request.header("x-amz-content-sha256") or query.get("X-Amz-Content-Sha256", UNSIGNED)
    signed = _names(query["X-Amz-SignedHeaders"])
    return Claim(access_key, scope, stamp, signed, query["X-Amz-Signature"], _payload(payload), expires)


def _check_signed(claim: Claim, request: Request) -> None:
    unsigned = [
        name
        for name in request.headers
        if (name == "host" or name.startswith("x-amz-")) and name not in claim.signed_headers
    ]
    if unsigned:
        raise S3Error(
            "AccessDenied",
            "There were headers present in the request which were not signed",
            {"HeadersNotSigned": ", ".join(unsigned)},
        )


def _check_time(claim: Claim, now: datetime) -> None:
    at = _time(claim.stamp)
    assert at is not None
    if claim.expires is None:
        if abs(now - at) > MAX_SKEW:
            raise _too_skewed(claim.stamp, now)
    elif at - now > MAX_SKEW:
        raise S3Error("AccessDenied", "Request is not yet valid", {"ServerTime": _iso(now)})
    elif now > at + timedelta(seconds=claim.expires):
        over = at + timedelta(seconds=claim.expires)
        times = {"X-Amz-Expires": str(claim.expires), "Expires": _iso(over), "ServerTime": _iso(now)}
        raise S3Error("AccessDenied", "Request has expired", times)


def _too_skewed(stamp: str, now: datetime) -> S3Error:
    return S3Error(
        "RequestTimeTooSkewed",
        "The difference between the request time and the current time is too large: "
        f"the request says {stamp}, this machine {now.strftime(_STAMP)}.",
        {
            "RequestTime": stamp,
            "ServerTime": _iso(now),
            "MaxAllowedSkewMilliseconds": str(int(MAX_SKEW.total_seconds() * 1000)),
        },
    )


def _does_not_match(claim: Claim, to_sign: str, canonical: bytes) -> S3Error:
    """With what was signed here, so that the author of a client finds the difference."""
    return S3Error(
        "SignatureDoesNotMatch",
        "The request signature we calculated does not match the signature you provided. Check your key and "
        "signing method.",
        {
            "AWSAccessKeyId": claim.access_key,
            "StringToSign": to_sign,
            "SignatureProvided": claim.signature,
            "CanonicalRequest": canonical.decode("utf-8", "replace"),
        },
    )


@lru_cache(maxsize=64)
def _credential(text: str, code: str) -> tuple[str, Scope]:
    access_key, *scope = text.rsplit("/", 4)
    if not access_key or len(scope) != 4 or not re.fullmatch("[0-9]{8}", scope[0]) or not scope[1]:
        raise S3Error(code, "The credential is not KEY/YYYYMMDD/REGION/s3/aws4_request.")
    if scope[2:] != ["s3", "aws4_request"]:
        raise S3Error(code, "The credential is not for the service s3 and aws4_request.")
    if not all(part.isascii() for part in scope):
        raise S3Error(code, "The credential is not plain text.")
    return access_key, Scope(scope[0], scope[1])


@lru_cache(maxsize=64)
def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.lower() for name in text.split(";") if name)
    if "host" not in names:
        raise S3Error("AccessDenied", "The header host is not signed.", {"HeadersNotSigned": "host"})
    return names


def _payload(text: str) -> str:
    if not _PAYLOAD.fullmatch(text):
        raise S3Error(
            "InvalidArgument",
            "x-amz-content-sha256 must be UNSIGNED-PAYLOAD, STREAMING-... or a SHA-256 in hex.",
        )
    return text


def _stamp_of(request: Request) -> str:
    """`x-amz-date`, or `Date` in either form, as a stamp."""
    stamp = request.header("x-amz-date") or request.header("date")
    if _time(stamp) is not None:
        return stamp
    try:
        at = parsedate_to_datetime(stamp)
        return at.astimezone(UTC).strftime(_STAMP)
    except (ValueError, TypeError, OverflowError):
        raise S3Error(
            "AccessDenied", "AWS authentication requires a valid Date or x-amz-date header"
        ) from None


@lru_cache(maxsize=64)
def _time(stamp: str) -> datetime | None:
    if not re.fullmatch(r"[0-9]{8}T[0-9]{6}Z", stamp):
        return None
    try:
        return datetime.strptime(stamp, _STAMP).replace(tzinfo=UTC)
    except ValueError:
        return None


def _iso(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _malformed(why: str) -> S3Error:
    return S3Error("AuthorizationHeaderMalformed", f"The authorization header is malformed: {why}.")


def _wrong_query(why: str) -> S3Error:
    return S3Error("AuthorizationQueryParametersError", f"{why}.")


def refuse_version_2() -> NoReturn:
    """Of a request that has one."""
    raise S3Error("NotImplemented", "Signature version 2 is not served; use AWS4-HMAC-SHA256.")
