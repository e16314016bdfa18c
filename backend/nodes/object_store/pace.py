"""How many requests a store is sent at once: half as many when it says that it is too much, one more after as
many answers as there are at once (additive increase, multiplicative decrease, as TCP does it)."""

from __future__ import annotations

import trio


class Pace:
    """For one event loop. `limiter` is what requests wait for."""

    def __init__(self, most: int) -> None:
        self.limiter = trio.CapacityLimiter(most)
        self._most = most
        self._answers = 0

    def slower(self) -> None:
        """The store was busy."""
        self.limiter.total_tokens = max(1, int(self.limiter.total_tokens) // 2)
        self._answers = 0

    def faster(self) -> None:
        """It answered."""
        if self.limiter.total_tokens >= self._most:
            return
        self._answers += 1
        if self._answers >= self.limiter.total_tokens:
            self.limiter.total_tokens += 1
            self._answers = 0
