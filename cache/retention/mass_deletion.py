"""Mass deletions: when very many files go within a minute, the state before is pinned for thirty days.

A program gone wild, `rm -rf` of the wrong folder and extortion look the same from here. Nothing is blocked,
as most mass deletions are meant. The state before is kept even where the policy would drop it, and a notice
says how to have all of it back.

Invariants:
1. The pinned state is a published one in which none of the files was gone.
2. One pin for one deletion, however long it lasts: it ends with a minute in which few files go.

Event-loop thread only. Removing a file costs a counter; the looking is done once in a while, by `look`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from typing import Final, NamedTuple, Protocol

import trio

from backend.system import Environment
from cache.journal import Ledger
from cache.notices import Kind, Notices
from cache.retention.automatic_pins import DAYS, is_for, pin_name
from cache.retention.retention_keeper import RetentionKeeper

REASON: Final = "mass-deletion"
WITHIN: Final = 60.0
"""Seconds."""
MANY: Final = 1000
"""More files than that are many in any drive."""
SOME: Final = 100
SHARE: Final = 0.2
"""At least so many files are many if they are that share of the drive's."""


class _Sample(NamedTuple):
    """`time`: trio's. `removed`: by this process so far. `commit`: the open one. `files`: of the drive."""

    time: float
    removed: int
    commit: int
    files: int


class Removals(Protocol):
    """The files that lost their last name by this process."""

    @property
    def removed(self) -> int:
        """Their number so far."""

    @property
    def removed_at_cuts(self) -> Collection[tuple[int, int]]:
        """Of the newest cuts the commit, and that number then."""


class MassDeletions:
    """See the module."""

    def __init__(
        self,
        ledger: Ledger,
        retention: RetentionKeeper,
        notices: Notices,
        removals: Removals,
        environment: Environment,
    ) -> None:
        self._ledger = ledger
        self._retention = retention
        self._notices = notices
        self._removals = removals
        self._environment = environment
        self._samples = deque([self._sample()])
        self._is_going_on = False

    def look(self) -> None:
        """To be called about once a second. Raises what accepting a pin raises; the next call tries again."""
        now = self._sample()
        self._samples.append(now)
        while now.time - self._samples[0].time > WITHIN and len(self._samples) > 2:
            self._samples.popleft()
        first = self._samples[0]
        removed = now.removed - first.removed
        if not _is_mass(removed, max(first.files, now.files + removed)):
            self._is_going_on = False
        elif not self._is_going_on:
            self._is_going_on = self._pin(removed)

    def _sample(self) -> _Sample:
        namespace = self._ledger.namespace
        files = namespace.statistics().files
        return _Sample(trio.current_time(), self._removals.removed, namespace.commit, files)

    def _pin(self, count: int) -> bool:
        """Whether there is a state to pin: nothing of these files may have been published."""
        before = self._last_before()
        points = self._ledger.namespace.points
        numbers = [point.number for point in points.points() if not points.is_going(point.number)]
        commit = max((number for number in numbers if number < before), default=0)
        if not commit:
            return False
        name = pin_name(REASON, self._ledger.namespace.device, self._environment.wall_clock())
        if name not in self._retention.pins():
            self._retention.pin(name, commit)
        text = (
            f"{count} files were deleted within a minute; the state before is pinned for {DAYS} days as "
            f"'{name.decode()}': drivefs undo MOUNTPOINT brings back what is gone"
        )
        self._notices.add(Kind.MASS_DELETION, [("", text)], commit)
        return True

    def _last_before(self) -> int:
        """A commit such that none of the files is gone in those before it, as late as is known: it was open
        when none was, or comes after a cut that was made then."""
        removed = self._samples[0].removed
        open_then = [sample.commit for sample in self._samples if sample.removed == removed]
        cut_then = [commit + 1 for commit, count in self._removals.removed_at_cuts if count <= removed]
        return max([*open_then, *cut_then])


def mass_deletion_pins(pins: Iterable[bytes]) -> list[bytes]:
    """Those of the pins that were made for a mass deletion."""
    return [name for name in pins if is_for(REASON, name)]


def _is_mass(removed: int, files: int) -> bool:
    return removed > MANY or (removed >= SOME and removed >= SHARE * files)
