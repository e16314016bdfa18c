"""The door as clients see it: what it refuses, and what it says then."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest

from backend.errors import NoSpaceError
from cache.errors import DriveFullError, NoSpaceLeftError, ReadOnlyFileSystemError
from tests.unit.gateway.s3.doors import ask, body, presigned_post, refused
from tests.unit.gateway.s3.served import Served


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"<!DOCTYPE x [<!ENTITY a 'b'>]><Delete><Object><Key>&a;</Key></Object></Delete>", b"MalformedXML"),
        (b"<!DOCTYPE Delete SYSTEM 'file:///etc/passwd'><Delete/>", b"MalformedXML"),
        (b"<Delete><Object>" * 5000, b"MalformedXML"),
        (b"<Other/>", b"MalformedXML"),
        (b"\xff\xfe", b"MalformedXML"),
        (b"", b"MalformedXML"),
    ],
)
def test_documents_that_are_none(served: Served, s3: Any, bucket: str, data: bytes, code: bytes) -> None:
    url = presigned_post(served, bucket)
    status, _, answer = ask(served, "POST", url, {}, data)
    assert (status, code in answer) == (400, True), answer


def test_a_number_of_thousands_of_digits_is_none(served: Served, s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"data")
    part = {"Bucket": bucket, "Key": "c", "PartNumber": 1, "CopySource": f"{bucket}/k"}
    part["UploadId"] = s3.create_multipart_upload(Bucket=bucket, Key="c")["UploadId"]
    with refused("InvalidArgument", 400):
        s3.upload_part_copy(**part, CopySourceRange=f"bytes=0-{'9' * 5000}")
    item = f"<Delete><Object><Key>k</Key><Size>{'9' * 5000}</Size></Object></Delete>"
    code, _, said = ask(served, "POST", f"{served.url}/{bucket}?delete", data=item.encode())
    assert (code, b"<Code>MalformedXML</Code>" in said) == (400, True)


@pytest.mark.parametrize(
    "error",
    [
        NoSpaceLeftError("the disk that holds /secret/state is full"),
        DriveFullError("/secret/node is full"),
        NoSpaceError("/secret/node: no room"),
        ReadOnlyFileSystemError("/secret/state is read-only"),
    ],
)
def test_a_refusal_of_the_drive_says_nothing_of_the_machine(
    served: Served, s3: Any, bucket: str, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object) -> None:
        raise error

    s3.put_bucket_acl(Bucket=bucket, ACL="public-read-write")
    monkeypatch.setattr(served.drive, "make_nameless", refuse)
    status, _, answer = ask(served, "PUT", f"/{bucket}/k", {}, b"data")
    assert (status, b"secret" in answer) == (
        503 if isinstance(error, ReadOnlyFileSystemError) else 507,
        False,
    )


def test_what_is_not_served_says_so(served: Served, s3: Any, bucket: str) -> None:
    with refused("NotImplemented", 501):
        s3.put_bucket_cors(
            Bucket=bucket,
            CORSConfiguration={"CORSRules": [{"AllowedMethods": ["GET"], "AllowedOrigins": ["*"]}]},
        )
    with refused("NoSuchCORSConfiguration", 404):
        s3.get_bucket_cors(Bucket=bucket)
    with refused("NoSuchBucketPolicy", 404):
        s3.get_bucket_policy(Bucket=bucket)
    with refused("NotImplemented", 501):
        s3.put_object(Bucket=bucket, Key="k", ServerSideEncryption="aws:kms")
    with refused("NotImplemented", 501):
        s3.put_object(Bucket=bucket, Key="k", SSECustomerKey="k" * 32, SSECustomerAlgorithm="AES256")


def test_errors_name_what_they_are_about(served: Served, s3: Any) -> None:
    status, headers, answer = ask(served, "GET", "/no-such-bucket/k%20ey")
    assert status == 404
    assert b"<Code>NoSuchBucket</Code>" in answer
    assert headers["x-amz-request-id"].encode() in answer
    assert ask(served, "GET", f"/{quote('a/../b')}")[0] in (403, 404)


@pytest.mark.parametrize("query", ["partNumber=1", "versionId=abc", "foo=bar"])
def test_a_query_that_is_not_known_changes_nothing(served: Served, s3: Any, bucket: str, query: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"old", ACL="public-read-write")
    s3.put_bucket_acl(Bucket=bucket, ACL="public-read-write")
    for headers in ({}, {"x-amz-copy-source": f"{bucket}/k", "x-amz-metadata-directive": "REPLACE"}):
        status, _, answer = ask(served, "PUT", f"/{bucket}/k?{query}", headers, b"" if headers else b"new")
        assert (status, b"<Code>InvalidArgument</Code>" in answer) == (400, True), answer
    assert body(s3.get_object(Bucket=bucket, Key="k")) == b"old"
