"""Background repair: packs with missing, wrong or suspected fragments are made whole again.

Invariants:
1. The queue is the index's `repair` column: it survives a restart and is emptied only by a repair that
   found or made every fragment good.
2. Idle costs nothing: with nothing to repair the task waits for `wake`; while nodes are away it looks
   after them at growing intervals and reads no packs for them.
3. Only `AT_ONCE` packs at a time, so that repair holds bounded memory and leaves the nodes to others: while
   one waits for its fragment to be durable, the next ones are read.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Final

import trio

from backend.blocks.block_index import BlockIndex
from backend.blocks.index_pages import any_repairable, shortfall_of
from backend.blocks.pack_moves import PackTurns
from backend.errors import DriveError
from backend.packs import Pack, PackStore
from backend.upstream import Shortfall

FIRST_WAIT: Final = 1.0
LONGEST_WAIT: Final = 60.0
CHECK_PATIENCE: Final = 5.0
AT_ONCE: Final = 3
_BATCH: Final = 64

NoteRepair = Callable[[int, float], None]
"""Told how many bytes of fragments were rebuilt in how many seconds."""

log = logging.getLogger(__name__)


class RepairQueue:
    """`run` is the one task that repairs; `repair_all` may be called beside it (it does no harm)."""

    def __init__(
        self,
        packs: PackStore,
        index: BlockIndex,
        is_pending: Callable[[bytes], bool],
        first_wait: float,
        note: NoteRepair,
        turns: PackTurns,
    ) -> None:
        self._nodes = packs.nodes
        self._packs = packs
        self._index = index
        self._is_pending = is_pending
        self._first_wait = first_wait
        self._note = note
        self._turns = turns
        self._wanted = trio.Event()
        self._hurried = trio.Event()
        self._progress = trio.Event()

    def wake(self) -> None:
        """Something was queued."""
        self._wanted.set()

    async def run(self) -> None:
        """Repair what is queued, for ever."""
        wait = self._first_wait
        while True:
            if self._index.packs.to_repair(limit=1):
                repaired = await self.repair_all()
                wait = self._first_wait if repaired else min(2 * wait, LONGEST_WAIT)
                with trio.move_on_after(wait):
                    await self._hurried.wait()
                    self._hurried, wait = trio.Event(), self._first_wait
            else:
                await self._wanted.wait()
                self._wanted = trio.Event()

    def note_progress(self) -> None:
        """A pack has more fragments than before."""
        self._progress.set()
        self._progress = trio.Event()

    async def settle(self, patience: float, away: Collection[str]) -> Shortfall:
        """As `Housekeeping.redundancy`; the nodes `away` count as such, whether they answer or not."""
        newest = self._index.packs.newest_number()
        self._hurried.set()
        while True:
            progress = self._progress
            answering = await self._answering(away)
            if not await any_repairable(self._index.packs, newest, answering):
                break
            with trio.move_on_after(patience) as waiting:
                await progress.wait()
            if waiting.cancelled_caught:
                break
        return await shortfall_of(self._index.packs, newest, answering)

    async def _answering(self, away: Collection[str]) -> set[str]:
        """The nodes that answer now, all asked at once: one that hangs takes `CHECK_PATIENCE` seconds."""
        answering = set()

        async def ask(name: str) -> None:
            if await self._is_reachable(name):
                answering.add(name)

        async with trio.open_nursery() as nursery:
            for name in self._nodes:
                if name not in away:
                    nursery.start_soon(ask, name)
        return answering

    async def repair_all(self) -> int:
        """Try every queued pack once; how many are whole now."""
        run, left, begun = _RepairRun(), 0, trio.current_time()
        while batch := self._index.packs.to_repair(_BATCH, left):
            before = run.repaired
            await self._repair_batch(batch, run)
            left += len(batch) - (run.repaired - before)
        if run.rebuilt_bytes:
            self._note(run.rebuilt_bytes, trio.current_time() - begun)
        return run.repaired

    async def _repair_batch(self, batch: Sequence[Pack], run: _RepairRun) -> None:
        remaining = iter(batch)

        async def work() -> None:
            for pack in remaining:
                if await self._is_worth_it(pack, run.reachable):
                    await self._repair(pack, run)

        async with trio.open_nursery() as nursery:
            for _ in range(AT_ONCE):
                nursery.start_soon(work)

    async def _is_worth_it(self, pack: Pack, reachable: dict[str, bool]) -> bool:
        """Not while it is being written, nor while all nodes that lack a fragment are away."""
        if self._is_pending(pack.id):
            return False
        lacking = [name for index, name in enumerate(pack.nodes) if pack.missing >> index & 1]
        for name in lacking:
            if name not in reachable:
                reachable[name] = await self._is_reachable(name)
        return not lacking or any(reachable[name] for name in lacking)

    async def _is_reachable(self, name: str) -> bool:
        try:
            with trio.fail_after(CHECK_PATIENCE):
                await self._nodes[name].check()
        except (DriveError, KeyError, trio.TooSlowError):
            return False
        return True

    async def _repair(self, queued: Pack, run: _RepairRun) -> None:
        async with self._turns.of(queued.id):
            pack = self._index.packs.get(queued.id)
            if pack is None or (queued.missing and not pack.missing):
                run.repaired += 1  # deleted, or made whole, while it waited for its turn
            else:
                await self._repair_alone(pack, run)

    async def _repair_alone(self, pack: Pack, run: _RepairRun) -> None:
        try:
            missing = await self._packs.repair(pack)
            self._index.packs.set_missing(pack.id, missing)
            if missing != pack.missing or not missing:
                self.note_progress()
        except DriveError as error:
            log.info("pack %s cannot be repaired yet: %s", pack.id.hex(), error)
            return
        run.repaired += not missing
        run.rebuilt_bytes += (pack.missing & ~missing).bit_count() * pack.stored_size // len(pack.nodes)


@dataclass(slots=True)
class _RepairRun:
    """The results of one call of `repair_all`."""

    reachable: dict[str, bool] = field(default_factory=dict)
    repaired: int = 0
    rebuilt_bytes: int = 0


def forget(_rebuilt_bytes: int, _seconds: float) -> None:
    """Nobody wants to know how fast repair was."""
