"""The HTTP server: what an application sees and answers, and that no client can hold up or hurt it."""

from __future__ import annotations

import json
import logging
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
import trio.testing

from backend.errors import UsageError
from gateway.http import Address, HttpServer, Limits, Message, Receive, Scope, Send, listeners_at, tls_context
from tests.certificates import certificate_in

BODY = bytes(range(256)) * 16


@dataclass
class _App:
    """Echoes bodies; `/refuse` answers without reading, `/fail` raises, `/wait` waits for `go`, `/large`
    gives 32 MiB, `/after` asks for more beside its answer and behind it, `/two` a header that would be two,
    `/short` and `/long` another length than they say."""

    scopes: list[Scope] = field(default_factory=list)
    go: trio.Event = field(default_factory=trio.Event)
    asked: trio.Event = field(default_factory=trio.Event)
    heard: list[str] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scopes.append(scope)
        path = scope["path"]
        if path == "/fail":
            raise RuntimeError("a fault")
        if path == "/wait":
            self.asked.set()
            await self.go.wait()
        if path == "/audit":
            scope["state"]["audit"]["who"] = "somebody"
        body = b"" if path == "/refuse" else await _body(receive)
        if path == "/after":
            await self._ask_for_more(receive, send)
            return
        if path == "/large":
            body = bytes(32 << 20)
        status = 403 if path == "/refuse" else 200
        said = len(body) + {"/short": 1, "/long": -1}.get(path, 0)
        length = [] if path == "/chunked" else [(b"content-length", b"%d" % said)]
        if path == "/two":
            length.append((b"x-amz-meta-a", b"1\r\nx-amz-meta-b: 2"))
        await send({"type": "http.response.start", "status": status, "headers": length})
        half = len(body) // 2
        await send({"type": "http.response.body", "body": body[:half], "more_body": True})
        await send({"type": "http.response.body", "body": memoryview(body)[half:]})

    async def _ask_for_more(self, receive: Receive, send: Send) -> None:
        async def hear() -> None:
            self.heard.append((await receive())["type"])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(hear)
            await trio.testing.wait_all_tasks_blocked()
            await send({"type": "http.response.start", "status": 204, "headers": []})
            self.heard.append("begun")
            await send({"type": "http.response.body"})
        await hear()


async def _body(receive: Receive) -> bytes:
    parts: list[bytes] = []
    while True:
        message: Message = await receive()
        parts.append(message["body"])
        if not message["more_body"]:
            return b"".join(parts)


@dataclass
class _Running:
    app: _App
    server: HttpServer
    port: int
    ended: trio.Event

    async def connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self.port)

    async def raw(self, data: bytes) -> bytes:
        """All that is answered until the server closes."""
        async with await self.connect() as stream:
            await stream.send_all(data)
            return b"".join([part async for part in stream])


