"""A node that counts: calls, errors, bytes and latency of each kind of call."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from backend.buffer import Buffer
from backend.errors import DriveError
from backend.nodes.forwarding import ForwardingNode
from backend.nodes.node import PAGE, Node, Space
from backend.system import current_time

LATENCY_BOUNDS: Final = (0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0)
"""Upper bounds of the latency buckets in seconds; one more bucket takes what is above."""


@dataclass(slots=True)
class CallMeter:
    """Sums over all calls of one kind. `latency` counts calls per bucket of LATENCY_BOUNDS."""

    calls: int = 0
    errors: int = 0
    payload_bytes: int = 0
    seconds: float = 0.0
    latency: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BOUNDS) + 1))

    def took(self, seconds: float) -> None:
        """Note how long a call took."""
        self.seconds += seconds
        self.latency[bisect_left(LATENCY_BOUNDS, seconds)] += 1


class MeteredNode(ForwardingNode):
    """See `backend.nodes.node.Node`. Adds no errors of its own."""

    def __init__(self, node: Node) -> None:
        super().__init__(node)
        self._meters: defaultdict[str, CallMeter] = defaultdict(CallMeter)

    @property
    def meters(self) -> Mapping[str, CallMeter]:
        """By the method's name; only what was called. Live: it goes on counting."""
        return self._meters

    async def put(self, key: str, parts: Sequence[Buffer]) -> None:
        with self._measured("put") as meter:
            await self._node.put(key, parts)
            meter.payload_bytes += sum(len(part) for part in parts)

    async def create(self, key: str, parts: Sequence[Buffer]) -> None:
        with self._measured("create") as meter:
            await self._node.create(key, parts)
            meter.payload_bytes += sum(len(part) for part in parts)

    async def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        with self._measured("get") as meter:
            data = await self._node.get(key, offset, length)
            meter.payload_bytes += len(data)
            return data

    async def get_soon(self, key: str, offset: int, length: int) -> Buffer | None:
        """Counted as a `get` if it brings anything."""
        started = current_time()
        data = await self._node.get_soon(key, offset, length)
        if data is not None:
            meter = self._meters["get"]
            meter.calls += 1
            meter.payload_bytes += len(data)
            meter.took(current_time() - started)
        return data

    async def size(self, key: str) -> int:
        with self._measured("size"):
            return await self._node.size(key)

    async def delete(self, key: str) -> None:
        with self._measured("delete"):
            await self._node.delete(key)

    async def keys(self, prefix: str, after: str = "", limit: int = PAGE) -> list[str]:
        with self._measured("keys"):
            return await self._node.keys(prefix, after, limit)

    async def swap(self, key: str, expected: bytes | None, new: bytes) -> None:
        with self._measured("swap") as meter:
            await self._node.swap(key, expected, new)
            meter.payload_bytes += len(new)

    async def space(self) -> Space:
        with self._measured("space"):
            return await self._node.space()

    async def check(self) -> None:
        with self._measured("check"):
            await self._node.check()

    @contextmanager
    def _measured(self, call: str) -> Iterator[CallMeter]:
        meter = self._meters[call]
        started = current_time()
        meter.calls += 1
        try:
            yield meter
        except DriveError:
            meter.errors += 1
            raise
        finally:
            meter.took(current_time() - started)
