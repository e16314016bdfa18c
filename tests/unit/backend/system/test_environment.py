"""The environment of a device: its clocks."""

from __future__ import annotations

import time

from backend.system import boot_clock


def test_the_boot_clock_counts_suspended_time() -> None:
    assert boot_clock() >= time.clock_gettime(time.CLOCK_MONOTONIC) - 1
