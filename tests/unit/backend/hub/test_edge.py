"""Around the hub's door: bodies that drip are refused, and no line of the log has what must not be in it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import pytest
import trio
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Message

from backend.hub import Edge, HubMetrics
from backend.hub.app import problem
from backend.hub.decoding import RequestError

BLOCK = "ab" * 32
UUID = "cd" * 16
Part = tuple[float, bytes]


async def take(request: Request) -> Response:
    return PlainTextResponse(str(len(await request.body())))


async def leave(_request: Request) -> Response:
    return PlainTextResponse("no body was read")


async def healthy(_request: Request) -> Response:
    return PlainTextResponse("ok")


async def refuse(_request: Request) -> Response:
    raise RequestError(401, "unauthorised", "no")


async def refused(_request: Request, error: Exception) -> Response:
    return problem(error)


def edge(*, is_ending: Callable[[], bool] = lambda: False) -> Edge:
    routes = [
        Route("/v1/drives/{uuid}/blocks/{block}", take, methods=["PUT"]),
        Route("/v1/drives", leave, methods=["GET", "POST"]),
        Route("/v1/account", refuse),
        Route("/healthz", healthy),
    ]
    application = Starlette(routes=routes, exception_handlers={RequestError: refused})
    return Edge(application, HubMetrics(), is_ending, rate=100, grace=10.0)


async def asked(
    application: Edge,
    method: str,
    path: str,
    parts: Sequence[tuple[float, bytes]] = (),
    length: str | None = None,
) -> tuple[int, dict[bytes, bytes], float]:
    """Status and headers of the answer, and when it came. Each part of the body comes so much later."""
    headers = [(b"authorization", b"Bearer secret")]
    if parts or length is not None:
        headers.append((b"content-length", (length or str(sum(len(data) for _, data in parts))).encode()))
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "headers": headers,
        "query_string": b"token=secret",
        "client": ("192.0.2.1", 1),
        "state": {},
    }
    left, begun, answers = [*parts], trio.current_time(), list[tuple[Message, float]]()

    async def receive() -> Message:
        if not left:
            await trio.sleep_forever()
        seconds, data = left.pop(0)
        await trio.sleep(seconds)
        return {"type": "http.request", "body": data, "more_body": bool(left)}

    async def send(message: Message) -> None:
        answers.append((message, trio.current_time() - begun))

    await application(scope, receive, send)
    start, when = answers[0]
    return start["status"], dict(start["headers"]), when


async def test_a_body_that_is_fast_enough_is_taken(autojump_clock: trio.testing.MockClock) -> None:
    parts = [(5.0, b"x" * 600)] * 20
    status, headers, when = await asked(edge(), "PUT", f"/v1/drives/{UUID}/blocks/{BLOCK}", parts)
    assert (status, when) == (200, 100.0)
    assert b"connection" not in headers


async def test_a_body_that_drips_is_refused_and_its_connection_closed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    parts = [(1.0, b"x")] * 1000
    status, headers, when = await asked(edge(), "PUT", f"/v1/drives/{UUID}/blocks/{BLOCK}", parts)
    assert (status, headers[b"connection"]) == (408, b"close")
    assert 10 <= when < 11


async def test_a_body_that_came_fast_is_not_waited_for_the_longer(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Else a thousand seconds for each megabyte: who sends much and no end has the hub keep it for hours."""
    parts = [(1.0, b"x" * 100_000), (59.0, b"x" * 100), (2.0, b"x")]
    status, headers, when = await asked(edge(), "PUT", f"/v1/drives/{UUID}/blocks/{BLOCK}", parts)
    assert (status, headers[b"connection"], when) == (408, b"close", 62.0)


async def test_a_body_that_never_comes_is_refused_too(autojump_clock: trio.testing.MockClock) -> None:
    path = f"/v1/drives/{UUID}/blocks/{BLOCK}"
    status, _, when = await asked(edge(), "PUT", path, length="100")
    assert (status, when) == (408, 10.0)


async def test_who_answers_without_the_body_closes_the_connection() -> None:
    _, headers, _ = await asked(edge(), "POST", "/v1/drives", length="1000000000")
    assert headers[b"connection"] == b"close"


async def test_all_connections_are_closed_while_it_ends() -> None:
    _, headers, _ = await asked(edge(is_ending=lambda: True), "GET", "/v1/drives")
    assert headers[b"connection"] == b"close"


@pytest.mark.parametrize(
    ("method", "path", "log"),
    [
        ("PUT", f"/v1/drives/{UUID}/blocks/{BLOCK}", "drivefs.access"),
        ("GET", "/v1/drives", "drivefs.access"),
        ("POST", "/v1/drives", "drivefs.audit"),
        ("GET", "/v1/account", "drivefs.audit"),
        ("GET", f"/nowhere/{BLOCK}", "drivefs.access"),
    ],
)
async def test_a_line_says_the_route_and_nothing_that_is_secret(
    method: str, path: str, log: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        await asked(edge(), method, path, [(0.0, b"plain")] if method == "PUT" else ())
    (record,) = [each for each in caplog.records if each.name.startswith("drivefs.")]
    assert record.name == log
    said = record.getMessage() + repr(record.__dict__["fields"])
    assert "192.0.2.1" in said
    for secret in (BLOCK, "secret", "plain"):
        assert secret not in said


async def test_requests_are_counted_by_route_and_checks_of_health_are_not_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    metrics = HubMetrics()
    application = Edge(Starlette(routes=[Route("/healthz", leave)]), metrics, lambda: False, rate=1)
    with caplog.at_level(logging.INFO):
        for path in ("/healthz", "/healthz", "/other"):
            await asked(application, "GET", path)
    assert [record.getMessage() for record in caplog.records] == ["GET none"]

    def count(route: str, status: str) -> float | None:
        labels = {"method": "GET", "route": route, "status": status}
        return metrics.registry.get_sample_value("drivefs_hub_requests_total", labels)

    assert (count("/healthz", "200"), count("none", "404")) == (2.0, 1.0)
    assert metrics.registry.get_sample_value("drivefs_hub_open_requests") == 0
