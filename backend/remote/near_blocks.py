"""Small blocks that a hub gave together with one that was asked for: those that were stored after it.

The small files of a folder are stored one after the other and are often read so; each alone takes the time of
a request. Reads at random would take many bytes for nothing: others are asked for as long as they are used.

Invariants:
1. Others are asked for with a block only while `_credit` is left, which each such answer costs and each block
   that is used of them gives back: at most `MOST_UNUSED` answers in a row come with others for nothing, and
   from then on one in `RARELY`.
2. The bytes are unchecked, as all that a hub gives: the caller authenticates blocks, and has one that is
   wrong forgotten.

One thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from backend.packs import RecentBytes
from backend.upstream import BlockId, SealedBlock

CAPACITY: Final = 8 << 20
MOST_UNUSED: Final = 4
RARELY: Final = 32


class NearBlocks:
    """See the module."""

    def __init__(self) -> None:
        self._recent = RecentBytes(CAPACITY)
        self._credit = float(MOST_UNUSED)
        self._unused: set[BlockId] = set()

    @property
    def are_wanted(self) -> bool:
        """Whether the next block is to be asked for with others."""
        return self._credit >= 1

    def get(self, block: BlockId) -> bytes | None:
        """The sealed block, if it is here."""
        found = self._recent.get(block)
        if found is not None and block in self._unused:
            self._unused.discard(block)
            self._credit = min(self._credit + 1, MOST_UNUSED)
        return found

    def keep(self, block: SealedBlock, others: Sequence[SealedBlock]) -> None:
        """The block was asked for, and came with the others."""
        self._credit -= 1
        for each in (block, *others):
            self._recent.put(each.id, bytes(each.data))
        self._unused = {each.id for each in others}

    def note_alone(self) -> None:
        """A small block was asked for alone."""
        self._credit = min(self._credit + 1 / RARELY, MOST_UNUSED)

    def forget(self, block: BlockId) -> None:
        """It is not what it should be. Idempotent."""
        self._recent.forget(block)
