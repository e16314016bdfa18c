"""The bounds of what a client may take: bytes, connections, time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import trio

MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes, times in seconds, `least_rate` in bytes a second. A body may stall and come slowly for
    `grace` in all; after that it has to have come at `least_rate`."""

    head_bytes: int = 32 << 10
    headers: int = 256
    body_bytes: int = (5 << 30) + 64 * MIB
    head_seconds: float = 15.0
    idle_seconds: float = 75.0
    grace: float = 20.0
    least_rate: int = 1024
    connections: int = 20_000
    ending_seconds: float = 20.0
    drained_bytes: int = 256 << 10
    """of a body that nobody wants: so much is read to keep the connection"""
    linger_seconds: float = 2.0
    """so long such a body is read, so that its sender sees the answer before the connection is gone"""


class Pace:
    """The time that one direction of an exchange may still wait for the client. Only waiting counts: what the
    application takes is not the client's fault."""

    def __init__(self, limits: Limits) -> None:
        self._rate = limits.least_rate
        self._left = limits.grace

    def wait(self, size: int = 0) -> trio.CancelScope:
        """The scope of a wait for `size` bytes to be taken, or for whatever comes; then call `waited`."""
        return trio.CancelScope(deadline=trio.current_time() + self._left + size / self._rate)

    def waited(self, since: float, size: int) -> None:
        """A wait that began `since` (`trio.current_time`) brought `size` bytes."""
        self._left += size / self._rate - (trio.current_time() - since)
