"""The way to a hub: limits of bytes a second, certificates that are believed, a proxy between."""

from __future__ import annotations

import gc
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import httpx
import pytest
import trio
from trio.testing import MockClock

from backend.errors import AwayError, TransientError, UsageError
from backend.remote import HubClient, HubRoute
from backend.remote.remote_blocks import AT_ONCE, RemoteBlocks
from backend.upstream import BlockId, SealedBlock
from tests.certificates import certificate_in

RATE = 100_000


class Body(httpx.AsyncByteStream):
    """So many parts of 10 kB, as they come from a socket."""

    def __init__(self, parts: int) -> None:
        self._parts = parts

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for _ in range(self._parts):
            yield bytes(10_000)


class Draining(httpx.AsyncBaseTransport):
    """A hub that takes each body as it comes."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        assert isinstance(request.stream, httpx.AsyncByteStream)
        size = 0
        async for part in request.stream:
            size += len(part)
        assert request.headers["Content-Length"] == str(size)
        assert "Transfer-Encoding" not in request.headers
        return httpx.Response(204, stream=httpx.ByteStream(b""))


def _limited(route: HubRoute, answer: httpx.AsyncBaseTransport) -> HubClient:
    return HubClient("http://hub.example", bytes(32), route, transport=answer)


async def test_what_is_sent_by_all_requests_together_keeps_the_limit(autojump_clock: MockClock) -> None:
    hub = _limited(HubRoute(upload_limit=RATE), Draining())
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(partial(hub.call, "POST", "/", content=bytes(5 * RATE)))
    assert 19 <= trio.current_time() - began <= 20


async def test_a_small_request_does_not_wait_for_large_ones(autojump_clock: MockClock) -> None:
    """A commit beside blocks: it waits for a piece of each, not for all of them."""
    hub = _limited(HubRoute(upload_limit=RATE), Draining())
    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(partial(hub.call, "POST", "/", content=bytes(50 * RATE)))
        await trio.sleep(5)
        began = trio.current_time()
        await hub.call("POST", "/", content=bytes(100))
        assert trio.current_time() - began < 1
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("limit", [None, RATE])
async def test_a_request_that_is_cancelled_leaves_no_generator_open(
    limit: int | None, autojump_clock: MockClock
) -> None:
    """Trio would warn of one that is collected before its end."""

    class Hanging(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            assert isinstance(request.stream, httpx.AsyncByteStream)
            async for _ in request.stream:
                await trio.sleep_forever()
            raise AssertionError("a body has a part")

    hub = _limited(HubRoute(upload_limit=limit), Hanging())
    with trio.move_on_after(1):
        await hub.call("POST", "/", content=bytes(100))
    gc.collect()


async def test_what_is_received_keeps_the_limit(autojump_clock: MockClock) -> None:
    answers = httpx.MockTransport(lambda _: httpx.Response(200, stream=Body(100)))
    hub = _limited(HubRoute(download_limit=RATE), answers)
    began = trio.current_time()
    assert len((await hub.call("GET", "/")).content) == 10 * RATE
    assert 9 <= trio.current_time() - began <= 10


async def test_without_limits_nothing_waits(autojump_clock: MockClock) -> None:
    hub = _limited(HubRoute(), Draining())
    await hub.call("POST", "/", content=bytes(50 * RATE))
    assert trio.current_time() == autojump_clock.current_time() == 0


async def _answering(stream: trio.SocketStream | trio.SSLStream[trio.SocketStream]) -> None:
    await stream.receive_some()
    await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")


async def test_certificates_of_the_file_are_believed_and_no_others(tmp_path: Path) -> None:
    certificate, key = certificate_in(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_ssl_over_tcp, _quietly, 0, context, host="127.0.0.1")
        (listener,) = await nursery.start(serve)
        url = f"https://localhost:{listener.transport_listener.socket.getsockname()[1]}"
        believing = HubClient(url, bytes(32), HubRoute(ca_file=certificate))
        assert (await believing.call("GET", "/")).content == b"hello"
        await believing.close()
        doubting = HubClient(url, bytes(32))
        with pytest.raises(TransientError, match="certificate"):
            await doubting.call("GET", "/")
        nursery.cancel_scope.cancel()


async def _quietly(stream: trio.SSLStream[trio.SocketStream]) -> None:
    """A client may leave in the middle of the handshake."""
    try:
        await _answering(stream)
    except trio.BrokenResourceError:
        return


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_file_without_certificates_is_named(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UsageError, match=str(path)):
        HubClient("https://hub.example", bytes(32), HubRoute(ca_file=str(path)))


@asynccontextmanager
async def _listening(answer: bytes) -> AsyncIterator[tuple[str, list[bytes]]]:
    """The URL of a server that always answers so, and the first lines that it is sent."""
    asked: list[bytes] = []

    async def serve(stream: trio.SocketStream) -> None:
        asked.append(bytes(await stream.receive_some()).split(b"\r\n")[0])
        await stream.send_all(answer)

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        yield f"http://127.0.0.1:{listener.socket.getsockname()[1]}", asked
        nursery.cancel_scope.cancel()


NOTHING = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


async def test_requests_go_by_the_proxy_that_is_named() -> None:
    """It is asked for the whole URL; the hub's name is not looked up here."""
    async with _listening(NOTHING) as (proxy, asked):
        client = HubClient("http://hub.invalid", bytes(32), HubRoute(proxy=proxy))
        await client.call("GET", "/named")
        await client.close()
    assert asked == [b"GET http://hub.invalid/named HTTP/1.1"]


