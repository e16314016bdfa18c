"""Answers of a hub that may be anything: each is an error of ours, within bounds."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from hashlib import sha256
from itertools import pairwise

import httpcore
import httpx
import pytest
import trio

from backend import wire
from backend.errors import (
    AwayError,
    BlocksMissingError,
    CorruptError,
    DriveError,
    ReadOnlyError,
    TransientError,
)
from backend.remote import HubClient
from tests import contents


def client(answer: httpx.Response | Exception) -> HubClient:
    """A client of a hub that always answers so."""

    def handle(_request: httpx.Request) -> httpx.Response:
        if isinstance(answer, Exception):
            raise answer
        return answer

    return HubClient("http://hub.example", bytes(32), transport=httpx.MockTransport(handle))


def response(status: int, content: bytes) -> httpx.Response:
    """One that was not read yet."""
    return httpx.Response(status, stream=httpx.ByteStream(content))


async def failing(answer: httpx.Response | Exception) -> DriveError:
    with pytest.raises(DriveError) as raised:
        await client(answer).call("GET", "/")
    return raised.value


def problem(kind: str, status: int, **more: object) -> httpx.Response:
    body = {"type": wire.PROBLEM + kind, "detail": "of the hub", **more}
    return response(status, json.dumps(body).encode())


@pytest.mark.parametrize("kind", wire.PROBLEMS)
async def test_each_problem_is_raised_as_what_it_was(kind: str) -> None:
    status, error = wire.PROBLEMS[kind]
    assert isinstance(await failing(problem(kind, status)), error)


@pytest.mark.parametrize("blocks", [None, "x", [1], ["zz"], ["ab"], [["a"]], {}])
async def test_blocks_that_are_none_are_no_blocks(blocks: object) -> None:
    error = await failing(problem("blocks_missing", 422, blocks=blocks))
    assert isinstance(error, BlocksMissingError)
    assert error.blocks == ()


@pytest.mark.parametrize("status", [502, 503, 504])
async def test_a_proxy_that_answers_for_the_hub_says_that_it_is_away(status: int) -> None:
    assert type(await failing(response(status, b"<html>bad gateway</html>"))) is AwayError


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
async def test_it_is_asked_again_later(status: int) -> None:
    assert isinstance(await failing(response(status, b"of a balancer")), TransientError)


async def test_what_a_hub_may_say_else() -> None:
    assert isinstance(await failing(httpx.ReadTimeout("slow")), TransientError)
    assert isinstance(await failing(response(401, b"")), ReadOnlyError)
    for content in (b"", b"[]", b"[" * 100_000, b'{"type": 5}', b"\xff"):
        assert isinstance(await failing(response(418, content)), CorruptError)


async def test_a_hub_says_one_line_at_most() -> None:
    body = {"type": wire.PROBLEM + "malformed", "detail": "\x1b[2J\n" * 100_000}
    error = await failing(response(422, json.dumps(body).encode()))
    assert "\n" not in str(error)
    assert "\x1b" not in str(error)
    assert len(str(error)) < 300


class Dripping(httpx.AsyncByteStream):
    """A body of which a byte comes in so many seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            await trio.sleep(self._seconds)
            yield b"x"


@pytest.mark.parametrize("seconds", [0.001, 1, 29, 1e6])
async def test_an_answer_that_drips_is_given_up(autojump_clock: object, seconds: float) -> None:
    """Each byte comes in time for a limit between two of them."""
    started = trio.current_time()
    assert isinstance(await failing(httpx.Response(200, stream=Dripping(seconds))), TransientError)
    assert trio.current_time() - started < 60


async def test_a_slow_answer_is_waited_for(autojump_clock: object) -> None:
    class Slow(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            for _ in range(100):
                await trio.sleep(10)
                yield bytes(50_000)

    answer = await client(httpx.Response(200, stream=Slow())).call("GET", "/")
    assert len(answer.content) == 5_000_000


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 4 << 20])
async def test_a_body_is_sent_with_its_digest(size: int) -> None:
    """The example of RFC 9530 is one too."""
    said: list[bytes | None] = []

    def handle(request: httpx.Request) -> httpx.Response:
        said.append(wire.said_digest(request.headers.get("Content-Digest", "")))
        return response(204, b"")

    hub = HubClient("http://hub.example", bytes(32), transport=httpx.MockTransport(handle))
    data = contents.content("text", size, 1)
    await hub.call("PUT", "/", content=data)
    await hub.call("GET", "/")
    assert said == [sha256(data).digest(), None]
    known = "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:"
    assert wire.said_digest(known) == sha256(b'{"hello": "world"}\n').digest()


