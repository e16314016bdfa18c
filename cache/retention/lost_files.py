"""Which files and versions need a block: for the list of what is lost. Read only; may run in any thread.

Past rows that retention has dropped do not count. They may outlive their blocks for a while: in a cache
that was made anew from the log, until retention runs there.

The question is asked only when blocks are lost. So the tables are walked whole, and the names are kept in
memory.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Set
from dataclasses import dataclass
from datetime import UTC, datetime

from cache.namespace import ROOT_INODE, Connection, open_database, sqlite_errors
from cache.retention.gap_table import IN_GAP, fill_forgotten

_FOREVER = (1 << 63) - 1
_EXTENTS = (
    f"SELECT block, inode, offset, length, born, {_FOREVER} FROM extent"
    f" UNION ALL SELECT block, inode, offset, length, born, died FROM past_extent WHERE NOT {IN_GAP}"
    " ORDER BY 2, 3, 5"
)
_NAMES = (
    f"SELECT inode, parent, name, born, {_FOREVER} FROM dentry"
    " UNION ALL SELECT inode, parent, name, born, died FROM past_dentry"
)


@dataclass(frozen=True, slots=True)
class LostRange:
    """The bytes [offset, offset+length) of a file in its versions of the commits [first, end); `end` is None
    if the newest version is one of them. `path` is the file's name in the first of them."""

    path: str
    offset: int
    length: int
    block: str
    first_commit: int
    first_time: str
    end_commit: int | None


def named_blocks(path: str) -> set[bytes]:
    """The blocks that a live extent names, or one of the retained past."""
    with sqlite_errors(path):
        connection = open_database(path, read_only=True)
        try:
            fill_forgotten(connection)
            sql = f"SELECT block FROM extent UNION SELECT block FROM past_extent WHERE NOT {IN_GAP}"
            return {block for (block,) in connection.execute(sql)}
        finally:
            connection.close()


def lost_ranges(path: str, blocks: Set[bytes]) -> list[LostRange]:
    """The ranges where the namespace at `path` uses any of `blocks`, by path and commit."""
    with sqlite_errors(path):
        connection = open_database(path, read_only=True)
        try:
            return sorted(
                _ranges(connection, blocks), key=lambda lost: (lost.path, lost.first_commit, lost.offset)
            )
        finally:
            connection.close()


def paths_of(path: str, inodes: Set[int]) -> dict[int, str]:
    """The present path of each inode, or what can be said of it."""
    with sqlite_errors(path):
        connection = open_database(path, read_only=True)
        try:
            names = _Names(connection)
            return {inode: names.path(inode, _FOREVER - 1) for inode in inodes}
        finally:
            connection.close()


def _ranges(connection: Connection, blocks: Set[bytes]) -> Iterator[LostRange]:
    fill_forgotten(connection)
    used = [row for row in connection.execute(_EXTENTS) if row[0] in blocks]
    if not used:
        return
    names = _Names(connection)
    times = dict(connection.execute("SELECT number, time_ns FROM commits"))
    for block, inode, offset, length, born, died in used:
        yield LostRange(
            names.path(inode, born),
            offset,
            length,
            block.hex(),
            born,
            _time(times.get(born)),
            None if died == _FOREVER else died,
        )


class _Names:
    """All names that ever were, by inode."""

    def __init__(self, connection: Connection) -> None:
        self._names: dict[int, list[tuple[int, int, int, bytes]]] = defaultdict(list)
        for inode, parent, name, born, died in connection.execute(_NAMES):
            self._names[inode].append((born, died, parent, name))

    def path(self, inode: int, commit: int) -> str:
        """The path at a commit; one of them if there are several names."""
        parts: list[str] = []
        seen: set[int] = set()
        while inode != ROOT_INODE:
            found = self._at(inode, commit)
            if found is None or inode in seen:
                return "/".join([f"(inode {inode}, without a name)", *reversed(parts)])
            seen.add(inode)
            inode, name = found
            parts.append(name.decode("utf-8", "backslashreplace"))
        return "/" + "/".join(reversed(parts))

    def _at(self, inode: int, commit: int) -> tuple[int, bytes] | None:
        """The name at the commit, else the nearest one that it had."""
        names = self._names.get(inode)
        if not names:
            return None
        return min(names, key=lambda name: (not name[0] <= commit < name[1], abs(name[0] - commit)))[2:]


def _time(time_ns: int | None) -> str:
    if time_ns is None:
        return ""
    return datetime.fromtimestamp(time_ns / 1e9, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
