"""The past of a namespace: what was true at a commit, and what a path has held.

Invariants (event loop thread only, synchronous, on the namespace's own connection):
1. A query at commit N sees the rows with born <= N that had not died: the live ones by their `born`, the
   past ones by [born, died). N may be any commit not later than the open one.
2. Every query walks an index of its own key (an inode, a name, a directory, a file's offset): a look-up
   of an inode, name or attribute costs one seek in each table, however many commits there were;
   a range (a directory, a piece of a file) walks the retained versions of that range only.
3. What is returned are copies. A past row's atime is its mtime (docs/format/namespace.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from stat import S_ISDIR
from typing import Any, Final, NamedTuple

from cache.namespace import (
    DENTRY_COLUMNS,
    INODE_COLUMNS,
    MAX_EXTENT,
    CommitWriter,
    DentryRow,
    Extent,
    InodeRow,
    Namespace,
    inode_row,
    loaded_time,
)

_LIVE_INODE: Final = ", ".join(INODE_COLUMNS)
_PAST_INODE: Final = ", ".join("mtime_ns" if name == "atime_ns" else name for name in INODE_COLUMNS)
_DENTRY: Final = ", ".join(DENTRY_COLUMNS)
_EXTENT: Final = ", ".join(Extent._fields)


def _at(table: str, columns: str, past_columns: str, key: str) -> str:
    """The one row of a key at :at."""
    return (
        f"SELECT {columns} FROM {table} WHERE {key} AND born <= :at UNION ALL SELECT * FROM"
        f" (SELECT {past_columns}, died FROM past_{table} WHERE {key} AND born <= :at"
        " ORDER BY born DESC LIMIT 1) WHERE died > :at"
    )


def _range_at(table: str, columns: str, key: str, order: str) -> str:
    """All rows of a range at :at, merged from two indexes that are both in this order."""
    return (
        f"SELECT {columns} FROM {table} WHERE {key} AND born <= :at"
        f" UNION ALL SELECT {columns} FROM past_{table} WHERE {key} AND born <= :at AND died > :at"
        f" ORDER BY {order}"
    )


# The 0 stands where the past row has `died`: both halves of a UNION have the same columns.
INODE_AT: Final = _at("inode", f"{_LIVE_INODE}, 0", _PAST_INODE, "inode = :inode")
ENTRY_AT: Final = _at("dentry", f"{_DENTRY}, 0", _DENTRY, "parent = :parent AND name = :name")
XATTR_AT: Final = _at("xattr", "value, 0", "value", "inode = :inode AND name = :name")
ENTRIES_AT: Final = (
    _range_at("dentry", _DENTRY, "parent = :parent AND cookie > :after", "cookie") + " LIMIT :limit"
)
WRITER_AT: Final = _at("writer", "device, host, 0", "device, host", "id = 0")
XATTR_NAMES_AT: Final = _range_at("xattr", "name", "inode = :inode", "name")
_TOUCHING: Final = "inode = :inode AND offset > :low AND offset < :end AND offset + length > :start"
EXTENTS_AT: Final = _range_at("extent", _EXTENT, _TOUCHING, "offset")
COMMIT_AT: Final = "SELECT number FROM commits WHERE time_ns <= ? ORDER BY time_ns DESC, number DESC LIMIT 1"
COMMITS: Final = "SELECT number, hash, time_ns FROM commits WHERE number < ? ORDER BY number DESC LIMIT ?"
NAMED: Final = (
    "SELECT inode, born, died FROM past_dentry WHERE parent = :parent AND name = :name UNION ALL"
    f" SELECT inode, born, {(1 << 63) - 1} FROM dentry WHERE parent = :parent AND name = :name ORDER BY born"
)
VERSIONS: Final = (
    "SELECT content, size, mtime_ns, mode, born FROM past_inode"
    " WHERE inode = :inode AND born < :end AND died > :start UNION ALL"
    " SELECT content, size, mtime_ns, mode, born FROM inode WHERE inode = :inode AND born < :end"
    " ORDER BY born"
)
_LAST: Final = f"SELECT {_PAST_INODE}, died FROM past_inode WHERE inode = :inode ORDER BY born DESC LIMIT 1"
_FOREVER: Final = (1 << 63) - 1


class CommitRow(NamedTuple):
    """A row of `commits`."""

    number: int
    hash: bytes
    time_ns: int


class ContentVersion(NamedTuple):
    """From `commit` on a path held this content, until the next version (or until it held nothing).
    `content_commit` is the commit that stored it (0: never any); as-of queries take `commit`."""

    commit: int
    inode: int
    size: int
    mtime_ns: int
    content_commit: int


class History:
    """As-of queries over a namespace."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace

    def _query(self, sql: str, bindings: Any) -> Iterator[tuple[Any, ...]]:
        return self._namespace.synced_connection().execute(sql, bindings)

    def inode_at(self, inode: int, commit: int) -> InodeRow | None:
        """The inode's row as of `commit`; None if there was none."""
        row = next(self._query(INODE_AT, {"inode": inode, "at": commit}), None)
        return None if row is None else inode_row(row[:-1])

    def last(self, inode: int) -> tuple[InodeRow, int] | None:
        """The last row of an inode that is gone, and the last commit as of which it is that; None if it is
        not known any more."""
        row = next(self._query(_LAST, {"inode": inode}), None)
        return None if row is None else (inode_row(row[:-1]), row[-1] - 1)

    def entry_at(self, parent: int, name: bytes, commit: int) -> DentryRow | None:
        """The entry of that name in the directory as of `commit`."""
        row = next(self._query(ENTRY_AT, {"parent": parent, "name": name, "at": commit}), None)
        return None if row is None else DentryRow(*row[:-1])

    def entries_at(self, parent: int, commit: int, after_cookie: int, limit: int) -> list[DentryRow]:
        """The directory as of `commit`: at most `limit` names above `after_cookie`, by cookie."""
        bindings = {"parent": parent, "at": commit, "after": after_cookie, "limit": limit}
        return [DentryRow(*row) for row in self._query(ENTRIES_AT, bindings)]

    def extents_at(self, inode: int, start: int, end: int, commit: int) -> list[Extent]:
        """The extents as of `commit` that touch [start, end), sorted by offset, not clipped."""
        if start >= end:
            return []
        bindings = {"inode": inode, "low": start - MAX_EXTENT, "start": start, "end": end, "at": commit}
        return [Extent(*row) for row in self._query(EXTENTS_AT, bindings)]

    def xattr_at(self, inode: int, name: bytes, commit: int) -> bytes | None:
        """The value of an extended attribute as of `commit`."""
        row = next(self._query(XATTR_AT, {"inode": inode, "name": name, "at": commit}), None)
        return None if row is None else row[0]

    def xattr_names_at(self, inode: int, commit: int) -> list[bytes]:
        """The names of the extended attributes as of `commit`, sorted."""
        return [name for (name,) in self._query(XATTR_NAMES_AT, {"inode": inode, "at": commit})]

    def writer_at(self, commit: int) -> CommitWriter | None:
        """The maker of `commit`; None if nobody had said so by then."""
        row = next(self._query(WRITER_AT, {"at": commit}), None)
        return None if row is None else CommitWriter(*row[:-1])

    def commit_at(self, time_ns: int) -> int:
        """The newest recorded commit with a time not after `time_ns`; 0 if there is none."""
        row = next(self._query(COMMIT_AT, (time_ns,)), (0,))
        return int(row[0])

    def commits(self, limit: int, before: int = _FOREVER) -> list[CommitRow]:
        """At most `limit` recorded commits with numbers below `before`, the newest first."""
        return [CommitRow(*row) for row in self._query(COMMITS, (before, limit))]

    def content_versions(self, parent: int, name: bytes) -> list[ContentVersion]:
        """The distinct contents that the path held, the oldest first, through deletion, "write new, rename
        over" and whatever inode it was. A version begins where the inode, its stored content
        or its size changes; a change of attributes makes none. Directories are left out."""
        versions: list[ContentVersion] = []
        for inode, start, end in list(self._query(NAMED, {"parent": parent, "name": name})):
            for version in self._versions(inode, start, end):
                if not versions or _what(versions[-1]) != _what(version):
                    versions.append(version)
        return versions

    def _versions(self, inode: int, start: int, end: int) -> Iterator[ContentVersion]:
        rows = self._query(VERSIONS, {"inode": inode, "start": start, "end": end})
        for content, size, mtime_ns, mode, born in rows:
            if not S_ISDIR(mode):
                yield ContentVersion(max(born, start), inode, size, loaded_time(mtime_ns), content)


def _what(version: ContentVersion) -> tuple[int, int, int]:
    return version.inode, version.content_commit, version.size
