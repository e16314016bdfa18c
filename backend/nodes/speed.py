"""The measured speed of each node's reads: a read is called slow only when it is slow for its node.

A store across an ocean takes half a second for every read. A disk that takes so long hangs. To ask others in
the stead of the first costs a whole pack for 32 KiB, perhaps on a slow line.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

SMALL: Final = 128 << 10
"""Reads of up to so many bytes tell how long a node takes to answer; larger ones, how fast its bytes come."""
_WEIGHT: Final = 1 / 8
"""Of the newest measurement, as in RFC 6298 (the timer of TCP)."""
TIMES: Final = 4.0
"""A read is slow when it takes so many times as long as is usual."""
LONGEST: Final = 30.0
"""Seconds after which any read is slow."""


@dataclass(slots=True)
class _Speed:
    latency: float | None = None
    """seconds until a small read is answered"""
    per_byte: float | None = None
    """seconds for each byte beyond that"""


class NodeSpeed:
    """For one event loop; never blocks."""

    def __init__(self) -> None:
        self._speeds: dict[str, _Speed] = {}

    def note(self, name: str, size: int, seconds: float) -> None:
        """The node has answered a read of `size` bytes after `seconds`."""
        speed = self._speeds.setdefault(name, _Speed())
        if size <= SMALL:
            speed.latency = _mean(speed.latency, seconds)
        else:
            rest = max(seconds - (speed.latency or 0.0), 0.0)
            speed.per_byte = _mean(speed.per_byte, rest / size)

    def slow_after(self, name: str, size: int) -> float:
        """The seconds after which a read of `size` bytes is slow for this node, by what was measured; 0.0 if
        nothing was."""
        return min(TIMES * self.usual(name, size), LONGEST)

    def usual(self, name: str, size: int) -> float:
        """The seconds that a read of `size` bytes takes, by what was measured; 0.0 if nothing was."""
        speed = self._speeds.get(name)
        return 0.0 if speed is None else (speed.latency or 0.0) + size * (speed.per_byte or 0.0)


def _mean(before: float | None, new: float) -> float:
    return new if before is None else before + _WEIGHT * (new - before)
