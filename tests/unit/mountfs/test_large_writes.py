"""mountfs.large_writes: who waits for whom."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from mountfs.large_writes import LargeWrites


@pytest.fixture
def writes() -> LargeWrites:
    return LargeWrites()


async def test_nothing_is_waited_for_where_nothing_is_written(writes: LargeWrites) -> None:
    async with writes.in_turn(1):
        await writes.wait_for(2)
    await writes.wait_for(1)


async def test_what_was_received_is_waited_for_and_what_comes_later_is_not(writes: LargeWrites) -> None:
    gate, later, log = trio.Event(), trio.Event(), []

    async def write(name: str, event: trio.Event) -> None:
        async with writes.in_turn(1):
            await event.wait()
            log.append(name)

    async def set_times() -> None:
        await writes.wait_for(1)
        log.append("times")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write, "first", gate)
        nursery.start_soon(write, "second", gate)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(set_times)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(write, "later", later)
        await trio.testing.wait_all_tasks_blocked()
        gate.set()
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(log[:2]) == ["first", "second"]
        assert log[2:] == ["times"]
        later.set()
    assert log[3:] == ["later"]
    assert not writes.are_waiting(1)


async def test_a_write_that_fails_or_is_cancelled_is_over(writes: LargeWrites) -> None:
    with pytest.raises(OSError, match="full"):
        async with writes.in_turn(1):
            raise OSError("full")
    writes.turn = trio.sleep_forever
    async with trio.open_nursery() as nursery:
        nursery.start_soon(writes.in_turn(1).__aenter__)
        await trio.testing.wait_all_tasks_blocked()
        assert writes.are_waiting(1)
        nursery.cancel_scope.cancel()
    await writes.wait_for(1)
    assert not writes.are_waiting(1)
