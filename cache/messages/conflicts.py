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
class Conflicts:
    """Copies that nobody has decided on, by path."""

    copies: tuple[ConflictShown, ...]


@dataclass(frozen=True, slots=True)
class ResolveWanted:
    """Of the copy `path`, or of the only copy of the file `path`, `keep` the content: `mine` is that of the
    copy, `theirs` that of the file, or `both`."""

    path: str
    keep: str


CONFLICTS: Final = Call("conflicts", Nothing, Conflicts)
CONFLICTS_RESOLVE: Final = Call("conflicts_resolve", ResolveWanted, Conflicts)
