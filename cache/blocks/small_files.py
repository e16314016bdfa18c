"""Small files that are read one after the other: the blocks of those around them come into memory together.

The files of a folder were mostly made one after the other, so that the numbers of their inodes lie side by
side, and they are often read one after the other. A turn of a thread for each costs more than its bytes.

Invariants:
1. Files are looked at in groups, by the numbers of their inodes. A group is brought at the second read of
   small files in it, and the group behind it when half of it was read. Of groups only those that were read
   last are remembered. Who reads at random more than memory holds brings in vain: two reads are no reason to
   bring a group then, until groups that were read by half show that what they bring is asked for.
2. Only what this machine has at hand is brought. No request goes to a store for what nobody asked for.
3. A group that is remembered is not brought again.

Used on the event-loop thread only.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from backend.upstream import BlockId
from cache.blocks.block_cache import BlockCache, Here
from cache.namespace import Namespace

SMALL: Final = 64 << 10
"""Bytes of a file; larger ones are worth a thread's turn of their own."""
GROUP: Final = 32
"""Inodes; at most 2 MiB of small files."""
_GROUPS: Final = 32
_BROUGHT_AT: Final = 2


class SmallFiles:
    """See the module. `here`: what this machine has of the drive's blocks."""

    def __init__(self, namespace: Namespace, blocks: BlockCache, here: Here) -> None:
        self._namespace = namespace
        self._blocks = blocks
        self._here = here
        self._reads: OrderedDict[int, int] = OrderedDict()
        """how often small files were read, by group"""

    def note(self, inode: int) -> list[BlockId]:
        """A small file is read from its start: the blocks to bring now."""
        group = inode // GROUP
        reads = self._count(group, 1)
        if reads == _BROUGHT_AT and not self._blocks.brings_in_vain():
            return self._wanted(group)
        if reads == GROUP // 2 and group + 1 not in self._reads:
            self._count(group + 1, _BROUGHT_AT)
            return self._wanted(group + 1)
        return []

    async def bring(self, blocks: list[BlockId]) -> None:
        """Bring them into memory. It raises nothing: who wants a block finds its error himself."""
        await self._blocks.warm(blocks, self._here)

    def _count(self, group: int, reads: int) -> int:
        self._reads[group] = found = self._reads.pop(group, 0) + reads
        if len(self._reads) > _GROUPS:
            self._reads.popitem(last=False)
        return found

    def _wanted(self, group: int) -> list[BlockId]:
        inodes = range(group * GROUP, (group + 1) * GROUP)
        blocks = map(BlockId, self._namespace.small_blocks(inodes, SMALL))
        return [block for block in blocks if self._blocks.wanted(block)]
