"""Files that are set apart: some of their accepted bytes cannot be stored now.

Either the journal cannot be read there, or the nodes have no room for them.

Invariants:
1. No cut takes a file that is set apart. Its published content, size and times are those of the last commit
   that took it; if there is none, it is published empty.
2. The file stays dirty: the journal keeps its bytes, and those that can be read are read from there.
3. It is tried again after a pause that doubles, when it was written since, and in each `sync`.

`forget_gone` forgets files that were deleted or got other content. Event-loop thread.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from backend.errors import NoSpaceError
from cache.journal.dirty import DirtyFiles, Layer

log = logging.getLogger(__name__)

FIRST_PAUSE = 1.0
MAX_PAUSE = 60.0


@dataclass(slots=True)
class _Apart:
    layer: Layer
    writes: int
    """of the layer when it was tried"""
    error: Exception
    pause: float
    next_try: float


class SetApart:
    """See the module."""

    def __init__(self) -> None:
        self._files: dict[int, _Apart] = {}

    def __len__(self) -> int:
        return len(self._files)

    def __contains__(self, inode: int) -> bool:
        return inode in self._files

    def reasons(self) -> dict[int, str]:
        """The reasons, by inode."""
        return {inode: str(apart.error) for inode, apart in self._files.items()}

    def lack_of_room(self) -> NoSpaceError | None:
        """The error of the nodes, if there is a file that they have no room for."""
        errors = (apart.error for apart in self._files.values())
        return next((error for error in errors if isinstance(error, NoSpaceError)), None)

    def waits(self, inode: int, layer: Layer, now: float) -> bool:
        """Whether it makes no sense yet to try the file again."""
        apart = self._files.get(inode)
        return (
            apart is not None
            and apart.layer is layer
            and apart.writes == layer.writes
            and now < apart.next_try
        )

    def note(self, tried: Sequence[tuple[int, Layer]], failed: Mapping[int, Exception], now: float) -> None:
        """These can be stored, or could not be."""
        new = []
        for inode, layer in tried:
            before = self._files.pop(inode, None)
            if inode in failed:
                self._files[inode] = self._after(before, layer, failed[inode], now)
                new += [inode] if before is None else []
            elif before is not None:
                log.info("inode %d is not set apart any more", inode)
        if new:
            more = f" and {len(new) - 1} more" if len(new) > 1 else ""
            log.warning("inode %d%s set apart, all else is published: %s", new[0], more, failed[new[0]])

    def _after(self, before: _Apart | None, layer: Layer, error: Exception, now: float) -> _Apart:
        pause = FIRST_PAUSE if before is None else min(2 * before.pause, MAX_PAUSE)
        return _Apart(layer, layer.writes, error, pause, now + pause)

    def try_all(self) -> None:
        """Nothing waits."""
        for apart in self._files.values():
            apart.next_try = 0

    def forget_gone(self, dirty: DirtyFiles) -> None:
        """Forget the files that are not dirty any more."""
        for inode, apart in list(self._files.items()):
            if dirty.top(inode) is not apart.layer:
                del self._files[inode]
