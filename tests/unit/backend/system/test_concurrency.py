"""Work on several items at once: all of it ends, and its first error is itself; and turns in threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

import anyio
import anyio.lowlevel
import pytest

from backend.errors import CorruptError, UnavailableError
from backend.system import Threads, each, plain_task_group
from tests.loops import on_both_loops


@on_both_loops
async def test_items_are_worked_on_at_once() -> None:
    begun, all_began = list[int](), anyio.Event()

    async def work(item: int) -> None:
        begun.append(item)
        if len(begun) == 3:
            all_began.set()
        await all_began.wait()

    await each(work, range(3))
    assert sorted(begun) == [0, 1, 2]


@on_both_loops
async def test_an_error_waits_for_the_others_and_comes_in_no_group() -> None:
    failed, ended = anyio.Event(), list[int]()

    async def work(item: int) -> None:
        if item == 0:
            failed.set()
            raise CorruptError("the first")
        await failed.wait()
        ended.append(item)
        if item == 2:
            raise UnavailableError("the second", [])

    with pytest.raises(CorruptError, match="the first"):
        await each(work, range(3))
    assert sorted(ended) == [1, 2]


@on_both_loops
async def test_an_error_of_the_block_waits_for_the_tasks_and_comes_in_no_group() -> None:
    failing, ended = anyio.Event(), list[int]()

    async def work() -> None:
        await failing.wait()
        ended.append(1)

    async def block() -> None:
        async with plain_task_group() as group:
            group.start_soon(work)
            failing.set()
            raise CorruptError("the block")

    with pytest.raises(CorruptError, match="the block"):
        await block()
    assert ended == [1]


@on_both_loops
async def test_a_turn_lasts_as_long_as_its_thread(loop: str) -> None:
    """Whoever gave up on it does not make room for another: a disk that hangs gets no more threads."""
    threads, may_end = Threads(1), threading.Event()
    began = list[str]()

    def work(name: str) -> None:
        began.append(name)
        assert may_end.wait(60)

    async with anyio.create_task_group() as group:
        with anyio.CancelScope() as scope:
            group.start_soon(cancel_when, scope, lambda: began == ["first"])
            await threads.run(partial(work, "first"))
        assert scope.cancelled_caught
        with anyio.move_on_after(0.2) as waiting:
            await threads.run(partial(work, "second"))
        assert waiting.cancelled_caught
        assert began == ["first"]
        may_end.set()
        with anyio.fail_after(60):
            await threads.run(partial(work, "third"))
    assert began == ["first", "third"]


@on_both_loops
async def test_a_caller_who_is_cancelled_at_any_moment_keeps_no_turn(loop: str) -> None:
    threads = Threads(2)
    for number in range(50):
        async with anyio.create_task_group() as group:
            for _ in range(4):
                group.start_soon(threads.run, lambda: None)
            for _ in range(number % 5):
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
    with anyio.fail_after(60):
        async with anyio.create_task_group() as group:
            barrier = threading.Barrier(2)
            for _ in range(2):
                group.start_soon(threads.run, partial(barrier.wait, 60))


@on_both_loops
async def test_what_a_thread_returns_or_raises_is_its_callers(loop: str) -> None:
    threads = Threads(1)
    for _ in range(3):
        assert await threads.run(lambda: 5) == 5
        with pytest.raises(CorruptError, match="mine"):
            await threads.run(_failing)


def _failing() -> None:
    raise CorruptError("mine")


async def cancel_when(scope: anyio.CancelScope, is_so: Callable[[], bool]) -> None:
    while not is_so():
        await anyio.sleep(0.001)
    scope.cancel()
