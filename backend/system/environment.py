"""The environment of a device: its disk, its clocks, its random bytes, its failpoints.

Constructors are given it, from `tools.compose` downwards, so that two devices in one process share nothing
that one of them could lose. What is built without one belongs to this machine; so does all that tools do by
themselves. Time that only measures is the event loop's, whose clock the loop's runner chooses. The times of
files are stamped by the kernel. Keys and nonces are always the operating system's random bytes: nothing may
make them repeat.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from backend.failpoints import OF_PROCESS, Failpoints
from backend.system.durable import Durable


def boot_clock() -> float:
    """Seconds since boot, suspended time included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True, slots=True)
class Environment:
    """`disk`: all its files are on it, those of its directory nodes too. `wall_clock`: nanoseconds since
    1970, which may jump. `boot_clock`: seconds since some moment; it never stands still or goes back.
    `random_bytes`: so many bytes, for names that nobody else may choose too, and for chance."""

    disk: Durable = field(default_factory=Durable)
    wall_clock: Callable[[], int] = time.time_ns
    boot_clock: Callable[[], float] = boot_clock
    random_bytes: Callable[[int], bytes] = os.urandom
    failpoints: Failpoints = field(default_factory=Failpoints)

    def chance(self, low: float, high: float) -> float:
        """A number between the two, all equally likely."""
        return low + (high - low) * int.from_bytes(self.random_bytes(4)) / 2**32


THIS_MACHINE: Final = Environment(failpoints=OF_PROCESS)
"""The real one."""
