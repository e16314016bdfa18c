"""Who takes how much space: a folder with its history, and what retention would give back.

Both walk the database in a thread, on a connection of its own that sees what was flushed (the caller flushes
first); then the store is asked for the sealed sizes of the blocks that were found. A block counts once where
it is named often: sums of folders that share blocks are larger than the sum of both together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

import trio

from backend.upstream import BlockId, Upstream
from cache.namespace_schema import Connection, open_database, sqlite_errors
from cache.point_store import Gap

_PAGE: Final = 5000
_TREE: Final = """
WITH RECURSIVE tree (inode) AS (
    VALUES (:root) UNION SELECT d.inode FROM tree CROSS JOIN dentry AS d ON d.parent = tree.inode
)
"""
_EVER: Final = """
WITH RECURSIVE ever (inode) AS (
    VALUES (:root)
    UNION SELECT d.inode FROM ever CROSS JOIN dentry AS d ON d.parent = ever.inode
    UNION SELECT d.inode FROM ever CROSS JOIN past_dentry AS d ON d.parent = ever.inode
)
"""
_TOTALS: Final = (
    _TREE + "SELECT count(*), total(CASE WHEN mode & 61440 = 32768 THEN size END) FROM tree"
    " CROSS JOIN inode ON inode.inode = tree.inode"
)
_LIVE_BLOCKS: Final = (
    _TREE + "SELECT e.block, max(e.block_offset + e.length) FROM tree CROSS JOIN extent AS e"
    " ON e.inode = tree.inode GROUP BY e.block"
)
_PAST_BLOCKS: Final = (
    _EVER + "SELECT e.block, max(e.block_offset + e.length) FROM ever CROSS JOIN past_extent AS e"
    " ON e.inode = ever.inode GROUP BY e.block"
)
_IN_GAP: Final = "coalesce((SELECT low FROM temp.gap WHERE high >= died ORDER BY high LIMIT 1) < born, 0)"
_FREED: Final = (
    f"SELECT block FROM past_extent WHERE {_IN_GAP} EXCEPT SELECT block FROM extent"
    f" EXCEPT SELECT block FROM past_extent WHERE NOT {_IN_GAP}"
)


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of distinct blocks, in bytes: what files name of them, what they are sealed (compressed), and what that
    takes on the nodes with parity."""

    blocks: int
    plain: int
    sealed: int
    stored: int


@dataclass(frozen=True, slots=True)
class Usage:
    """A tree: how many inodes, the sizes of its files together, its distinct blocks; and the blocks that only
    earlier versions of it name, and files that were in it."""

    inodes: int
    logical: int
    live: Sizes
    history: Sizes


class Space:
    """Measures a drive. `path` is its namespace database."""

    def __init__(self, path: str, upstream: Upstream) -> None:
        self._path = path
        self._upstream = upstream

    async def usage(self, inode: int) -> Usage:
        """Of the tree below `inode` (or of that file). What is not sealed yet is in the logical size only."""
        (inodes, logical), live, past = await trio.to_thread.run_sync(self._walk, inode)
        for block in live:
            past.pop(block, None)
        share = (await self._upstream.status()).data_share
        return Usage(inodes, int(logical), await self._sizes(live, share), await self._sizes(past, share))

    async def freed_by(self, gaps: Sequence[Gap]) -> Sizes:
        """The blocks that nobody needs any more once the points in the gaps are gone."""
        blocks = await trio.to_thread.run_sync(self._freed, gaps)
        share = (await self._upstream.status()).data_share
        return await self._sizes(dict.fromkeys(blocks, 0), share)

    async def sealed_bytes(self, blocks: Iterable[BlockId]) -> int:
        """What the store keeps for the blocks, without parity."""
        total, rest = 0, iter(blocks)
        while page := list(islice(rest, _PAGE)):
            total += sum((await self._upstream.sizes(page)).values())
        return total

    async def _sizes(self, blocks: Mapping[bytes, int], share: float) -> Sizes:
        sealed = await self.sealed_bytes(map(BlockId, blocks))
        return Sizes(len(blocks), sum(blocks.values()), sealed, int(sealed / share))

    def _walk(self, inode: int) -> tuple[tuple[int, float], dict[bytes, int], dict[bytes, int]]:
        with sqlite_errors(self._path):
            connection = open_database(self._path, read_only=True)
            try:
                root = {"root": inode}
                ((count, size),) = connection.execute(_TOTALS, root)
                live = dict(connection.execute(_LIVE_BLOCKS, root))
                return (count, size), live, dict(connection.execute(_PAST_BLOCKS, root))
            finally:
                connection.close()

    def _freed(self, gaps: Sequence[Gap]) -> list[bytes]:
        with sqlite_errors(self._path):
            connection = open_database(self._path, read_only=True)
            try:
                _fill_gaps(connection, gaps)
                return [block for (block,) in connection.execute(_FREED)]
            finally:
                connection.close()


def _fill_gaps(connection: Connection, gaps: Sequence[Gap]) -> None:
    connection.execute("CREATE TEMP TABLE gap (high INTEGER PRIMARY KEY, low INTEGER NOT NULL)")
    connection.executemany("INSERT INTO temp.gap VALUES (?, ?)", ((high, low) for low, high in gaps))
