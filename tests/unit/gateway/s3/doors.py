"""Ways to ask a served door in tests: with no client between, and what its answers say."""

from __future__ import annotations

import base64
import http.client
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
import trio
from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from cache.drive import Drive
from tests.unit.gateway.s3.served import REGION, Served


@contextmanager
def refused(code: str, status: int | None = None) -> Iterator[None]:
    with pytest.raises(ClientError) as caught:
        yield
    answer = caught.value.response
    assert answer["Error"]["Code"] == code
    if status is not None:
        assert answer["ResponseMetadata"]["HTTPStatusCode"] == status


def body(answer: Any) -> bytes:
    data: bytes = answer["Body"].read()
    return data


def ask(
    served: Served, method: str, url: str, headers: dict[str, str] | None = None, data: bytes = b""
) -> tuple[int, dict[str, str], bytes]:
    """A request without any client's help."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=20)
    try:
        connection.request(method, f"{parts.path}?{parts.query}".rstrip("?"), data or None, headers or {})
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def crc32(data: bytes) -> bytes:
    return base64.b64encode(zlib.crc32(data).to_bytes(4))


def policy_of(effect: str, bucket: str, principal: Any = "*") -> str:
    statement = {"Effect": effect, "Principal": principal, "Action": "s3:*"}
    statement["Resource"] = [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]
    return json.dumps({"Statement": [statement]})


def presigned_post(served: Served, bucket: str) -> str:
    """The URL of a DeleteObjects, for a body that boto3 would not send."""
    asked = AWSRequest("POST", f"{served.url}/{bucket}?delete")
    credentials = Credentials(served.user.key_id, served.user.secret)
    S3SigV4QueryAuth(credentials, "s3", REGION, expires=60).add_auth(asked)
    url: str = asked.url
    return url


def signed_streaming(served: Served, method: str, target: str, headers: dict[str, str]) -> dict[str, str]:
    """`headers` and a signature of them, for a body that is not signed and has trailers."""
    asked = AWSRequest(method, f"{served.url}{target}", headers=headers)
    asked.context["checksum"] = {"request_algorithm": {"in": "trailer"}}
    S3SigV4Auth(Credentials(served.user.key_id, served.user.secret), "s3", REGION).add_auth(asked)
    return dict(asked.headers.items())


def status_of(call: Callable[..., Any], **arguments: Any) -> int:
    """The status of the answer to a call of boto3."""
    try:
        answer = call(**arguments)
    except ClientError as error:
        answer = error.response
    found: int = answer["ResponseMetadata"]["HTTPStatusCode"]
    return found


async def orphans_are_gone(drive: Drive) -> None:
    """An inode that is held open outlives its name."""
    with trio.fail_after(20):
        while drive.ledger.namespace.orphans():
            drive.put_off.delete_unused()
            await trio.sleep(0.01)
