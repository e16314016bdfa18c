"""The retention policy: which commits stay points that can be gone back to, and which gaps that leaves.

Pure functions of points, policy, pins and the time; docs/retention.md explains them to people. A tier keeps
the last point of each of its periods: hours, days, weeks (from Monday) or months, in UTC. It keeps it as
long as that period ended less than the tier's time ago.

Applying the policy often or seldom ends in the same points. The reason: the last point of a day is also the
last one of one of its hours, and so on. So a point that is retained later was retained before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final

from cache.namespace import Gap, Point

SECOND: Final = 10**9
HOUR: Final = 3600
DAY: Final = 24 * HOUR
WEEK: Final = 7 * DAY
JUMP: Final = 90 * DAY
"""A drive that saw no commit for so long was either left alone, or its clock is wrong."""
TRUST: Final = 7 * DAY
"""After a jump the clock is trusted again when commits go on for so long."""


@dataclass(frozen=True, slots=True)
class Policy:
    """Seconds. `keep_all`: every point stays; the others: one an hour, day, week, month. 0: none."""

    keep_all: int = DAY
    hourly: int = WEEK
    daily: int = 30 * DAY
    weekly: int = 365 * DAY
    monthly: int = 0


Period = Callable[[int], tuple[int, int]]
"""(its number, when it ends), of the period that a time lies in; seconds since 1970."""


def _every(length: int, shift: int = 0) -> Period:
    def period(second: int) -> tuple[int, int]:
        number = (second + shift) // length
        return number, (number + 1) * length - shift

    return period


def _month(second: int) -> tuple[int, int]:
    date = time.gmtime(second)
    number = date.tm_year * 12 + date.tm_mon - 1
    year, month = divmod(number + 1, 12)
    return number, days_before(year, month + 1) * DAY


def days_before(year: int, month: int) -> int:
    """Days from 1970-01-01 to the first of a month (proleptic Gregorian; Hinnant, "chrono-Compatible
    Low-Level Date Algorithms", days_from_civil)."""
    year -= month <= 2
    era, rest = divmod(year, 400)
    day_of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5
    return era * 146097 + rest * 365 + rest // 4 - rest // 100 + day_of_year - 719468


_THURSDAY: Final = 3 * DAY
"""1970-01-01 was a Thursday; weeks begin on Monday."""


def gaps(points: Sequence[Point], policy: Policy, pinned: Collection[int], now_ns: int) -> list[Gap]:
    """The gaps that the policy makes in `points` (oldest first): each gap is a pair of commits that stay (0:
    before the first) with nothing but dropped ones in between. The newest point and all `pinned` ones
    stay."""
    kept = retained(points, policy, now_ns) | set(pinned)
    found: list[Gap] = []
    low, dropped = 0, False
    for point in points:
        if point.number not in kept:
            dropped = True
            continue
        if dropped:
            found.append((low, point.number))
        low, dropped = point.number, False
    return found


def retained(points: Sequence[Point], policy: Policy, now_ns: int) -> set[int]:
    """The numbers of the points that the policy itself keeps."""
    now = now_ns // SECOND
    kept = {point.number for point in points[-1:]}
    kept |= {point.number for point in points if point.time_ns // SECOND > now - policy.keep_all}
    for duration, period in (
        (policy.hourly, _every(HOUR)),
        (policy.daily, _every(DAY)),
        (policy.weekly, _every(WEEK, _THURSDAY)),
        (policy.monthly, _month),
    ):
        if duration:
            kept |= _last_of_each(points, duration, period, now)
    return kept


def _last_of_each(points: Sequence[Point], duration: int, period: Period, now: int) -> set[int]:
    last: dict[int, int] = {}
    for point in points:
        number, end = period(point.time_ns // SECOND)
        if end > now - duration:
            last[number] = point.number
    return set(last.values())


def held_back(points: Sequence[Point], now_ns: int) -> str:
    """The reason why the clock cannot be trusted to drop anything; empty if it can. A clock that is years
    ahead would make everything old: nothing is dropped after a long silence until commits have gone on for a
    while, nor when commits come from the future."""
    if not points:
        return ""
    if now_ns < points[-1].time_ns - HOUR * SECOND:
        return "the newest commit is from the future: the clock is, or was, wrong"
    times = [point.time_ns for point in points] + [now_ns]
    for earlier, later in zip(times[-2::-1], times[:0:-1], strict=True):
        if now_ns - later > TRUST * SECOND:
            return ""
        if later - earlier > JUMP * SECOND:
            days = (later - earlier) // (DAY * SECOND)
            return f"there was no commit for {days} days: a long pause, or a clock that jumped"
    return ""
