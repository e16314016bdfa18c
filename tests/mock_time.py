"""Time of a mock clock for a whole drive, whose disks and stores answer in real time from threads."""

from __future__ import annotations

import trio
from trio.testing import MockClock, active_thread_count, wait_all_tasks_blocked, wait_all_threads_completed

from backend.system import Environment


def environment_of(clock: MockClock) -> Environment:
    """A device whose clocks are this one. Threads ask them too."""
    return Environment(wall_clock=lambda: int(clock.current_time() * 1e9), boot_clock=clock.current_time)


async def let_pass(clock: MockClock, seconds: float) -> None:
    """So much of its time passes. None does while a task can run or a thread works, so an answer of a store
    takes no time and comes before any time limit."""
    end = clock.current_time() + seconds
    while (left := end - clock.current_time()) > 0:
        await wait_all_tasks_blocked()
        if active_thread_count():
            await wait_all_threads_completed()
            continue
        clock.jump(min(left, max(trio.lowlevel.current_statistics().seconds_to_next_deadline, 0)))
