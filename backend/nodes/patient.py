"""A node with a time limit for each call.

A disk may hang for ever. After `patience` seconds a call ends with `TransientError`; a write may then still
happen, at any later time, as after any transient error. While a call of this wrapper is overdue, the wrapper
answers every other call with `OverdueError`: the node is away. Several wrappers, each with its own patience,
share one node: a call of the lease is given up sooner than one of a pack.

A write whose caller is cancelled is still waited for: after the cancellation nothing goes on unseen. A read
may be abandoned.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any, TypeVar

from backend.buffer import Buffer
from backend.errors import OverdueError, TransientError
from backend.nodes.forwarding import ForwardingNode
from backend.nodes.node import PAGE, Node, ObjectState, Space
from backend.nodes.watch import Watch
from backend.system import checkpoint_if_cancelled, cut_after

Result = TypeVar("Result")


class PatientNode(ForwardingNode):
    """See `backend.nodes.node.Node`. `patience` is in seconds."""

    def __init__(self, node: Node, patience: float = math.inf) -> None:
        super().__init__(node)
        self._patience = patience
        self.watch = Watch()

    async def put(self, key: str, parts: Sequence[Buffer]) -> None:
        await self._write(f"cannot write {key}", partial(self._node.put, key, parts))

    async def create(self, key: str, parts: Sequence[Buffer]) -> None:
        await self._write(f"cannot create {key}", partial(self._node.create, key, parts))

    async def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        return await self._read(f"cannot read {key}", partial(self._node.get, key, offset, length))

    def get_soon(self, key: str, offset: int, length: int) -> Coroutine[Any, Any, Buffer | None]:
        if self.watch.is_overdue(self._patience):
            return _nothing()
        return self._node.get_soon(key, offset, length)

    async def state(self, key: str) -> ObjectState:
        return await self._read(f"cannot stat {key}", partial(self._node.state, key))

    async def delete(self, key: str) -> None:
        await self._write(f"cannot delete {key}", partial(self._node.delete, key))

    async def keys(self, prefix: str, after: str = "", limit: int = PAGE) -> list[str]:
        return await self._read(f"cannot list {prefix}", partial(self._node.keys, prefix, after, limit))

    async def swap(self, key: str, expected: bytes | None, new: bytes) -> None:
        await self._write(f"cannot replace {key}", partial(self._node.swap, key, expected, new))

    async def space(self) -> Space:
        return await self._read("cannot ask for space", self._node.space)

    async def check(self) -> None:
        await self._read("cannot read", self._node.check)

    async def tidy(self) -> None:
        await self._write("cannot clean", self._node.tidy)

    async def _read(self, what: str, call: Callable[[], Awaitable[Result]]) -> Result:
        self._require_answers(what)
        with cut_after(self._patience), self.watch.handed_down():
            return await call()
        raise self._silent(what)

    async def _write(self, what: str, call: Callable[[], Awaitable[None]]) -> None:
        self._require_answers(what)
        await checkpoint_if_cancelled()
        with cut_after(self._patience, shield=True), self.watch.handed_down() as asking:
            await call()
            return
        # It may have begun late, waiting for its turn: else the same would be sent again while it goes on.
        asking.is_given_up = True
        raise self._silent(what)

    def _require_answers(self, what: str) -> None:
        if self.watch.is_overdue(self._patience):
            # Not transient: to try again at once would only cost time.
            raise OverdueError(f"{self.name}: {what}: an earlier call is not answered yet", self.name)

    def _silent(self, what: str) -> TransientError:
        return TransientError(f"{self.name}: {what}: no answer within {self._patience:g} s")


async def _nothing() -> None:
    """`get` is to be asked, which tells why."""
