"""Work on several items at once: all of it ends, and its first error is itself."""

from __future__ import annotations

import anyio
import pytest

from backend.errors import CorruptError, UnavailableError
from backend.system import each, plain_task_group
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
