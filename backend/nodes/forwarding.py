"""A wrapper that passes every call on to its node. The other wrappers define only the calls that they
change."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import Any

from backend.buffer import Buffer
from backend.nodes.node import PAGE, Node, ObjectState, Space


class ForwardingNode:
    """See `backend.nodes.node.Node`."""

    def __init__(self, node: Node) -> None:
        self._node = node

    @property
    def name(self) -> str:
        return self._node.name

    @property
    def zone(self) -> str:
        return self._node.zone

    async def put(self, key: str, parts: Sequence[Buffer]) -> None:
        await self._node.put(key, parts)

    async def create(self, key: str, parts: Sequence[Buffer]) -> None:
        await self._node.create(key, parts)

    async def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        return await self._node.get(key, offset, length)

    def get_soon(self, key: str, offset: int, length: int) -> Coroutine[Any, Any, Buffer | None]:
        # Not async: it is on the way of each small read, and a coroutine more for each wrapper costs time.
        return self._node.get_soon(key, offset, length)

    async def state(self, key: str) -> ObjectState:
        return await self._node.state(key)

    async def delete(self, key: str) -> None:
        await self._node.delete(key)

    async def keys(self, prefix: str, after: str = "", limit: int = PAGE) -> list[str]:
        return await self._node.keys(prefix, after, limit)

    async def swap(self, key: str, expected: bytes | None, new: bytes) -> None:
        await self._node.swap(key, expected, new)

    async def space(self) -> Space:
        return await self._node.space()

    async def check(self) -> None:
        await self._node.check()

    async def tidy(self) -> None:
        await self._node.tidy()
