"""XML that clients send: the largest documents that are meant are taken, those that only cost are not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from gateway.s3 import xml_requests
from gateway.s3.objects import S3Error
from gateway.s3.xml_requests import MAX_LIST, parse

ITEM = (
    "<Object><Key>{key}</Key><VersionId>{number}</VersionId><ETag>&quot;{number}&quot;</ETag>"
    "<LastModifiedTime>2026-11-28T10:00:00Z</LastModifiedTime><Size>{number}</Size></Object>"
)


def test_a_list_of_a_thousand_long_keys_is_taken() -> None:
    keys = ['"=' * 3 + f"{number:04}" + "&amp;" * 1014 for number in range(1000)]
    items = (ITEM.format(key=key, number=number) for number, key in enumerate(keys))
    data = f'<Delete xmlns="x">{"".join(items)}</Delete>'.encode()
    assert len(data) < MAX_LIST
    found = [node.required("Key") for node in parse(data, "Delete", 8000).children("Object")]
    assert found == [key.replace("&amp;", "&") for key in keys]


def encoded(form: str) -> Callable[[str], bytes]:
    return lambda text: text.encode(form)


@pytest.mark.parametrize("encode", [encoded("utf-8"), encoded("utf-16-le"), encoded("utf-16")])
@pytest.mark.parametrize(
    "text",
    [
        f"<Delete>{'<a/>' * 20_000}</Delete>",
        f"<Delete>{'<a>' * 8001}{'</a>' * 8001}</Delete>",
        f"<Delete>{'<!---->' * 20_000}</Delete>",
        "<Delete " + " ".join(f"a{number}=''" for number in range(9000)) + "/>",
        "<Delete " + " ".join(f"a{number} = \n'>'" for number in range(9000)) + "/>",
    ],
)
def test_a_document_that_only_costs_is_not_even_parsed(
    monkeypatch: pytest.MonkeyPatch, encode: Callable[[str], bytes], text: str
) -> None:
    def parsed(*_: Any, **__: Any) -> None:
        raise AssertionError("it was parsed")

    monkeypatch.setattr(xml_requests, "fromstring", parsed)
    with pytest.raises(S3Error) as refused:
        parse(encode(text), "Delete", 8000)
    assert refused.value.code == "MalformedXML"


@pytest.mark.parametrize("data", [b"", b"<Delete", b"<Other/>", b"<!DOCTYPE a><Delete/>", b"\xff<Delete/>"])
def test_what_is_none(data: bytes) -> None:
    with pytest.raises(S3Error) as refused:
        parse(data, "Delete")
    assert refused.value.code == "MalformedXML"
