"""The presences of other devices, as they are believed here. The hub is not believed.

Invariants:
1. A presence counts for `PRESENCE_SECONDS` after this device first heard its device say so, whatever the hub
   goes on showing. Of two sets of a device the later one counts, and no earlier one ever again.
2. A device whose clock is more than `SKEW` seconds from this one's is not heard: so long an old set can be
   shown to a device that has just been opened.

Event-loop thread only.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final

import trio

from backend.errors import CorruptError, FormatError
from backend.system import Environment
from backend.upstream import PRESENCE_SECONDS, SealedPresence
from cache.presence.form import PresenceCodec, Present

SKEW: Final = 600.0

log = logging.getLogger(__name__)


class Others:
    """See the module. `is_heard`: whether a device is one of the drive, and not this one."""

    def __init__(
        self, codec: PresenceCodec, environment: Environment, is_heard: Callable[[int], bool]
    ) -> None:
        self._codec = codec
        self._environment = environment
        self._is_heard = is_heard
        self._heard: dict[int, tuple[int, float]] = {}
        """by device the time of its newest set, by its clock, and when that was heard, by the loop's"""
        self._present: list[Present] = []
        self.are_shown = False
        """whether the hub shows any, of a device that is not known here yet, too"""

    def take(self, shown: Sequence[SealedPresence]) -> None:
        """The hub shows these, and no others."""
        found = [present for present in map(self._opened, shown) if present is not None]
        for present in found:
            time_ns, _ = self._heard.get(present.device, (-1, 0.0))
            if present.time_ns > time_ns:
                self._heard[present.device] = present.time_ns, trio.current_time()
        self._present, self.are_shown = found, bool(shown)

    def _opened(self, sealed: SealedPresence) -> Present | None:
        try:
            present = self._codec.open(sealed)
        except (CorruptError, FormatError) as error:
            log.info("the hub shows a presence that is none: %s", error)
            return None
        skew = abs(self._environment.wall_clock() - present.time_ns) / 1e9
        return present if skew <= SKEW and self._is_heard(present.device) else None

    def now(self) -> list[Present]:
        """Those that count, in the order of devices and files."""
        return sorted(filter(self._counts, self._present), key=lambda each: (each.device, each.inode))

    def _counts(self, present: Present) -> bool:
        time_ns, heard = self._heard[present.device]
        return present.time_ns == time_ns and trio.current_time() < heard + PRESENCE_SECONDS
