"""Reading stored blocks, each from the first of its places that can be read.

Invariants:
1. How a read ends is known to the next write (`backend.blocks.presence`) and to the repair queue.
2. A block that lies in several packs is lost only when it can be read from none of them. Where it was read
   is where it is looked for first from then on.
Used on the event loop's thread only.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from backend.blocks.block_index import BlockIndex, BlockLocation
from backend.blocks.presence import Presence
from backend.errors import DriveError
from backend.packs import SMALL, Pack, PackReader
from backend.upstream import BlockId, BlockPart

Read = TypeVar("Read")
Locate = Callable[[BlockId], Awaitable[BlockLocation]]
"""Where a block is; `NotFoundError`, `UnavailableError`."""
LocateAgain = Callable[[BlockId, BlockLocation], Awaitable[BlockLocation | None]]
"""Where a block is if it is not where it was any more."""

log = logging.getLogger(__name__)


class BlockReader:
    """See the module. `suspect` has a pack looked at whose bytes were wrong."""

    def __init__(
        self,
        index: BlockIndex,
        packs: PackReader,
        presence: Presence,
        locate: Locate,
        locate_again: LocateAgain,
        suspect: Callable[[Pack], None],
    ) -> None:
        self._index = index
        self._packs = packs
        self._presence = presence
        self._locate = locate
        self._locate_again = locate_again
        self._suspect = suspect

    async def part(self, block: BlockId, offset: int, length: int) -> BlockPart:
        """As `BlockStore.get_block_part`."""
        return await self._read(block, lambda place: self._read_part(place, offset, length))

    async def again(self, block: BlockId) -> bytes:
        """As `BlockStore.get_block_again`."""
        location = await self._locate(block)
        self._suspect(location.pack)
        self._packs.forget(location.pack.id)
        return await self._read(block, self._read_checked)

    def report_wrong(self, block: BlockId) -> bool:
        """As `BlockStore.report_wrong`."""
        self._presence.note_wrong(block)
        return self._index.drop_place(block)

    async def _read(self, block: BlockId, read: Callable[[BlockLocation], Awaitable[Read]]) -> Read:
        """By `read`, from where the block lies; if that fails, from where it has been moved meanwhile, as
        often as it is; then from where else it is."""
        location = await self._locate(block)
        while True:
            try:
                return await read(location)
            except DriveError:
                moved = await self._locate_again(block, location)
                if moved is None:
                    found = await self._elsewhere(block, read)
                    if found is None:
                        raise
                    return found
            location = moved

    async def _elsewhere(
        self, block: BlockId, read: Callable[[BlockLocation], Awaitable[Read]]
    ) -> Read | None:
        for place in self._index.other_places(block):
            try:
                found = await read(place)
            except DriveError as error:
                log.info("pack %s cannot be read either: %s", place.pack.id.hex(), error)
            else:
                self._index.read_from(block, place)
                return found
        return None

    async def _read_part(self, location: BlockLocation, offset: int, length: int) -> BlockPart:
        first = min(offset, location.length)
        length = min(length, location.length - first)
        with self._noting(location.pack):
            data = await self._packs.read_range(
                location.pack, location.offset + first, length, has_neighbours=location.length <= SMALL
            )
        return BlockPart(data, location.length)

    async def _read_checked(self, location: BlockLocation) -> bytes:
        with self._noting(location.pack):
            whole = await self._packs.read_whole(location.pack)
        return whole[location.offset : location.offset + location.length]

    @contextmanager
    def _noting(self, pack: Pack) -> Iterator[None]:
        try:
            yield
        except DriveError:
            self._presence.note_read(pack.id, failed=True)
            raise
        self._presence.note_read(pack.id, failed=False)
