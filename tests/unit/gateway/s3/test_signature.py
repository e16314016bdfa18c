"""Signatures: AWS's examples, whatever botocore signs, and all that must be refused."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.s3 import signature
from gateway.s3.objects import S3Error
from gateway.s3.request import Request
from tests.unit.gateway.s3.signing import ACCESS_KEY, SECRET, as_seen, now, presigned, signed

EXAMPLE = "https://examplebucket.s3.amazonaws.com"
EXAMPLE_TIME = datetime(2013, 5, 24, tzinfo=UTC)
EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def check(request: Request, at: datetime | None = None, secret: str = SECRET) -> signature.Verified:
    claim = signature.claim_of(request)
    assert claim is not None
    assert claim.access_key == ACCESS_KEY
    return signature.verify(claim, request, secret, at or now())


def refused(request: Request, at: datetime | None = None, secret: str = SECRET) -> S3Error:
    with pytest.raises(S3Error) as caught:
        check(request, at, secret)
    return caught.value


def example(method: str, target: str, names: str, sign: str, **headers: str) -> Request:
    """A request of "Signature Calculations for the Authorization Header" (AWS)."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    given["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/20130524/us-east-1/s3/aws4_request,"
        f"SignedHeaders={names},Signature={sign}"
    )
    return as_seen(method, EXAMPLE + target, {"x-amz-date": "20130524T000000Z", **given})


EXAMPLES = [
    example(
        "GET",
        "/test.txt",
        "host;range;x-amz-content-sha256;x-amz-date",
        "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
        range="bytes=0-9",
        x_amz_content_sha256=EMPTY,
    ),
    example(
        "PUT",
        "/test%24file.text",
        "date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class",
        "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
        date="Fri, 24 May 2013 00:00:00 GMT",
        x_amz_storage_class="REDUCED_REDUNDANCY",
        x_amz_content_sha256="44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072",
    ),
    example(
        "GET",
        "/?lifecycle",
        "host;x-amz-content-sha256;x-amz-date",
        "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
        x_amz_content_sha256=EMPTY,
    ),
    example(
        "GET",
        "/?max-keys=2&prefix=J",
        "host;x-amz-content-sha256;x-amz-date",
        "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
        x_amz_content_sha256=EMPTY,
    ),
    as_seen(
        "GET",
        f"{EXAMPLE}/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524"
        "%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders="
        "host&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404",
        {},
    ),
]


@pytest.mark.parametrize("request_", EXAMPLES)
def test_the_examples_of_aws(request_: Request) -> None:
    check(request_, EXAMPLE_TIME)
    assert refused(request_, EXAMPLE_TIME, "another").code == "SignatureDoesNotMatch"


URL = "http://127.0.0.1:9000"
TARGETS = [
    "/",
    "/bucket/a b",
    "/bucket/a+b",
    "/bucket/a%b",
    "/bucket/é/U+E000\ue000/\U00010000",
    "/bucket//a//b/",
    "/bucket/../a/./b",
    "/bucket/~a-b_c.d*'()!$&,;=:@",
]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("query", ["", "acl", "acl=", "prefix=a%20b%2Bc&list-type=2", "a-b=1&a=2&A=3&a=1"])
def test_what_botocore_signs(target: str, query: str) -> None:
    url = f"{URL}{quote(target, safe='/~')}?{query}".rstrip("?")
    headers = {"X-Amz-Meta-A": "  two   spaces ", "Content-Type": "text/plain"}
    check(signed("PUT", url, headers, b"body"))
    check(presigned("GET", url))


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40))
def test_any_key_and_any_prefix(key: str) -> None:
    encoded = quote(key, safe="")
    check(signed("PUT", f"{URL}/bucket/{quote(key, safe='/~')}?prefix={encoded}"))
    check(presigned("GET", f"{URL}/bucket/{quote(key, safe='/~')}?prefix={encoded}"))


def test_a_plus_in_the_path_is_a_plus_and_in_the_query_a_space() -> None:
    request = as_seen("GET", f"{URL}/bucket/a+b%2Bc%20d?prefix=a+b%2Bc", {})
    assert request.path == b"/bucket/a+b+c d"
    assert request.query == {"prefix": "a b+c"}
    signed_as = signed("GET", f"{URL}/bucket/a%2Bb%2Bc%20d?prefix=a%20b%2Bc")
    check(replace(request, headers=signed_as.headers))


def test_two_headers_of_one_name_are_one() -> None:
    request = Request.of("GET", b"/", b"", [(b"x-amz-meta-a", b"1"), (b"x-amz-meta-a", b"2")])
    assert request.header("x-amz-meta-a") == "1,2"


@pytest.mark.parametrize(
    "change",
    [
        lambda one: replace(one, method="DELETE"),
        lambda one: replace(one, path=b"/bucket/other"),
        lambda one: replace(one, path=b"/bucket//key"),
        lambda one: replace(one, parameters=(*one.parameters, (b"acl", b""))),
        lambda one: replace(one, headers={**one.headers, "host": "other"}),
        lambda one: replace(
            one, headers={**one.headers, "x-amz-date": one.header("x-amz-date")[:-3] + "00Z"}
        ),
        lambda one: replace(one, headers={**one.headers, "x-amz-content-sha256": "UNSIGNED-PAYLOAD"}),
    ],
)
def test_a_changed_request_is_refused(change: object) -> None:
    assert callable(change)
    request = signed("PUT", f"{URL}/bucket/key", {"X-Amz-Date": "20130524T000001Z"})
    changed = change(request)
    if changed != request:
        error = refused(changed)
        assert error.code == "SignatureDoesNotMatch"
        assert error.details["CanonicalRequest"].startswith(changed.method)
        assert SECRET not in str(error.details)


