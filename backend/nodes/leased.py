"""A node that is written to only while this process's lease is not known to be over.

A process that was stopped past its lease finds out before its next write, even before a harmless one: a pack
that nobody names, the repair of a fragment that others may have deleted. The check reads this process's clock
and asks no node. A commit counts by `Lease.verify`, not by this check.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from backend.buffer import Buffer
from backend.nodes.forwarding import ForwardingNode
from backend.nodes.node import Node


class LeasedNode(ForwardingNode):
    """See `backend.nodes.node.Node`. `check` is `Lease.check`: what it raises, the writing calls raise, and
    nothing was written."""

    def __init__(self, node: Node, check: Callable[[], None]) -> None:
        super().__init__(node)
        self._check_lease = check

    async def put(self, key: str, parts: Sequence[Buffer]) -> None:
        self._check_lease()
        await self._node.put(key, parts)

    async def create(self, key: str, parts: Sequence[Buffer]) -> None:
        self._check_lease()
        await self._node.create(key, parts)

    async def delete(self, key: str) -> None:
        self._check_lease()
        await self._node.delete(key)

    async def swap(self, key: str, expected: bytes | None, new: bytes) -> None:
        self._check_lease()
        await self._node.swap(key, expected, new)
