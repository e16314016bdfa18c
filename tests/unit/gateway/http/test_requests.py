"""The reader of requests: however the bytes are cut, the same requests come out, and what is none ends it."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.http import Limits, RefusedError
from gateway.http.requests import Head, RequestReader, Signal

Request = tuple[str, bytes, bytes, bool]
"""method, path, body, whether it is chunked"""

REQUESTS = st.lists(
    st.tuples(
        st.sampled_from(["GET", "PUT", "POST", "DELETE", "HEAD"]),
        st.binary(max_size=8).map(lambda data: b"/" + data.hex().encode()),
        st.binary(max_size=40)
        | st.integers(0, 40_000).map(lambda size: b"\r\n0\r\n\r\n"[: size % 8] * (size // 7)),
        st.booleans(),
    ),
    max_size=5,
)


def as_sent(request: Request) -> bytes:
    method, path, body, is_chunked = request
    head = b"%s %s HTTP/1.1\r\nHost: x\r\n" % (method.encode(), path)
    if not is_chunked:
        return head + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
    chunks = [body[at : at + 7000] for at in range(0, len(body), 7000)]
    framed = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + framed + b"0\r\n\r\n"


def read(reader: RequestReader, sent: bytes, cuts: list[int]) -> list[tuple[str, bytes, bytes]]:
    """The requests that come out where the bytes come in these pieces."""
    found: list[tuple[str, bytes, bytes]] = []
    edges = sorted({cut % (len(sent) + 1) for cut in cuts} | {0, len(sent)})
    pieces = [sent[start:end] for start, end in pairwise(edges)]
    for piece in pieces:
        reader.receive(piece)
        while (event := reader.next()) is not Signal.NEED_DATA:
            if isinstance(event, Head):
                found.append((event.method, event.target, b""))
            elif isinstance(event, bytes):
                method, path, body = found.pop()
                found.append((method, path, body + event))
    return found


def take_all(reader: RequestReader) -> None:
    """Until it needs more."""
    while reader.next() is not Signal.NEED_DATA:
        pass


@given(REQUESTS, st.lists(st.integers(0, 1 << 20), max_size=20))
def test_requests_are_the_same_however_they_are_cut(requests: list[Request], cuts: list[int]) -> None:
    reader = RequestReader(Limits())
    found = read(reader, b"".join(map(as_sent, requests)), cuts)
    assert found == [(method, path, body) for method, path, body, _ in requests]
    assert reader.is_between
    assert not reader.has_more


@given(st.binary(max_size=200), st.lists(st.integers(0, 1 << 20), max_size=5))
def test_any_bytes_are_requests_or_are_refused(data: bytes, cuts: list[int]) -> None:
    reader = RequestReader(Limits())
    refusals = []
    try:
        read(reader, b"GET / HTTP/1.1\r\nHost: x\r\n" + data, cuts)
    except RefusedError as error:
        refusals.append(error)
    for refused in refusals:
        assert refused.status in (400, 413, 431, 501, 505)
        with pytest.raises(RefusedError):
            reader.next()


def test_of_many_requests_in_one_piece_few_are_parsed_before_they_are_wanted() -> None:
    reader = RequestReader(Limits())
    one = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    reader.receive(one * 10_000)
    for _ in range(10_000):
        assert isinstance(reader.next(), Head)
        assert reader.next() is Signal.END
    assert reader.next() is Signal.NEED_DATA


@pytest.mark.parametrize(
    ("begin", "endless", "status"),
    [
        pytest.param(b"GET /", b"a", 431, id="path"),
        pytest.param(b"GET / HTTP/1.1\r\n", b"a: b\r\n", 431, id="headers"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: ", b"a", 431, id="value"),
        pytest.param(b"", b"\r\n", 400, id="empty lines"),
        pytest.param(
            b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
            b"a: b\r\n",
            400,
            id="trailers",
        ),
        pytest.param(
            b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"a", 400, id="extension"
        ),
    ],
)
def test_what_does_not_end_is_refused(begin: bytes, endless: bytes, status: int) -> None:
    reader = RequestReader(Limits())
    reader.receive(begin + endless * (100_000 // len(endless)))
    with pytest.raises(RefusedError) as refused:
        take_all(reader)
    assert refused.value.status == status


def test_the_end_in_the_middle_of_a_request_is_refused() -> None:
    reader = RequestReader(Limits())
    reader.receive(b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\na")
    assert isinstance(reader.next(), Head)
    assert reader.next() == b"a"
    assert reader.next() is Signal.NEED_DATA
    assert not reader.is_between
    reader.receive(b"")
    with pytest.raises(RefusedError):
        reader.next()
