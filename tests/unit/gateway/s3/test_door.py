"""The door as clients see it: boto3 over a real socket, and requests that no client would send."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import socket
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
import trio
from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from backend.errors import NoSpaceError
from cache.drive import Drive
from cache.errors import DriveFullError, NoSpaceLeftError, ReadOnlyFileSystemError
from gateway.s3.call import Settings
from gateway.s3.objects import open_objects
from tests.contents import STORED_KINDS, content
from tests.unit.gateway.s3.served import REGION, Served, serving

MIB = 1 << 20
PART = 5 * MIB


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("door")) as made:
        yield made


@pytest.fixture
def s3(served: Served) -> Any:
    return served.client()


@pytest.fixture
def bucket(s3: Any, request: pytest.FixtureRequest) -> str:
    name = "b" + hashlib.sha256(request.node.name.encode()).hexdigest()[:20]
    s3.create_bucket(Bucket=name)
    return name


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


@pytest.mark.parametrize("kind", STORED_KINDS)
@pytest.mark.parametrize("size", [0, 1, 4096, 3 * MIB])
def test_what_was_put_is_got(s3: Any, bucket: str, kind: Any, size: int) -> None:
    data = content(kind, size, 1)
    put = s3.put_object(Bucket=bucket, Key="a b/é+%", Body=data, Metadata={"a": "b"}, ContentType="x/y")
    got = s3.get_object(Bucket=bucket, Key="a b/é+%")
    assert body(got) == data
    assert put["ETag"] == got["ETag"] == f'"{hashlib.md5(data).hexdigest()}"'
    assert (got["Metadata"], got["ContentType"]) == ({"a": "b"}, "x/y")
    head = s3.head_object(Bucket=bucket, Key="a b/é+%")
    [line] = s3.list_objects_v2(Bucket=bucket)["Contents"]
    assert line["LastModified"] == head["LastModified"] == got["LastModified"]
    assert (line["Key"], line["Size"], line["ETag"]) == ("a b/é+%", size, put["ETag"])


@pytest.mark.parametrize("algorithm", ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"])
def test_checksums_are_verified_kept_and_told(s3: Any, bucket: str, algorithm: str) -> None:
    data = content("text", 70_000, 1)
    put = s3.put_object(Bucket=bucket, Key="k", Body=data, ChecksumAlgorithm=algorithm)
    got = s3.get_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert got[f"Checksum{algorithm}"] == put[f"Checksum{algorithm}"]
    assert body(got) == data
    wrong = {
        f"Checksum{algorithm}": base64.b64encode(
            bytes(len(base64.b64decode(put[f"Checksum{algorithm}"])))
        ).decode()
    }
    with refused("BadDigest", 400):
        s3.put_object(Bucket=bucket, Key="k", Body=b"other", **wrong)
    assert body(s3.get_object(Bucket=bucket, Key="k")) == data


def test_ranges(s3: Any, bucket: str) -> None:
    data = content("random", 300_000, 1)
    s3.put_object(Bucket=bucket, Key="k", Body=data)
    for asked, start, end in (
        ("0-9", 0, 10),
        ("100000-", 100_000, 300_000),
        ("-5", 299_995, 300_000),
        ("299999-400000", 299_999, 300_000),
    ):
        got = s3.get_object(Bucket=bucket, Key="k", Range=f"bytes={asked}")
        assert body(got) == data[start:end]
        assert got["ContentRange"] == f"bytes {start}-{end - 1}/300000"
    with refused("InvalidRange", 416):
        s3.get_object(Bucket=bucket, Key="k", Range="bytes=300000-")
    assert len(body(s3.get_object(Bucket=bucket, Key="k", Range="bytes=5-1"))) == 300_000


def test_conditions(s3: Any, bucket: str) -> None:
    etag = s3.put_object(Bucket=bucket, Key="k", Body=b"1", IfNoneMatch="*")["ETag"]
    with refused("PreconditionFailed", 412):
        s3.put_object(Bucket=bucket, Key="k", Body=b"2", IfNoneMatch="*")
    with refused("304", 304):
        s3.get_object(Bucket=bucket, Key="k", IfNoneMatch=etag)
    with refused("PreconditionFailed", 412):
        s3.get_object(Bucket=bucket, Key="k", IfMatch='"other"')
    with refused("PreconditionFailed", 412):
        s3.put_object(Bucket=bucket, Key="k", Body=b"2", IfNoneMatch=etag)
    s3.put_object(Bucket=bucket, Key="k", Body=b"2", IfMatch=etag)
    s3.put_object(Bucket=bucket, Key="k", Body=b"2", IfNoneMatch=etag)
    with refused("PreconditionFailed", 412):
        s3.put_object(Bucket=bucket, Key="k", Body=b"3", IfMatch=etag)
    assert body(s3.get_object(Bucket=bucket, Key="k")) == b"2"


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ({"CopySourceIfMatch": '"other"'}, False),
        ({"CopySourceIfNoneMatch": "*"}, False),
        ({"CopySourceIfModifiedSince": datetime(2999, 1, 1, tzinfo=UTC)}, False),
        ({"CopySourceIfUnmodifiedSince": datetime(2001, 1, 1, tzinfo=UTC)}, False),
        ({"CopySourceIfMatch": "*"}, True),
        ({"CopySourceIfNoneMatch": '"other"'}, True),
    ],
)
def test_the_conditions_on_a_source_are_decided_of_copies_of_parts_too(
    s3: Any, bucket: str, condition: dict[str, Any], holds: bool
) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"data")
    upload = s3.create_multipart_upload(Bucket=bucket, Key="c")["UploadId"]
    copy = {"Bucket": bucket, "Key": "c", "CopySource": f"{bucket}/k", **condition}
    part = {**copy, "UploadId": upload, "PartNumber": 1}
    for call, said in ((s3.copy_object, copy), (s3.upload_part_copy, part)):
        if holds:
            call(**said)
            continue
        with refused("PreconditionFailed", 412):
            call(**said)
    assert len(s3.list_parts(Bucket=bucket, Key="c", UploadId=upload).get("Parts", [])) == int(holds)


def test_of_sixteen_that_create_one_key_at_once_one_does(served: Served, s3: Any, bucket: str) -> None:
    def create(number: int) -> int:
        try:
            s3.put_object(Bucket=bucket, Key="k", Body=b"%d" % number, IfNoneMatch="*")
        except ClientError as error:
            return int(error.response["ResponseMetadata"]["HTTPStatusCode"])
        return 200

    with ThreadPoolExecutor(16) as pool:
        assert sorted(pool.map(create, range(16))) == [200] + [412] * 15


def test_a_listing_with_prefixes_in_pages(s3: Any, bucket: str) -> None:
    keys = ["a/1", "a/2", "a!", "b", "\ue000", "\U00010000", "c d", "x\x01y"]
    for key in keys:
        s3.put_object(Bucket=bucket, Key=key)
    pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, PaginationConfig={"PageSize": 2})
    got = [item["Key"] for page in pages for item in page.get("Contents", [])]
    assert got == sorted(keys, key=str.encode)
    rolled = s3.list_objects(Bucket=bucket, Delimiter="/")
    assert [each["Prefix"] for each in rolled["CommonPrefixes"]] == ["a/"]
    assert s3.list_objects_v2(Bucket=bucket, MaxKeys=0)["KeyCount"] == 0
    assert s3.list_objects_v2(Bucket=bucket, MaxKeys=4500)["KeyCount"] == len(keys)
    assert [
        each["Key"] for each in s3.list_objects_v2(Bucket=bucket, StartAfter="b", MaxKeys=1)["Contents"]
    ] == ["c d"]


def test_a_listing_in_any_order_has_no_delimiter(served: Served, s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="a/1")
    s3.put_bucket_acl(Bucket=bucket, ACL="public-read")
    assert b"<Key>a/1</Key>" in ask(served, "GET", f"/{bucket}?allow-unordered=true")[2]
    assert ask(served, "GET", f"/{bucket}?allow-unordered=true&delimiter=%2F")[0] == 400


def test_multipart(s3: Any, bucket: str) -> None:
    data = content("half-compressible", 2 * PART + 1000, 1)
    upload = s3.create_multipart_upload(
        Bucket=bucket, Key="m", ChecksumAlgorithm="CRC32C", ChecksumType="FULL_OBJECT"
    )
    named = {"Bucket": bucket, "Key": "m", "UploadId": upload["UploadId"]}
    pieces = [data[at : at + PART] for at in range(0, len(data), PART)]
    parts = []
    for number, piece in enumerate(pieces, 1):
        got = s3.upload_part(**named, PartNumber=number, Body=piece, ChecksumAlgorithm="CRC32C")
        parts.append({"PartNumber": number, "ETag": got["ETag"], "ChecksumCRC32C": got["ChecksumCRC32C"]})
    assert [part["Size"] for part in s3.list_parts(**named)["Parts"]] == list(map(len, pieces))
    assert [each["Key"] for each in s3.list_multipart_uploads(Bucket=bucket)["Uploads"]] == ["m"]
    done = s3.complete_multipart_upload(**named, MultipartUpload={"Parts": parts})
    again = s3.complete_multipart_upload(**named, MultipartUpload={"Parts": parts})
    whole = s3.put_object(Bucket=bucket, Key="w", Body=data, ChecksumAlgorithm="CRC32C")
    assert done["ETag"] == again["ETag"]
    assert done["ETag"].endswith('-3"')
    assert done["ChecksumCRC32C"] == whole["ChecksumCRC32C"]
    assert body(s3.get_object(Bucket=bucket, Key="m")) == data
    part = s3.get_object(Bucket=bucket, Key="m", PartNumber=2)
    assert (body(part), part["PartsCount"]) == (pieces[1], 3)
    found = s3.get_object_attributes(
        Bucket=bucket, Key="m", ObjectAttributes=["ObjectParts", "ObjectSize", "Checksum"]
    )
    assert (found["ObjectParts"]["TotalPartsCount"], found["ObjectSize"]) == (3, len(data))


def test_a_multipart_copy_and_an_abort(s3: Any, bucket: str) -> None:
    data = content("random", PART + 10, 1)
    s3.put_object(Bucket=bucket, Key="source", Body=data)
    named = {
        "Bucket": bucket,
        "Key": "m",
        "UploadId": s3.create_multipart_upload(Bucket=bucket, Key="m")["UploadId"],
    }
    ranges = (f"bytes=0-{PART - 1}", f"bytes={PART}-{PART + 9}")
    parts = []
    for number, asked in enumerate(ranges, 1):
        got = s3.upload_part_copy(
            **named, PartNumber=number, CopySource=f"{bucket}/source", CopySourceRange=asked
        )
        parts.append({"PartNumber": number, "ETag": got["CopyPartResult"]["ETag"]})
    s3.complete_multipart_upload(**named, MultipartUpload={"Parts": parts})
    assert body(s3.get_object(Bucket=bucket, Key="m")) == data
    upload = s3.create_multipart_upload(Bucket=bucket, Key="m")["UploadId"]
    s3.abort_multipart_upload(Bucket=bucket, Key="m", UploadId=upload)
    with refused("NoSuchUpload", 404):
        s3.list_parts(Bucket=bucket, Key="m", UploadId=upload)


def test_a_copy(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="a+b é", Body=b"data", Metadata={"a": "b"}, ContentType="x/y")
    s3.copy_object(Bucket=bucket, Key="copy", CopySource={"Bucket": bucket, "Key": "a+b é"})
    got = s3.get_object(Bucket=bucket, Key="copy")
    assert (body(got), got["Metadata"], got["ContentType"]) == (b"data", {"a": "b"}, "x/y")
    with refused("InvalidRequest", 400):
        s3.copy_object(Bucket=bucket, Key="copy", CopySource=f"{bucket}/copy")
    s3.copy_object(
        Bucket=bucket,
        Key="copy",
        CopySource=f"{bucket}/copy",
        Metadata={"c": "d"},
        MetadataDirective="REPLACE",
    )
    assert s3.head_object(Bucket=bucket, Key="copy")["Metadata"] == {"c": "d"}


@pytest.mark.parametrize("sent", ["a%2Bb+%2525", "a%2bb%20%2525", "/a%2Bb%20%2525"])
def test_the_source_of_a_copy_is_decoded_once_and_a_plus_is_a_space(
    served: Served, s3: Any, bucket: str, sent: str
) -> None:
    s3.put_bucket_acl(Bucket=bucket, ACL="public-read-write")
    s3.put_object(Bucket=bucket, Key="a+b %25", Body=b"data", ACL="public-read")
    slash = sent.startswith("/")
    source = {"x-amz-copy-source": f"{'/' * slash}{bucket}/{sent.lstrip('/')}"}
    assert ask(served, "PUT", f"/{bucket}/copy", source)[0] == 200
    assert body(s3.get_object(Bucket=bucket, Key="copy")) == b"data"


def test_versions_and_the_deletion_of_many(s3: Any, bucket: str) -> None:
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    first = s3.put_object(Bucket=bucket, Key="k", Body=b"1")["VersionId"]
    s3.put_object(Bucket=bucket, Key="k", Body=b"2")
    marker = s3.delete_object(Bucket=bucket, Key="k")
    assert marker["DeleteMarker"]
    with refused("NoSuchKey", 404):
        s3.get_object(Bucket=bucket, Key="k")
    assert body(s3.get_object(Bucket=bucket, Key="k", VersionId=first)) == b"1"
    listed = s3.list_object_versions(Bucket=bucket)
    named = [
        {"Key": each["Key"], "VersionId": each["VersionId"]}
        for each in [*listed["Versions"], *listed["DeleteMarkers"]]
    ]
    assert len(named) == 3
    gone = s3.delete_objects(Bucket=bucket, Delete={"Objects": named})
    assert len(gone["Deleted"]) == 3
    s3.delete_bucket(Bucket=bucket)


def test_more_than_a_thousand_deletions_are_refused(s3: Any, bucket: str) -> None:
    with refused("MalformedXML", 400):
        s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": str(n)} for n in range(1001)]})


def test_tags(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Tagging="a=b&c=d%20e")
    assert s3.head_object(Bucket=bucket, Key="k")["TagCount"] == 2
    s3.put_object_tagging(Bucket=bucket, Key="k", Tagging={"TagSet": [{"Key": "x", "Value": "y"}]})
    assert s3.get_object_tagging(Bucket=bucket, Key="k")["TagSet"] == [{"Key": "x", "Value": "y"}]
    s3.delete_object_tagging(Bucket=bucket, Key="k")
    assert s3.get_object_tagging(Bucket=bucket, Key="k")["TagSet"] == []


def test_presigned(served: Served, s3: Any, bucket: str) -> None:
    url = s3.generate_presigned_url("put_object", Params={"Bucket": bucket, "Key": "a b/é"}, ExpiresIn=60)
    assert ask(served, "PUT", url, {}, b"data")[0] == 200
    url = s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "a b/é"}, ExpiresIn=60)
    assert ask(served, "GET", url)[::2] == (200, b"data")
    assert ask(served, "GET", url + "0")[0] == 403
    assert ask(served, "GET", url, {"x-amz-acl": "private"})[0] == 403
    streaming = {"x-amz-content-sha256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER"}
    assert ask(served, "PUT", url, streaming, b"0\r\n\r\n")[0] == 403


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


def test_nobody_gets_anything(served: Served, s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"secret")
    for method, target in (
        ("GET", f"/{bucket}/k"),
        ("GET", f"/{bucket}"),
        ("PUT", f"/{bucket}/x"),
        ("DELETE", f"/{bucket}/k"),
        ("PUT", "/new-bucket"),
    ):
        status, _, answer = ask(served, method, target)
        assert (status, b"<Code>AccessDenied</Code>" in answer) == (403, True), (method, target)
    assert b"<Bucket>" not in ask(served, "GET", "/")[2]
    many = b"<Delete><Object><Key>k</Key></Object></Delete>"
    status, _, answer = ask(served, "POST", f"/{bucket}?delete", {}, many)
    assert b"<Error><Key>k</Key><Code>AccessDenied</Code>" in answer
    assert body(s3.get_object(Bucket=bucket, Key="k")) == b"secret"
    for call in (served.client("other").get_object, served.client("other").delete_object):
        with refused("AccessDenied", 403):
            call(Bucket=bucket, Key="k")


def test_a_policy_lets_others_read_what_it_names(served: Served, s3: Any, bucket: str) -> None:
    for key in ("open/k", "closed/k"):
        s3.put_object(Bucket=bucket, Key=key, Body=b"data")
    statement = {
        "Effect": "Allow",
        "Principal": "*",
        "Action": "s3:GetObject",
        "Resource": f"arn:aws:s3:::{bucket}/open/*",
    }
    s3.put_bucket_policy(
        Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    )
    assert ask(served, "GET", f"/{bucket}/open/k")[::2] == (200, b"data")
    assert ask(served, "GET", f"/{bucket}/closed/k")[0] == 403
    assert ask(served, "GET", f"/{bucket}/open/../closed/k")[0] in (403, 404)
    assert s3.get_bucket_policy_status(Bucket=bucket)["PolicyStatus"]["IsPublic"]
    block = {"RestrictPublicBuckets": True}
    s3.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=block)
    assert ask(served, "GET", f"/{bucket}/open/k")[0] == 403
    s3.delete_public_access_block(Bucket=bucket)
    denied = {
        "Effect": "Deny",
        "Principal": {"AWS": "user"},
        "Action": "s3:DeleteObject",
        "Resource": f"arn:aws:s3:::{bucket}/*",
    }
    s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Statement": [denied]}))
    with refused("AccessDenied"):
        s3.delete_object(Bucket=bucket, Key="open/k")


def test_canned_access_lists(served: Served, s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"data", ACL="public-read")
    s3.put_object(Bucket=bucket, Key="private", Body=b"data")
    assert ask(served, "GET", f"/{bucket}/k")[::2] == (200, b"data")
    assert ask(served, "GET", f"/{bucket}/private")[0] == 403
    grants = s3.get_object_acl(Bucket=bucket, Key="k")["Grants"]
    assert [grant["Permission"] for grant in grants] == ["READ", "FULL_CONTROL"]
    s3.put_object_acl(Bucket=bucket, Key="k", ACL="private")
    assert ask(served, "GET", f"/{bucket}/k")[0] == 403


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


def presigned_post(served: Served, bucket: str) -> str:
    """The URL of a DeleteObjects, for a body that boto3 would not send."""
    asked = AWSRequest("POST", f"{served.url}/{bucket}?delete")
    credentials = Credentials(served.user.key_id, served.user.secret)
    S3SigV4QueryAuth(credentials, "s3", REGION, expires=60).add_auth(asked)
    url: str = asked.url
    return url


def test_no_continue_before_the_signature_was_seen(served: Served, bucket: str) -> None:
    with socket.create_connection(("127.0.0.1", served.port)) as connection:
        connection.settimeout(20)
        head = f"PUT /{bucket}/k HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
        connection.sendall(head.encode())
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 403 ")


def test_a_wrong_trailer_keeps_the_old_object(served: Served, s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"old", ACL="public-read-write")
    s3.put_bucket_acl(Bucket=bucket, ACL="public-read-write")
    framed = b"3\r\nnew\r\n0\r\nx-amz-checksum-crc32:%s\r\n\r\n"
    headers = {
        "x-amz-content-sha256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER",
        "x-amz-decoded-content-length": "3",
        "x-amz-trailer": "x-amz-checksum-crc32",
    }
    status, _, answer = ask(served, "PUT", f"/{bucket}/k", headers, framed % b"AAAAAA==")
    assert (status, b"BadDigest" in answer) == (400, True)
    longer = {**headers, "x-amz-decoded-content-length": "2"}
    status, _, answer = ask(served, "PUT", f"/{bucket}/k", longer, framed % b"dCMOvA==")
    assert (status, b"IncompleteBody" in answer) == (400, True)
    assert body(s3.get_object(Bucket=bucket, Key="k")) == b"old"
    for name in ("x-amz-content-sha256", "content-encoding"):
        alone = {key: value for key, value in headers.items() if key != "x-amz-content-sha256"}
        alone[name] = {"content-encoding": "aws-chunked"}.get(name, headers["x-amz-content-sha256"])
        status, _, answer = ask(served, "PUT", f"/{bucket}/k", alone, framed % crc32(b"new"))
        assert status == 200, answer
        assert body(s3.get_object(Bucket=bucket, Key="k")) == b"new"
    on_a_setting = ask(served, "PUT", f"/{bucket}?acl", headers, framed % crc32(b"new"))
    assert on_a_setting[0] in (400, 403)


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


def test_what_an_aws_chunked_body_lacks_is_said(served: Served, s3: Any, bucket: str) -> None:
    s3.put_bucket_acl(Bucket=bucket, ACL="public-read-write")
    for headers in (
        {"content-encoding": "aws-chunked"},
        {"x-amz-content-sha256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER"},
    ):
        status, _, answer = ask(served, "PUT", f"/{bucket}/k", headers, b"data")
        assert (status, b"x-amz-decoded-content-length" in answer) == (411, True), answer


def test_metadata_without_a_name_is_refused(served: Served, s3: Any, bucket: str) -> None:
    s3.put_bucket_acl(Bucket=bucket, ACL="public-read-write")
    status, _, answer = ask(served, "PUT", f"/{bucket}/k", {"x-amz-meta-": "value"}, b"data")
    assert (status, b"<Code>InvalidArgument</Code>" in answer) == (400, True), answer


@pytest.mark.parametrize(
    ("framing", "sent"),
    [
        ("Content-Length: 50", b"hello"),
        ("Transfer-Encoding: chunked", b"zz\r\nhello\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked", b"5\r\nhel"),
        ("Transfer-Encoding: chunked", b"F" * 40_000),
    ],
)
def test_a_body_that_does_not_come_as_said_is_refused_as_all_is(
    served: Served, s3: Any, bucket: str, framing: str, sent: bytes
) -> None:
    s3.put_bucket_acl(Bucket=bucket, ACL="public-read-write")
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as connection:
        connection.sendall(f"PUT /{bucket}/k HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n".encode() + sent)
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, document = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert {b"connection: close", b"content-type: application/xml"} <= {*head.lower().split(b"\r\n")}
    assert b"<Code>IncompleteBody</Code>" in document
    assert b"<RequestId>" in document
    with refused("404", 404):
        s3.head_object(Bucket=bucket, Key="k")


def crc32(data: bytes) -> bytes:
    return base64.b64encode(zlib.crc32(data).to_bytes(4))


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


def test_unknown_keys_and_wrong_secrets(served: Served, bucket: str) -> None:
    unknown = replace(served, user=replace(served.user, key_id="AKIAUNKNOWN"))
    with refused("InvalidAccessKeyId", 403):
        unknown.client().list_buckets()
    wrong = replace(served, user=replace(served.user, secret="wrong"))
    with refused("SignatureDoesNotMatch", 403):
        wrong.client().list_buckets()


def test_errors_name_what_they_are_about(served: Served, s3: Any) -> None:
    status, headers, answer = ask(served, "GET", "/no-such-bucket/k%20ey")
    assert status == 404
    assert b"<Code>NoSuchBucket</Code>" in answer
    assert headers["x-amz-request-id"].encode() in answer
    assert ask(served, "GET", f"/{quote('a/../b')}")[0] in (403, 404)


def test_a_client_that_goes_in_the_middle_lets_go_of_the_object(served: Served, s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=bytes(32 * MIB))
    url = s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "k"}, ExpiresIn=60)
    parts = urlsplit(url)
    with socket.create_connection(("127.0.0.1", served.port)) as connection:
        asked = f"GET {parts.path}?{parts.query} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n"
        connection.sendall(asked.encode())
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")
    s3.delete_object(Bucket=bucket, Key="k")
    served.run(orphans_are_gone, served.drive)


async def orphans_are_gone(drive: Drive) -> None:
    """An inode that is held open outlives its name."""
    with trio.fail_after(20):
        while drive.ledger.namespace.orphans():
            drive.put_off.delete_unused()
            await trio.sleep(0.01)


@pytest.mark.parametrize("cut", [0, 1000])
def test_a_put_that_is_cut_in_its_middle_keeps_the_old_object(
    served: Served, s3: Any, bucket: str, cut: int
) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"old")
    url = s3.generate_presigned_url("put_object", Params={"Bucket": bucket, "Key": "k"}, ExpiresIn=60)
    parts = urlsplit(url)
    with socket.create_connection(("127.0.0.1", served.port)) as connection:
        head = (
            f"PUT {parts.path}?{parts.query} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Length: 5000\r\n\r\n"
        )
        connection.sendall(head.encode() + bytes(cut))
    assert body(s3.get_object(Bucket=bucket, Key="k")) == b"old"
    assert [each["Key"] for each in s3.list_objects_v2(Bucket=bucket)["Contents"]] == ["k"]


def test_headers_that_an_answer_is_to_have(served: Served, s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"data")
    wanted = {"ResponseContentDisposition": " attachment; filename=é ", "ResponseContentType": "x/y"}
    url = s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "k", **wanted})
    status, headers, _ = ask(served, "GET", url)
    assert (status, headers["content-type"]) == (200, "x/y")
    assert headers["content-disposition"].startswith("attachment")
    wanted = {"ResponseContentType": "x\r\nset-cookie: y"}
    url = s3.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "k", **wanted})
    assert ask(served, "GET", url)[0] == 400


def test_behind_a_proxy_the_host_that_clients_know_is_what_they_sign(tmp_path: Path) -> None:
    with serving(tmp_path, Settings(REGION, external="s3.example.com")) as served:
        asked = AWSRequest("GET", "http://s3.example.com/")
        credentials = Credentials(served.user.key_id, served.user.secret)
        S3SigV4QueryAuth(credentials, "s3", REGION, expires=60).add_auth(asked)
        assert ask(served, "GET", asked.url)[0] == 200
        assert ask(served, "GET", asked.url, {"host": "s3.example.com"})[0] == 200
        assert ask(served, "GET", asked.url, {"host": "bucket.s3.example.com"})[0] == 403


def test_a_key_with_a_policy_may_what_that_allows(served: Served, s3: Any, bucket: str) -> None:
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    version = s3.put_object(Bucket=bucket, Key="open/k", Body=b"data")["VersionId"]
    s3.put_object(Bucket=bucket, Key="closed/k", Body=b"data")
    actions = ["s3:GetObject", "s3:PutObject"]
    allowed = {"Effect": "Allow", "Action": actions, "Resource": f"arn:aws:s3:::{bucket}/open/*"}
    document = json.dumps({"Statement": [allowed]}).encode()
    key = served.run(served.keys.add, "user", "restricted", document)
    restricted = replace(served, user=key).client()
    assert body(restricted.get_object(Bucket=bucket, Key="open/k")) == b"data"
    restricted.put_object(Bucket=bucket, Key="open/new", Body=b"data")
    restricted.copy_object(Bucket=bucket, Key="open/copy", CopySource=f"{bucket}/open/k")
    versioned = {"Bucket": bucket, "Key": "open/k", "VersionId": version}
    for call, arguments in (
        (restricted.get_object, {"Bucket": bucket, "Key": "closed/k"}),
        (restricted.get_object, versioned),
        (restricted.head_object, versioned),
        (restricted.put_object, {"Bucket": bucket, "Key": "closed/k", "Body": b""}),
        (restricted.put_object, {"Bucket": bucket, "Key": "open/k", "Body": b"", "ACL": "public-read"}),
        (restricted.copy_object, {"Bucket": bucket, "Key": "open/k", "CopySource": f"{bucket}/closed/k"}),
        (restricted.delete_object, {"Bucket": bucket, "Key": "open/k"}),
        (restricted.list_objects_v2, {"Bucket": bucket}),
        (restricted.delete_bucket, {"Bucket": bucket}),
        (restricted.put_bucket_policy, {"Bucket": bucket, "Policy": document.decode()}),
        (restricted.create_bucket, {"Bucket": "another-bucket"}),
        (restricted.list_buckets, {}),
    ):
        with pytest.raises(ClientError) as caught:
            call(**arguments)
        assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403, (call, arguments)


def policy_of(effect: str, bucket: str, principal: Any = "*") -> str:
    statement = {"Effect": effect, "Principal": principal, "Action": "s3:*"}
    statement["Resource"] = [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]
    return json.dumps({"Statement": [statement]})


def test_a_policy_locks_no_owner_out_for_good(served: Served, s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"data")
    denied = policy_of("Deny", bucket)
    s3.put_bucket_policy(Bucket=bucket, Policy=denied)
    with refused("AccessDenied", 403):
        s3.get_object(Bucket=bucket, Key="k")
    with refused("AccessDenied", 403):
        served.client("other").delete_bucket_policy(Bucket=bucket)
    assert s3.get_bucket_policy(Bucket=bucket)["Policy"] == denied
    s3.put_bucket_policy(Bucket=bucket, Policy=denied)
    s3.delete_bucket_policy(Bucket=bucket)
    assert body(s3.get_object(Bucket=bucket, Key="k")) == b"data"


def test_a_bucket_that_the_mount_renamed_has_no_policy_of_the_old_name(
    served: Served, s3: Any, bucket: str
) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"data")
    s3.put_bucket_policy(Bucket=bucket, Policy=policy_of("Allow", bucket))
    new = f"{bucket}-new"
    served.run(served.drive.rename, 1, bucket.encode(), 1, new.encode())
    assert body(s3.get_object(Bucket=new, Key="k")) == b"data"
    assert not s3.get_bucket_policy_status(Bucket=new)["PolicyStatus"]["IsPublic"]
    with refused("AccessDenied", 403):
        served.client("other").get_object(Bucket=new, Key="k")
    assert s3.get_bucket_policy(Bucket=new)["Policy"] == policy_of("Allow", bucket)
    s3.put_bucket_policy(Bucket=new, Policy=policy_of("Allow", new))
    assert body(served.client("other").get_object(Bucket=new, Key="k")) == b"data"


def test_a_policy_that_cannot_be_read_denies_all_but_to_set_another(
    served: Served, s3: Any, bucket: str
) -> None:
    layer = served.run(open_objects, served.drive)
    served.run(layer.set_setting, bucket, "policy", b"{}")
    with refused("AccessDenied", 403):
        s3.list_objects_v2(Bucket=bucket)
    s3.delete_bucket_policy(Bucket=bucket)
    assert s3.list_objects_v2(Bucket=bucket)["KeyCount"] == 0


@pytest.mark.parametrize("query", ["partNumber=1", "versionId=abc", "foo=bar"])
def test_a_query_that_is_not_known_changes_nothing(served: Served, s3: Any, bucket: str, query: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Body=b"old", ACL="public-read-write")
    s3.put_bucket_acl(Bucket=bucket, ACL="public-read-write")
    for headers in ({}, {"x-amz-copy-source": f"{bucket}/k", "x-amz-metadata-directive": "REPLACE"}):
        status, _, answer = ask(served, "PUT", f"/{bucket}/k?{query}", headers, b"" if headers else b"new")
        assert (status, b"<Code>InvalidArgument</Code>" in answer) == (400, True), answer
    assert body(s3.get_object(Bucket=bucket, Key="k")) == b"old"
