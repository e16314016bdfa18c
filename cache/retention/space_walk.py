"""What the folders of a tree name: for each its inodes, bytes and blocks, now and in the past.

The folders are the tree's own root and today's folders below it, to a depth. Each inode, and each block, is
first counted for the deepest folder that it lies in; for several, if links or moves put it in several.
`Part.take_in` merges the parts upward, for a folder with all below it. So a block, or a file with many
links, counts once where it is named often. A file that was in a folder and was moved or deleted is that
folder's past.

Read-only, blocking, on a connection of its own: for a thread. It sees what was saved. Memory: the block ids
of the tree, each once for each folder in which it is first counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from cache.errors import InvalidArgumentError
from cache.namespace import Connection, open_database, sqlite_errors
from cache.retention.gap_table import IN_GAP, fill_forgotten

MOST_FOLDERS: Final = 10_000
_BELOW: Final = (
    "SELECT d.name, d.inode FROM dentry AS d CROSS JOIN inode AS i ON i.inode = d.inode"
    " WHERE d.parent = ? AND i.mode & 61440 = 16384"
)
_FOLDER: Final = (
    "iif(t.inode = t.folder AND EXISTS (SELECT 1 FROM temp.listed AS l WHERE l.inode = d.inode"
    " AND l.parent = d.parent), d.inode, t.folder)"
)
_NOW: Final = (
    "WITH RECURSIVE tree (inode, folder) AS (VALUES (:root, :root) UNION"
    f" SELECT d.inode, {_FOLDER} FROM tree AS t CROSS JOIN dentry AS d ON d.parent = t.inode)"
)
_EVER: Final = (
    f"{_NOW[:-1]} UNION"
    f" SELECT d.inode, {_FOLDER} FROM tree AS t CROSS JOIN past_dentry AS d ON d.parent = t.inode)"
)
_SIZE: Final = "CASE WHEN mode & 61440 = 32768 THEN size ELSE 0 END"
_HAS_LINKS: Final = "mode & 61440 != 16384 AND nlink > 1"
_SINGLE: Final = (
    f"{_NOW} SELECT folder, count(*), total({_SIZE}) FROM tree CROSS JOIN inode ON inode.inode = tree.inode"
    f" WHERE NOT ({_HAS_LINKS}) GROUP BY folder"
)
_LINKED: Final = (
    f"{_NOW} SELECT folder, inode.inode, {_SIZE} FROM tree CROSS JOIN inode ON inode.inode = tree.inode"
    f" WHERE {_HAS_LINKS}"
)
_LIVE_BLOCKS: Final = (
    f"{_NOW} SELECT folder, block, max(block_offset + length) FROM tree"
    " CROSS JOIN extent AS e ON e.inode = tree.inode GROUP BY folder, block"
)
_PAST_BLOCKS: Final = (
    f"{_EVER} SELECT folder, block, max(block_offset + length) FROM tree"
    f" CROSS JOIN past_extent AS e ON e.inode = tree.inode WHERE NOT {IN_GAP} GROUP BY folder, block"
)


@dataclass(slots=True)
class Part:
    """A folder, by its path below the tree's root (empty: the root itself). `links` are the files with
    several names, with their sizes; blocks are given with how much of their plaintext is named."""

    path: bytes
    parent: int
    inodes: int = 0
    logical: int = 0
    links: dict[int, int] = field(default_factory=dict)
    live: dict[bytes, int] = field(default_factory=dict)
    past: dict[bytes, int] = field(default_factory=dict)

    def take_in(self, below: Part) -> None:
        """Count what the folder `below` counts here too, once. `below` must not be used any more."""
        self.inodes += below.inodes
        self.logical += below.logical
        self.links |= below.links
        self.live = _united(self.live, below.live)
        self.past = _united(self.past, below.past)


def _united(one: dict[bytes, int], other: dict[bytes, int]) -> dict[bytes, int]:
    larger, smaller = (one, other) if len(one) >= len(other) else (other, one)
    for block, named in smaller.items():
        larger[block] = max(named, larger.get(block, 0))
    return larger


def parts_of(path: str, root: int, depth: int) -> dict[int, Part]:
    """By inode, the parts of the tree `root` in the namespace database at `path`, to `depth` (0: only its
    root); each folder after that which it lies in. `InvalidArgumentError` for too many of them."""
    with sqlite_errors(path):
        connection = open_database(path, read_only=True)
        try:
            parts = _folders(connection, root, depth)
            _list(connection, parts)
            fill_forgotten(connection)
            _count(connection, {"root": root}, parts)
            return parts
        finally:
            connection.close()


def _folders(connection: Connection, root: int, depth: int) -> dict[int, Part]:
    parts = {root: Part(b"", 0)}
    level = [root]
    for _ in range(depth):
        level = [inode for parent in level for inode in _below(connection, parent, parts)]
    return parts


def _below(connection: Connection, parent: int, parts: dict[int, Part]) -> Iterator[int]:
    for name, inode in connection.execute(_BELOW, (parent,)):
        if len(parts) >= MOST_FOLDERS:
            raise InvalidArgumentError(
                f"more than {MOST_FOLDERS} folders would be listed; take a smaller depth, or a folder inside"
            )
        above = parts[parent].path
        parts[inode] = Part(above + b"/" + name if above else name, parent)
        yield inode


def _list(connection: Connection, parts: Mapping[int, Part]) -> None:
    connection.execute("CREATE TEMP TABLE listed (inode INTEGER PRIMARY KEY, parent INTEGER NOT NULL)")
    rows = ((inode, part.parent) for inode, part in parts.items())
    connection.executemany("INSERT INTO temp.listed VALUES (?, ?)", rows)


def _count(connection: Connection, root: Mapping[str, Any], parts: Mapping[int, Part]) -> None:
    for folder, count, size in connection.execute(_SINGLE, root):
        parts[folder].inodes, parts[folder].logical = count, int(size)
    for folder, inode, size in connection.execute(_LINKED, root):
        parts[folder].links[inode] = size
    for folder, block, named in connection.execute(_LIVE_BLOCKS, root):
        parts[folder].live[block] = named
    for folder, block, named in connection.execute(_PAST_BLOCKS, root):
        parts[folder].past[block] = named
