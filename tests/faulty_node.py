"""A node for tests that fails as real ones do: errors, delays, short reads, lost writes, wrong bytes."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import anyio
import trio

from backend.buffer import Buffer
from backend.errors import DriveError
from backend.nodes.node import PAGE, Node, ObjectState, Space


@dataclass
class Fault:
    """What happens to `calls` (names of `Node` methods; empty: all) on keys that `pattern` finds. `times`
    is how often it still happens (None: for ever). Of `error`, `delay` (seconds), `until` (an event to
    wait for), `short_by`, `lost` and `flip`, those that are set."""

    calls: tuple[str, ...] = ()
    pattern: str = ""
    times: int | None = None
    error: DriveError | None = None
    delay: float = 0.0
    until: anyio.Event | trio.Event | None = None
    short_by: int = 0
    lost: bool = False
    flip: bool = False
    hits: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        """One that can never happen would let a test pass without it."""
        unknown = [call for call in self.calls if not hasattr(Node, call)]
        assert not unknown, f"a node has no {unknown}"

    def applies(self, call: str, key: str) -> bool:
        """Whether it happens now; counts it."""
        fits = (not self.calls or call in self.calls) and re.search(self.pattern, key) is not None
        if not fits or self.times == 0:
            return False
        self.hits += 1
        self.times = None if self.times is None else self.times - 1
        return True


class FaultyNode:
    """See `backend.nodes.node.Node`. `faults` may be changed at any time."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.faults: list[Fault] = []
        self.calls: list[tuple[str, str]] = []
        self.gives_tags = False
        """Whether objects have tags, as in a store."""

    @property
    def name(self) -> str:
        return self._node.name

    @property
    def zone(self) -> str:
        return self._node.zone

    async def put(self, key: str, parts: Sequence[Buffer]) -> None:
        if not _is_lost(await self._suffer("put", key)):
            await self._node.put(key, parts)

    async def create(self, key: str, parts: Sequence[Buffer]) -> None:
        if not _is_lost(await self._suffer("create", key)):
            await self._node.create(key, parts)

    async def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        faults = await self._suffer("get", key)
        data = await self._node.get(key, offset, length)
        for fault in faults:
            data = data[: len(data) - fault.short_by]
            if fault.flip and data:
                data = bytes([data[0] ^ 1]) + data[1:]
        return data

    async def get_soon(self, key: str, offset: int, length: int) -> Buffer | None:
        """None, so that every read comes to its faults."""
        return None

    async def state(self, key: str) -> ObjectState:
        await self._suffer("state", key)
        found = await self._node.state(key)
        if not self.gives_tags:
            return found
        return ObjectState(found.size, hashlib.md5(await self._node.get(key)).hexdigest())

    async def delete(self, key: str) -> None:
        if not _is_lost(await self._suffer("delete", key)):
            await self._node.delete(key)

    async def keys(self, prefix: str, after: str = "", limit: int = PAGE) -> list[str]:
        await self._suffer("keys", prefix)
        return await self._node.keys(prefix, after, limit)

    async def swap(self, key: str, expected: bytes | None, new: bytes) -> None:
        if not _is_lost(await self._suffer("swap", key)):
            await self._node.swap(key, expected, new)

    async def space(self) -> Space:
        await self._suffer("space", "")
        return await self._node.space()

    async def check(self) -> None:
        await self._suffer("check", "")
        await self._node.check()

    async def tidy(self) -> None:
        await self._node.tidy()

    async def _suffer(self, call: str, key: str) -> list[Fault]:
        self.calls.append((call, key))
        faults = [fault for fault in self.faults if fault.applies(call, key)]
        for fault in faults:
            await anyio.sleep(fault.delay)
            if fault.until is not None:
                await fault.until.wait()
            if fault.error is not None:
                raise fault.error
        return faults


def _is_lost(faults: list[Fault]) -> bool:
    return any(fault.lost for fault in faults)
