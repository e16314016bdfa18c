"""The names that are gone since a commit with the files or folders that had them. Blocks: any thread."""

from __future__ import annotations

from typing import Final, NamedTuple

from cache.namespace import open_database, sqlite_errors

_DELETED: Final = (
    "SELECT gone.parent, gone.name, gone.inode FROM past_dentry AS gone"
    " WHERE gone.died > :commit AND gone.born <= :commit"
    " AND NOT EXISTS (SELECT 1 FROM inode WHERE inode.inode = gone.inode AND inode.nlink > 0)"
    " AND EXISTS (SELECT 1 FROM inode WHERE inode.inode = gone.parent AND inode.nlink > 0)"
    " ORDER BY gone.parent, gone.name"
)


class Deleted(NamedTuple):
    """A name in a folder that is there, and the file or folder that it was of."""

    parent: int
    name: bytes
    inode: int


def deleted_since(path: str, commit: int) -> list[Deleted]:
    """The topmost of what the namespace at `path` had as of `commit` and has no more, sorted: what lay in a
    folder that is gone is not named."""
    with sqlite_errors(path):
        connection = open_database(path, read_only=True)
        try:
            return [Deleted(*row) for row in connection.execute(_DELETED, {"commit": commit})]
        finally:
            connection.close()
