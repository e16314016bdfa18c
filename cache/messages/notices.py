"""The calls about notices: `drivefs notices`, `undo`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cache.messages.call import Call, Nothing
from cache.messages.coding import omitted


@dataclass(frozen=True, slots=True)
class NoticeShown:
    """`time_ns`: since 1970. `kind`: `conflict`, `mass deletion`; what another device does now: `editing`,
    `uploading`. `path`: from the drive's root, percent-encoded; empty: it is about the drive. `commit`: where
    the state before can be seen; 0: none."""

    time_ns: int
    kind: str
    path: str
    text: str
    commit: int


@dataclass(frozen=True, slots=True)
class NoticesShown:
    """Those of this machine, the oldest first."""

    notices: tuple[NoticeShown, ...]


@dataclass(frozen=True, slots=True)
class UndoWanted:
    """Bring back what is gone since the pinned state; None: since that before the last mass deletion."""

    pin: str | None = omitted()


@dataclass(frozen=True, slots=True)
class Undone:
    """So many files and folders came back from `commit`; so many names are of something else now."""

    pin: str
    commit: int
    made: int
    in_the_way: int


NOTICES: Final = Call("notices", Nothing, NoticesShown)
UNDO: Final = Call("undo", UndoWanted, Undone)
