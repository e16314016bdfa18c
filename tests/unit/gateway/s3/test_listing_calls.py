"""Listings as clients see them: boto3 over a real socket, and requests that no client would send."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.gateway.s3.doors import ask
from tests.unit.gateway.s3.served import Served


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


@pytest.mark.parametrize("delimiter", ["/", " ", "%20", "ab", "é", "\x01"])
def test_any_text_is_a_delimiter(s3: Any, bucket: str, delimiter: str) -> None:
    for key in (f"x{delimiter}1", f"x{delimiter}2", "y"):
        s3.put_object(Bucket=bucket, Key=key)
    for call in (s3.list_objects, s3.list_objects_v2, s3.list_object_versions):
        rolled = call(Bucket=bucket, Delimiter=delimiter)
        assert [each["Prefix"] for each in rolled["CommonPrefixes"]] == [f"x{delimiter}"]
        assert [each["Key"] for each in rolled.get("Contents") or rolled["Versions"]] == ["y"]


@pytest.mark.parametrize("number", [1, 9, 10, 13, 31, 127])
def test_control_characters_are_listed_with_and_without_an_encoding(
    served: Served, s3: Any, bucket: str, number: int
) -> None:
    s3.put_object(Bucket=bucket, Key=f"a{chr(number)}b")
    s3.put_bucket_acl(Bucket=bucket, ACL="public-read")
    plain = ask(served, "GET", f"/{bucket}?list-type=2")[2]
    encoded = ask(served, "GET", f"/{bucket}?list-type=2&encoding-type=url")[2]
    assert f"<Key>a&#x{number:x};b</Key>".encode() in plain
    assert f"<Key>a%{number:02X}b</Key>".encode() in encoded


@pytest.mark.parametrize("most", [0, 1, 4500])
def test_as_many_keys_as_are_asked_for(s3: Any, bucket: str, most: int) -> None:
    for number in range(3):
        s3.put_object(Bucket=bucket, Key=str(number))
    found = s3.list_objects_v2(Bucket=bucket, MaxKeys=most)
    assert (found["KeyCount"], found["IsTruncated"]) == (min(most, 3), most == 1)
    assert found["MaxKeys"] == min(most, 1000)
