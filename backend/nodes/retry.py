"""A node whose transient errors are retried: exponential backoff with full jitter, up to a deadline.

Full jitter (a uniform draw up to the backoff) as in Brooker, "Exponential Backoff And Jitter", AWS
Architecture Blog 2015: clients that failed together do not come back together.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

import anyio

from backend.buffer import Buffer
from backend.errors import ConflictError, NotFoundError, TransientError
from backend.nodes.forwarding import ForwardingNode
from backend.nodes.node import PAGE, Node, ObjectState, Space
from backend.system import THIS_MACHINE, Environment, current_time

Result = TypeVar("Result")


class RetryNode(ForwardingNode):
    """See `backend.nodes.node.Node`. Only `TransientError` is retried; when the next wait would pass
    `deadline` seconds after the call's start, the last error is raised. `swap` is never retried."""

    def __init__(
        self,
        node: Node,
        deadline: float = 10.0,
        first_wait: float = 0.05,
        longest_wait: float = 2.0,
        environment: Environment = THIS_MACHINE,
    ) -> None:
        super().__init__(node)
        self._deadline = deadline
        self._first_wait = first_wait
        self._longest_wait = longest_wait
        self._environment = environment

    async def put(self, key: str, parts: Sequence[Buffer]) -> None:
        await self._retried(partial(self._node.put, key, parts))

    async def create(self, key: str, parts: Sequence[Buffer]) -> None:
        """A creation that failed may have happened all the same. So if a later try finds exactly these
        bytes, they are ours; they are swapped for themselves, since the first time may not have been durable.
        Whatever anybody else wrote meanwhile stays."""
        failed_before = False

        async def create_once() -> None:
            nonlocal failed_before
            try:
                await self._node.create(key, parts)
            except TransientError:
                failed_before = True
                raise
            except ConflictError:
                ours = b"".join(parts)
                if not failed_before or not await self._has(key, ours):
                    raise
                await self._node.swap(key, ours, ours)

        await self._retried(create_once)

    async def _has(self, key: str, data: bytes) -> bool:
        """Whether the object, which is there, has exactly these bytes. `TransientError` if it is not found:
        it was deleted meanwhile, or the node reads late."""
        try:
            return await self._node.get(key, 0, len(data) + 1) == data
        except NotFoundError:
            raise TransientError(f"{self.name}: {key} exists, and cannot be found") from None

    async def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        return await self._retried(partial(self._node.get, key, offset, length))

    async def state(self, key: str) -> ObjectState:
        return await self._retried(partial(self._node.state, key))

    async def delete(self, key: str) -> None:
        await self._retried(partial(self._node.delete, key))

    async def keys(self, prefix: str, after: str = "", limit: int = PAGE) -> list[str]:
        return await self._retried(partial(self._node.keys, prefix, after, limit))

    async def space(self) -> Space:
        return await self._retried(self._node.space)

    async def check(self) -> None:
        await self._retried(self._node.check)

    async def _retried(self, call: Callable[[], Awaitable[Result]]) -> Result:
        end = current_time() + self._deadline
        backoff = self._first_wait
        while True:
            try:
                return await call()
            except TransientError:
                wait = self._environment.chance(0, backoff)
                if current_time() + wait > end:
                    raise
            await anyio.sleep(wait)
            backoff = min(backoff * 2, self._longest_wait)
