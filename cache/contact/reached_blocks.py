"""A block store that may be away: who reads from it while that is known is answered soon.

What is nearer than the store (a disk cache, blocks that wait to be sent) is before it, and answers as always.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

from backend.buffer import Buffer
from backend.upstream import BlockId, BlockPart, BlockStore, SealedBlock
from cache.contact.contact import Contact


class ReachedBlocks:
    """See the module, and `backend.upstream.BlockStore`."""

    def __init__(self, store: BlockStore, contact: Contact) -> None:
        self._store = store
        self._contact = contact

    async def missing(self, ids: Iterable[BlockId]) -> set[BlockId]:
        return await self._store.missing(ids)

    async def put_blocks(self, blocks: Sequence[SealedBlock]) -> None:
        await self._store.put_blocks(blocks)

    async def flush(self) -> None:
        await self._store.flush()

    async def get_block(self, block: BlockId) -> Buffer:
        return await self._contact.ask_again(partial(self._store.get_block, block))

    async def get_block_part(self, block: BlockId, offset: int, length: int) -> BlockPart:
        return await self._contact.ask_again(partial(self._store.get_block_part, block, offset, length))

    async def get_block_again(self, block: BlockId) -> bytes:
        return await self._contact.ask_again(partial(self._store.get_block_again, block))

    async def report_wrong(self, block: BlockId) -> bool:
        return await self._contact.ask(partial(self._store.report_wrong, block))
