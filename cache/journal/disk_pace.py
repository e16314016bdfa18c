"""Whether the journal's disk is quick enough for the event loop to wait for it.

An fdatasync of blocks that were written before takes some 80 microseconds; handing it to a thread costs as
much again. A busy disk takes a hundred milliseconds, in which the event loop would serve nobody. So after a
slow call the event loop does not wait for the disk for a while. Each further slow call doubles that while.
"""

from __future__ import annotations

import time
from typing import Final

SLOW_NS: Final = 500_000
FIRST_PAUSE_NS: Final = 20_000_000
LONGEST_PAUSE_NS: Final = 1_000_000_000


class DiskPace:
    """See the module. Event-loop thread only."""

    __slots__ = ("_pause_ns", "_slow_until")

    def __init__(self) -> None:
        self._slow_until = 0
        self._pause_ns = FIRST_PAUSE_NS

    def is_quick(self) -> bool:
        """Whether the last call was quick, or long enough ago."""
        return time.perf_counter_ns() >= self._slow_until

    def begin(self) -> int:
        """A call begins: for `note`."""
        return time.perf_counter_ns()

    def note(self, began_at: int) -> None:
        """The call that began then has returned."""
        now = time.perf_counter_ns()
        if now - began_at <= SLOW_NS:
            self._pause_ns = FIRST_PAUSE_NS
            return
        self._slow_until = now + self._pause_ns
        self._pause_ns = min(2 * self._pause_ns, LONGEST_PAUSE_NS)
