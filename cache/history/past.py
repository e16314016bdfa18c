"""The past of a drive as a read-only tree: what every path was as of a commit, and which commit a name means.

Invariants:
1. Only recorded (published) commits are shown: all that they say, contents too, is in the rows and stored.
2. A commit's state never changes, so what is read here may be remembered; retention may take it away.
3. No dirty layer is ever read: bytes come from extents as of the commit, through the block cache.

Event-loop thread only; `points` walks in a thread on a connection of its own.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from stat import S_ISDIR, S_ISLNK
from typing import Final, NamedTuple

import trio

from backend.system import THIS_MACHINE, Environment
from cache.attributes import Attributes
from cache.blocks import Content
from cache.errors import (
    DirectoryError,
    InvalidArgumentError,
    NoAttributeError,
    NoEntryError,
    NotDirectoryError,
    StaleError,
)
from cache.history import past_points
from cache.history.history import ContentVersion, History
from cache.history.past_access import PastAccess
from cache.history.past_points import ListedCommit
from cache.namespace import ROOT_INODE, DentryRow, Extent, InodeRow, Namespace
from cache.past_names import FORMS, SECOND, Moment, format_time, parse

PAST_BIT: Final = 1 << 63
"""Inode numbers with it belong to doors that show the past; no stored number has it."""

_REMEMBERED: Final = 64
_IN_SECOND: Final = (
    "SELECT number FROM commits WHERE time_ns >= ? AND time_ns < ? ORDER BY time_ns, number LIMIT 1 OFFSET ?"
)
_RECORDED: Final = "SELECT number, time_ns FROM commits WHERE number >= ? ORDER BY number LIMIT 1"
_NAMES: Final = (
    "SELECT name FROM dentry WHERE parent = :parent AND name > :after AND born <= :head"
    " UNION SELECT name FROM past_dentry WHERE parent = :parent AND name > :after AND born <= :head"
    " ORDER BY name LIMIT :limit"
)
_CHANGES: Final = (
    "SELECT born FROM dentry WHERE parent = :parent AND name = :name"
    " UNION SELECT born FROM past_dentry WHERE parent = :parent AND name = :name"
    " UNION SELECT died FROM past_dentry WHERE parent = :parent AND name = :name"
    " UNION SELECT r.born FROM dentry AS d JOIN inode AS r ON r.inode = d.inode"
    " WHERE d.parent = :parent AND d.name = :name AND r.born >= d.born"
    " UNION SELECT r.born FROM dentry AS d JOIN past_inode AS r ON r.inode = d.inode"
    " WHERE d.parent = :parent AND d.name = :name AND r.born >= d.born"
    " UNION SELECT r.born FROM past_dentry AS d JOIN inode AS r ON r.inode = d.inode"
    " WHERE d.parent = :parent AND d.name = :name AND r.born >= d.born AND r.born < d.died"
    " UNION SELECT r.born FROM past_dentry AS d JOIN past_inode AS r ON r.inode = d.inode"
    " WHERE d.parent = :parent AND d.name = :name AND r.born >= d.born AND r.born < d.died"
)
CHANGES: Final = (
    "SELECT DISTINCT (SELECT number FROM commits WHERE number >= born ORDER BY number LIMIT 1) AS number"
    f" FROM ({_CHANGES}) WHERE number IS NOT NULL ORDER BY number"
)
_DIRECTORIES: Final = (
    "SELECT inode FROM dentry WHERE parent = :parent AND name = :name AND born <= :head UNION ALL"
    " SELECT inode FROM (SELECT inode FROM past_dentry"
    " WHERE parent = :parent AND name = :name AND born <= :head ORDER BY born DESC)"
)
_MODE: Final = (
    "SELECT mode FROM inode WHERE inode = :inode"
    " UNION SELECT mode FROM past_inode WHERE inode = :inode LIMIT 1"
)


class NamedVersion(NamedTuple):
    """A content that a path held: its name among the path's versions, and the commit to ask for it."""

    name: str
    commit: int
    version: ContentVersion