async def test_requests_go_by_the_proxy_of_the_environment_inside_of_tls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with _listening(b"HTTP/1.1 403 no\r\nContent-Length: 0\r\n\r\n") as (proxy, asked):
        monkeypatch.setenv("HTTPS_PROXY", proxy)
        client = HubClient("https://hub.invalid", bytes(32))
        with pytest.raises(AwayError):
            await client.call("GET", "/")
        await client.close()
    assert asked == [b"CONNECT hub.invalid:443 HTTP/1.1"]


async def test_a_token_for_a_hub_on_this_machine_is_shown_to_no_proxy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Plain HTTP, which a proxy of the environment would read."""
    async with _listening(NOTHING) as (hub, at_hub), _listening(NOTHING) as (proxy, at_proxy):
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy)
        client = HubClient(hub, bytes(32))
        await client.call("GET", "/")
        await client.close()
    assert (at_hub, at_proxy) == ([b"GET / HTTP/1.1"], [])


@pytest.mark.parametrize("proxy", ["proxy:3128", "ftp://proxy", "http://proxy:x", "socks5://proxy"])
def test_a_proxy_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    """It is no fault of the program that its environment says so."""
    with pytest.raises(UsageError, match="proxy"):
        HubClient("https://hub.example", bytes(32), HubRoute(proxy=proxy))
    monkeypatch.setenv("ALL_PROXY", proxy if "://" in proxy else "ftp://proxy")
    with pytest.raises(UsageError, match="proxy"):
        HubClient("https://hub.example", bytes(32))


async def test_batches_go_at_once() -> None:
    all_there = trio.Event()

    async def wait(under_way: int) -> None:
        if under_way == AT_ONCE:
            all_there.set()
        await all_there.wait()

    with trio.fail_after(60):
        assert await _most_at_once(HubRoute(), wait) == AT_ONCE


async def test_with_a_limit_batches_go_one_after_the_other(autojump_clock: MockClock) -> None:
    """Each has the whole rate then: a hub ends bodies that come too slowly."""
    assert await _most_at_once(HubRoute(upload_limit=RATE), lambda _under_way: trio.sleep(1)) == 1


async def _most_at_once(route: HubRoute, wait: Callable[[int], Awaitable[None]]) -> int:
    """The number of batches that a hub had at once, which answers when `wait` says so of their number."""
    under_way: list[int] = [0, 0]

    async def take(request: httpx.Request) -> httpx.Response:
        under_way[0] += 1
        under_way[1] = max(under_way)
        await request.aread()
        await wait(under_way[0])
        under_way[0] -= 1
        return httpx.Response(204, stream=httpx.ByteStream(b""))

    blocks = RemoteBlocks(_limited(route, httpx.MockTransport(take)), bytes(16))
    async with trio.open_nursery() as nursery:
        await nursery.start(blocks.run)
        sealed = [SealedBlock(BlockId(bytes([at]) * 32), bytes(4 << 20)) for at in range(9)]
        await blocks.put_blocks(sealed)
        await blocks.flush()
        nursery.cancel_scope.cancel()
    assert under_way[0] == 0
    return under_way[1]
