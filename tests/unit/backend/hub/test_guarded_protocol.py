"""Connections within limits: heads that are too large or too slow, and clients that read nothing."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from backend.hub import guarded
from backend.hub.guarded_protocol import MAX_HEAD, GuardedProtocol
from tests.waiting import wait_until

LARGE = 64 << 20


async def short(request: Request) -> Response:
    return PlainTextResponse(str(len(await request.body())))


async def large(_request: Request) -> Response:
    return PlainTextResponse(b"x" * LARGE)


@contextmanager
def serving(protocol: type[GuardedProtocol]) -> Iterator[tuple[uvicorn.Server, int]]:
    """A server with that protocol, and its port."""
    application = Starlette(routes=[Route("/", short, methods=["GET", "POST"]), Route("/large", large)])
    config = uvicorn.Config(
        application, http=protocol, ws="none", lifespan="off", log_config=None, timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        yield server, listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(30)


def said(port: int, *parts: bytes) -> bytes:
    """All that the server says until it closes, to one who sends these and then nothing."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        try:
            for part in parts:
                connection.sendall(part)
        except (BrokenPipeError, ConnectionResetError):
            pass
        found = b""
        try:
            while data := connection.recv(1 << 16):
                found += data
        except ConnectionResetError:
            pass
        return found


def is_problem(answer: bytes, status: int, kind: str) -> bool:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode()), answer[:100]
    assert b"application/problem+json" in head
    return bool(json.loads(body)["type"] == f"urn:drivefs:{kind}")


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with serving(guarded(0.5)) as (_, found):
        yield found


def test_requests_within_the_limits_are_answered_one_after_the_other(port: int) -> None:
    head = b"POST / HTTP/1.1\r\nHost: h\r\nX: " + b"x" * 20_000 + b"\r\nContent-Length: 100000\r\n\r\n"
    last = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
    answers = said(port, (head + b"b" * 100_000) * 3 + last)
    assert answers.count(b"HTTP/1.1 200 OK") == 4
    assert answers.count(b"\r\n\r\n100000") == 3


@pytest.mark.parametrize("first", [b"", b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"], ids=["first", "second"])
def test_a_head_that_does_not_come_ends_the_connection(port: int, first: bytes) -> None:
    answer = said(port, first, b"GET / HT")
    assert is_problem(answer[answer.rindex(b"HTTP/1.1") :], 408, "too_slow")
    assert answer.count(b"HTTP/1.1 200") == bool(first)


def test_a_connection_that_says_nothing_ends(port: int) -> None:
    assert is_problem(said(port), 408, "too_slow")


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nX: " + b"x" * 40_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 10_000 + b"\r\n",
        b"GET /" + b"x" * 40_000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"x" * (1 << 20),
        b"POST / HTTP/1.1\r\nContent-Length: 9\r\nX: " + b"x" * 40_000 + b"\r\n\r\n123456789",
    ],
    ids=["header", "headers", "path", "endless", "body"],
)
def test_a_head_that_is_too_large_is_refused(port: int, head: bytes) -> None:
    answer = said(port, head)
    if answer:  # else the rest of what it sent was met by a reset
        assert is_problem(answer, 431, "too_large")
    assert len(head) > MAX_HEAD


@pytest.mark.logs_warnings
def test_what_is_no_http_is_a_problem_too(port: int) -> None:
    assert is_problem(said(port, b"\x16\x03\x01\x00garbage\r\n\r\n"), 400, "bad_request")


def test_who_reads_nothing_loses_the_connection() -> None:
    class Impatient(GuardedProtocol):
        reading_seconds = 0.3

    with (
        serving(Impatient) as (server, port),
        socket.create_connection(("127.0.0.1", port), timeout=20) as connection,
    ):
        connection.sendall(b"GET /large HTTP/1.1\r\nHost: h\r\n\r\n")
        wait_until(lambda: server.server_state.total_requests == 1)
        wait_until(lambda: not server.server_state.connections)


def test_who_reads_slowly_gets_all_of_the_answer() -> None:
    """It takes several times as long as a client may let the answer lie."""

    class Impatient(GuardedProtocol):
        reading_seconds = 0.3

    with (
        serving(Impatient) as (_, port),
        socket.create_connection(("127.0.0.1", port), timeout=20) as connection,
    ):
        connection.sendall(b"GET /large HTTP/1.1\r\nHost: h\r\n\r\n")
        size, begun = 0, time.monotonic()
        while size < LARGE:
            part = connection.recv(1 << 20)
            assert part
            size += len(part)
            time.sleep(0.02)  # the client's pace
    assert time.monotonic() - begun > 1.0
