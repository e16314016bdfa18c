"""The way to a hub: whose certificates are believed, the proxy between, and how fast bodies may go."""

from __future__ import annotations

import math
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

import trio

from backend.errors import UsageError
from backend.nodes import TokenBucket

_PIECE: Final = 16 << 10
"""Bytes that are sent at once where there is a limit: what is small waits for one piece, not for a block."""


@dataclass(frozen=True, slots=True)
class HubRoute:
    """`ca_file`: certificates (PEM) that are believed instead of the system's. `proxy`: its URL; None: as
    `HTTPS_PROXY` and its like say. Limits in bytes a second of bodies, both of all requests together; None:
    there is none."""

    ca_file: str | None = None
    proxy: str | None = None
    upload_limit: int | None = None
    download_limit: int | None = None

    def tls_context(self) -> ssl.SSLContext:
        """For the client of a hub. `UsageError`: the file cannot be read, or has no certificate. Blocks."""
        try:
            return ssl.create_default_context(cafile=self.ca_file)
        except (OSError, ssl.SSLError) as error:
            raise UsageError(f"{self.ca_file}: no certificates can be read: {error.strerror}") from None


class Pace:
    """The bytes that may pass in one direction; one bucket for all requests. None: as many as can."""

    def __init__(self, limit: int | None) -> None:
        self._bucket = None if limit is None else TokenBucket(limit, limit)

    async def take(self, count: int, waiting: trio.CancelScope) -> None:
        """Return when so many bytes may pass; that is no time of `waiting`, which is for the hub."""
        if self._bucket is not None:
            left, waiting.deadline = waiting.deadline - trio.current_time(), math.inf
            await self._bucket.take(count)
            waiting.deadline = trio.current_time() + left

    def paced(self, content: bytes, waiting: trio.CancelScope) -> bytes | AsyncIterator[bytes]:
        """The content, in pieces that wait for their turn where there is a limit."""
        return content if self._bucket is None else self._pieces(content, waiting)

    async def _pieces(self, content: bytes, waiting: trio.CancelScope) -> AsyncIterator[bytes]:
        for start in range(0, len(content), _PIECE):
            piece = content[start : start + _PIECE]
            await self.take(len(piece), waiting)
            yield piece
