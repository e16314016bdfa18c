"""Bodies of requests as no client would send them: framing, trailers, and what breaks off."""

from __future__ import annotations

import socket
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.unit.gateway.s3.doors import ask, body, crc32, refused, signed_streaming
from tests.unit.gateway.s3.served import Served


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


FRAMED = b"3\r\nnew\r\n0\r\nx-amz-checksum-crc32:%s\r\n\r\n" % crc32(b"new")
TRAILER = {"x-amz-decoded-content-length": "3", "x-amz-trailer": "x-amz-checksum-crc32"}


@pytest.mark.parametrize("said", ["0", "2", "4", "300"])
def test_a_decoded_length_that_is_another_one_stores_nothing(
    served: Served, s3: Any, bucket: str, said: str
) -> None:
    headers = {**TRAILER, "x-amz-decoded-content-length": said}
    signed = signed_streaming(served, "PUT", f"/{bucket}/k", headers)
    status, _, answer = ask(served, "PUT", f"/{bucket}/k", signed, FRAMED)
    assert (status, b"<Code>IncompleteBody</Code>" in answer) == (400, True)
    with refused("404", 404):
        s3.head_object(Bucket=bucket, Key="k")


def test_an_unsigned_body_with_trailers_needs_a_signature_of_its_head(
    served: Served, s3: Any, bucket: str
) -> None:
    stranger = replace(served, user=replace(served.user, secret="another secret"))
    wrong = signed_streaming(stranger, "PUT", f"/{bucket}/k", TRAILER)
    elsewhere = signed_streaming(served, "PUT", f"/{bucket}/other", TRAILER)
    nobody = {**TRAILER, "x-amz-content-sha256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER"}
    url = s3.generate_presigned_url("put_object", Params={"Bucket": bucket, "Key": "k"})
    for target, headers in (
        (f"/{bucket}/k", wrong),
        (f"/{bucket}/k", elsewhere),
        (f"/{bucket}/k", nobody),
        (url, nobody),
        (f"{url[:-1]}{'1' if url[-1] == '0' else '0'}", {}),
    ):
        assert ask(served, "PUT", target, headers, FRAMED)[0] == 403
    assert "Contents" not in s3.list_objects_v2(Bucket=bucket)
    right = signed_streaming(served, "PUT", f"/{bucket}/k", TRAILER)
    assert ask(served, "PUT", f"/{bucket}/k", right, FRAMED)[0] == 200
    assert body(s3.get_object(Bucket=bucket, Key="k")) == b"new"


def test_only_objects_and_parts_have_bodies_with_trailers(served: Served, s3: Any, bucket: str) -> None:
    upload = s3.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    part = f"/{bucket}/k?uploadId={upload}"
    for method, target, status in (
        ("PUT", f"/{bucket}/k", 200),
        ("PUT", f"{part}&partNumber=1", 200),
        ("POST", part, 400),
        ("POST", f"/{bucket}?delete", 400),
        ("PUT", f"/{bucket}?acl", 400),
        ("PUT", f"/{bucket}?policy", 400),
        ("PUT", f"/{bucket}/k?tagging", 400),
    ):
        signed = signed_streaming(served, method, target, TRAILER)
        assert ask(served, method, target, signed, FRAMED)[0] == status, target


def test_what_an_aws_chunked_body_lacks_is_said(served: Served, s3: Any, bucket: str) -> None:
    s3.put_bucket_acl(Bucket=bucket, ACL="public-read-write")
    for headers in (
        {"content-encoding": "aws-chunked"},
        {"x-amz-content-sha256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER"},
    ):
        status, _, answer = ask(served, "PUT", f"/{bucket}/k", headers, b"data")
        assert (status, b"x-amz-decoded-content-length" in answer) == (411, True), answer


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
