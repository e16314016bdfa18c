"""Requests that no client would send, over a real socket: each has an answer, and none is a fault."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.gateway.s3.doors import ask, policy_of, refused, status_of
from tests.unit.gateway.s3.served import Served

BUCKET = "any-request"
UPLOAD = "UPLOAD"

_ASKED = """
GET ?prefix={}&delimiter={}&marker={}&max-keys={}&encoding-type={}
GET ?list-type=2&prefix={}&delimiter={}&start-after={}
GET ?list-type={}&continuation-token={}&fetch-owner={}
GET ?versions&prefix={}&key-marker={}&version-id-marker={}
GET ?versions&key-marker=k&version-id-marker={}
GET ?uploads&prefix={}&delimiter={}&key-marker={}&upload-id-marker={}&max-uploads={}
POST ?delete
GET /{}
GET /k?versionId={}
GET /k?partNumber={}
GET /k?response-content-type={}&response-expires={}
GET /k?acl&versionId={}
GET /k?attributes&versionId={}
GET /k?tagging&versionId={}
GET /k?uploadId={}&part-number-marker={}&max-parts={}
HEAD /k?versionId={}
HEAD /k?partNumber={}
PUT /{}
PUT /k
PUT /k?acl&versionId={}
PUT /k?tagging&versionId={}
PUT /k?uploadId={}&partNumber={}
POST /k?uploads
POST /k?uploadId={}
DELETE /{}
DELETE /k?versionId={}
DELETE /k?tagging&versionId={}
"""
_VALUES = """
%ff %00 %0a a%ff %ed%a0%80 %F0%9F%98%80 ..%2f.. -1 0 1 2 1e3 %D9%A3 null = %26 aHR0cA== Mf8= url
"""
_HEADERS = """
authorization content-encoding content-md5 content-type expires if-match if-modified-since if-none-match
if-unmodified-since range referer x-amz-acl x-amz-checksum-algorithm x-amz-checksum-crc32 x-amz-checksum-mode
x-amz-checksum-type x-amz-content-sha256 x-amz-copy-source x-amz-copy-source-range x-amz-date
x-amz-decoded-content-length x-amz-expected-bucket-owner x-amz-grant-read x-amz-if-match-last-modified-time
x-amz-if-match-size x-amz-max-parts x-amz-meta-a x-amz-metadata-directive x-amz-mp-object-size
x-amz-object-attributes x-amz-object-ownership x-amz-part-number-marker x-amz-sdk-checksum-algorithm
x-amz-security-token x-amz-storage-class x-amz-tagging x-amz-tagging-directive x-amz-trailer
"""
_SAID = """
\xff \xc3\xa4 * , " W/"a" a=b a=b&a=c a=\xff %ff id=\xff bytes=0- bytes=- bytes=0-1 bytes=\xd9\xa3- COPY
REPLACE COMPOSITE FULL_OBJECT SHA256 aws-chunked ObjectParts STREAMING-UNSIGNED-PAYLOAD-TRAILER
x-amz-checksum-crc32 public-read BucketOwnerEnforced 1 any-request/k any-request/k?versionId=%ff
/any-request/%ff
"""
_LONG_SAID = [
    "Thu, 01 Jan 0001 00:00:00 -2359",
    "Fri, 31 Dec 9999 23:59:59 -2359",
    "AWS4-HMAC-SHA256 Credential=a/20260101/\xff/s3/aws4_request, SignedHeaders=host, Signature=\xff",
]
_BODIES = [
    b"",
    b"data",
    b"3\r\nnew\r\n0\r\n\r\n",
    b"<Delete/>",
    b"<Tagging><TagSet/></Tagging>",
    b"<Delete><Object><Key>k</Key><VersionId>\xc3\xbf</VersionId></Object></Delete>",
    b"<Delete><Object><Key>k</Key><LastModifiedTime>0001-01-01T00:00:00+14:00</LastModifiedTime></Object>"
    b"</Delete>",
    b"<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>\xc3\xbf</ETag></Part>"
    b"</CompleteMultipartUpload>",
]
VALUES = st.sampled_from([*_VALUES.split(), "", "9" * 400, "x" * 2000, UPLOAD, UPLOAD])
HEADERS = st.sampled_from(_HEADERS.split())
SAID = st.sampled_from([*_SAID.split(), *_LONG_SAID, "", "9" * 400])
BODIES = st.sampled_from(_BODIES)


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, str]:
    """Method, and what comes behind the bucket: something odd for each pair of braces."""
    method, _, target = draw(st.sampled_from(_ASKED.strip().splitlines())).partition(" ")
    return method, target.format(*(draw(VALUES) for _ in range(target.count("{}"))))


@pytest.fixture(scope="module")
def upload(served: Served) -> str:
    """Of a bucket with versions, tags and a part. Its policy lets everybody do all, and stays."""
    s3 = served.client()
    s3.create_bucket(Bucket=BUCKET)
    s3.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    s3.put_bucket_policy(Bucket=BUCKET, Policy=policy_of("Allow", BUCKET))
    for key in ("k", "k", "ä"):
        s3.put_object(Bucket=BUCKET, Key=key, Body=b"data", Tagging="a=b")
    found: str = s3.create_multipart_upload(Bucket=BUCKET, Key="k")["UploadId"]
    s3.upload_part(Bucket=BUCKET, Key="k", UploadId=found, PartNumber=1, Body=b"part")
    return found


@pytest.mark.usefixtures("upload")
@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(requests(), st.dictionaries(HEADERS, SAID, max_size=3), BODIES)
def test_every_request_has_an_answer_that_is_no_fault(
    served: Served,
    upload: str,
    caplog: pytest.LogCaptureFixture,
    asked: tuple[str, str],
    headers: dict[str, str],
    body: bytes,
) -> None:
    method, target = asked
    sent = body if method in ("PUT", "POST") else b""
    status, _, answer = ask(served, method, f"/{BUCKET}{target}".replace(UPLOAD, upload), headers, sent)
    assert status not in (500, 503), answer
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.fixture
def public(s3: Any, bucket: str) -> str:
    """A bucket with two versions of `k`, in which everybody may do all."""
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    s3.put_bucket_policy(Bucket=bucket, Policy=policy_of("Allow", bucket))
    for data in (b"1", b"2"):
        s3.put_object(Bucket=bucket, Key="k", Body=data)
    return bucket


@pytest.mark.parametrize(
    ("method", "target", "headers"),
    [
        ("GET", "/k?versionId=%ff", {}),
        ("HEAD", "/k?versionId=a%ed%a0%80", {}),
        ("DELETE", "/k?versionId=%00", {}),
        ("DELETE", "/none?versionId=1%0aa:b", {}),
        ("PUT", "/new", {"x-amz-meta-a": "\xe4"}),
        ("PUT", "/new", {"content-type": "\xe4"}),
        ("PUT", "/new", {"x-amz-tagging": "a=\xe4"}),
        ("POST", "/new?uploads", {"x-amz-meta-a": "\xe4"}),
        ("PUT", "/new", {"x-amz-meta-a": "\xe4", "x-amz-copy-source": "{bucket}/k"}),
    ],
)
def test_what_is_no_text_is_refused(
    served: Served, public: str, method: str, target: str, headers: dict[str, str]
) -> None:
    sent = {name: value.format(bucket=public) for name, value in headers.items()}
    status, _, answer = ask(served, method, f"/{public}{target}", sent)
    assert (status, b"<Code>InvalidArgument</Code>" in answer) == (400, method != "HEAD")


def test_metadata_are_the_text_that_was_sent(served: Served, public: str) -> None:
    said = {"x-amz-meta-a": "\xc3\xa4", "x-amz-tagging": "a=\xc3\xa4", "content-type": "x/\xc3\xa4"}
    assert ask(served, "PUT", f"/{public}/new", said)[0] == 200
    _, headers, _ = ask(served, "GET", f"/{public}/new")
    assert (headers["x-amz-meta-a"], headers["content-type"]) == (said["x-amz-meta-a"], said["content-type"])


def test_a_marker_that_is_no_text_is_of_no_version(served: Served, public: str) -> None:
    status, _, answer = ask(served, "GET", f"/{public}?versions&key-marker=k&version-id-marker=%ff")
    assert (status, answer.count(b"<Key>k</Key>")) == (200, 2)


@pytest.mark.parametrize("location", ["eu-west-1", "EU", "zone:place"])
def test_the_location_of_a_bucket_is_told(s3: Any, bucket: str, location: str) -> None:
    name = f"{bucket}-placed"
    s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": location})
    assert s3.get_bucket_location(Bucket=name)["LocationConstraint"] == location
    assert s3.head_bucket(Bucket=name)["BucketRegion"] == location


@pytest.mark.parametrize("location", ["a\nx-amz-b: c", "a b", "ä", "\r", "x" * 65])
def test_a_location_that_no_header_can_say_is_refused(s3: Any, bucket: str, location: str) -> None:
    name = f"{bucket}-placed"
    with refused("InvalidLocationConstraint", 400):
        s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": location})
    assert status_of(s3.head_bucket, Bucket=name) == 404
