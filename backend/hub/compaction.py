"""Packs of which much is not needed any more are rewritten: what is needed goes into new packs of the same
drive, as the sealed bytes that it is. The rule is that of a drive (`backend.packs.thin_packs`).

Invariants:
1. A block is read from its old pack until the new one is durable at write quorum. The old one stays on the
   nodes as long as a dump of the database may name it (`HubBlocks.collect`), so whoever is reading it ends.
2. Only bytes of which the fragments' checksums hold, and which lie where the pack's own index says too, are
   moved. A pack that cannot be read now, or says otherwise, stays as it is.
3. What is rewritten takes at most half of the room that is left: the new packs and the emptied ones, which
   wait for their time, are no more than what is free then. Deletion needs no room, and goes on.
4. It is safe by several processes at once, beside all that devices do, and to cut off anywhere. A pack that
   no transaction entered goes as that of any write that was cut off (`backend.hub.stray_packs`).
asyncio's thread.
"""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import Final

import anyio

from backend.errors import CorruptError, DriveError, NoSpaceError, ReadOnlyError, UnavailableError
from backend.failpoints import declare
from backend.hub.packing import TARGET, DriveNumber, HubBlocks
from backend.hub.thin_pack_table import BlockInPack, Moved, ThinPack, ThinPackTable
from backend.packs import Pack, PackEntry, PackNeeds, together
from backend.system import THIS_MACHINE, Environment
from backend.upstream import BlockId, SealedBlock

BYTES_PER_SECOND: Final = 16.0 * (1 << 20)
"""Of packs that are read to be rewritten: devices come first."""
PAUSE: Final = 3600.0
"""Seconds after a write that the nodes refused, whatever they said of their room: it leaves a stray pack."""
MOST: Final = 1 << 30
"""Bytes of packs that a round reads, about: other work beside the requests waits a minute for it."""

STORED: Final = declare(
    "thin-pack.stored", "what is needed of thin packs is durable in a new one; no transaction has entered it"
)
MOVED: Final = declare(
    "thin-pack.moved", "blocks are read from the new pack; the old ones are whole, and wait for their time"
)

log = logging.getLogger(__name__)
_START: Final = (0, b"")


@dataclass(slots=True)
class Rewritten:
    """Packs that were read, their bytes, and the bytes of blocks that are read from new packs."""

    packs: int = 0
    read: int = 0
    moved: int = 0


@dataclass(slots=True)
class _Gathered:
    """What is needed of some packs of a drive, with the place of each block."""

    packs: int = 0
    blocks: list[SealedBlock] = field(default_factory=list)
    places: list[BlockInPack] = field(default_factory=list)


class HubCompaction:
    """See the module. One round at a time."""

    def __init__(
        self,
        table: ThinPackTable,
        blocks: HubBlocks,
        bytes_per_second: float = BYTES_PER_SECOND,
        most: int = MOST,
        environment: Environment = THIS_MACHINE,
    ) -> None:
        self._table = table
        self._blocks = blocks
        self._bytes_per_second = bytes_per_second
        self._most = most
        self._failpoints = environment.failpoints
        self._after = _START
        """where the next round goes on, so that packs which cannot be read hold up none behind them"""
        self._not_before = -math.inf

    async def round(self) -> Rewritten:
        """Rewrite what is due, up to `most` bytes. `TransientError`: the database does not answer; errors of
        `HubBlocks.write`: the nodes take nothing now, and rounds within `PAUSE` do nothing."""
        done = Rewritten()
        if anyio.current_time() < self._not_before:
            return done
        waiting = await self._table.waiting()
        async with aclosing(self._groups()) as groups:
            async for drive, group in groups:
                fitting = await self._fitting(drive, group, waiting)
                if not fitting:
                    log.info("thin packs stay for now: the nodes have no room for what is needed of them")
                    break
                self._after = (drive.number, group[-1].pack.id)
                await self._rewrite(drive, [one.pack for one in fitting], done)
                waiting += sum(one.pack.size for one in fitting)
                if done.read >= self._most:
                    break
                await anyio.sleep(sum(one.pack.size for one in fitting) / self._bytes_per_second)
        if done.packs:
            fields = {"packs": done.packs, "read": done.read, "moved": done.moved}
            log.info("thin packs were rewritten", extra={"fields": fields})
        return done

    async def _groups(self) -> AsyncGenerator[tuple[DriveNumber, list[PackNeeds]], None]:
        """The thin packs of a drive that become one, from where the last round ended to the last drive."""
        while True:
            page = await self._table.look(self._after)
            for drive, packs in groupby(page.thin, lambda each: each.drive):
                for group in together(map(_needs_of, packs), TARGET):
                    yield drive, group
            self._after = page.last or _START
            if page.last is None:
                return

    async def _fitting(self, drive: DriveNumber, group: Sequence[PackNeeds], waiting: int) -> list[PackNeeds]:
        """Those of the group that there is room for by invariant 3, the thinnest first; maybe none.
        `waiting`: bytes of emptied packs."""
        store = self._blocks.store(drive)
        fitting = sorted(group, key=lambda one: one.needed)
        while fitting and not await store.has_room(waiting + sum(one.needed for one in fitting)):
            fitting = fitting[: len(fitting) // 2]
        return fitting

    async def _rewrite(self, drive: DriveNumber, old: Sequence[Pack], done: Rewritten) -> None:
        places = await self._table.places([pack.id for pack in old])
        found, seen = _Gathered(), set[BlockId]()
        for pack in old:
            of_pack = places.get(pack.id, [])
            blocks = {each.entry.block for each in of_pack}
            # A block that was doubted may have two places. Of packs that share one the first is moved now.
            # A pack that is moved in part would look like one that devices have emptied.
            if not blocks or not seen.isdisjoint(blocks):
                continue
            done.read += pack.size
            try:
                found.blocks += await self._read(drive, pack, of_pack)
            except DriveError as error:
                log.warning("pack %s is not rewritten now: %s", pack.id.hex(), error)
                continue
            found.places += of_pack
            found.packs += 1
            seen |= blocks
        if found.blocks:
            try:
                await self._blocks.write(drive, found.blocks, partial(self._move, drive, found, done))
            except (NoSpaceError, ReadOnlyError, UnavailableError):
                self._not_before = anyio.current_time() + PAUSE
                raise
            self._failpoints.reached(MOVED)

    async def _read(self, drive: DriveNumber, pack: Pack, places: Sequence[BlockInPack]) -> list[SealedBlock]:
        """The blocks at those places of the pack. `CorruptError`: the pack itself says otherwise; errors of
        `PackReader.read_whole`."""
        store = self._blocks.store(drive)
        whole = await store.reader.read_whole(pack)
        store.reader.forget(pack.id)
        index = await store.cpu.finish(lambda: store.codec.index_of(pack.id, whole))
        if not {each.entry for each in places} <= {*index}:
            raise CorruptError("blocks are not where the database says")
        entries = [each.entry for each in places]
        return [SealedBlock(each.block, whole[each.offset : each.offset + each.length]) for each in entries]

    async def _move(
        self, drive: DriveNumber, found: _Gathered, done: Rewritten, new: Pack, entries: Sequence[PackEntry]
    ) -> None:
        self._failpoints.reached(STORED)
        moved = [Moved(old, entry) for old, entry in zip(found.places, entries, strict=True)]
        done.moved += await self._table.move(drive.number, new, moved)
        done.packs += found.packs


def _needs_of(thin: ThinPack) -> PackNeeds:
    return thin.needs
