"""Comparing a block index with one that was made from the packs' own trailers just now."""

from __future__ import annotations

from collections.abc import AsyncIterator, Set
from typing import Final

import anyio.lowlevel

from backend.blocks import BlockIndex, ids_of
from backend.errors import DriveError
from backend.packs import Pack, PackEntry, PackStore
from backend.upstream import BlockId

_BATCH: Final = 1000
_TOLD: Final = 5


class IndexCheck:
    """Compares `kept` (the cache's) with `fresh` (the packs'). A block that several packs hold may be read
    from any of them; what is known of missing fragments is not compared. Of blocks that `needed` does not
    name, the index may have forgotten some (`backend.blocks.compaction`), and packs that are being deleted
    may be gone."""

    def __init__(
        self,
        kept: BlockIndex,
        fresh: BlockIndex,
        packs: PackStore,
        needed: Set[bytes],
    ) -> None:
        self._kept = kept
        self._fresh = fresh
        self._packs = packs
        self._needed = needed
        self._entries: dict[bytes, set[PackEntry]] = {}

    async def differences(self) -> list[str]:
        """One line for each difference, a few of each kind; empty if the index is right."""
        found = [text async for text in self._differing_packs()]
        wrong = 0
        async for text in self._blocks():
            wrong += 1
            if wrong <= _TOLD:
                found.append(text)
        if wrong > _TOLD:
            found.append(f"and {wrong - _TOLD} more blocks")
        return found

    async def _differing_packs(self) -> AsyncIterator[str]:
        kept, fresh = await ids_of(self._kept.packs), await ids_of(self._fresh.packs)
        if fresh - kept:
            yield f"it lacks {len(fresh - kept)} packs that are on the nodes"
        gone = [pack_id for pack_id in kept - fresh if not self._kept.dying.is_doomed(pack_id)]
        if gone:
            yield f"it has {len(gone)} packs that cannot be read from the nodes"
        wrong = [
            pack_id for pack_id in kept & fresh if _size(self._kept, pack_id) != _size(self._fresh, pack_id)
        ]
        if wrong:
            yield f"it has {len(wrong)} packs with wrong sizes"

    async def _blocks(self) -> AsyncIterator[str]:
        position: bytes = b""
        while batch := self._kept.locations(position, _BATCH):
            position = batch[-1][0]
            for block, pack_id, offset, length in batch:
                if not await self._is_there(pack_id, PackEntry(block, offset, length)):
                    yield f"block {block.hex()[:16]} is not where it says"
            await anyio.lowlevel.checkpoint()
        for needed in self._needed:
            block = BlockId(needed)
            if self._kept.locate(block) is None and self._fresh.locate(block) is not None:
                yield f"it lacks block {block.hex()[:16]}"

    async def _is_there(self, pack_id: bytes, entry: PackEntry) -> bool:
        location = self._fresh.locate(entry.block)
        if location is not None and location.pack.id == pack_id:
            return (location.offset, location.length) == (entry.offset, entry.length)
        pack = self._fresh.packs.get(pack_id)
        return pack is not None and entry in await self._trailer(pack)

    async def _trailer(self, pack: Pack) -> set[PackEntry]:
        if pack.id not in self._entries:
            try:
                whole = await self._packs.reader.read_whole(pack)
                found = self._packs.codec.index_of(pack.id, whole)
            except DriveError:
                found = []
            self._entries[pack.id] = set(found)
        return self._entries[pack.id]


def _size(index: BlockIndex, pack_id: bytes) -> int:
    pack = index.packs.get(pack_id)
    return -1 if pack is None else pack.size
