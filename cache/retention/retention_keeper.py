"""Retention at work: applies the policy in the background, and gives back the space that this frees.

Invariants:
1. What goes is decided from the points and pins of one moment, and accepted as an operation in that
   same moment (no await between). It takes effect when it is published (`cache.namespace.points`).
2. Only points that are published go, and the newest never.
3. Each step can be interrupted or fail: the next run goes on with what is left.

Event-loop thread only.
"""

from __future__ import annotations

import logging
from bisect import bisect_left, bisect_right
from collections import Counter
from dataclasses import dataclass
from typing import Final

import trio

from backend.errors import DriveError
from backend.failpoints import declare
from backend.system import Environment
from backend.upstream import CompactionReport, Housekeeping
from cache.errors import FileSystemError, InvalidArgumentError, ReadOnlyFileSystemError
from cache.journal import Ledger
from cache.namespace import MAX_NAME, Forget, Gap, Pin, SetRetention, Unpin
from cache.publish import Publisher, SharedExclusiveLock, SnapshotStore
from cache.retention import automatic_pins, retention
from cache.retention.collector import Collector, Dead
from cache.retention.retention import DAY, Policy

ACCEPTED: Final = declare("retention.accepted", "what is to be forgotten is journaled, and not published")
PUBLISHED: Final = declare("retention.published", "points are gone; all rows of theirs are there")
FORGETTING: Final = declare("retention.forgetting", "some rows of points that are gone are removed")

GAPS: Final = 4096
"""In one operation."""
ROWS: Final = 2000
"""Removed between two moments in which the loop serves others."""
MAX_SECONDS: Final = (1 << 63) - 1

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RetentionSchedule:
    """Seconds between two runs; how long a released block stays for those who read it still; and at how many
    bytes a second packs are rewritten in the background."""

    period: float = 3600.0
    grace: float = 3600.0
    bytes_per_second: float = 16 << 20


@dataclass(frozen=True, slots=True)
class CollectionReport:
    """What a run did, or would do. `points` were dropped; `held_back` says why none were, if so; what was
    released less than `grace` seconds ago is not deleted."""

    points: int
    held_back: str
    dead: Dead
    compaction: CompactionReport
    grace: float


