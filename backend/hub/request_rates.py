"""How many requests an account may make: a token bucket for each, in this process.

Each process counts by itself, so an account has the rate once for each process. The limit keeps one account
from taking all of a process; a count in the database would cost more than most requests. asyncio's thread.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import anyio

from backend.errors import ThrottledError
from backend.hub.under_way import UnderWay

_ACCOUNTS: Final = 100_000
"""Accounts that are remembered: of the others, whose last request is longest ago, all is forgiven."""


class RequestRates:
    """See the module. `rate`: requests a second; `burst`: so many at once."""

    def __init__(self, rate: float = 1000.0, burst: float = 5000.0) -> None:
        self._rate = rate
        self._burst = burst
        self._left: OrderedDict[int, tuple[float, float]] = OrderedDict()
        self.under_way: Final = UnderWay()

    def take(self, account: int) -> None:
        """One request. `ThrottledError`."""
        now = anyio.current_time()
        left, at = self._left.pop(account, (self._burst, now))
        left = min(self._burst, left + (now - at) * self._rate)
        self._left[account] = (left - 1 if left >= 1 else left, now)
        if len(self._left) > _ACCOUNTS:
            self._left.popitem(last=False)
        if left < 1:
            raise ThrottledError("the account makes too many requests", (1 - left) / self._rate)
