"""Objects as clients see them: boto3 over a real socket."""

from __future__ import annotations

import base64
import hashlib
import socket
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from tests.contents import STORED_KINDS, content
from tests.unit.gateway.s3.doors import ask, body, orphans_are_gone, refused
from tests.unit.gateway.s3.served import REGION, Served

MIB = 1 << 20


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


@pytest.mark.parametrize(
    ("said", "kept"),
    [("gzip", "gzip"), ("aws-chunked, gzip", "gzip"), (" br ,, gzip", "br, gzip"), ("aws-chunked", None)],
)
def test_the_coding_of_a_body_is_kept_without_its_framing(
    s3: Any, bucket: str, said: str, kept: str | None
) -> None:
    s3.put_object(Bucket=bucket, Key="k", ContentEncoding=said, ContentType="x/y")
    got = s3.head_object(Bucket=bucket, Key="k")
    assert (got.get("ContentEncoding"), got["ContentType"]) == (kept, "x/y")


def test_tags(s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="k", Tagging="a=b&c=d%20e")
    assert s3.head_object(Bucket=bucket, Key="k")["TagCount"] == 2
    s3.put_object_tagging(Bucket=bucket, Key="k", Tagging={"TagSet": [{"Key": "x", "Value": "y"}]})
    assert s3.get_object_tagging(Bucket=bucket, Key="k")["TagSet"] == [{"Key": "x", "Value": "y"}]
    s3.delete_object_tagging(Bucket=bucket, Key="k")
    assert s3.get_object_tagging(Bucket=bucket, Key="k")["TagSet"] == []


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


def test_metadata_without_a_name_is_refused(served: Served, s3: Any, bucket: str) -> None:
    s3.put_bucket_acl(Bucket=bucket, ACL="public-read-write")
    status, _, answer = ask(served, "PUT", f"/{bucket}/k", {"x-amz-meta-": "value"}, b"data")
    assert (status, b"<Code>InvalidArgument</Code>" in answer) == (400, True), answer


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


@pytest.mark.parametrize(
    "key",
    ["a b", "a+b", "a%2Bb", "%", "é", "a//b", "/a", "../a", "a/./b/../c", "~a-_.!*'()", "\ue000\U00010000"],
)
def test_a_key_is_the_path_as_it_was_sent(served: Served, s3: Any, bucket: str, key: str) -> None:
    asked = {}
    for method in ("PUT", "GET"):
        request = AWSRequest(method, f"{served.url}/{bucket}/{quote(key, safe='/~')}")
        credentials = Credentials(served.user.key_id, served.user.secret)
        S3SigV4QueryAuth(credentials, "s3", REGION, expires=60).add_auth(request)
        asked[method] = ask(served, method, request.url, data=b"data" if method == "PUT" else b"")
    assert (asked["PUT"][0], asked["GET"][::2]) == (200, (200, b"data"))
    assert [each["Key"] for each in s3.list_objects_v2(Bucket=bucket)["Contents"]] == [key]


def test_an_object_goes_without_the_folder_of_its_name(s3: Any, bucket: str) -> None:
    for key in ("foo", "foo/", "foo/bar"):
        s3.put_object(Bucket=bucket, Key=key, Body=b"" if key == "foo/" else key.encode())
    s3.delete_object(Bucket=bucket, Key="foo")
    assert [each["Key"] for each in s3.list_objects_v2(Bucket=bucket)["Contents"]] == ["foo/", "foo/bar"]
    s3.delete_object(Bucket=bucket, Key="foo/")
    assert body(s3.get_object(Bucket=bucket, Key="foo/bar")) == b"foo/bar"