async def test_a_device_is_refused_by_the_hub_and_by_nobody_between() -> None:
    answers = {
        response(401, b"of a proxy"): False,
        problem("unauthorised", 401): True,
        problem("expired", 401): True,
    }
    for answer, is_refused in answers.items():
        hub = client(answer)
        with pytest.raises(ReadOnlyError):
            await hub.call("GET", "/")
        assert hub.is_refused is is_refused


class Endless(httpx.AsyncByteStream):
    """A body that goes on until it is closed, as one of a connection does."""

    taken = 0
    is_closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while not self.is_closed:
            self.taken += 1
            yield bytes(1 << 20)
        raise httpx.ReadError("closed")

    async def aclose(self) -> None:
        self.is_closed = True


async def test_an_answer_without_an_end_takes_no_memory_without_one() -> None:
    endless = Endless()
    assert isinstance(await failing(httpx.Response(200, stream=endless)), CorruptError)
    assert 0 < endless.taken < 20


async def test_an_answer_that_is_packed_is_not_unpacked() -> None:
    """It was asked for as it is: a little would become very much."""
    packed = httpx.Response(200, headers={"Content-Encoding": "gzip"}, stream=httpx.ByteStream(b"\x1f\x8b"))
    assert (await client(packed).call("GET", "/")).content == b"\x1f\x8b"


async def test_a_server_that_never_stops_answering_is_left() -> None:
    """The same over a real connection."""

    async def serve(stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await stream.receive_some()
            await stream.send_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            while True:
                await stream.send_all(b"100000\r\n" + bytes(1 << 20) + b"\r\n")

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        port = listener.socket.getsockname()[1]
        hub = HubClient(f"http://127.0.0.1:{port}", bytes(32))
        with pytest.raises(CorruptError, match="over"), trio.fail_after(20):
            await hub.call("GET", "/")
        await hub.close()
        nursery.cancel_scope.cancel()


SIZES = [0, 1, 65_535, 65_537, *((256 << 10) + more for more in (-1, 0, 1)), 1_300_000, 4 << 20]


def heads(body: bytes, in_chunks: bool) -> bytes:
    """An answer with that body, of a stated length or in chunks of some sizes."""
    if not in_chunks:
        return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    steps = [*range(0, len(body), 300_001), len(body)]
    chunks = [body[start:end] for start, end in pairwise(steps)]
    framed = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks if chunk)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + framed + b"0\r\n\r\n"


async def answer_each(bodies: list[bytes], in_chunks: bool, stream: trio.SocketStream) -> None:
    """A server's side of a connection: the path of a request is the number of the body."""
    asked = b""
    async for part in stream:
        asked += part
        while b"\r\n\r\n" in asked:
            head, _, asked = asked.partition(b"\r\n\r\n")
            await stream.send_all(heads(bodies[int(head.split()[1][1:])], in_chunks))


@pytest.mark.parametrize("in_chunks", [False, True])
@pytest.mark.parametrize("kind", contents.KINDS)
async def test_answers_of_any_size_come_as_they_are(kind: contents.Kind, in_chunks: bool) -> None:
    """Beside each other, and one after the other on one connection."""
    bodies = [contents.content(kind, size, size) for size in SIZES]
    answer = partial(answer_each, bodies, in_chunks)
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, answer, 0, host="127.0.0.1"))
        hub = HubClient(f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}", bytes(32))

        async def check(number: int) -> None:
            assert (await hub.call("GET", f"/{number}")).content == bodies[number]

        async with trio.open_nursery() as together:
            for number in range(len(bodies)):
                together.start_soon(check, number)
        for number in range(len(bodies)):
            await check(number)
        await hub.close()
        nursery.cancel_scope.cancel()


async def test_an_answer_that_is_cut_off_is_none() -> None:
    async def cut(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(heads(contents.content("log", 1 << 20), in_chunks=False)[:-1])
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, cut, 0, host="127.0.0.1"))
        hub = HubClient(f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}", bytes(32))
        with pytest.raises(AwayError):
            await hub.call("GET", "/")
        await hub.close()
        nursery.cancel_scope.cancel()


class Watched(httpcore.AsyncMockStream):
    """A connection that notes how much is read at once."""

    def __init__(self, answer: bytes) -> None:
        super().__init__([answer])
        self.read_at_once: list[int] = []

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        self.read_at_once.append(max_bytes)
        return await super().read(max_bytes, timeout)


async def test_an_answer_is_read_in_large_pieces() -> None:
    stream = Watched(heads(bytes(100), in_chunks=False))
    origin = httpcore.Origin(b"http", b"hub.example", 80)
    async with httpcore.AsyncHTTP11Connection(origin, stream) as connection:
        await connection.request("GET", "http://hub.example/")
    assert {*stream.read_at_once} == {256 << 10}
