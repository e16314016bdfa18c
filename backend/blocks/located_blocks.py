"""The places of blocks that were looked up lately, in memory, until the index changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from backend.blocks.block_index import BlockLocation
from backend.packs import Pack
from backend.upstream import BlockId

LOCATED: Final = 16_384
"""Locations that are kept in memory (4 MB at most): of a gigabyte that is read, or of so many small files."""


class LocatedBlocks:
    """At most `LOCATED` locations. Many blocks have their pack in common: packs are kept by their number."""

    def __init__(self) -> None:
        self._blocks: dict[BlockId, BlockLocation] = {}
        self._packs: dict[int, Pack] = {}
        self._changes = 0

    def __len__(self) -> int:
        return len(self._blocks)

    def get(self, block: BlockId, changes: int) -> BlockLocation | None:
        """The place noted of the block, if the index still counts as many `changes`; else all is
        forgotten."""
        if changes != self._changes or len(self._blocks) >= LOCATED:
            self._blocks, self._packs, self._changes = {}, {}, changes
        return self._blocks.get(block)

    def pack(self, number: int, look_up: Callable[[int], Pack | None]) -> Pack | None:
        """The pack of that number, looked up once."""
        found = self._packs.get(number) or look_up(number)
        if found is not None:
            self._packs[number] = found
        return found

    def note(self, block: BlockId, location: BlockLocation) -> None:
        """It was looked up just now."""
        self._blocks[block] = location
