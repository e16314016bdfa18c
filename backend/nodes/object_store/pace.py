"""The number of requests at once to a store: half as many after an answer "too many", one more after as many
good answers as there are requests at once (additive increase, multiplicative decrease, as TCP does it)."""

from __future__ import annotations

from backend.system import Threads


class Pace:
    """For one event loop. `threads` is what requests wait for."""

    def __init__(self, most: int) -> None:
        self.threads = Threads(most)
        self._most = most
        self._answers = 0

    def slower(self) -> None:
        """The store was busy."""
        self.threads.count = max(1, self.threads.count // 2)
        self._answers = 0

    def faster(self) -> None:
        """It answered."""
        if self.threads.count >= self._most:
            return
        self._answers += 1
        if self._answers >= self.threads.count:
            self.threads.count += 1
            self._answers = 0
