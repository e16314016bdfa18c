"""The door as clients see it: what it refuses, and what it says then."""

from __future__ import annotations

import gc
import http.client
import logging
from typing import Any
from urllib.parse import quote

import pytest

from backend.errors import NoSpaceError, UnavailableError
from cache.drive import Drive
from cache.errors import DriveFullError, InputOutputError, NoSpaceLeftError, ReadOnlyFileSystemError
from gateway.s3.objects.errors import S3Error
from tests.contents import content
from tests.unit.gateway.s3.doors import ask, body, orphans_are_gone, presigned_post, refused
from tests.unit.gateway.s3.served import Served

MIB = 1 << 20


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


def test_a_refused_request_leaves_no_garbage(served: Served, bucket: str) -> None:
    """A door that is never idle looks for that once in ten minutes."""
    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            assert ask(served, "GET", f"{served.url}/{bucket}/none")[0] == 403
            assert ask(served, "GET", f"{served.url}/{bucket}/none", {"Authorization": "none"})[0] >= 400
        left = [each for each in gc.get_objects() if isinstance(each, S3Error)]
        assert len(left) < 3
    finally:
        gc.enable()


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


class Disturbed:
    """Reads of a drive. That at `position` fails with `error`; without one, the mount writes meanwhile."""

    def __init__(self, drive: Drive, position: int, error: Exception | None) -> None:
        self._drive = drive
        self._read = drive.read
        self._position = position
        self._error = error

    async def __call__(self, inode: int, position: int, size: int) -> bytes | memoryview:
        if position != self._position:
            return await self._read(inode, position, size)
        if self._error is not None:
            raise self._error
        await self._drive.write(inode, 0, b"x")
        return await self._read(inode, position, size)


DISTURBANCES = [
    (UnavailableError("/secret/node is away", ["node"]), b"ServiceUnavailable"),
    (InputOutputError("/secret/state is damaged"), b"ServiceUnavailable"),
    (None, b"SlowDown"),
]


@pytest.mark.logs_warnings
@pytest.mark.parametrize("position", [0, MIB, 2 * MIB])
@pytest.mark.parametrize(("error", "code"), DISTURBANCES)
def test_bytes_that_cannot_be_read_are_no_fault_of_the_door(
    served: Served,
    s3: Any,
    bucket: str,
    position: int,
    error: Exception | None,
    code: bytes,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=content("half-compressible", 2 * MIB + 5, 1))
    url = s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "k"})
    monkeypatch.setattr(served.drive, "read", Disturbed(served.drive, position, error))
    if position == 0:
        status, headers, answer = ask(served, "GET", url)
        assert (status, headers["content-type"], "connection" in headers) == (503, "application/xml", False)
        assert (b"<Code>" + code in answer, b"secret" in answer) == (True, False), answer
        assert headers["x-amz-request-id"].encode() in answer
    else:
        with pytest.raises(http.client.IncompleteRead) as broken:
            ask(served, "GET", url)
        assert len(broken.value.partial) == position
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
    s3.delete_object(Bucket=bucket, Key="k")
    served.run(orphans_are_gone, served.drive)


@pytest.mark.logs_warnings
@pytest.mark.parametrize(("error", "code"), DISTURBANCES)
def test_bytes_that_cannot_be_summed_for_a_copy_are_no_fault_of_the_door(
    served: Served,
    s3: Any,
    bucket: str,
    error: Exception | None,
    code: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=content("text", 2 * MIB + 5, 1))
    monkeypatch.setattr(served.drive, "read", Disturbed(served.drive, MIB, error))
    with refused(code.decode(), 503):
        s3.copy_object(Bucket=bucket, Key="copy", CopySource=f"{bucket}/k", ChecksumAlgorithm="SHA256")


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
