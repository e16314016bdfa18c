"""The blocks that the files of kept folders name now, read from the namespace database.

Read-only, on a connection of its own. It sees what was saved. There may be hundreds of thousands of blocks:
all that goes through them is for a thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import Final

from backend.upstream import BlockId
from cache.keeping.kept_folders import KeptFolder
from cache.namespace import Connection, folder_path, open_database, sqlite_errors

_BORN: Final = "SELECT btime_ns FROM inode WHERE inode = ? AND nlink > 0"
_HEAD: Final = "SELECT coalesce(max(number), 0) FROM commits"
_BLOCKS: Final = (
    "WITH RECURSIVE tree (inode) AS (VALUES (?) UNION"
    " SELECT d.inode FROM tree AS t CROSS JOIN dentry AS d ON d.parent = t.inode)"
    " SELECT block, max(block_offset + length) FROM tree"
    " CROSS JOIN extent AS e ON e.inode = tree.inode GROUP BY block"
)
Named = Mapping[bytes, int]
"""Blocks, each with how much of its plaintext is named, in bytes."""


@dataclass(frozen=True, slots=True)
class KeptTree:
    """`path`: from the drive's root, without a slash before it."""

    folder: KeptFolder
    path: bytes
    blocks: Named = field(repr=False)

    def sizes(self, here: Set[bytes]) -> tuple[int, int]:
        """The bytes that are named in it, and those of them that are in the blocks `here`."""
        return _sizes(self.blocks, here)


@dataclass(frozen=True, slots=True)
class Difference:
    """Between blocks that are here and those that should be. `bytes` are named in all trees, of which `here`
    are here. `lacking`: those that are not, each with how much of it is named. `needless`: nothing names
    them."""

    bytes: int
    here: int
    lacking: list[tuple[BlockId, int]] = field(repr=False)
    needless: list[BlockId] = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeptTrees:
    """As of the commit `head`, and what was saved after it. `gone`: folders that are there no more."""

    head: int
    trees: tuple[KeptTree, ...]
    gone: tuple[KeptFolder, ...]

    def difference(self, here: Set[BlockId]) -> Difference:
        """Between the blocks `here` and those of all trees."""
        named = self._blocks()
        total, present = _sizes(named, here)
        lacking = [(BlockId(block), size) for block, size in named.items() if block not in here]
        return Difference(total, present, lacking, [block for block in here if block not in named])

    def _blocks(self) -> dict[bytes, int]:
        """Those of all trees, each once."""
        found: dict[bytes, int] = {}
        for tree in self.trees:
            for block, named in tree.blocks.items():
                found[block] = max(named, found.get(block, 0))
        return found


def _sizes(named: Named, here: Set[bytes]) -> tuple[int, int]:
    return sum(named.values()), sum(size for block, size in named.items() if block in here)


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
    return KeptTree(folder, folder_path(connection, folder.inode) or b"", blocks)
