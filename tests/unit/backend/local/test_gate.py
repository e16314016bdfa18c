"""backend.local.gate: who passes is not stopped on the way, and who closes it is alone."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from backend.local import Gate


async def test_who_closes_it_waits_for_those_inside_and_others_wait_for_him() -> None:
    gate, told = Gate(), list[str]()
    inside, leave, closed, reopen = (trio.Event() for _ in range(4))

    async def pass_slowly() -> None:
        async with gate.passing():
            inside.set()
            await leave.wait()
            told.append("left")

    async def close() -> None:
        async with gate.closed():
            told.append("closed")
            closed.set()
            await reopen.wait()
            told.append("reopened")

    async def pass_later() -> None:
        async with gate.passing():
            told.append("passed")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pass_slowly)
        await inside.wait()
        nursery.start_soon(close)
        await trio.testing.wait_all_tasks_blocked()
        async with gate.passing():  # it is not closed before it is empty
            told.append("passed at once")
        leave.set()
        await closed.wait()
        nursery.start_soon(pass_later)
        await trio.testing.wait_all_tasks_blocked()
        reopen.set()
    assert told == ["passed at once", "left", "closed", "reopened", "passed"]


async def test_it_opens_again_after_an_error_and_after_a_cancellation() -> None:
    gate = Gate()
    with pytest.raises(RuntimeError):
        async with gate.closed():
            raise RuntimeError
    async with gate.passing():
        with trio.move_on_after(0.01) as waiting:
            async with gate.closed():
                pytest.fail("somebody is inside")
    assert waiting.cancelled_caught
    with trio.fail_after(1):
        async with gate.passing():
            pass
        async with gate.closed():
            pass
