"""A node in memory for tests, with faults that can be switched on: away, read-only, full; or of a size.

`before` is awaited before each operation, so that a test can interleave tasks or fail one call.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence

import anyio.lowlevel

from backend.buffer import Buffer
from backend.errors import ConflictError, NodeError, NoSpaceError, NotFoundError, ReadOnlyError
from backend.nodes.node import PAGE, ObjectState, Space, require_key


async def _checkpoint(operation: str, key: str) -> None:
    await anyio.lowlevel.checkpoint()


class MemoryNode:
    """See `backend.nodes.node.Node`."""

    def __init__(self, name: str, zone: str = "") -> None:
        self._name = name
        self._zone = zone or name
        self.objects: dict[str, bytes] = {}
        self.away = False
        self.read_only = False
        self.full = False
        self.taken = 0
        """bytes that others have"""
        self.quota = 1 << 40
        """bytes that it takes, whatever it says of its space"""
        self.capacity = 1 << 40
        """bytes; each object takes whole pages of them"""
        self.before: Callable[[str, str], Awaitable[None]] = _checkpoint

    @property
    def name(self) -> str:
        return self._name

    @property
    def zone(self) -> str:
        return self._zone

    async def put(self, key: str, parts: Sequence[Buffer]) -> None:
        require_key(key)
        await self._enter("put", key, writes=True)
        self._keep(key, b"".join(parts))

    async def create(self, key: str, parts: Sequence[Buffer]) -> None:
        require_key(key)
        await self._enter("create", key, writes=True)
        if key in self.objects:
            raise ConflictError(f"{self.name}: {key} exists")
        self._keep(key, b"".join(parts))

    async def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        require_key(key)
        await self._enter("get", key)
        data = self._existing(key)
        return data[offset:] if length is None else data[offset : offset + length]

    async def get_soon(self, key: str, offset: int, length: int) -> Buffer | None:
        return None

    async def state(self, key: str) -> ObjectState:
        require_key(key)
        await self._enter("state", key)
        data = self._existing(key)
        return ObjectState(len(data), hashlib.md5(data).hexdigest())

    async def delete(self, key: str) -> None:
        require_key(key)
        await self._enter("delete", key, writes=True)
        self.objects.pop(key, None)

    async def keys(self, prefix: str, after: str = "", limit: int = PAGE) -> list[str]:
        await self._enter("keys", prefix)
        return sorted(key for key in self.objects if key.startswith(prefix) and key > after)[:limit]

    async def swap(self, key: str, expected: bytes | None, new: bytes) -> None:
        require_key(key)
        await self._enter("swap", key, writes=True)
        if self.objects.get(key) != expected:
            raise ConflictError(f"{self.name}: {key} is not what was expected")
        self._keep(key, new)

    async def space(self) -> Space:
        await self._enter("space", "")
        return Space(self.capacity, 0 if self.full else max(self.capacity - self.taken - self.used, 0))

    async def check(self) -> None:
        await self._enter("check", "")

    async def tidy(self) -> None:
        await self._enter("check", "")

    @property
    def used(self) -> int:
        """Bytes that the objects take."""
        return sum(_pages(data) for data in self.objects.values())

    def _keep(self, key: str, data: bytes) -> None:
        """As on a disk, what is replaced goes after the new object is there."""
        if self.used + _pages(data) > min(self.capacity - self.taken, self.quota):
            raise NoSpaceError(f"{self.name} is full")
        self.objects[key] = data

    def damage(self, key: str) -> None:
        """Flip a bit in the middle of an object."""
        data = bytearray(self.objects[key])
        data[len(data) // 2] ^= 1
        self.objects[key] = bytes(data)

    def _existing(self, key: str) -> bytes:
        if key not in self.objects:
            raise NotFoundError(f"{self.name}: no {key}")
        return self.objects[key]

    async def _enter(self, operation: str, key: str, writes: bool = False) -> None:
        await self.before(operation, key)
        if self.away:
            raise NodeError(f"{self.name} is away", self.name)
        if writes and self.read_only:
            raise ReadOnlyError(f"{self.name} is read-only")
        if writes and self.full:
            raise NoSpaceError(f"{self.name} is full")


def _pages(data: bytes) -> int:
    return -(-len(data) // 4096) * 4096


def memory_nodes(count: int) -> dict[str, MemoryNode]:
    """`count` nodes by name: node0, node1, ..."""
    return {f"node{at}": MemoryNode(f"node{at}") for at in range(count)}
