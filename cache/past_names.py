"""Names of moments: what stands after `.versions/`, after `--at` and in `asof=`; and names of versions.

Forms: `2026-11-20T194612Z` (a second), `2026-11-20T194612Z~2` (the second commit in that second),
`2026-11-20 19:46` (the end of that minute), `2026-11-20`, `today`, `yesterday` (the end of that day),
`90s`, `45m` or `45min`, `2h`, `3d`, `4w` (so long ago), `@17` (commit 17), `now` and `latest` (the newest).
Before the hour there is a `T` or a blank; the colons may be left out; a zone may follow (`Z`, `+01:00`).
Without one, and of days, all times are UTC. Pure functions; `cache.history.past` says what commit a moment
means.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

SECOND: Final = 10**9
DAY: Final = 24 * 3600 * SECOND
LONGEST_EXTENSION: Final = 32
"""Bytes, with the point: a longer one is left out, so that every version's name fits."""

FORMS: Final = (
    "2026-11-20 19:46, 2026-11-20T19:46:12+01:00 (UTC without a zone), 2026-11-20, today, yesterday, 90s,"
    " 5min, 2h, 3d, 4w (ago), @17 (a commit), latest or now"
)
"""For people who wrote something else."""

_NEWEST: Final = ("now", "latest")
_END_OF_TIME: Final = (1 << 63) - 1
_AGO: Final = {"s": SECOND, "m": 60 * SECOND, "min": 60 * SECOND, "h": 3600 * SECOND, "d": DAY, "w": 7 * DAY}
_COMMIT: Final = re.compile(r"@([0-9]{1,18})")
_AGE: Final = re.compile(r"([0-9]{1,6})(s|m|min|h|d|w)")
_DATE: Final = r"([0-9]{4})-([0-9]{2})-([0-9]{2})"
_DAY: Final = re.compile(_DATE)
_ZONE: Final = r"(?: ?(Z|[+-][0-9]{2}:?[0-9]{2}))?"
_MINUTE: Final = re.compile(_DATE + r"[T ]([0-9]{2}):?([0-9]{2})" + _ZONE)
_SECOND: Final = re.compile(
    _DATE + r"[T ]([0-9]{2}):?([0-9]{2}):?([0-9]{2})" + _ZONE + r"(?:~([1-9][0-9]{0,5}))?"
)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Moment:
    """What a name means. `commit`: exactly that one. Otherwise the last state not after `until_ns`; with
    `ordinal` that of the n-th commit in the second that begins then, if there are any in it. A moment
    that begins (`from_ns`) in the future means nothing yet."""

    from_ns: int = 0
    until_ns: int = 0
    ordinal: int = 0
    commit: int | None = None


def parse(name: str, now_ns: int) -> Moment | None:
    """The moment that `name` means if it is `now_ns`; None if it is no name of one."""
    if match := _COMMIT.fullmatch(name):
        return Moment(commit=int(match[1]))
    if match := _AGE.fullmatch(name):
        then = now_ns - int(match[1]) * _AGO[match[2]]
        return Moment(then, then) if then >= 0 else None
    today = now_ns - now_ns % DAY
    if name in _NEWEST:
        return Moment(0, _END_OF_TIME)
    if name == "today":
        return Moment(today, today + DAY - 1)
    if name == "yesterday":
        return Moment(today - DAY, today - 1)
    if match := _DAY.fullmatch(name):
        day = _time_ns(*map(int, match.groups()))
        return None if day is None else Moment(day, day + DAY - 1)
    if match := _MINUTE.fullmatch(name):
        *numbers, zone = match.groups()
        return _within(_time_ns(*map(int, numbers)), zone, 60 * SECOND)
    if match := _SECOND.fullmatch(name):
        *numbers, zone, ordinal = match.groups()
        if ordinal != "1":
            return _within(_time_ns(*map(int, numbers)), zone, SECOND, int(ordinal or 1))
    return None


def _within(time_ns: int | None, zone: str | None, length: int, ordinal: int = 0) -> Moment | None:
    """The `length` nanoseconds from `time_ns` on, of the clocks in `zone`."""
    offset = _offset_ns(zone)
    if time_ns is None or offset is None or time_ns < offset:
        return None
    return Moment(time_ns - offset, time_ns - offset + length - 1, ordinal)


def _offset_ns(zone: str | None) -> int | None:
    """By how much the clocks of a zone are ahead of UTC."""
    if zone is None or zone == "Z":
        return 0
    sign, digits = zone[0], zone[1:].replace(":", "")
    hours, minutes = int(digits[:2]), int(digits[2:])
    ahead = (hours * 60 + minutes) * 60 * SECOND
    return None if hours > 23 or minutes > 59 else -ahead if sign == "-" else ahead


def _time_ns(*numbers: int) -> int | None:
    try:
        time = datetime(*numbers, tzinfo=UTC)  # type: ignore[misc,arg-type]
    except ValueError:
        return None
    return (time - _EPOCH) // timedelta(microseconds=1) * 1000


def format_time(time_ns: int, ordinal: int = 1) -> str:
    """The name of the `ordinal`-th commit of the second in which `time_ns` (1970 to 9999) lies: fixed width,
    no colons, so that it sorts, and is a name everywhere."""
    time = _EPOCH + timedelta(seconds=time_ns // SECOND)
    text = f"{time.year:04d}{time:-%m-%dT%H%M%SZ}"
    return text if ordinal == 1 else f"{text}~{ordinal}"


def version_name(commit_name: str, file: bytes) -> bytes:
    """A version of `file`: the commit's name with the file's extension, so that viewers know what it is."""
    extension = os.path.splitext(file)[1]
    return commit_name.encode() + (extension if len(extension) <= LONGEST_EXTENSION else b"")
