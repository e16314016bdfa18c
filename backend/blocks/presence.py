"""Which blocks a write may rely on instead of storing them: those that can be read, as far as is known here.

Invariants:
1. A block is there only if the index has it (`BlockIndex.has`), its pack lacks no more fragments than parity
   makes up for when those on nodes that are away count as lacking, no read of the pack has failed since
   one went well, and the block itself was not found to be wrong.
2. What a read finds is known to the next question: nothing waits in between.
3. A wrong answer "not there" costs the room of one more copy; it is read from the new one from then on.

Known bad fragments are noted in the index, for ever. What is kept here is of this process only.
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