class PastTree:
    """See the module. `save` brings what was applied into the database file."""

    def __init__(
        self,
        namespace: Namespace,
        content: Content,
        save: Callable[[], None],
        environment: Environment = THIS_MACHINE,
    ) -> None:
        self.history = History(namespace)
        self.access = PastAccess(namespace, self.history)
        self._namespace = namespace
        self._content = content
        self._save = save
        self._wall_clock = environment.wall_clock
        self._points: OrderedDict[int, tuple[int, list[ListedCommit]]] = OrderedDict()

    # Moments

    @property
    def head(self) -> int:
        """The newest commit that can be looked at; 0 if there is none."""
        return self._namespace.head().number

    def resolve(self, name: str) -> int | None:
        """The commit that a name of a moment means now; None if it is malformed, in the future or before
        the drive."""
        now = self._wall_clock()
        moment = parse(name, now)
        return None if moment is None else self._commit_of(moment, now) or None

    def commit_named(self, name: str) -> int:
        """The same, or why there is none. `InvalidArgumentError`: it is no time. `NoEntryError`: there is no
        state of then."""
        if parse(name, self._wall_clock()) is None:
            raise InvalidArgumentError(f"'{name}' is not a time; write for example {FORMS}")
        commit = self.resolve(name)
        if commit is None:
            raise NoEntryError(f"the drive has no state of '{name}': {self._from_when()}")
        return commit

    def _from_when(self) -> str:
        first, _ = self._recorded(0)
        if not first:
            return "nothing is published yet"
        return f"the oldest is {self.name_of(first)}, the newest {self.name_of(self.head)}"

    def _commit_of(self, moment: Moment, now: int) -> int:
        if moment.commit is not None:
            number, _ = self._recorded(moment.commit)
            return number if number == moment.commit else 0
        if moment.from_ns > max(now, self._namespace.last_commit_time()):
            return 0
        if moment.ordinal:
            bounds = (moment.from_ns, moment.from_ns + SECOND, moment.ordinal - 1)
            found = self._namespace.synced_connection().execute(_IN_SECOND, bounds).fetchone()
            if found is not None or moment.ordinal > 1:
                return 0 if found is None else int(found[0])
        return self.history.commit_at(moment.until_ns)

    def _recorded(self, commit: int) -> tuple[int, int]:
        """(number, time) of the first recorded commit from `commit` on; (0, 0) if there is none."""
        found = self._namespace.synced_connection().execute(_RECORDED, (commit,)).fetchone()
        return found or (0, 0)

    def name_of(self, commit: int) -> str:
        """The name of a recorded commit: unlike others it always means this one."""
        number, time_ns = self._recorded(commit)
        if number != commit:
            raise NoEntryError(f"commit {commit} is not recorded")
        return format_time(time_ns, self._ordinal(number, time_ns))

    def time_of(self, commit: int) -> int:
        """The time of the commit, nanoseconds; 0 if it is not recorded."""
        number, time_ns = self._recorded(commit)
        return time_ns if number == commit else 0

    def _ordinal(self, number: int, time_ns: int) -> int:
        second = time_ns - time_ns % SECOND
        bindings = (second, second + SECOND, number)
        ((count,),) = self._namespace.synced_connection().execute(past_points.ORDINAL, bindings)
        return int(count)

    async def points(self, directory: int) -> list[ListedCommit]:
        """The commits at which the tree of the directory (an inode) changed, the newest first; at most
        `past_points.MOST_LISTED` (whose module says what it costs)."""
        head = self.head
        known = self._points.get(directory)
        if known is not None and known[0] == head:
            self._points.move_to_end(directory)
            return known[1]
        self._save()
        found = await trio.to_thread.run_sync(past_points.points, self._namespace.path, directory)
        self._points[directory] = (head, found)
        self._points.move_to_end(directory)
        if len(self._points) > _REMEMBERED:
            self._points.popitem(last=False)
        return found

    # A state

    def row(self, inode: int, commit: int) -> InodeRow:
        """The inode's row as of `commit`. `StaleError` if there was none."""
        row = self.history.inode_at(inode, commit)
        if row is None:
            raise StaleError(f"inode {inode} was not there at commit {commit}")
        return row

    def directory(self, inode: int, commit: int) -> InodeRow:
        """The same for a directory."""
        row = self.row(inode, commit)
        if not row.is_directory:
            raise NotDirectoryError(f"inode {inode} was not a directory")
        return row

    def attributes(self, inode: int, commit: int) -> Attributes:
        """stat(2) as of `commit`."""
        return attributes_of(self.row(inode, commit))

    def lookup(self, parent: int, name: bytes, commit: int) -> InodeRow:
        """The inode of that name in the directory, as of `commit`. `NoEntryError`."""
        entry = self.history.entry_at(parent, name, commit)
        if entry is None:
            raise NoEntryError(f"no such name in {parent} at commit {commit}")
        return self.row(entry.inode, commit)

    def walk(self, path: bytes, commit: int) -> InodeRow:
        """The row of a path from the root, symbolic links not followed."""
        row = self.row(ROOT_INODE, commit)
        for name in filter(None, path.split(b"/")):
            if not row.is_directory:
                raise NotDirectoryError("a part of the path was not a directory")
            row = self.lookup(row.inode, name, commit)
        return row

    def entries(self, directory: int, commit: int, after_cookie: int, limit: int) -> list[DentryRow]:
        """The directory as of `commit`, by cookies."""
        return self.history.entries_at(directory, commit, after_cookie, limit)

    def read_link(self, inode: int, commit: int) -> bytes:
        """A symbolic link's target."""
        row = self.row(inode, commit)
        if not S_ISLNK(row.mode):
            raise InvalidArgumentError(f"inode {inode} was not a symbolic link")
        return row.target

    def extents(self, inode: int, commit: int, start: int, end: int) -> list[Extent]:
        """The extents as of `commit` that touch [start, end), not clipped."""
        return self.history.extents_at(inode, start, end, commit)

    async def read(self, inode: int, commit: int, offset: int, size: int) -> bytes | memoryview:
        """Up to `size` bytes as of `commit`; fewer only at the file's end. `DriveError`."""
        row = self.row(inode, commit)
        if S_ISDIR(row.mode):
            raise DirectoryError("is a directory")
        end = min(offset + size, row.size)
        if end <= offset:
            return b""
        return await self._content.read_extents(self.extents(inode, commit, offset, end), offset, end)

    def get_xattr(self, inode: int, name: bytes, commit: int) -> bytes:
        """`NoAttributeError` if there was none of that name."""
        value = self.history.xattr_at(inode, name, commit)
        if value is None:
            raise NoAttributeError("no such extended attribute")
        return value

    def xattr_names(self, inode: int, commit: int) -> list[bytes]:
        """All names."""
        return self.history.xattr_names_at(inode, commit)

    # The contents of a path

    def names(self, directory: int, after: bytes, limit: int) -> list[bytes]:
        """At most `limit` names above `after` that were ever in the directory, sorted; of folders too."""
        bindings = {"parent": directory, "after": after, "head": self.head, "limit": limit}
        return [name for (name,) in self._namespace.synced_connection().execute(_NAMES, bindings)]

    def changes_of_name(self, directory: int, name: bytes) -> list[int]:
        """The recorded commits, the oldest first, at which the name in the directory or the row of the inode
        that it meant may have changed."""
        bindings = {"parent": directory, "name": name}
        return [number for (number,) in self._namespace.synced_connection().execute(CHANGES, bindings)]

    def newest_directory(self, parent: int, name: bytes) -> int:
        """The directory that the name means, or last meant. `NoEntryError`."""
        bindings = {"parent": parent, "name": name, "head": self.head}
        found = [number for (number,) in self._namespace.synced_connection().execute(_DIRECTORIES, bindings)]
        for inode in found:
            if self._was_directory(inode):
                return int(inode)
        raise NoEntryError("a folder of the path never was there")

    def _was_directory(self, inode: int) -> bool:
        bindings = {"inode": inode}
        modes = [mode for (mode,) in self._namespace.synced_connection().execute(_MODE, bindings)]
        return any(map(S_ISDIR, modes))

    def versions(self, directory: int, name: bytes) -> list[NamedVersion]:
        """The distinct published contents of the path, the oldest first; empty if it never was a file."""
        found: list[NamedVersion] = []
        for version in self.history.content_versions(directory, name):
            number, time_ns = self._recorded(version.commit)
            if not number:
                continue  # of a commit that is not published yet
            if found and found[-1].commit == number:
                found.pop()  # retention left one commit for both
            found.append(NamedVersion(format_time(time_ns, self._ordinal(number, time_ns)), number, version))
        return found


def attributes_of(row: InodeRow) -> Attributes:
    """stat(2) of a past row, whose inode number is the stored one."""
    return Attributes(
        row.inode,
        row.mode,
        row.nlink,
        row.uid,
        row.gid,
        row.rdev,
        row.size,
        (row.allocated + 511) // 512,
        row.atime_ns,
        row.mtime_ns,
        row.ctime_ns,
    )
