"""The stored blocks that a write may rely on: those that can be read, as far as this process knows.

Invariants:
1. A block counts as present only if all of this holds: the index has it (`BlockIndex.has`); its pack lacks no
   more fragments than parity makes up for, where fragments on nodes that are away count as lacking; no read
   of the pack has failed since the last good one; and the block itself was not found to be wrong.
2. The result of a read is known to the next question: no await comes in between.
3. A wrong answer "absent" costs the room of one more copy. The block is read from the new copy from then on.

The index keeps known bad fragments for ever. The notes here last as long as this process.
Used on the event loop's thread only.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from backend.blocks.block_index import BlockIndex
from backend.packs import Pack
from backend.upstream import BlockId


class Presence:
    """See the module. `parity` is how many fragments of a pack may be lost."""

    def __init__(self, index: BlockIndex, parity: int) -> None:
        self._index = index
        self._parity = parity
        self._away: frozenset[str] = frozenset()
        self._unreadable: set[bytes] = set()
        self._wrong: set[BlockId] = set()

    def has(self, block: BlockId) -> bool:
        """Whether a write may rely on the block."""
        if not self._index.has(block):
            return False
        if not (self._away or self._unreadable or self._wrong):
            return True
        location = self._index.locate(block)
        return location is not None and block not in self._wrong and self._can_be_read(location.pack)

    def note_away(self, nodes: Collection[str]) -> None:
        """Exactly these nodes do not answer."""
        self._away = frozenset(nodes)

    def note_read(self, pack_id: bytes, *, failed: bool) -> None:
        """A read of the pack ended so."""
        if failed:
            self._unreadable.add(pack_id)
        elif self._unreadable:
            self._unreadable.discard(pack_id)

    def note_wrong(self, block: BlockId) -> None:
        """The block's bytes were read, from good fragments, and they are not the block's."""
        self._wrong.add(block)

    def note_stored(self, blocks: Iterable[BlockId]) -> None:
        """These were stored anew, and are read from there."""
        self._wrong.difference_update(blocks)

    def _can_be_read(self, pack: Pack) -> bool:
        lacking = sum(
            name in self._away or bool(pack.missing >> index & 1) for index, name in enumerate(pack.nodes)
        )
        return lacking <= self._parity and pack.id not in self._unreadable
