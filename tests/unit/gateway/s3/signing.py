"""Requests that botocore signs, as the door sees them: the oracle of the signature's tests."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import urlsplit

from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from gateway.s3.request import Request

Headers = Mapping[str, str] | None
ACCESS_KEY, SECRET = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
CREDENTIALS = Credentials(ACCESS_KEY, SECRET)


def as_seen(method: str, url: str, headers: Mapping[str, str]) -> Request:
    """A request to this URL, whose path and query are sent as they are."""
    parts = urlsplit(url)
    named = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    if "host" not in {name.lower() for name in headers}:
        named.append((b"host", parts.netloc.encode()))
    return Request.of(method, parts.path.encode(), parts.query.encode(), named)


def signed(method: str, url: str, headers: Headers = None, body: bytes = b"") -> Request:
    """Signed by header, now."""
    asked = AWSRequest(method, url, headers=dict(headers or {}), data=body)
    asked.headers["X-Amz-Content-SHA256"] = hashlib.sha256(body).hexdigest()
    S3SigV4Auth(CREDENTIALS, "s3", "us-east-1").add_auth(asked)
    return as_seen(method, url, dict(asked.headers.items()))


def presigned(method: str, url: str, expires: int = 3600, headers: Headers = None) -> Request:
    """Signed in its query, now."""
    asked = AWSRequest(method, url, headers=dict(headers or {}))
    S3SigV4QueryAuth(CREDENTIALS, "s3", "us-east-1", expires=expires).add_auth(asked)
    return as_seen(method, asked.url, headers or {})


def now() -> datetime:
    return datetime.now(UTC)
