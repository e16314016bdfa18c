"""Where changed names and inodes are in the tree, and which commit changed them. Blocks: any thread.

Reads all names of the drive once, if inodes of files are asked for.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Final, NamedTuple

from cache.namespace import Connection, folder_path, open_database, sqlite_errors

_NAMES: Final = (
    "SELECT parent, name, inode FROM dentry WHERE inode IN (SELECT value FROM json_each(?))"
    " ORDER BY parent, name"
)
_NAMED: Final = (
    "SELECT born FROM dentry WHERE parent = :parent AND name = :name UNION ALL"
    " SELECT max(died) FROM past_dentry WHERE parent = :parent AND name = :name"
)
_INODE: Final = "SELECT born FROM inode WHERE inode = ?"


class ChangedPath(NamedTuple):
    """`path`: from the drive's root, without a slash before it. `commit`: the one that changed it last; 0: it
    is not known."""

    path: bytes
    commit: int


class ChangedPaths(NamedTuple):
    """By name (directory, name), and by inode all its paths. Those in folders that are gone are left out.
    `root`: the path of the folder that was asked about; None: it is gone."""

    names: dict[tuple[int, bytes], ChangedPath]
    inodes: dict[int, list[ChangedPath]]
    root: bytes | None


def changed_paths(
    path: str, root: int, names: Collection[tuple[int, bytes]], inodes: Collection[int]
) -> ChangedPaths:
    """Of the namespace at `path`, as it was last saved."""
    with sqlite_errors(path):
        connection = open_database(path, read_only=True)
        try:
            return _Look(connection).at(root, names, inodes)
        finally:
            connection.close()


class _Look:
    """One look at a namespace; folders are looked up once."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._folders: dict[int, bytes | None] = {}

    def at(self, root: int, names: Collection[tuple[int, bytes]], inodes: Collection[int]) -> ChangedPaths:
        by_name: dict[tuple[int, bytes], ChangedPath] = {}
        for parent, name in names:
            if (path := self._path(parent, name)) is not None:
                by_name[parent, name] = ChangedPath(path, self._commit_of_name(parent, name))
        return ChangedPaths(by_name, self._by_inode(inodes), self._folder(root))

    def _by_inode(self, inodes: Collection[int]) -> dict[int, list[ChangedPath]]:
        found: dict[int, list[ChangedPath]] = {}
        rows = self._connection.execute(_NAMES, (json.dumps([*inodes]),)) if inodes else ()
        for parent, name, inode in rows:
            if (path := self._path(parent, name)) is not None:
                (commit,) = self._connection.execute(_INODE, (inode,)).fetchone() or (0,)
                found.setdefault(inode, []).append(ChangedPath(path, commit))
        return found

    def _commit_of_name(self, parent: int, name: bytes) -> int:
        rows = self._connection.execute(_NAMED, {"parent": parent, "name": name})
        return next((commit for (commit,) in rows if commit is not None), 0)

    def _path(self, parent: int, name: bytes) -> bytes | None:
        folder = self._folder(parent)
        return None if folder is None else (folder + b"/" + name if folder else name)

    def _folder(self, folder: int) -> bytes | None:
        if folder not in self._folders:
            self._folders[folder] = folder_path(self._connection, folder)
        return self._folders[folder]
