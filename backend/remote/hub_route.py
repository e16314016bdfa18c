"""The way to a hub: whose certificates are believed, the proxy between, and how fast bodies may go."""

from __future__ import annotations

import math
import ssl
from dataclasses import dataclass

import trio

from backend.errors import UsageError
from backend.nodes import TokenBucket


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

    @property
    def is_limited(self) -> bool:
        """Whether anything has to wait."""
        return self._bucket is not None

    async def take(self, count: int, waiting: trio.CancelScope) -> None:
        """Return when so many bytes may pass; that is no time of `waiting`, which is for the hub."""
        if self._bucket is not None:
            left, waiting.deadline = waiting.deadline - trio.current_time(), math.inf
            await self._bucket.take(count)
            waiting.deadline = trio.current_time() + left