@pytest.mark.parametrize("make", [signed, presigned])
def test_an_unsigned_amazon_header_is_refused(make: object) -> None:
    assert callable(make)
    request = make("PUT", f"{URL}/bucket/key")
    error = refused(replace(request, headers={**request.headers, "x-amz-acl": "public-read"}))
    assert (error.code, error.details) == ("AccessDenied", {"HeadersNotSigned": "x-amz-acl"})


def test_a_host_that_is_not_signed_is_refused() -> None:
    request = signed("PUT", f"{URL}/bucket/key")
    header = request.header("authorization").replace("host;", "")
    error = refused(replace(request, headers={**request.headers, "authorization": header}))
    assert error.details == {"HeadersNotSigned": "host"}


@pytest.mark.parametrize("minutes", [-16, 16])
def test_a_clock_that_is_off_is_told_both_times(minutes: int) -> None:
    request = signed("GET", f"{URL}/")
    error = refused(request, now() + timedelta(minutes=minutes))
    assert error.code == "RequestTimeTooSkewed"
    assert error.details.keys() == {"RequestTime", "ServerTime", "MaxAllowedSkewMilliseconds"}
    assert request.header("x-amz-date") in error.message
    check(request, now() + timedelta(minutes=minutes * 14 / 16))


def test_a_presigned_one_is_good_until_its_own_time_is_over() -> None:
    request = presigned("GET", f"{URL}/bucket/key", expires=3600)
    check(request, now() + timedelta(minutes=59))
    assert refused(request, now() + timedelta(minutes=61)).message == "Request has expired"
    assert refused(request, now() - timedelta(minutes=16)).message == "Request is not yet valid"
    assert refused(request, now() + timedelta(minutes=61), "another").code == "SignatureDoesNotMatch"


@pytest.mark.parametrize("expires", [0, -1, 604801])
def test_a_presigned_one_is_never_good_for_more_than_a_week(expires: int) -> None:
    error = refused(presigned("GET", f"{URL}/bucket/key", expires=expires))
    assert error.code == "AccessDenied"
    assert "604800" in error.message
    check(presigned("GET", f"{URL}/bucket/key", expires=604800))


CLAIM = f"Credential={ACCESS_KEY}/20130524/us-east-1/s3/aws4_request"


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ("", "AccessDenied"),
        ("nonsense", "InvalidArgument"),
        ("AWS HAHAHA", "InvalidArgument"),
        ("AWS key:signature", "NotImplemented"),
        ("AWS4-HMAC-SHA256", "AuthorizationHeaderMalformed"),
        ("AWS4-HMAC-SHA256 Credential=a/b", "AuthorizationHeaderMalformed"),
        (f"AWS4-HMAC-SHA256 {CLAIM}, SignedHeaders=host", "AuthorizationHeaderMalformed"),
        (
            "AWS4-HMAC-SHA256 Credential=a/20130524/us/sts/aws4_request,SignedHeaders=host,Signature=0",
            "AuthorizationHeaderMalformed",
        ),
        (f"AWS4-HMAC-SHA256 {CLAIM}, SignedHeaders=host, Signature=é", "SignatureDoesNotMatch"),
    ],
)
def test_headers_that_are_none(header: str, code: str) -> None:
    headers = {"authorization": header, "x-amz-date": "20130524T000000Z", "x-amz-content-sha256": EMPTY}
    request = as_seen("GET", f"{URL}/", headers)
    claim = CLAIM in header and "Signature=" in header
    if claim:
        headers["authorization"] = header.replace("=host,", "=host;x-amz-date;x-amz-content-sha256,")
        request = as_seen("GET", f"{URL}/", headers)
    assert refused(request, EXAMPLE_TIME).code == code


def test_both_ways_at_once_are_refused() -> None:
    request = presigned("GET", f"{URL}/bucket/key")
    both = replace(request, headers={**request.headers, "authorization": "AWS4-HMAC-SHA256 "})
    assert refused(both).code == "InvalidArgument"


def test_a_request_without_either_is_anonymous() -> None:
    assert signature.claim_of(as_seen("GET", f"{URL}/bucket/key", {})) is None


def test_a_payload_that_is_no_hash_is_refused() -> None:
    request = signed("GET", f"{URL}/")
    headers = {**request.headers, "x-amz-content-sha256": "abc"}
    assert refused(replace(request, headers=headers)).code == "InvalidArgument"
    headers.pop("x-amz-content-sha256")
    assert refused(replace(request, headers=headers)).code == "InvalidRequest"


def test_a_date_header_does_for_the_stamp() -> None:
    request = signed("GET", f"{URL}/")
    headers = dict(request.headers)
    stamp = headers.pop("x-amz-date")
    at = datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    headers["date"] = at.strftime("%a, %d %b %Y %H:%M:%S GMT")
    claim = signature.claim_of(replace(request, headers=headers))
    assert claim is not None
    assert claim.stamp == stamp
    headers["date"] = "yesterday"
    assert refused(replace(request, headers=headers)).code == "AccessDenied"


@pytest.mark.parametrize("second", ["", "Bearer token", "AWS4-HMAC-SHA256 Credential=a", "the same"])
@pytest.mark.parametrize("order", [1, -1])
def test_two_authorizations_are_refused(second: str, order: int) -> None:
    request = signed("GET", f"{EXAMPLE}/")
    good = request.header("authorization")
    both = [good, good if second == "the same" else second][::order]
    others = [(name, value) for name, value in request.headers.items() if name != "authorization"]
    named = [*others, *(("authorization", value) for value in both)]
    twice = Request.of("GET", b"/", b"", [(name.encode(), value.encode()) for name, value in named])
    assert refused(twice).code in ("AuthorizationHeaderMalformed", "InvalidArgument")
