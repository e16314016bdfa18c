"""Folders that are open: which one a handle means, and where its listing ends.

A listing meets what was there when it began, by opendir(3) or by rewinddir(3). Names that come later have
greater cookies than all before, and are behind its end: else a program that renames what it meets would meet
it again, for ever.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count


@dataclass(slots=True)
class OpenFolder:
    """`end`: the listing has cookies below it only."""

    inode: int
    end: int


class OpenFolders:
    """See the module. Event-loop thread only."""

    def __init__(self) -> None:
        self._folders: dict[int, OpenFolder] = {}
        self._handles = count(1)

    def open(self, inode: int, end: int) -> int:
        """A handle, which no other open folder has."""
        handle = next(self._handles)
        self._folders[handle] = OpenFolder(inode, end)
        return handle

    def __getitem__(self, handle: int) -> OpenFolder:
        return self._folders[handle]

    def close(self, handle: int) -> int:
        """The handle is not used any more; the folder's inode."""
        return self._folders.pop(handle).inode
