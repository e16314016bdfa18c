"""Folders that are open: which one a handle means, and where its listing ends.

A listing meets what was there when it began, by opendir(3) or by rewinddir(3). Names that come later have
greater cookies than all before, and are behind its end: else a program that renames what it meets would meet
it again, for ever. Where others' commits are applied meanwhile, names that are not published yet get new
cookies: a listing that has begun goes on by those that it began with.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Final

NOT_LISTED: Final = -1


@dataclass(slots=True)
class OpenFolder:
    """`end`: the listing has cookies below it only. `at`: the cookie that the kernel last asked to go on
    from, or `NOT_LISTED`. `rest`: the names that are left, with the cookies that they had, if others have
    changed the drive since it began."""

    inode: int
    end: int
    at: int = NOT_LISTED
    rest: list[tuple[bytes, int]] | None = None

    def begin(self, end: int) -> None:
        """It is listed from the beginning."""
        self.end, self.rest = end, None

    def rest_after(self, cookie: int) -> Iterator[tuple[bytes, int]]:
        """The part of the rest after a cookie, without a copy of it: each reply takes a few names."""
        rest = self.rest or []
        first = bisect_right(rest, cookie, key=lambda each: each[1])
        return (rest[index] for index in range(first, len(rest)))


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

    def listed_by_cookies(self) -> Iterator[OpenFolder]:
        """Those whose listing has begun and not ended, and does not go on by names that were kept."""
        return (
            folder for folder in self._folders.values() if folder.at != NOT_LISTED and folder.rest is None
        )

    def close(self, handle: int) -> int:
        """The handle is not used any more; the folder's inode."""
        return self._folders.pop(handle).inode
