"""A hub that lies: it sits between a device and a real hub, hears each request and answers as it likes.

What it cannot do is what it has no key for. A lie is an async function of the request and of `ask`, which
asks the real hub; it returns what the device hears. `LiedTo.set_log` changes what the hub itself has.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psycopg
import trio

from backend import wire
from backend.remote import HubClient
from backend.remote.hub_route import Pace
from backend.remote.recent_commits import FILE, OLDER
from backend.remote.sent_body import SentBody
from backend.system import plain_hash
from backend.upstream import NO_COMMIT
from tests.hub_server import RunningHub
from tests.sync.test_drives_on_a_hub import Devices


@dataclass(frozen=True)
class Heard:
    """A request. `what`: its method and its path below the drive, without ids: `GET blocks/ID`."""

    what: str
    url: httpx.URL
    headers: Mapping[str, str]
    content: bytes


@dataclass(frozen=True)
class Said:
    """An answer, whole."""

    status: int
    content: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


Ask = Callable[[Heard], Awaitable[Said]]
Lie = Callable[[Heard, Ask], Awaitable[Said]]


def problem(kind: str) -> Said:
    """The problem of that kind, as a hub says it."""
    status, _ = wire.PROBLEMS[kind]
    body = f'{{"type": "{wire.PROBLEM}{kind}", "detail": "of a liar", "blocks": []}}'
    return Said(status, body.encode())


class LyingTransport(httpx.AsyncBaseTransport):
    """What one device is told. `lies`: by the `what` of a request; "*": of all others. Without any it is
    honest."""

    def __init__(self) -> None:
        self.lies: dict[str, Lie] = {}
        self.heard: list[Heard] = []
        self._honest = httpx.AsyncHTTPTransport(verify=False)

    def count(self, what: str) -> int:
        """So many requests of that kind were heard."""
        return sum(each.what == what for each in self.heard)

    def sent(self, what: str) -> bytes:
        """The body of the newest request of that kind."""
        return next(each.content for each in reversed(self.heard) if each.what == what)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        heard = Heard(_what(request), request.url, dict(request.headers), await request.aread())
        self.heard.append(heard)
        lie = self.lies.get(heard.what, self.lies.get("*", _honestly))

        async def ask(asked: Heard) -> Said:
            return await self._ask(request, asked)

        said = await lie(heard, ask)
        headers = [(name.encode(), value.encode("latin-1")) for name, value in said.headers.items()]
        return httpx.Response(said.status, headers=headers, stream=httpx.ByteStream(said.content))

    async def _ask(self, request: httpx.Request, asked: Heard) -> Said:
        real = httpx.Request(request.method, asked.url, headers=dict(asked.headers), content=asked.content)
        real.extensions |= request.extensions
        real.stream = SentBody(asked.content, Pace(None), trio.CancelScope())  # it may be cancelled
        answer = await self._honest.handle_async_request(real)
        try:
            headers = {name: answer.headers[name] for name in answer.headers if name.startswith("drivefs")}
            return Said(answer.status_code, await answer.aread(), headers)
        finally:
            await answer.aclose()

    def next(self) -> LyingTransport:
        """That of the device's next connection to the hub: the same lies."""
        found = LyingTransport()
        found.lies, found.heard = self.lies, self.heard
        return found

    async def aclose(self) -> None:
        await self._honest.aclose()


async def _honestly(heard: Heard, ask: Ask) -> Said:
    return await ask(heard)


def _what(request: httpx.Request) -> str:
    path = re.sub(r"^/v1/(drives/[0-9a-f]{32}/)?", "", request.url.path)
    return f"{request.method} {re.sub(r'[0-9a-f]{64}', 'ID', path)}"


class LiedTo(Devices):
    """A drive on a real hub, and its devices; `told` has what each is told."""

    def __init__(self, running: RunningHub, folder: Path) -> None:
        super().__init__(running, folder)
        self._conninfo = running.conninfo
        self.told = {number: LyingTransport() for number in range(1, 4)}

    def client(self, number: int) -> HubClient:
        self.told[number] = self.told[number].next()
        return HubClient(self.url, self.token, transport=self.told[number])

    def forget(self, number: int) -> None:
        """The device has not kept the commits that it has seen."""
        for name in (FILE, OLDER):
            (self.folder / str(number) / name).unlink(missing_ok=True)

    def log(self) -> list[bytes]:
        """The commits that the hub has."""
        with psycopg.connect(self._conninfo) as connection:
            rows = connection.execute(
                "SELECT encoded FROM commit JOIN drive ON drive.id = drive WHERE uuid = %s ORDER BY number",
                (self.uuid,),
            )
            return [bytes(encoded) for (encoded,) in rows]

    def set_log(self, commits: Sequence[bytes]) -> None:
        """The hub has these instead: as a database that was put back, or a forger, has them."""
        hashes = [NO_COMMIT, *map(plain_hash, commits)]
        with psycopg.connect(self._conninfo) as connection:
            drive = connection.execute("SELECT id FROM drive WHERE uuid = %s", (self.uuid,)).fetchone()
            assert drive is not None
            connection.execute("DELETE FROM commit WHERE drive = %s", drive)
            for number, encoded in enumerate(commits, 1):
                row = (drive[0], number, hashes[number], encoded)
                connection.execute("INSERT INTO commit VALUES (%s, %s, %s, %s)", row)
            head = (len(commits), hashes[-1], drive[0])
            connection.execute("UPDATE drive SET head = %s, head_hash = %s WHERE id = %s", head)