@asynccontextmanager
async def running(
    limits: Limits = Limits(),  # noqa: B008 - it is frozen
    context: ssl.SSLContext | None = None,
) -> AsyncIterator[_Running]:
    app = _App()
    server = HttpServer(app, "test", limits=limits, context=context)
    listeners = await listeners_at(Address("127.0.0.1", 0))
    ended = trio.Event()

    async def serve(task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        await server.serve(listeners, task_status)
        ended.set()

    async with trio.open_nursery() as nursery:
        await nursery.start(serve)
        yield _Running(app, server, listeners[0].socket.getsockname()[1], ended)
        nursery.cancel_scope.cancel()


def request(method: str, target: str, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


CLOSE = "Connection: close"


async def answer(stream: trio.abc.Stream) -> tuple[int, bytes]:
    """One answer with a Content-Length."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = await stream.receive_some()
        assert part, data
        data += part
    head, separator, body = data.partition(b"\r\n\r\n")
    assert separator
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    while len(body) < length:
        body += await stream.receive_some()
    return int(head.split()[1]), body


async def test_requests_follow_each_other_on_a_connection() -> None:
    async with running() as run:
        async with await run.connect() as stream:
            for size in (0, 1, 4096):
                await stream.send_all(request("PUT", "/a%2Fb?c=d%20e", BODY[:size]))
                assert await answer(stream) == (200, BODY[:size])
        await _closes(run)
        scope = run.app.scopes[-1]
        assert (scope["raw_path"], scope["query_string"]) == (b"/a%2Fb", b"c=d%20e")
        assert (b"host", b"x") in scope["headers"]
        assert run.server.counters.connections == 1
        assert run.server.counters.answers == {200: 3}


async def test_a_body_that_comes_in_single_bytes_and_one_in_chunks() -> None:
    async with running() as run, await run.connect() as stream:
        for byte in request("PUT", "/", b"abc"):
            await stream.send_all(bytes([byte]))
        assert await answer(stream) == (200, b"abc")
        await stream.send_all(
            b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
        )
        assert await answer(stream) == (200, b"abc")


async def test_an_answer_without_length_is_chunked_and_head_has_no_body() -> None:
    async with running() as run:
        got = await run.raw(request("PUT", "/chunked", b"abcd", CLOSE))
        assert b"transfer-encoding: chunked" in got.lower()
        assert got.endswith(b"2\r\nab\r\n2\r\ncd\r\n0\r\n\r\n")
        head = await run.raw(request("HEAD", "/", b"abcd", CLOSE))
        assert b"content-length: 4" in head.lower()
        assert head.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        pytest.param(b"nonsense\r\n\r\n", 400, id="nonsense"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03", 400, id="TLS where there is none"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", 400, id="no Host"),
        pytest.param(request("PUT", "/", b"", "Transfer-Encoding: chunked"), 400, id="two framings"),
        pytest.param(request("PUT", "/", b"", "Content-Length: 1"), 400, id="two lengths"),
        pytest.param(
            b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501, id="another framing"
        ),
        pytest.param(
            b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            501,
            id="two codings",
        ),
        pytest.param(
            b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"0\r\n\r\n",
            400,
            id="a coding twice",
        ),
        pytest.param(
            b"PUT / HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
            id="chunked in 1.0",
        ),
        pytest.param(
            b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
            400,
            id="a vertical tab",
        ),
        pytest.param(
            b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length : 3\r\n\r\nabc", 400, id="a space in a name"
        ),
        pytest.param(b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: +3\r\n\r\nabc", 400, id="a sign"),
        pytest.param(
            b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 3, 3\r\n\r\nabc", 400, id="a list of lengths"
        ),
        pytest.param(
            b"PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n", 413, id="a long body"
        ),
        pytest.param(b"GET / HTTP/1.1\nHost: x\n\n", 400, id="bare line feeds"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\n y\r\n\r\n", 400, id="a folded line"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400, id="two hosts"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\na: b\0c\r\n\r\n", 400, id="a NUL"),
        pytest.param(b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505, id="another version"),
        pytest.param(b"GET /\r\n\r\n", 505, id="no version"),
        pytest.param(
            request("PUT", "/", b"abc", "Connection: Upgrade", "Upgrade: h2c"),
            501,
            id="a body and another protocol",
        ),
        pytest.param(request("GET", "/" + "a" * 40_000), 431, id="a long head"),
        pytest.param(request("GET", "/", b"", *(f"x-{n}: 1" for n in range(300))), 431, id="many headers"),
    ],
)
async def test_a_bad_request_is_refused_and_its_connection_ends(data: bytes, status: int) -> None:
    async with running() as run:
        got = await run.raw(data + b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n")
        assert got.startswith(b"HTTP/1.1 %d " % status)
        assert got.count(b"HTTP/1.1 ") == 1
        assert run.app.scopes == []
        assert run.server.counters.refused == {status: 1}


async def test_a_request_for_another_protocol_is_a_request_and_so_is_what_follows() -> None:
    async with running() as run:
        asking = b"GET /1 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
        got = await run.raw(asking + request("PUT", "/2", b"abc", CLOSE))
        assert got.count(b"HTTP/1.1 200 OK") == 2
        assert got.endswith(b"\r\n\r\nabc")
        assert [scope["path"] for scope in run.app.scopes] == ["/1", "/2"]


async def test_requests_that_come_in_one_piece_are_answered_in_order() -> None:
    async with running() as run:
        bodies = [BODY[:size] for size in (5, 0, 4096, 3)]
        sent = b"".join(request("PUT", f"/{len(body)}", body) for body in bodies)
        got = await run.raw(sent + request("GET", "/last", b"", CLOSE))
        ends = [part.partition(b"\r\n\r\n")[2] for part in got.split(b"HTTP/1.1 200 OK\r\n")[1:]]
        assert ends == [*bodies, b""]
        assert [scope["path"] for scope in run.app.scopes] == ["/5", "/0", "/4096", "/3", "/last"]


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"5;a=b\r\nhello\r\n0\r\nHost: y\r\n\r\n", id="an extension and a trailer"),
        pytest.param(b"1\r\nh\r\n" * 3 + b"0\r\n\r\n", id="small chunks"),
    ],
)
async def test_what_is_around_the_bytes_of_a_chunked_body_is_no_part_of_it(body: bytes) -> None:
    async with running() as run, await run.connect() as stream:
        await stream.send_all(b"PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
        assert await answer(stream) == (200, b"hello" if b"hello" in body else b"hhh")
        assert [value for name, value in run.app.scopes[0]["headers"] if name == b"host"] == [b"x"]


async def test_white_space_around_a_value_is_none_of_it() -> None:
    async with running() as run, await run.connect() as stream:
        await stream.send_all(b"GET / HTTP/1.1\r\nHOST:\t x \t\r\nA:\r\n\r\n")
        assert await answer(stream) == (200, b"")
        assert run.app.scopes[0]["headers"] == [(b"host", b"x"), (b"a", b"")]


async def test_an_answer_to_http_1_0_ends_the_connection() -> None:
    async with running() as run:
        got = await run.raw(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" + request("GET", "/2"))
        assert got.count(b"HTTP/1.1 200 ") == 1
        assert b"connection: close" in got
        got = await run.raw(b"PUT /chunked HTTP/1.0\r\nContent-Length: 2\r\n\r\nab")
        assert got.endswith(b"\r\n\r\nab")


@pytest.mark.logs_warnings
@pytest.mark.parametrize(
    ("path", "begins"),
    [("/short", b"HTTP/1.1 200 "), ("/long", b"HTTP/1.1 200 "), ("/two", b"HTTP/1.1 500 ")],
)
async def test_an_answer_that_cannot_be_framed_is_a_fault_and_nothing_follows_it(
    path: str, begins: bytes
) -> None:
    async with running() as run:
        got = await run.raw(request("PUT", path, b"abcd") + request("GET", "/next"))
        assert got.startswith(begins)
        assert got.count(b"HTTP/1.1") == 1
        assert b"x-amz-meta-b" not in got
        assert len(run.app.scopes) == 1


async def test_continue_is_said_when_the_application_asks_for_the_body() -> None:
    async with running() as run, await run.connect() as stream:
        head = request("PUT", "/", BODY, "Expect: 100-continue").removesuffix(BODY)
        await stream.send_all(head)
        assert await stream.receive_some() == b"HTTP/1.1 100 Continue\r\n\r\n"
        await stream.send_all(BODY)
        assert await answer(stream) == (200, BODY)


async def test_a_client_that_is_refused_is_not_told_to_go_on() -> None:
    async with running() as run:
        head = request("PUT", "/refuse", BODY, "Expect: 100-continue").removesuffix(BODY)
        got = await run.raw(head)
        assert got.startswith(b"HTTP/1.1 403 Forbidden\r\n")
        assert b"connection: close" in got.lower()
        assert b" 100 " not in got


async def test_a_small_body_that_nobody_reads_keeps_the_connection_and_a_large_one_ends_it() -> None:
    async with running() as run:
        async with await run.connect() as stream:
            await stream.send_all(request("PUT", "/refuse", BODY))
            assert await answer(stream) == (403, b"")
            await stream.send_all(request("PUT", "/", b"next"))
            assert await answer(stream) == (200, b"next")
        large = await run.raw(request("PUT", "/refuse", bytes(8 << 20)))
        assert large.startswith(b"HTTP/1.1 403 ")


@pytest.mark.logs_warnings
async def test_a_fault_of_the_application_is_a_500_and_the_server_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with running() as run:
        assert (await run.raw(request("GET", "/fail"))).startswith(b"HTTP/1.1 500 ")
        assert (await run.raw(request("GET", "/", b"", CLOSE))).startswith(b"HTTP/1.1 200 ")
        assert (run.server.counters.answers, run.server.counters.refused) == ({200: 1}, {500: 1})
    assert "a fault" in caplog.text


async def test_a_client_that_resets_its_connection_before_it_is_looked_at_is_no_fault() -> None:
    async with running() as run:
        with socket.create_connection(("127.0.0.1", run.port)) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        while not run.server.counters.connections or run.server.counters.open:
            await trio.lowlevel.checkpoint()
        assert (await run.raw(request("GET", "/", b"", CLOSE))).startswith(b"HTTP/1.1 200 ")


async def test_a_client_that_goes_in_the_middle_of_its_body_ends_nothing_else() -> None:
    async with running() as run:
        async with await run.connect() as stream:
            await stream.send_all(request("PUT", "/", BODY)[:-10])
        while run.server.counters.open:
            await trio.lowlevel.checkpoint()
        assert (await run.raw(request("GET", "/", b"", CLOSE))).startswith(b"HTTP/1.1 200 ")


SHORT = Limits(head_seconds=0.2, idle_seconds=0.2, grace=0.2, linger_seconds=0.2)


async def test_an_idle_connection_is_closed_without_a_word() -> None:
    async with running(SHORT) as run:
        assert await run.raw(b"") == b""


async def test_a_head_that_does_not_come_is_408() -> None:
    async with running(SHORT) as run:
        assert (await run.raw(b"GET / HTTP/1.1\r\n")).startswith(b"HTTP/1.1 408 ")


async def test_a_body_that_drips_is_cut_off() -> None:
    async with running(SHORT) as run, await run.connect() as stream:
        await stream.send_all(request("PUT", "/", BODY)[:-1000])
        began = trio.current_time()
        with trio.fail_after(10):
            assert b"".join([part async for part in stream]).startswith(b"HTTP/1.1 408 ")
        assert trio.current_time() - began < 8


async def test_an_answer_that_nobody_takes_is_cut_off() -> None:
    limits = Limits(grace=0.2, least_rate=1 << 30, linger_seconds=0.2)
    async with running(limits) as run, await run.connect() as stream:
        await stream.send_all(request("GET", "/large"))
        with trio.fail_after(20):
            while not run.server.counters.answers:
                await trio.sleep(0.01)
        assert not run.server.counters.open or await _closes(run)


async def _closes(run: _Running) -> bool:
    while run.server.counters.open:
        await trio.sleep(0.01)
    return True


async def test_a_body_over_the_limit_is_not_read_on() -> None:
    async with running(Limits(body_bytes=1000)) as run:
        got = await run.raw(request("PUT", "/", BODY))
        assert got.startswith(b"HTTP/1.1 413 ")


async def test_more_connections_than_there_may_be_are_closed_at_once() -> None:
    async with running(Limits(connections=1)) as run, await run.connect() as stream:
        await stream.send_all(request("GET", "/"))
        assert await answer(stream) == (200, b"")
        assert await run.raw(b"") == b""


async def test_at_the_end_idle_connections_go_and_requests_under_way_are_answered() -> None:
    async with running() as run, await run.connect() as idle, await run.connect() as busy:
        await idle.send_all(request("GET", "/"))
        assert await answer(idle) == (200, b"")
        await busy.send_all(request("GET", "/wait"))
        await run.app.asked.wait()
        run.server.end()
        assert await idle.receive_some() == b""
        run.app.go.set()
        got = b"".join([part async for part in busy])
        assert got.startswith(b"HTTP/1.1 200 ")
        assert b"connection: close" in got.lower()
        await run.ended.wait()
        with pytest.raises(OSError, match="connect"):
            await run.connect()


async def test_the_access_line_has_no_query(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "drivefs.access")
    async with running() as run:
        await run.raw(request("PUT", "/audit?X-Amz-Signature=secret", b"abc", CLOSE))
        await _closes(run)
    [record] = caplog.records
    line = json.loads(record.getMessage())
    assert "secret" not in record.getMessage()
    assert (line["method"], line["path"], line["status"], line["who"]) == ("PUT", "/audit", 200, "somebody")
    assert (line["received"], line["sent"]) == (3, 3)
    assert (record.name, record.levelname) == ("drivefs.access.test", "INFO")


async def test_an_access_line_is_not_made_where_nobody_takes_it(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "drivefs.access")
    async with running() as run:
        await run.raw(request("GET", "/", b"", CLOSE))
        await _closes(run)
    assert not caplog.records


async def test_a_server_says_for_how_long_it_has_answered_nothing(
    mock_clock: trio.testing.MockClock,
) -> None:
    async with running() as run:
        mock_clock.jump(100)
        assert run.server.idle_seconds() == 100
        await run.raw(request("PUT", "/", b"abc", CLOSE))
        assert run.server.idle_seconds() == 0
        mock_clock.jump(3)
        assert run.server.idle_seconds() == 3


async def test_who_asks_for_more_than_the_body_waits_for_the_end_of_the_answer() -> None:
    async with running() as run:
        await run.raw(request("GET", "/after", b"", CLOSE))
    assert run.app.heard == ["begun", "http.disconnect", "http.disconnect"]


async def test_no_answer_waits_for_a_delayed_acknowledgement() -> None:
    async with running() as run, await run.connect() as stream:
        began = time.perf_counter()
        for _ in range(50):
            await stream.send_all(request("PUT", "/", BODY))
            assert await answer(stream) == (200, BODY)
        assert time.perf_counter() - began < 50 * 0.02


async def test_tls_by_certificate_files(tmp_path: Path) -> None:
    certificate, key = certificate_in(tmp_path)
    with pytest.raises(UsageError, match="no certificate"):
        tls_context(key, None)
    async with running(context=tls_context(certificate, key)) as run:
        trusting = ssl.create_default_context(cafile=certificate)
        tcp = await run.connect()
        async with trio.SSLStream(
            tcp, trusting, server_hostname="localhost", https_compatible=True
        ) as stream:
            await stream.send_all(request("PUT", "/", BODY))
            assert await answer(stream) == (200, BODY)
        assert run.app.scopes[-1]["scheme"] == "https"
        assert await run.raw(request("GET", "/")) in (b"", b"\x15\x03\x03\x00\x02\x02F")


async def test_the_counters_are_text_for_prometheus() -> None:
    async with running() as run:
        await run.raw(request("PUT", "/", b"abc", CLOSE))
        await run.raw(b"nonsense\r\n\r\n")
        text = "".join(run.server.counters.exposition("s3"))
    assert 'drivefs_s3_answers{status="200"} 1\n' in text
    assert 'drivefs_s3_refused{status="400"} 1\n' in text
    assert "drivefs_s3_received_bytes 3\n" in text


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("127.0.0.1:9000", "127.0.0.1", 9000), (":80", "127.0.0.1", 80), ("[::1]:9000", "::1", 9000)],
)
def test_addresses(text: str, host: str, port: int) -> None:
    assert Address.parse(text) == Address(host, port)


@pytest.mark.parametrize("text", ["", "9000", "host", "host:", "host:99999", "host:-1", "host:x"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(UsageError, match="write HOST:PORT"):
        Address.parse(text)
