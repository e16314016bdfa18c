"""Keeping the block index in agreement with the nodes while the store is open: it is compared with them again
when some that were away answer, and when a block is not where it says.

Invariants:
1. There is one comparison at a time (`backend.blocks.index_reconciliation`).
2. A node counts as away from the comparison that did not reach it until the next one that does.
3. Those who miss a block share one comparison in `AGAIN` seconds, however many they are.

Event-loop thread only.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import trio

from backend.blocks.index_reconciliation import IndexReconciliation, Progress, ReconcileReport
from backend.blocks.presence import Presence
from backend.coding import ask_status
from backend.errors import DriveError
from backend.nodes import Node

AGAIN: Final = 5.0

log = logging.getLogger(__name__)


class IndexUpkeep:
    """See the module. `nodes` are by name, and may change. `on_change` is called after each comparison."""

    def __init__(
        self,
        reconciliation: IndexReconciliation,
        presence: Presence,
        nodes: Mapping[str, Node],
        on_change: Callable[[], None],
    ) -> None:
        self._reconciliation = reconciliation
        self._presence = presence
        self._nodes = nodes
        self._on_change = on_change
        self._lock = trio.Lock()
        self._compared_at = -math.inf
        self._some_are_away = trio.Event()
        self.away: tuple[str, ...] = ()
        """the nodes that the last comparison did not reach"""
        self.incomplete = 0
        """packs with too few fragments on the nodes that it reached, which the index does not know"""

    async def run(self) -> None:
        """Compare when a node that was away answers again: it may bring packs that the index does not know;
        until cancelled."""
        while True:
            await self._some_are_away.wait()
            await trio.sleep(AGAIN)
            try:
                if await self.is_any_back():
                    await self.compare()
            except DriveError as error:
                log.warning("the nodes cannot be compared with the index now: %s", error)

    async def compare(self, progress: Progress | None = None) -> ReconcileReport:
        """Make the index agree with the nodes. Idempotent. Raises what reading the index raises."""
        async with self._lock:
            return await self._compare(progress)

    async def compare_for_block(self) -> None:
        """The same for who misses a block, unless that was done just now, or is done meanwhile."""
        if self._is_due():
            async with self._lock:
                if self._is_due():
                    await self._compare(None)

    async def is_any_back(self) -> bool:
        """Whether a node that was away answers."""
        found = await ask_status([self._nodes[name] for name in self.away if name in self._nodes])
        return any(status.state == "ok" for status in found.values())

    def forget_others(self) -> None:
        """Nodes that are none any more are not away."""
        self._have_away([name for name in self.away if name in self._nodes])

    async def _compare(self, progress: Progress | None) -> ReconcileReport:
        report = await self._reconciliation.run(progress)
        self.incomplete = report.incomplete
        self._compared_at = trio.current_time()
        self._have_away(report.away)
        self._on_change()
        if report.unreadable:
            log.warning("packs whose index cannot be read: %s", ", ".join(report.unreadable))
        return report

    def _is_due(self) -> bool:
        return trio.current_time() > self._compared_at + AGAIN

    def _have_away(self, names: Sequence[str]) -> None:
        self.away = tuple(names)
        self._presence.note_away(names)
        if names:
            self._some_are_away.set()
        elif self._some_are_away.is_set():  # else `run` waits for that one
            self._some_are_away = trio.Event()
