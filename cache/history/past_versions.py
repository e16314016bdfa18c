"""Versions of conflicts that are pinned: files that were without a name, with a mark. Blocks: any thread.

Reads the whole table of past extended attributes.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from cache.namespace import open_database, sqlite_errors

_FOUND: Final = (
    "SELECT max(pin.target), i.inode, i.mtime_ns, x.value FROM past_xattr AS x"
    " JOIN past_inode AS i ON i.inode = x.inode AND i.nlink = 0"
    " JOIN pin ON pin.target >= x.born AND pin.target < x.died"
    " AND pin.target >= i.born AND pin.target < i.died"
    " WHERE x.name = ? GROUP BY i.inode ORDER BY i.inode"
)


class PastVersion(NamedTuple):
    """The file `inode` as of the pinned `commit`, with the value of its attribute."""

    commit: int
    inode: int
    mtime_ns: int
    value: bytes


def past_versions(path: str, attribute: bytes) -> list[PastVersion]:
    """All of the namespace at `path`, as it was last saved."""
    with sqlite_errors(path):
        connection = open_database(path, read_only=True)
        try:
            return [PastVersion(*row) for row in connection.execute(_FOUND, (attribute,))]
        finally:
            connection.close()
