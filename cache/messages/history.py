"""The calls about the past of a mounted drive: `drivefs log`, `activity`, `diff`, `restore`, `clone`.

Paths are relative to the drive's root and percent-encoded (RFC 3986; names are bytes, JSON is text). Moments
are names as `cache.past_names` has them. Times are nanoseconds since 1970.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cache.messages.call import Call
from cache.messages.coding import omitted

NOW: Final = ""
"""The moment that has no name."""
DEFAULT_LIMIT: Final = 100


@dataclass(frozen=True, slots=True)
class PathAsked:
    """The newest `limit` entries of the log of `path`, or points at which something changed below it."""

    path: str
    limit: int = DEFAULT_LIMIT


@dataclass(frozen=True, slots=True)
class PathState:
    """The changes that a commit made to the path. `device` and `host` (percent-encoded) made it, if somebody
    said so. The attributes are those then; there are none of what was deleted."""

    commit: int
    name: str
    time_ns: int
    what: tuple[str, ...]
    device: int | None = omitted()
    host: str | None = omitted()
    size: int | None = omitted()
    uid: int | None = omitted()
    gid: int | None = omitted()
    mode: int | None = omitted()
    mtime_ns: int | None = omitted()


@dataclass(frozen=True, slots=True)
class PathLog:
    """The newest first."""

    entries: tuple[PathState, ...]


@dataclass(frozen=True, slots=True)
class HappenedShown:
    """`kind`: `added`, `removed`, `renamed` (`before` was its path), `content` or `attributes`. `inside`: how
    many names came or went with a folder."""

    kind: str
    path: str
    before: str | None = omitted()
    inside: int | None = omitted()


@dataclass(frozen=True, slots=True)
class PointShown:
    """The changes of a recorded commit, by path; `more`: so many are left out. `device` and `host`
    (percent-encoded) made it, if somebody said so."""

    commit: int
    name: str
    time_ns: int
    changes: tuple[HappenedShown, ...]
    more: int
    device: int | None = omitted()
    host: str | None = omitted()


@dataclass(frozen=True, slots=True)
class Activity:
    """The newest first."""

    points: tuple[PointShown, ...]


@dataclass(frozen=True, slots=True)
class DifferenceAsked:
    """Between the moments `first` and `second`, below `path`."""

    path: str
    first: str = NOW
    second: str = NOW


@dataclass(frozen=True, slots=True)
class Difference:
    """(kind, path) of each change; `more`: there are too many to say."""

    changes: tuple[tuple[str, str], ...]
    more: bool


@dataclass(frozen=True, slots=True)
class RestoreWanted:
    """`path` as it was `at` a moment; `to` another place (empty: where it was)."""

    path: str
    at: str
    to: str = ""


@dataclass(frozen=True, slots=True)
class Restored:
    """How many files and folders; the commit whose state it is."""

    made: int
    commit: int


@dataclass(frozen=True, slots=True)
class CloneWanted:
    source: str
    target: str


@dataclass(frozen=True, slots=True)
class Cloned:
    """How many files and folders."""

    made: int


ACTIVITY: Final = Call("activity", PathAsked, Activity)
LOG: Final = Call("log", PathAsked, PathLog)
DIFF: Final = Call("diff", DifferenceAsked, Difference)
RESTORE: Final = Call("restore", RestoreWanted, Restored)
CLONE: Final = Call("clone", CloneWanted, Cloned)
