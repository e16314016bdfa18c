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
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import trio

from backend.block_index import BlockIndex, Pack
from backend.errors import DriveError
from backend.node import Node
from backend.pack_store import PackStore

FIRST_WAIT: Final = 1.0
LONGEST_WAIT: Final = 60.0
CHECK_PATIENCE: Final = 5.0
AT_ONCE: Final = 3
_BATCH: Final = 64

log = logging.getLogger(__name__)


class RepairQueue:
    """`run` is the one task that repairs; `repair_all` may be called beside it (it does no harm)."""

    def __init__(self, nodes: Mapping[str, Node], packs: PackStore, index: BlockIndex,
                 is_pending: Callable[[bytes], bool], first_wait: float) -> None:
        self._nodes = nodes
        self._packs = packs
        self._index = index
        self._is_pending = is_pending
        self._first_wait = first_wait
        self._wanted = trio.Event()

    def wake(self) -> None:
        """Something was queued."""
        self._wanted.set()

    async def run(self) -> None:
        """Repair what is queued, for ever."""
        wait = self._first_wait
        while True:
            if self._index.packs_to_repair(limit=1):
                repaired = await self.repair_all()
                wait = self._first_wait if repaired else min(2 * wait, LONGEST_WAIT)
                await trio.sleep(wait)
            else:
                await self._wanted.wait()
                self._wanted = trio.Event()

    async def repair_all(self) -> int:
        """Try every queued pack once; how many are whole now."""
        repaired = left = 0
        reachable: dict[str, bool] = {}
        while batch := self._index.packs_to_repair(_BATCH, left):
            whole = await self._repair_batch(batch, reachable)
            repaired += whole
            left += len(batch) - whole
        return repaired

    async def _repair_batch(self, batch: Sequence[Pack], reachable: dict[str, bool]) -> int:
        """How many of the packs are whole now."""
        remaining, whole = iter(batch), 0

        async def work() -> None:
            nonlocal whole
            for pack in remaining:
                is_whole = await self._is_worth_it(pack, reachable) and await self._repair(pack)
                whole += is_whole  # in a line of its own: others count while this one waits

        async with trio.open_nursery() as nursery:
            for _ in range(AT_ONCE):
                nursery.start_soon(work)
        return whole

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

    async def _repair(self, pack: Pack) -> bool:
        try:
            missing = await self._packs.repair(pack)
            self._index.set_missing(pack.id, missing)
        except DriveError as error:
            log.info("pack %s cannot be repaired yet: %s", pack.id.hex(), error)
            return False
        return not missing
