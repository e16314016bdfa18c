"""The full garbage collection of the interpreter, which runs when nobody waits for an answer.

A full collection walks everything that is in memory, in one go: 130 ms with the names of 200,000 files, each
time that there is a quarter more of it. References free nearly everything without it; what is left are
cycles, mostly of errors with their tracebacks. So the interpreter by itself only looks among young objects,
and `collect_cycles_when_idle` does the rest.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Final

import trio

YOUNG: Final = (700, 10)
"""The interpreter's own thresholds for the first two generations."""
NEVER: Final = 1 << 30
LOOK_SECONDS: Final = 20.0
LONGEST_SECONDS: Final = 600.0
"""A mount, or a door, that is never idle is held up so often."""


async def collect_cycles_when_idle(idle_seconds: Callable[[], float]) -> None:
    """Until cancelled, objects that are not young are left to this: it looks at all of them now and then when
    nothing has been asked for a second, or when that was not so for `LONGEST_SECONDS`; not while nothing
    happens at all. What is there at the start is not looked at (modules, mostly). Of the whole process."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*YOUNG, NEVER)
    try:
        await _collect(idle_seconds)
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


async def _collect(idle_seconds: Callable[[], float]) -> None:
    collected_at, seen = trio.current_time(), _activity()
    while True:
        await trio.sleep(LOOK_SECONDS)
        overdue = trio.current_time() - collected_at >= LONGEST_SECONDS
        if _activity() != seen and (overdue or idle_seconds() >= 1):
            gc.collect()
            collected_at, seen = trio.current_time(), _activity()


def _activity() -> int:
    """The number of collections of young objects: it grows with what was made and not freed at once."""
    middle: dict[str, int] = gc.get_stats()[1]
    return middle["collections"]
