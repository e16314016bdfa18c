"""Room on this machine's disk: how much of it journal and namespace may take.

A journal that fills its disk cannot be trimmed any more: publishing needs room for the databases, and the
namespace has to be durable before a segment goes. So a reserve is kept for the databases. The journal has
what else is free, whatever `journal_size` says. Other programs may take the reserve all the same; then
nothing is lost, and work goes on when there is room again.

The disk is asked when a second has gone by, or when much was accepted since. Where there is much room, it
is asked only after `look_anew`. Event-loop thread only.
"""

from __future__ import annotations

import math
from typing import Final

import trio

from backend.system import Durable
from cache.journal.room import LITTLE, Need

SMALLEST_RESERVE: Final = 16 << 20
LARGEST_RESERVE: Final = 128 << 20
DATABASE_GROWTH: Final = 3
"""Bytes that a byte of operations may take in the databases and their write-ahead logs, at most."""
SECONDS: Final = 1.0
_MUCH: Final = 64 << 20


def reserve(total: int) -> int:
    """The reserve, in bytes, on a disk of `total` bytes."""
    return min(max(total >> 3, SMALLEST_RESERVE), LARGEST_RESERVE, total >> 2)


class LocalRoom:
    """Of the disk that holds `folder`."""

    def __init__(self, folder: str, disk: Durable) -> None:
        self._folder = folder
        self._disk = disk
        self._free = math.inf
        self._reserve = 0
        self._asked_at = -math.inf
        self._accepted = 0
        self.calm_until = -1.0
        """as long as less than this was accepted, `calm_left` are left at least: no need to look"""
        self.calm_left = 0.0

    def look_anew(self) -> None:
        """The next look asks the disk: much was given back, or somebody is about to be refused."""
        self._asked_at, self.calm_until = -math.inf, -1.0

    def look(self, accepted: int, operation_bytes: int) -> float:
        """The bytes beside the reserve, less than 0 if it is touched. `accepted`: bytes so far, which only
        grows; `operation_bytes`: of operations that the databases may not hold yet."""
        now = trio.current_time()
        spent = accepted - self._accepted
        if now - self._asked_at > SECONDS or spent > max(LITTLE, (self._free - self._reserve) / 4):
            self._ask(accepted, now)
            spent = 0
        left = self._free - self._reserve - spent - DATABASE_GROWTH * operation_bytes
        if left > _MUCH:  # were it all operations, half of it would be left after an eighth of it
            self.calm_until, self.calm_left = accepted + left / 8, left / 2
        else:
            self.calm_until = -1.0
        return left

    def _ask(self, accepted: int, now: float) -> None:
        self._asked_at, self._accepted = now, accepted
        try:
            total, free = self._disk.free_space(self._folder)
        except OSError:
            # The folder is gone, or its disk is: writing there tells more than we could.
            self._free, self._reserve = math.inf, 0
            return
        self._free, self._reserve = free, reserve(total)

    def is_short(self, left: float, times: int) -> bool:
        """Whether the journal has to be let go of before more is accepted: the reserve is touched (`times`
        1), or half of it is gone (2)."""
        return times <= 2 and left < self._reserve / times - self._reserve

    def allows(self, need: Need, left: float) -> bool:
        """Whether more can be accepted. Half of the reserve is for deleting, and for what others take."""
        return need is Need.FREE or left >= -self._reserve / 2
