"""The calls about folders that are kept on this machine: `drivefs keep`, `unkeep`, `kept`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cache.messages.call import Call, Nothing


@dataclass(frozen=True, slots=True)
class KeepWanted:
    """Keep the folder `inode`. `wait`: answer when all of it is here, or cannot be had now."""

    inode: int
    wait: bool = False


@dataclass(frozen=True, slots=True)
class UnkeepWanted:
    inode: int


@dataclass(frozen=True, slots=True)
class KeptShown:
    """`path`: from the drive's root, percent-encoded. `bytes` of blocks are named in it; of these `here` are
    on this machine's disk."""

    path: str
    bytes: int
    here: int


@dataclass(frozen=True, slots=True)
class Kept:
    """All that are kept here. `problem`: why some of it is not here, one line; empty: nothing hinders."""

    folders: tuple[KeptShown, ...]
    problem: str


KEEP: Final = Call("keep", KeepWanted, Kept)
UNKEEP: Final = Call("unkeep", UnkeepWanted, Kept)
KEPT: Final = Call("kept", Nothing, Kept)
