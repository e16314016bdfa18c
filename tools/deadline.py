"""One time limit for several steps."""

from __future__ import annotations

import time


class Deadline:
    """`seconds` from now; None: no limit."""

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self._end = None if seconds is None else time.monotonic() + seconds

    def left(self) -> float | None:
        """Seconds for the next step; a step that comes too late gets next to nothing."""
        return None if self._end is None else max(self._end - time.monotonic(), 0.001)

    @property
    def is_over(self) -> bool:
        """Whether the time has run out."""
        return self._end is not None and time.monotonic() >= self._end

    def __str__(self) -> str:
        return "any time" if self.seconds is None else f"{self.seconds:g} s"
