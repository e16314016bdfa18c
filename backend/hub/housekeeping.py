"""What a hub does beside its requests: it deletes what is due, moves old commits into packs, repairs
packs that lack fragments, rewrites thin ones, and removes packs that nobody knows.

One process at a time does it, whichever comes first. All of it is safe by several at once, and to cut off.
asyncio's thread.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

import anyio

from backend.errors import DriveError
from backend.hub.commit_table import CommitTable
from backend.hub.compaction import HubCompaction
from backend.hub.database import Database
from backend.hub.log_segments import LogSegments
from backend.hub.pack_table import PackTable, StoredPack
from backend.hub.packing import HubBlocks
from backend.hub.presence_table import PresenceTable
from backend.hub.stray_packs import StrayPacks, StrayPackTable
from backend.hub.thin_pack_table import ThinPackTable
from backend.system import THIS_MACHINE, Environment

PERIOD: Final = 60.0
"""Seconds between two rounds."""
LOCK: Final = 0x6472697665667332
"""Of the advisory lock that a round is made under."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Done:
    """Since the process began: rounds, blocks deleted, commits moved into packs, packs made whole, thin packs
    rewritten, bytes of blocks moved out of those, fragments of stray packs deleted. After the last round that
    was ours: packs that lacked fragments, bytes of emptied packs that wait for their time, stray packs."""

    rounds: int = 0
    deleted: int = 0
    moved: int = 0
    repaired: int = 0
    rewritten: int = 0
    rewritten_bytes: int = 0
    removed: int = 0
    lacking: int = 0
    emptied_bytes: int = 0
    strays: int = 0


class Housekeeping:
    """See the module. `away`: the names of nodes that do not answer now; `retention` in seconds."""

    def __init__(
        self,
        database: Database,
        packs: PackTable,
        blocks: HubBlocks,
        away: Callable[[], Collection[str]],
        retention: float,
        environment: Environment = THIS_MACHINE,
    ) -> None:
        self._database = database
        self._packs = packs
        self._blocks = blocks
        self._away = away
        self._retention = retention
        self._segments = LogSegments(CommitTable(database), blocks, environment=environment)
        self._thin = ThinPackTable(database)
        self._compaction = HubCompaction(self._thin, blocks, environment=environment)
        self._stray = StrayPackTable(database, retention)
        self._presences = PresenceTable(database)
        self._stray_packs = StrayPacks(self._stray, blocks.nodes, environment)
        self.done: Final = Done()

    async def run(self) -> None:
        """A round now and then, for ever."""
        while True:
            try:
                await self.round()
            except DriveError as error:
                log.warning("deletion and repair go on later: %s", error)
            except Exception:  # requests are answered all the same
                log.exception("deletion and repair have failed")
            await anyio.sleep(PERIOD)

    async def round(self) -> None:
        """All that is to do now; nothing if another process is at it. `DriveError`: the rest waits."""
        async with self._database.alone(LOCK) as is_ours:
            if is_ours:
                await self._presences.forget_ended()
                self.done.deleted += await self._blocks.collect(self._retention)
                self.done.moved += await self._segments.round()
                await self._repair()
                self.done.removed += await self._stray_packs.round(self._away())
                await self._compact()
                await self._count()
                self.done.rounds += 1

    async def _compact(self) -> None:
        try:
            found = await self._compaction.round()
        except DriveError as error:
            log.warning("thin packs are rewritten later: %s", error)
            return
        self.done.rewritten += found.packs
        self.done.rewritten_bytes += found.moved

    async def _count(self) -> None:
        self.done.emptied_bytes = await self._thin.waiting()
        self.done.strays = await self._stray.count()

    async def _repair(self) -> None:
        lacking = 0
        async for each in self._packs.lacking():
            is_whole = await self._repair_one(each)
            self.done.repaired += is_whole
            lacking += not is_whole
        self.done.lacking = lacking

    async def _repair_one(self, stored: StoredPack) -> bool:
        """Whether the pack lacks nothing any more. While all nodes are away whose fragments it lacks, it
        is not read."""
        pack, away = stored.pack, self._away()
        if all(name in away for index, name in enumerate(pack.nodes) if pack.missing >> index & 1):
            return False
        try:
            missing = await self._blocks.store(stored.drive).repair(pack)
        except DriveError as error:
            log.warning("pack %s cannot be repaired now: %s", pack.id.hex(), error)
            return False
        return await self._packs.note_missing(pack, missing) and not missing
