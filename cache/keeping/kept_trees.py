"""The blocks that the files of kept folders name now, read from the namespace database.

Read-only, blocking, on a connection of its own: for a thread. It sees what was saved.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from cache.keeping.kept_folders import KeptFolder
from cache.namespace import ROOT_INODE, Connection, open_database, sqlite_errors

_BORN: Final = "SELECT btime_ns FROM inode WHERE inode = ? AND nlink > 0"
_HEAD: Final = "SELECT coalesce(max(number), 0) FROM commits"
_BLOCKS: Final = (
    "WITH RECURSIVE tree (inode) AS (VALUES (?) UNION"
    " SELECT d.inode FROM tree AS t CROSS JOIN dentry AS d ON d.parent = t.inode)"
    " SELECT block, max(block_offset + length) FROM tree"
    " CROSS JOIN extent AS e ON e.inode = tree.inode GROUP BY block"
)
_NAME: Final = (
    "SELECT i.parent, d.name FROM inode AS i CROSS JOIN dentry AS d ON d.parent = i.parent"
    " WHERE i.inode = ? AND d.inode = i.inode"
)

Named = Mapping[bytes, int]
"""Blocks, each with how much of its plaintext is named, in bytes."""


@dataclass(frozen=True, slots=True)
class KeptTree:
    """`path`: from the drive's root, without a slash before it."""

    folder: KeptFolder
    path: bytes
    blocks: Named = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeptTrees:
    """As of the commit `head`, and what was saved after it. `gone`: folders that are there no more."""

    head: int
    trees: tuple[KeptTree, ...]
    gone: tuple[KeptFolder, ...]

    def blocks(self) -> dict[bytes, int]:
        """Those of all trees, each once."""
        found: dict[bytes, int] = {}
        for tree in self.trees:
            for block, named in tree.blocks.items():
                found[block] = max(named, found.get(block, 0))
        return found


def trees_of(path: str, folders: Iterable[KeptFolder]) -> KeptTrees:
    """Of these folders, in the namespace database at `path`."""
    with sqlite_errors(path):
        connection = open_database(path, read_only=True)
        try:
            connection.execute("BEGIN")  # all of it is of one moment
            ((head,),) = connection.execute(_HEAD)
            here = {folder: _is_there(connection, folder) for folder in folders}
            trees = tuple(_tree(connection, folder) for folder, is_there in here.items() if is_there)
            return KeptTrees(head, trees, tuple(folder for folder, is_there in here.items() if not is_there))
        finally:
            connection.close()


def _is_there(connection: Connection, folder: KeptFolder) -> bool:
    return list(connection.execute(_BORN, (folder.inode,))) == [(folder.born_ns,)]


def _tree(connection: Connection, folder: KeptFolder) -> KeptTree:
    blocks = dict(connection.execute(_BLOCKS, (folder.inode,)))
    return KeptTree(folder, _path(connection, folder.inode), blocks)


def _path(connection: Connection, inode: int) -> bytes:
    parts: list[bytes] = []
    while inode != ROOT_INODE:
        ((inode, name),) = connection.execute(_NAME, (inode,))
        parts.append(name)
    return b"/".join(reversed(parts))
