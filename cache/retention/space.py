"""How much space folders take, with their history, and how much retention would give back.

Both walk the database in a thread, on a connection of its own that sees what was saved: the caller saves
first. Then the store is asked for the sealed sizes of the blocks that were found. A block that is named
often counts once. So folders that share blocks are larger one by one than both together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

import trio

from backend.upstream import BlockId, Housekeeping
from cache.messages import Sizes
from cache.namespace import MAX_NAME, Gap, open_database, sqlite_errors
from cache.retention.gap_table import IN_GAP, fill
from cache.retention.space_walk import Part, parts_of

_PAGE: Final = 5000
_FREED: Final = (
    f"SELECT block FROM past_extent WHERE {IN_GAP} EXCEPT SELECT block FROM extent"
    f" EXCEPT SELECT block FROM past_extent WHERE NOT {IN_GAP}"
)


@dataclass(frozen=True, slots=True)
class Usage:
    """A tree: how many inodes, the sizes of its files together, its distinct blocks; and the blocks that only
    earlier versions of it name, and files that were in it."""

    path: bytes
    """below the tree that was asked for; empty: that tree"""
    inodes: int
    logical: int
    live: Sizes
    history: Sizes


class SpaceAccounting:
    """Measures a drive. `path` is its namespace database."""

    def __init__(self, path: str, housekeeping: Housekeeping) -> None:
        self._path = path
        self._housekeeping = housekeeping

    async def usage(self, inode: int, depth: int = 0) -> list[Usage]:
        """Of the folders below `inode` to `depth`, each before that which it lies in; of the tree `inode` (or
        of that file) at last. What is not sealed yet is in the logical size only. `InvalidArgumentError`
        for too many folders."""
        parts = await trio.to_thread.run_sync(parts_of, self._path, inode, depth)
        share = (await self._housekeeping.status()).data_share
        found: list[Usage] = []
        for folder in reversed(list(parts)):
            part = parts.pop(folder)
            found.append(await self._usage_of(part, share))
            if folder != inode:
                parts[part.parent].take_in(part)
        return sorted(found, key=_after_what_is_below)

    async def _usage_of(self, part: Part, share: float) -> Usage:
        history = {block: named for block, named in part.past.items() if block not in part.live}
        inodes, logical = part.inodes + len(part.links), part.logical + sum(part.links.values())
        live = await self._sizes(part.live, share)
        return Usage(part.path, inodes, logical, live, await self._sizes(history, share))

    async def freed_by(self, gaps: Sequence[Gap]) -> Sizes:
        """The blocks that nobody needs any more once the points in the gaps are gone."""
        blocks = await trio.to_thread.run_sync(self._freed, gaps)
        share = (await self._housekeeping.status()).data_share
        return await self._sizes(dict.fromkeys(blocks, 0), share)

    async def sealed_bytes(self, blocks: Iterable[BlockId]) -> int:
        """Bytes that the store keeps for the blocks, without parity."""
        total, rest = 0, iter(blocks)
        while page := list(islice(rest, _PAGE)):
            total += sum((await self._housekeeping.sizes(page)).values())
        return total

    async def _sizes(self, blocks: Mapping[bytes, int], share: float) -> Sizes:
        sealed = await self.sealed_bytes(map(BlockId, blocks))
        return Sizes(len(blocks), sum(blocks.values()), sealed, int(sealed / share))

    def _freed(self, gaps: Sequence[Gap]) -> list[bytes]:
        with sqlite_errors(self._path):
            connection = open_database(self._path, read_only=True)
            try:
                fill(connection, gaps)
                return [block for (block,) in connection.execute(_FREED)]
            finally:
                connection.close()


def _after_what_is_below(usage: Usage) -> tuple[bytes, ...]:
    names = usage.path.split(b"/") if usage.path else []
    return (*names, b"\xff" * (MAX_NAME + 1))
