"""Threads, tasks, time limits and the clock of the running event loop, trio's or asyncio's.

The rooms that a server will share with a mount (nodes, packs, care) run on both loops. anyio costs more than
trio's own calls: a thread a fifth, a task twice as much, a time limit a quarter, the clock twice. Small reads
and reads of whole packs feel that. So these functions call trio directly where trio runs. Events, locks and
sleeping are anyio's."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import cached_property, partial
from typing import TypeVar

import anyio.lowlevel
import anyio.to_thread
import trio
from anyio.abc import TaskGroup

Result = TypeVar("Result")
Item = TypeVar("Item")

Group = trio.Nursery | TaskGroup
"""Takes tasks, and cancels them all."""
CutOff = trio.CancelScope | anyio.CancelScope
_on_trio = trio.lowlevel.in_trio_run


class Threads:
    """At most `count` calls at once, the others wait their turn. For one event loop; made anywhere."""

    def __init__(self, count: int) -> None:
        self._count = count

    @property
    def count(self) -> int:
        """The number of calls at once; may be changed at any time, by the event loop's thread."""
        return self._count

    @count.setter
    def count(self, count: int) -> None:
        self._count = self._limiter.total_tokens = count

    @property
    def _limiter(self) -> trio.CapacityLimiter | anyio.CapacityLimiter:
        return self._of_trio if _on_trio() else self._of_anyio

    async def run(self, work: Callable[[], Result]) -> Result:
        """`work` in a thread, with a copy of the caller's context. When the caller is cancelled it is left
        behind: nobody is told of its end, and it has its turn until then."""
        if _on_trio():
            return await trio.to_thread.run_sync(work, limiter=self._of_trio, abandon_on_cancel=True)
        return await self._run_on_asyncio(work)

    async def finish(self, work: Callable[[], Result]) -> Result:
        """As `run`, but a caller that is cancelled waits for the end."""
        if _on_trio():
            return await trio.to_thread.run_sync(work, limiter=self._of_trio)
        return await anyio.to_thread.run_sync(work, limiter=self._of_anyio)

    async def _run_on_asyncio(self, work: Callable[[], Result]) -> Result:
        """anyio takes the turn from a thread that is left behind. So it is given back here: by the thread at
        its end, or by a caller who was cancelled before a thread had begun."""
        import asyncio  # a process without it does not load it

        turn, begun = object(), threading.Lock()
        give_back = partial(self._of_anyio.release_on_behalf_of, turn)
        loop = asyncio.get_running_loop()

        def in_thread() -> Result:
            if not begun.acquire(blocking=False):
                raise RuntimeError("nobody waits for this any more")
            try:
                return work()
            finally:
                with suppress(RuntimeError):  # the loop has ended, and all turns with it
                    loop.call_soon_threadsafe(give_back)

        await self._of_anyio.acquire_on_behalf_of(turn)
        try:
            return await anyio.to_thread.run_sync(
                in_thread, limiter=anyio.CapacityLimiter(1), abandon_on_cancel=True
            )
        finally:
            if begun.acquire(blocking=False):
                give_back()

    @cached_property
    def _of_trio(self) -> trio.CapacityLimiter:
        return trio.CapacityLimiter(self._count)

    @cached_property
    def _of_anyio(self) -> anyio.CapacityLimiter:
        return anyio.CapacityLimiter(self._count)


def task_group() -> AbstractAsyncContextManager[Group]:
    """A block that ends when all tasks that were started in it have; as a nursery of trio."""
    return trio.open_nursery() if _on_trio() else anyio.create_task_group()


@asynccontextmanager
async def plain_task_group() -> AsyncIterator[Group]:
    """As `task_group`, but an error of the block itself is raised as it is, in no group, when all tasks have
    ended. It does not cancel them."""
    failure: Exception | None = None
    async with task_group() as group:
        try:
            yield group
        except Exception as error:
            failure = error
    if failure is not None:
        raise failure


async def each(work: Callable[[Item], Awaitable[None]], items: Iterable[Item]) -> None:
    """`work` on all items at once. When all have ended, the first error is raised as it is, in no group."""
    errors: list[Exception] = []

    async def attempt(item: Item) -> None:
        try:
            await work(item)
        except Exception as error:
            errors.append(error)

    async with task_group() as group:
        for item in items:
            group.start_soon(attempt, item)
    if errors:
        raise errors[0]


def current_time() -> float:
    """The event loop's clock in seconds."""
    return trio.current_time() if _on_trio() else anyio.current_time()


def cut_after(seconds: float, *, shield: bool = False) -> CutOff:
    """A block that is cut off after so many seconds; `cancelled_caught` says afterwards that it was. With
    `shield` nothing else cuts it off."""
    if _on_trio():
        return trio.move_on_after(seconds, shield=shield)
    return anyio.move_on_after(seconds, shield=shield)


def checkpoint() -> Awaitable[None]:
    """A turn for others, and for cancellation."""
    return trio.lowlevel.checkpoint() if _on_trio() else anyio.lowlevel.checkpoint()


def checkpoint_if_cancelled() -> Awaitable[None]:
    """Ends here who is cancelled; nobody else has a turn."""
    if _on_trio():
        return trio.lowlevel.checkpoint_if_cancelled()
    return anyio.lowlevel.checkpoint_if_cancelled()
