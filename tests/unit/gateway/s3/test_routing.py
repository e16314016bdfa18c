"""From a request to bucket, key and operation."""

from __future__ import annotations

import pytest

from gateway.s3.call import Settings
from gateway.s3.objects import S3Error
from gateway.s3.request import Request
from gateway.s3.routing import operation_of, place_of

SETTINGS = Settings(domains=("localhost", "s3.example.com"))


def request(method: str, target: str, **headers: str) -> Request:
    path, _, query = target.partition("?")
    named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request.of(method, path.encode(), query.encode(), named)


@pytest.mark.parametrize(
    ("host", "target", "place"),
    [
        ("127.0.0.1:9000", "/", ("", b"")),
        ("127.0.0.1:9000", "/b", ("b", b"")),
        ("127.0.0.1:9000", "/b/", ("b", b"")),
        ("127.0.0.1:9000", "/b/a/b", ("b", b"a/b")),
        ("127.0.0.1:9000", "/b//a//", ("b", b"/a//")),
        ("127.0.0.1:9000", "/b/a%2Fb%20c+d", ("b", b"a/b c+d")),
        ("127.0.0.1:9000", "/b/../c", ("b", b"../c")),
        ("127.0.0.1:9000", "/b/%FF", ("b", b"\xff")),
        ("b.localhost:9000", "/a/b", ("b", b"a/b")),
        ("B.LocalHost", "/", ("b", b"")),
        ("a.b.s3.example.com", "/k", ("a.b", b"k")),
        ("s3.example.com", "/b/k", ("b", b"k")),
        ("[::1]:9000", "/b/k", ("b", b"k")),
        ("evil.com", "/b/k", ("b", b"k")),
    ],
)
def test_bucket_and_key_by_path_and_by_host(host: str, target: str, place: tuple[str, bytes]) -> None:
    assert place_of(request("GET", target, host=host), SETTINGS) == place


def test_a_whole_address_as_the_target_is_refused() -> None:
    with pytest.raises(S3Error, match="InvalidURI"):
        place_of(request("GET", "http://127.0.0.1/b/k"), SETTINGS)


@pytest.mark.parametrize(
    ("method", "target", "name"),
    [
        ("GET", "/", "list_buckets"),
        ("GET", "/b", "list_objects"),
        ("GET", "/b?list-type=2&prefix=versions", "list_objects_v2"),
        ("GET", "/b?versions", "list_object_versions"),
        ("GET", "/b?versions=", "list_object_versions"),
        ("GET", "/b?uploads&prefix=a", "list_uploads"),
        ("PUT", "/b?acl", "put_acl"),
        ("PUT", "/b/k?acl=", "put_object_acl"),
        ("PUT", "/b", "create_bucket"),
        ("POST", "/b?delete", "delete_objects"),
        ("PUT", "/b/k", "put_object"),
        ("PUT", "/b/k?partNumber=1&uploadId=u", "put_part"),
        ("GET", "/b/k?partNumber=1", "get_object"),
        ("GET", "/b/k?versionId=v", "get_object"),
        ("POST", "/b/k?uploads", "create_upload"),
        ("POST", "/b/k?uploadId=u", "complete_upload"),
        ("DELETE", "/b/k?uploadId=u", "abort_upload"),
        ("GET", "/b/k?x-id=GetObject", "get_object"),
        ("PUT", "/b/k?x-id=PutObject", "put_object"),
        ("PUT", "/b/k?X-Amz-Algorithm=a&X-Amz-Signature=b&x-amz-acl=private", "put_object"),
        ("DELETE", "/b/k?versionId=v&x-id=DeleteObject", "delete_object"),
        ("DELETE", "/b?x-id=DeleteBucket", "delete_bucket"),
    ],
)
def test_operations(method: str, target: str, name: str) -> None:
    asked = request(method, target)
    bucket, key = place_of(asked, SETTINGS)
    assert operation_of(asked, bucket, key).__name__ == name


def test_a_source_makes_a_copy() -> None:
    copy = {"x_amz_copy_source": "/b/k"}
    assert operation_of(request("PUT", "/b/c", **copy), "b", b"c").__name__ == "copy_object"
    part = request("PUT", "/b/c?uploadId=u&partNumber=1", **copy)
    assert operation_of(part, "b", b"c").__name__ == "copy_part"


@pytest.mark.parametrize(
    ("method", "target", "code"),
    [
        ("PUT", "/", "MethodNotAllowed"),
        ("PATCH", "/b", "MethodNotAllowed"),
        ("POST", "/b", "NotImplemented"),
        ("POST", "/b/k?select&select-type=2", "NotImplemented"),
        ("POST", "/b/k?restore", "NotImplemented"),
        ("GET", "/b?inventory", "NotImplemented"),
        ("GET", "/b?list-type=3", "InvalidArgument"),
        ("OPTIONS", "/b/k", "BadRequest"),
        ("PUT", "/b/k?partNumber=1", "InvalidArgument"),
        ("PUT", "/b/k?versionId=v", "InvalidArgument"),
        ("PUT", "/b/k?append&position=0", "InvalidArgument"),
        ("PUT", "/b/k?annotation&annotationName=a", "InvalidArgument"),
        ("PUT", "/b/k?policy", "InvalidArgument"),
        ("PUT", "/b?partNumber=1", "InvalidArgument"),
        ("DELETE", "/b/k?annotation&annotationName=a", "InvalidArgument"),
        ("DELETE", "/b/k?partNumber=1", "InvalidArgument"),
        ("DELETE", "/b?versionId=v", "InvalidArgument"),
        ("PUT", "/b/k?renameObject", "NotImplemented"),
        ("PUT", "/b/k?AWSAccessKeyId=a&Signature=s&Expires=1", "NotImplemented"),
    ],
)
def test_what_there_is_not(method: str, target: str, code: str) -> None:
    asked = request(method, target)
    bucket, key = place_of(asked, SETTINGS)
    with pytest.raises(S3Error) as caught:
        operation_of(asked, bucket, key)
    assert caught.value.code == code


def test_more_parameters_than_there_may_be_are_refused() -> None:
    with pytest.raises(ValueError, match="too many"):
        request("GET", "/?" + "&".join(f"a{number}" for number in range(300)))
