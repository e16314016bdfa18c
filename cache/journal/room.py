"""Room on the nodes: how much may still be accepted, so that all of it can be stored.

The account starts with what the nodes could store when they were last measured (`Capacity`). What had been
accepted and was not stored then is subtracted, and so is all that was accepted since. Bytes are counted as
they are written, before dedup and compression. So the account errs on the safe side until the next
measurement.

Changes that make the drive grow stop at the reserve. Changes in place (overwriting, names, attributes) stop
in the middle of the reserve. Changes that free space never stop for want of room on the nodes: the reserve is
there so that a full drive can be emptied.

Event-loop thread only.
"""

from __future__ import annotations

import math
from enum import Enum
from typing import Final

import trio

from backend.upstream import Capacity

LITTLE: Final = 1 << 20
"""So much that is not stored is no reason to publish before the time."""
FRESH: Final = 1.0
"""Seconds for which a measurement is good enough to refuse by."""


class Need(Enum):
    """The purpose that room is asked for."""

    GROW = "grow"
    CHANGE = "change"
    FREE = "free"


class Room:
    """See the module. Unlimited until something is known."""

    def __init__(self) -> None:
        self.accepted = 0
        """bytes, by this process; only ever grows"""
        self.waiting = 0
        """who waits for what is not stored to take less than it seems"""
        self.wanted = trio.Event()
        """set when it should be measured soon; whoever measures puts a new one in the place of a set one"""
        self._capacity: Capacity | None = None
        self._stored = 0
        """of `accepted`, what was stored when it was last measured"""
        self._measured_at = -math.inf

    def look_soon(self) -> None:
        """The contents of the nodes have changed, or may have."""
        self.wanted.set()

    def measured(self, capacity: Capacity | None, accepted: int, unstored: int, moment: float) -> None:
        """The nodes have this capacity. `accepted` and `unstored` are of before they were asked: what was
        stored meanwhile may be missing from what they said."""
        self._capacity, self._stored, self._measured_at = capacity, accepted - unstored, moment

    @property
    def unstored(self) -> int:
        """Bytes that were accepted and are not known to be stored."""
        return self.accepted - self._stored

    def left(self, need: Need) -> float:
        """Bytes that may still be accepted."""
        return self._storable(need) - self.unstored

    def _storable(self, need: Need) -> float:
        """Bytes that the nodes had room for when they were last measured."""
        if self._capacity is None or need is Need.FREE:
            return math.inf
        return self._capacity.storable if need is Need.GROW else self._capacity.storable_in_need

    def could_allow(self, need: Need, size: int) -> bool:
        """Whether so many bytes would fit if what is not stored took nothing: storing it may help."""
        return self._storable(need) >= size

    def allows(self, need: Need, size: int) -> bool:
        """Whether so many bytes more can be accepted."""
        return self._capacity is None or need is Need.FREE or self.left(need) >= size

    @property
    def is_full(self) -> bool:
        """Whether nothing that grows can be stored, though all that was accepted is."""
        return self._capacity is not None and self._capacity.storable <= 0

    @property
    def is_tight(self) -> bool:
        """Whether what is not stored should be, to find out what it really takes."""
        unstored = self.unstored
        return unstored > max(self.left(Need.GROW), LITTLE) or (self.waiting > 0 and unstored > 0)

    def is_known(self, need: Need, size: int, moment: float) -> bool:
        """Whether to wait would tell nothing: it was measured just now, and to store the rest cannot help."""
        can_help = self.unstored > 0 and self.could_allow(need, size)
        return not can_help and moment - self._measured_at < FRESH