class RetentionKeeper:
    """See the module."""

    def __init__(
        self,
        ledger: Ledger,
        publisher: Publisher,
        housekeeping: Housekeeping,
        snapshots: SnapshotStore,
        collection_lock: SharedExclusiveLock,
        schedule: RetentionSchedule,
        environment: Environment,
        *,
        read_only: bool,
    ) -> None:
        self._ledger = ledger
        self._publisher = publisher
        self._housekeeping = housekeeping
        self._schedule = schedule
        self._environment = environment
        self._read_only = read_only
        self._collector = Collector(ledger, housekeeping, snapshots, collection_lock, environment)
        self._lock = trio.Lock()
        self._collected_at = -float(DAY)
        self._held = Counter[int]()
        self._waiting_blocks = 0
        """released ones whose grace is not over: looked after in every run"""

    # Policy and pins

    def policy(self) -> Policy:
        """The policy in force."""
        found = self._ledger.namespace.points.policy()
        return Policy() if found is None else Policy(*found)

    def set_policy(self, policy: Policy) -> None:
        """Let it be the drive's policy. `InvalidArgumentError` for a time out of range."""
        self._check_writable()
        numbers = (policy.keep_all, policy.hourly, policy.daily, policy.weekly, policy.monthly)
        if any(not 0 <= number <= MAX_SECONDS for number in numbers):
            raise InvalidArgumentError("a time of the policy is out of range")
        self._ledger.accept(SetRetention(*numbers))
        self._publisher.wake()

    def pins(self) -> dict[bytes, int]:
        """Name to commit."""
        return self._ledger.namespace.points.pins()

    def pin(self, name: bytes, commit: int) -> None:
        """Retain the drive as of `commit`, under `name`, until `unpin`. `InvalidArgumentError` if the name is
        taken or cannot be one, or if the commit is not retained."""
        self._check_writable()
        points = self._ledger.namespace.points
        if not 0 < len(name) <= MAX_NAME or b"\0" in name:
            raise InvalidArgumentError(f"a pin's name has 1 to {MAX_NAME} bytes")
        if name in points.pins():
            raise InvalidArgumentError("there is a pin of that name already")
        if not points.is_retained(commit) or points.is_going(commit):
            raise InvalidArgumentError(f"commit {commit} is not retained: it cannot be pinned")
        self._ledger.accept(Pin(name, commit))
        self._publisher.wake()

    def unpin(self, name: bytes) -> None:
        """The opposite of `pin`. `InvalidArgumentError` if there is none."""
        self._check_writable()
        if name not in self._ledger.namespace.points.pins():
            raise InvalidArgumentError("there is no pin of that name")
        self._ledger.accept(Unpin(name))
        self._publisher.wake()

    def hold(self, commit: int) -> None:
        """Retain the drive as of `commit` until `let_go`, as somebody here is reading it. This process only:
        other devices do not know of it."""
        self._held[commit] += 1

    def let_go(self, commit: int) -> None:
        """The opposite, as often."""
        self._held[commit] -= 1
        if not self._held[commit]:
            del self._held[commit]

    def _check_writable(self) -> None:
        if self._read_only:
            raise ReadOnlyFileSystemError("the drive is mounted read-only")
        if self._publisher.fenced:
            raise ReadOnlyFileSystemError(self._publisher.problem)

    # Applying it

    def gaps(self, policy: Policy | None = None, now_ns: int | None = None) -> list[Gap]:
        """The gaps that `policy` (default: the one in force) would make now."""
        points = self._ledger.namespace.points
        kept = {*points.pins().values(), *self._held}
        now = self._environment.wall_clock() if now_ns is None else now_ns
        return retention.gaps(points.points(), policy or self.policy(), kept, now)

    def held_back(self, now_ns: int | None = None) -> str:
        """The reason why nothing is dropped by the clock now; empty if it is."""
        now = self._environment.wall_clock() if now_ns is None else now_ns
        return retention.held_back(self._ledger.namespace.points.points(), now)

    async def run(self) -> None:
        """Apply the policy and collect, for ever."""
        while True:
            await trio.sleep(self._schedule.period)
            try:
                await self._run_once()
            except (DriveError, FileSystemError, OSError) as error:
                log.info("retention goes on later: %s", error)

    async def _run_once(self) -> None:
        async with self._lock:
            self._end_automatic_pins()
            dropped = await self._apply(None)
            now = trio.current_time()
            waiting = await self._forget() or dropped
            if waiting or now - self._collected_at >= DAY or self._waiting_blocks:
                self._collected_at = now
                await self._collect(self._schedule.grace, self._schedule.bytes_per_second)

    def _end_automatic_pins(self) -> None:
        """Unpin what was pinned automatically, and for long enough; not by a clock that has jumped."""
        if self.held_back():
            return
        now = self._environment.wall_clock()
        for name in [name for name in self.pins() if automatic_pins.is_over(name, now)]:
            self.unpin(name)

    async def collect(self, *, grace: float | None = None, trust_clock: bool = False) -> CollectionReport:
        """Apply the policy and give space back now, at full speed: of what was deleted before the call too.
        `grace` as in the schedule by default; `trust_clock` drops points even where `held_back` says why not
        to."""
        self._check_writable()
        async with self._lock:
            await self._publisher.publish(everything=False)
            held_back = "" if trust_clock else self.held_back()
            dropped = await self._apply("" if trust_clock else None)
            await self._forget()
            wait = self._schedule.grace if grace is None else grace
            dead, report = await self._collect(wait, float("inf"))
        return CollectionReport(dropped, held_back, dead, report, wait)

    async def preview(self) -> CollectionReport:
        """The points that `collect` would drop, and the blocks that nobody needs already. Changes nothing."""
        async with self._lock:
            held_back = self.held_back()
            gaps = [] if held_back else self.gaps()
            dead = await self._collector.look()
        return CollectionReport(self.count(gaps), held_back, dead, CompactionReport(), self._schedule.grace)

    def count(self, gaps: list[Gap]) -> int:
        """The number of points in the gaps."""
        numbers = [point.number for point in self._ledger.namespace.points.points()]
        return sum(bisect_left(numbers, high) - bisect_right(numbers, low) for low, high in gaps)

    async def _apply(self, held_back: str | None) -> int:
        """Drop points, published and in effect when this returns: how many."""
        await self._publish_waiting()
        reason = self.held_back() if held_back is None else held_back
        if reason:
            log.info("no points are dropped: %s", reason)
            return 0
        dropped = 0
        # Each Forget makes a commit, a point itself: those are for the next run.
        newest = self._ledger.head.number
        while gaps := [gap for gap in self.gaps() if gap[1] <= newest][:GAPS]:
            dropped += self.count(gaps)
            self._ledger.accept(Forget(tuple(gaps)))
            self._publisher.wake()
            self._environment.failpoints.reached(ACCEPTED)
            await self._publish_waiting()
            self._environment.failpoints.reached(PUBLISHED)
        return dropped

    async def _publish_waiting(self) -> None:
        while self._ledger.namespace.points.is_waiting:
            await self._publisher.publish(everything=False)

    async def _forget(self) -> bool:
        """Remove the rows of points that are gone; whether there were any."""
        found = False
        await self._ledger.standing.alone()
        while self._ledger.namespace.points.forget_some(ROWS):
            found = True
            self._environment.failpoints.reached(FORGETTING)
            await trio.lowlevel.checkpoint()
            await self._ledger.standing.alone()
        if found:
            self._ledger.save()
        return found

    async def _collect(self, grace: float, bytes_per_second: float) -> tuple[Dead, CompactionReport]:
        # Nothing is deleted under a lease before its log has a commit of it (`Housekeeping.compact`).
        dead = await self._collector.release(always=not self._publisher.has_published)
        self._publisher.wake()
        await self._publisher.publish(everything=False)
        if dead.lost:
            # What the index does not list may lie in packs that it lets go: nothing is deleted on its word.
            log.warning(
                "%d blocks that versions need are not listed as stored: nothing is deleted until "
                "fsck.drivefs -y has looked, or these versions are gone",
                dead.lost,
            )
            return dead, CompactionReport()
        report = await self._housekeeping.compact(grace, bytes_per_second, debris=True)
        self._waiting_blocks = len(dead.blocks) - report.blocks
        self._ledger.room.look_soon()
        return dead, report
