"""The calls about conflict copies: `drivefs conflicts`. Paths are from the drive's root, percent-encoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cache.messages.call import Call, Nothing


@dataclass(frozen=True, slots=True)
class ConflictShown:
    """The copy `path` of the file `of`, with content of `time_ns` (nanoseconds since 1970), made by the
    machine `by` (percent-encoded), which knew the commit `base` of others' changes."""

    path: str
    of: str
    time_ns: int
    base: int
    by: str


@dataclass(frozen=True, slots=True)
class VersionShown:
    """The same of a content of which no copy is shown: it is a version as of `commit`, which is pinned."""

    of: str
    time_ns: int
    base: int
    by: str
    commit: int


@dataclass(frozen=True, slots=True)
class Conflicts:
    """Copies that nobody has decided on, by path; and versions that are pinned."""

    copies: tuple[ConflictShown, ...]
    versions: tuple[VersionShown, ...] = ()


@dataclass(frozen=True, slots=True)
class ResolveWanted:
    """Of the copy `path`, of the only copy of the file `path`, or of its newest version, `keep` the content:
    `mine` is that of the copy or version, `theirs` that of the file, or `both`."""

    path: str
    keep: str


CONFLICTS: Final = Call("conflicts", Nothing, Conflicts)
CONFLICTS_RESOLVE: Final = Call("conflicts_resolve", ResolveWanted, Conflicts)
