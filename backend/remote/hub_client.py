"""Calls of a hub over HTTPS: one connection pool, and the hub's answers as our errors."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

import httpcore
import httpx
import trio

from backend import wire
from backend.errors import (
    AwayError,
    BlocksMissingError,
    CorruptError,
    DriveError,
    ExpiredError,
    ReadOnlyError,
    ThrottledError,
    TransientError,
    UsageError,
)
from backend.remote.hub_route import HubRoute, Pace
from backend.remote.sent_body import SentBody

MOST: Final = 8 << 20
"""Bytes of an answer: more than a block has."""
_AWAY: Final = frozenset((502, 503, 504))
PATIENCE: Final = 30.0
CONNECT_PATIENCE: Final = 10.0
DIRECT: Final = HubRoute()
REFUSALS: Final = (f"{wire.PROBLEM}unauthorised", f"{wire.PROBLEM}expired")
SLOWEST: Final = 4096
"""Bytes a second below which an answer counts as none."""
_CONNECTIONS: Final = 32
_READ: Final = 256 << 10
"""Bytes of an answer that are read at once, at most: a piece takes longer than its bytes."""
_QUICK: Final = 64 << 10
"""Bytes that are hashed without a thread: in less time than one takes."""
_MOST_SAID: Final = 200
"""Characters of what the hub says that are repeated to people."""

# httpx hands no such setting on. Its own 64 KiB cost a third of the processor time of reading a large file.
httpcore.AsyncHTTP11Connection.READ_NUM_BYTES = _READ


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, whole."""

    status_code: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def text(self) -> str:
        """The text that it is."""
        return self.content.decode(errors="replace")

    @property
    def said(self) -> Mapping[str, Any]:
        """The JSON object that it is; empty if it is none."""
        try:
            found = json.loads(self.content)
        except (ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}


