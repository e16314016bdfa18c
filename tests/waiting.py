"""Waiting, in tests that block, for what another thread or process does."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> float:
    """Return when the condition holds: the seconds that it took. A failure if it does not within so many."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, f"what was waited for did not happen within {seconds:g} s"
        time.sleep(0.01)
    return time.monotonic() - began
