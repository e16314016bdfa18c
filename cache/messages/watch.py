"""The lines of a watch: `drivefs watch`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cache.messages.coding import omitted

RESCAN: Final = "rescan"
NAME: Final = "name"
ATTRIBUTES: Final = "attributes"
CONTENT: Final = "content"
EDITING: Final = "editing"
UPLOADING: Final = "uploading"
ENDED: Final = "ended"


@dataclass(frozen=True, slots=True)
class WatchWanted:
    """Watch the folder `inode` and all below it."""

    inode: int


@dataclass(frozen=True, slots=True)
class Watched:
    """`change`: `name` (the path is of something else now, or of nothing, or was of nothing), `attributes`,
    `content`, or `rescan`: anything below the folder may have changed, and later changes are told. `editing`,
    `uploading`: another device has the file open for writing, or is uploading it; `ended`: no more. `path`:
    from the drive's root, percent-encoded. `device` made it, None: not known; `here`: it is this one."""

    change: str
    path: str
    here: bool
    device: int | None = omitted()
