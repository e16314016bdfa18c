"""Who may look at a past state: whoever might look then and may look now.

The door applies the past's own permissions, as to any file. This module adds the present permissions. They
are those of
- the inode as it is now;
- the inode that has its name now, in the directory where it had it: "write new, rename over" makes a new
  inode, and a person who closes it means the path;
- the inode as it was last, if there is neither.
A directory that was closed since is closed in all states that it is in. A file that was moved below a
closed directory is not closed by that: it could be read where it was before.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final, NamedTuple

from cache.errors import AccessDeniedError
from cache.history.history import History
from cache.namespace import InodeRow, Namespace, acl

READ: Final = 4
SEARCH: Final = 1


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. `groups` gives those that he is in besides `group`."""

    user: int
    group: int
    groups: Callable[[], Collection[int]]


class Place(NamedTuple):
    """A name in a directory (an inode); no directory has the number 0."""

    directory: int = 0
    name: bytes = b""


class _Permissions(NamedTuple):
    mode: int
    owner: int
    group: int
    access_list: bytes | None


class PastAccess:
    """See the module. Event-loop thread only."""

    def __init__(self, namespace: Namespace, history: History) -> None:
        self._namespace = namespace
        self._history = history

    def check(self, inode: int, commit: int, place: Place, caller: Caller, wanted: int) -> None:
        """`AccessDeniedError` if the present forbids the caller to access the inode as of `commit`, when it
        was at `place`, so. Root may everything."""
        if not caller.user:
            return
        then = self._at(inode, commit)
        if all(now == then or _allows(now, caller, wanted) for now in self._present(inode, place)):
            return
        raise AccessDeniedError(f"inode {inode} is closed to user {caller.user} now")

    def _at(self, inode: int, commit: int) -> _Permissions | None:
        row = self._history.inode_at(inode, commit)
        return None if row is None else self._of(row, commit)

    def _of(self, row: InodeRow, commit: int) -> _Permissions:
        access_list = self._history.xattr_at(row.inode, acl.ACCESS, commit)
        return _Permissions(row.mode & 0o777, row.uid, row.gid, access_list)

    def _present(self, inode: int, place: Place) -> list[_Permissions]:
        entry = self._namespace.entry(*place) if place.directory else None
        inodes = {inode} if entry is None else {inode, entry.inode}
        live = [row for row in map(self._namespace.inode, inodes) if row is not None and row.nlink]
        if live:
            return [self._of(row, self._namespace.commit) for row in live]
        last = self._history.last(inode)
        return [] if last is None else [self._of(*last)]


def _allows(permissions: _Permissions, caller: Caller, wanted: int) -> bool:
    mode, owner, group, access_list = permissions
    entries = acl.of_mode(mode) if access_list is None else acl.decode(access_list)
    return acl.allows(entries, owner, group, caller.user, {caller.group, *caller.groups()}, wanted)
