"""What the requests of an account that are under way take of a process: connections, and memory for bodies
and answers. One account alone cannot take all of them.

A request is under way until the last part of its answer was given to the connection. A large answer is
given in parts, each when the client has taken most of the part before: the rest is in memory, and counts.
The last two parts are copies: the connection may hold them long after that, and a part of the answer itself
would hold all of it, which counts no more. asyncio's thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backend.errors import ThrottledError

_PART: Final = 256 << 10


@dataclass(slots=True)
class Taken:
    """By all requests of an account."""

    requests: int = 0
    memory: int = 0


class Share:
    """A request's part of what its account takes."""

    def __init__(self, taken: Taken, most: int) -> None:
        self._taken = taken
        self._most = most
        self.memory = 0

    def take(self, size: int) -> None:
        """So many bytes more. `ThrottledError`: the account has too many in memory already."""
        if self._taken.memory + size > self._most:
            raise ThrottledError("the account's requests that are under way are too large", 1.0)
        self._taken.memory += size
        self.memory += size


class UnderWay:
    """See the module. The most of an account at once: `requests`, and bytes of `memory`."""

    def __init__(self, requests: int = 1000, memory: int = 512 << 20) -> None:
        self.requests = requests
        self.memory = memory
        self.taken: Final[dict[int, Taken]] = {}
        """by accounts that have some under way"""

    @contextmanager
    def one(self, account: int) -> Iterator[Share]:
        """A request of the account, while the block lasts. `ThrottledError`: it has too many."""
        taken = self.taken.setdefault(account, Taken())
        if taken.requests >= self.requests:
            raise ThrottledError("the account has too many requests under way", 1.0)
        taken.requests += 1
        share = Share(taken, self.memory)
        try:
            yield share
        finally:
            taken.requests -= 1
            taken.memory -= share.memory
            if not taken.requests:
                del self.taken[account]


class UntilAnswered:
    """Around an application: what is entered into `until_answered`, of the request's state, is left when the
    answer was given."""

    def __init__(self, app: ASGIApp) -> None:
        self._application = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""

        async def send_parts(message: Message) -> None:
            parts = _parts(message) if message["type"] == "http.response.body" else [message]
            for part in parts:
                await send(part)

        with ExitStack() as stack:
            scope.setdefault("state", {})["until_answered"] = stack
            await self._application(scope, receive, send_parts)


def _parts(message: Message) -> Iterator[Message]:
    """The message, with no more than `_PART` bytes in each."""
    body = message.get("body", b"")
    view = memoryview(body)
    for start in range(0, max(len(body), 1), _PART):
        part = view[start : start + _PART]
        more = start + _PART < len(body) or message.get("more_body", False)
        is_held = start + 2 * _PART >= len(body)
        yield {**message, "body": bytes(part) if is_held else part, "more_body": more}
