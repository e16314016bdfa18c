"""A node whose payload traffic is held to a rate, by a token bucket in bytes."""

from __future__ import annotations

from collections.abc import Sequence

import anyio

from backend.buffer import Buffer
from backend.nodes.forwarding import ForwardingNode
from backend.nodes.node import Node
from backend.system import current_time


class TokenBucket:
    """At most `rate` bytes a second in the long run, `burst` at once. Takes are granted in order; one
    larger than `burst` is granted on credit, which those after it wait for."""

    def __init__(self, rate: float, burst: float) -> None:
        if rate <= 0 or burst <= 0:
            raise ValueError("rate and burst must be positive")
        self._rate = rate
        self._burst = burst
        self._level = burst
        self._filled_at: float | None = None

    async def take(self, count: int) -> None:
        """Return when `count` bytes may pass."""
        self._refill()
        self._level -= count
        await anyio.sleep(max(0.0, -self._level) / self._rate)

    def _refill(self) -> None:
        now = current_time()
        if self._filled_at is not None:
            self._level = min(self._burst, self._level + (now - self._filled_at) * self._rate)
        self._filled_at = now


class RateLimitedNode(ForwardingNode):
    """See `backend.nodes.node.Node`. `put` and `create` wait before they send, `get` after it has received
    (its length is not known before); calls without payload pass."""

    def __init__(self, node: Node, bucket: TokenBucket) -> None:
        super().__init__(node)
        self._bucket = bucket

    async def put(self, key: str, parts: Sequence[Buffer]) -> None:
        await self._bucket.take(sum(len(part) for part in parts))
        await self._node.put(key, parts)

    async def create(self, key: str, parts: Sequence[Buffer]) -> None:
        await self._bucket.take(sum(len(part) for part in parts))
        await self._node.create(key, parts)

    async def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        data = await self._node.get(key, offset, length)
        await self._bucket.take(len(data))
        return data

    async def get_soon(self, key: str, offset: int, length: int) -> Buffer | None:
        """None: the bucket may have to be waited for."""
        return None
