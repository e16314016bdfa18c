"""Fragments that move to other nodes while the drive is in use.

Invariants:
1. One task at a time repairs or moves a pack (`PackTurns`), and none while the pack is being written or
   deleted. Compaction leaves a pack alone whose turn it is.
2. The index is told of a fragment's new node when the fragment is durable there, and before the one on the
   old node goes: who looks a block up is never led to a node that has let go of it.
3. A reconciliation that runs meanwhile leaves out what moved after the nodes were listed, and lists them
   anew for packs that the index does not know.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from weakref import WeakValueDictionary

import trio

from backend.blocks.block_index import BlockIndex
from backend.blocks.index_pages import ids_of


class PackTurns:
    """Who repairs or moves a pack takes its turn."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[bytes, trio.Lock] = WeakValueDictionary()
        self._noted: set[bytes] | None = None
        self._taken: set[bytes] = set()

    @asynccontextmanager
    async def of(self, pack_id: bytes) -> AsyncIterator[None]:
        """The block has the pack for itself."""
        lock = self._locks.setdefault(pack_id, trio.Lock())
        async with lock:
            self._taken.add(pack_id)
            if self._noted is not None:
                self._noted.add(pack_id)
            try:
                yield
            finally:
                self._taken.discard(pack_id)

    def is_taken(self, pack_id: bytes) -> bool:
        """Whether it is somebody's turn now."""
        return pack_id in self._taken

    async def ended(self, pack_ids: Collection[bytes]) -> None:
        """Return when the turns that are taken or waited for now are over."""
        for pack_id in pack_ids:
            async with self.of(pack_id):
                await trio.lowlevel.checkpoint()

    @contextmanager
    def noted(self) -> Iterator[Collection[bytes]]:
        """The packs whose turn it was at any time since the block began. One block at a time."""
        self._noted = noted = set(self._taken)
        try:
            yield noted
        finally:
            self._noted = None


class PackMoves:
    """The side of the block store where a rebalance moves packs beside it: see
    `backend.cluster.rebalance.Users`. `is_pending` says which packs are being written by this process."""

    def __init__(self, index: BlockIndex, turns: PackTurns, is_pending: Callable[[bytes], bool]) -> None:
        self._index = index
        self._turns = turns
        self._is_pending = is_pending
        self._known: set[bytes] = set()

    async def begin(self) -> None:
        """A run begins; the nodes have not been listed."""
        self._known = set(await ids_of(self._index.packs))

    @asynccontextmanager
    async def exclusive(self, pack_id: bytes) -> AsyncIterator[Sequence[str] | None]:
        """Nobody else changes the pack while the block runs. The node of each fragment, as the index has it
        ("": known to be missing; empty: a pack that the index does not know); None: it is not to be moved,
        as it is being written or deleted, or is gone."""
        async with self._turns.of(pack_id):
            yield self._whereabouts(pack_id)

    def moved(self, pack_id: bytes, index: int, name: str) -> None:
        """Fragment `index` is durable on the node of that name."""
        pack = self._index.packs.get(pack_id)
        if pack is not None:
            nodes = (*pack.nodes[:index], name, *pack.nodes[index + 1 :])
            self._index.packs.set_nodes(pack_id, nodes)

    def rebuilt(self, pack_id: bytes, nodes: Sequence[str]) -> None:
        """All fragments of the pack were looked at, and lie on these nodes."""
        if self._index.packs.get(pack_id) is not None:
            self._index.packs.set_written(pack_id, nodes, 0)

    def _whereabouts(self, pack_id: bytes) -> Sequence[str] | None:
        pack = self._index.packs.get(pack_id)
        if self._is_pending(pack_id) or (pack is None and pack_id in self._known):
            return None
        if pack is None:
            return ()
        if self._index.dying.is_doomed(pack_id):
            return None
        return ["" if pack.missing >> index & 1 else name for index, name in enumerate(pack.nodes)]