class HubClient:
    """See the module. `url` of the hub, `token` of the device, or none (empty). Any number of tasks at once.
    `reread`: gives the device's token as it is kept now, or nothing; a thread asks it when the hub refuses
    the one that was sent. `UsageError`: as of `HubRoute.tls_context`; `url`, or a proxy (of the environment,
    too), is none."""

    def __init__(
        self,
        url: str,
        token: bytes,
        route: HubRoute = DIRECT,
        *,
        reread: Callable[[], bytes] = bytes,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._token = token
        self._reread = reread
        self.is_refused = False
        """whether the hub has said that it does not know the device, or its token, any more: for good"""
        self.uploads_are_limited: Final = route.upload_limit is not None
        self._upload, self._download = Pace(route.upload_limit), Pace(route.download_limit)
        # Redirects are not followed, so plain HTTP (of this machine only) stays that.
        is_secret = url.startswith("https:")
        verify = route.tls_context() if is_secret else False
        try:
            self._client = httpx.AsyncClient(
                base_url=url,
                headers={"Accept-Encoding": "identity"},
                transport=transport,
                proxy=route.proxy,
                # To a hub on this machine nothing leads through another one, which would read the token.
                trust_env=is_secret,
                verify=verify,
                limits=httpx.Limits(max_connections=_CONNECTIONS, max_keepalive_connections=_CONNECTIONS),
            )
        except (ValueError, ImportError, httpx.InvalidURL) as error:
            raise UsageError(
                f"{url}, or a proxy to it (HTTPS_PROXY, ALL_PROXY), is no address: {error}"
            ) from None
        # Waiting for a connection is no time of the hub's: so that is done here.
        self._connections = trio.CapacityLimiter(_CONNECTIONS)

    async def call(
        self,
        method: str,
        path: str,
        *,
        content: bytes | None = None,
        params: Mapping[str, str | int] | None = None,
        headers: Mapping[str, str] | None = None,
        said: Any = None,
        seconds: float = 0.0,
        most: int = MOST,
    ) -> Answer:
        """The answer to one request. `AwayError`: none came, or one that says that the hub is down;
        `TransientError`: the hub asks to come again. The request may have been done. Any other answer that is
        no success is the error that it names. `seconds`: so long the hub is asked to wait before it answers.
        `CorruptError`: the answer has over `most` bytes. One
        that comes more slowly than `SLOWEST` is none."""
        checked = {} if content is None else {"Content-Digest": await _digest(content)}
        timeout = httpx.Timeout(PATIENCE + seconds, connect=CONNECT_PATIENCE, pool=None)
        request = self._client.build_request(
            method,
            path,
            content=content,
            params=params,
            headers={**checked, **(headers or {})},
            json=said,
            timeout=timeout,
        )
        body, token = request.content, self._token
        answer = await self._sent(request, body, PATIENCE + seconds, most)
        if _is_refusal(answer) and await self._has_other_token(token):
            answer = await self._sent(request, body, PATIENCE + seconds, most)
        if httpx.codes.is_success(answer.status_code):
            return answer
        if _is_refusal(answer):
            self.is_refused = True
        raise _error(answer)

    def use_token(self, token: bytes) -> None:
        """From now on requests show this one."""
        self._token = token

    async def _has_other_token(self, sent: bytes) -> bool:
        """Whether there is another one than that which was sent: a process of this machine replaced it."""
        if self._token == sent:
            self._token = await trio.to_thread.run_sync(self._reread) or sent
        return self._token != sent

    async def _sent(self, request: httpx.Request, body: bytes, patience: float, most: int) -> Answer:
        waiting = trio.CancelScope(relative_deadline=patience + len(body) / SLOWEST)
        request.stream = SentBody(body, self._upload, waiting)
        if self._token:
            request.headers["Authorization"] = f"Bearer {self._token.hex()}"
        try:
            async with self._connections:
                return await self._answer(request, waiting, most)
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise AwayError(f"the hub does not answer: {_reason(error)}") from error

    async def _answer(self, request: httpx.Request, waiting: trio.CancelScope, most: int) -> Answer:
        with waiting:
            response = await self._client.send(request, stream=True)
            try:
                body = await self._body(response, most, waiting)
                return Answer(response.status_code, response.headers, body)
            finally:
                await response.aclose()
        raise AwayError("the hub answers too slowly")

    async def close(self) -> None:
        """Let go of all connections. Idempotent."""
        await self._client.aclose()

    async def _body(self, response: httpx.Response, most: int, waiting: trio.CancelScope) -> bytes:
        """As it came: it is asked for without compression, which could make much of little. Each byte gives
        the rest a little more time."""
        parts, size = [], 0
        try:
            async for part in response.aiter_raw():
                await self._download.take(len(part), waiting)
                waiting.deadline += len(part) / SLOWEST
                size += len(part)
                if size > most:  # to leave the loop would leave its generators open
                    await response.aclose()
                else:
                    parts.append(part)
        except (httpx.TransportError, httpx.StreamError):
            if size <= most:
                raise
        if size > most:
            raise CorruptError(f"the hub's answer has over {most} bytes")
        return b"".join(parts)


async def _digest(content: bytes) -> str:
    """The header field by which the hub knows that the body came as it was."""
    hashed = await trio.to_thread.run_sync(sha256, content) if len(content) > _QUICK else sha256(content)
    return wire.content_digest(hashed.digest())


def _is_refusal(answer: Answer) -> bool:
    """Whether the hub itself says that it does not know the device: a proxy says it of another login."""
    is_unauthorised = answer.status_code == httpx.codes.UNAUTHORIZED
    return is_unauthorised and answer.said.get("type") in REFUSALS


def _reason(error: BaseException) -> str:
    """The words of the error, or of the first with some of those that it came from: a certificate that is not
    believed breaks a connection without a word."""
    cause: BaseException | None = error
    while cause is not None:
        if text := str(cause):
            return text
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__


def _error(answer: Answer) -> DriveError:
    if answer.status_code == httpx.codes.TOO_MANY_REQUESTS:
        return _throttled(answer)
    kind = str(answer.said.get("type", "")).removeprefix(wire.PROBLEM)
    if answer.status_code in _AWAY:  # of the hub itself, or of a proxy before it
        is_there = kind in wire.PROBLEMS
        return (TransientError if is_there else AwayError)(f"the hub says {answer.status_code}")
    if answer.status_code == httpx.codes.INTERNAL_SERVER_ERROR:
        return TransientError(f"the hub says {answer.status_code}")
    if answer.status_code == httpx.codes.UNAUTHORIZED and kind == "expired":
        return ExpiredError("this machine's login at the hub was not used for too long; drivefs login again")
    if answer.status_code == httpx.codes.UNAUTHORIZED:
        return ReadOnlyError("the hub does not know this device (any more); drivefs login makes it one anew")
    detail = f"the hub says: {_shown(answer.said.get('detail', answer.status_code))}"
    if kind == "blocks_missing":
        return BlocksMissingError(detail, _blocks(answer.said.get("blocks")))
    _, known = wire.PROBLEMS.get(kind, (0, CorruptError))
    return known(detail)


def _throttled(answer: Answer) -> ThrottledError:
    """As the hub, or a balancer before it, says: its words are a problem, and its seconds a number."""
    seconds = answer.headers.get("Retry-After", "")
    is_number = seconds.isascii() and seconds.isdigit() and len(seconds) < 6
    detail = _shown(answer.said.get("detail", "too many requests"))
    return ThrottledError(f"the hub says: {detail}", float(seconds) if is_number else 1.0)


def _shown(said: object) -> str:
    """Of what the hub says as much as one line takes, without what a terminal would obey."""
    text = str(said)[:_MOST_SAID]
    return "".join(each if each.isprintable() else "?" for each in text)


def _blocks(said: object) -> list[bytes]:
    """The blocks that the hub says it lacks, as far as they are some."""
    if not isinstance(said, list):
        return []
    try:
        return [block for block in map(bytes.fromhex, said) if len(block) == 32]
    except (TypeError, ValueError):
        return []
