"""Whether the journal's disk is quick enough for the event loop to wait for it.

An fdatasync of blocks that were written before takes some 80 microseconds; handing it to a thread costs as
much again. A busy disk takes a hundred milliseconds, in which the event loop would serve nobody. So the event
loop waits for the disk only where the last call was quick, wherever it was waited for, and not long ago. A
disk that slept, or hangs, is met by a thread. After a slow call the event loop does not wait for a while
either. Each further slow call doubles that while.

What remains: a disk that was quick a moment ago, and hangs in the very next call. If that call is waited for
on the event loop, the whole mount hangs with it, and the lease is not renewed meanwhile.
"""

from __future__ import annotations

import time
from typing import Final

SLOW_NS: Final = 500_000
SLOW_IN_THREAD_NS: Final = 10_000_000
"""A thread waits for the interpreter too, 5 milliseconds at a time, and syncs names and unwritten blocks."""
FRESH_NS: Final = 1_000_000_000
FIRST_PAUSE_NS: Final = 20_000_000
LONGEST_PAUSE_NS: Final = 1_000_000_000


class DiskPace:
    """See the module. Event-loop thread only, but for `now`."""

    __slots__ = ("_pause_ns", "_quick_until", "_slow_until")

    def __init__(self) -> None:
        self._quick_until = self._slow_until = 0
        self._pause_ns = FIRST_PAUSE_NS

    @staticmethod
    def now() -> int:
        """The time at which a call begins or ends, in nanoseconds."""
        return time.perf_counter_ns()

    def is_quick(self) -> bool:
        """Whether the last call was quick and not long ago, and the last slow one long enough ago."""
        return self._slow_until <= self.now() < self._quick_until

    def note(self, took_ns: int, slow_ns: int) -> None:
        """A call has just returned, and was slow if it took more than `slow_ns`."""
        now = self.now()
        if took_ns > slow_ns:
            self._quick_until, self._slow_until = 0, now + self._pause_ns
            self._pause_ns = min(2 * self._pause_ns, LONGEST_PAUSE_NS)
            return
        self._quick_until = now + FRESH_NS
        if took_ns <= SLOW_NS and now >= self._slow_until:
            self._pause_ns = FIRST_PAUSE_NS
