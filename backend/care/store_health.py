"""The health of a running store, for tools: look at the fragments, scrub, repair. No key is needed.

Event-loop thread. Looking changes nothing; repairing writes only what was rebuilt from k good fragments.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from backend.blocks import BlockIndex, BlockStore
from backend.care.check_store import StoreCheck
from backend.care.scrub import Scrub
from backend.errors import ReadOnlyError
from backend.findings import Findings
from backend.packs import PackStore


class StoreHealth:
    """`scrubbing` is None where nothing may be written (the drive is open for reading only)."""

    def __init__(
        self, blocks: BlockStore, index: BlockIndex, packs: PackStore, scrubbing: Scrub | None
    ) -> None:
        self._blocks = blocks
        self._index = index
        self._packs = packs
        self._scrubbing = scrubbing

    async def run(self) -> None:
        """Scrub when it is due, until cancelled."""
        if self._scrubbing is not None:
            await self._scrubbing.run()

    def scrub_status(self) -> Mapping[str, Any]:
        """Of the scrub under way, or the last one."""
        if self._scrubbing is None:
            return {}
        state = self._scrubbing.state
        return {
            "running": self._scrubbing.is_running,
            "finished_ns": state.finished_ns,
            "fragments": state.fragments,
            "bytes": state.bytes,
            "wrong": state.wrong,
            "unanswered": state.unanswered,
        }

    async def scrub(self, *, wait: bool) -> Mapping[str, Any]:
        """Begin a scrub now, or go on with the one under way; with `wait`, return at its end."""
        if self._scrubbing is None:
            raise ReadOnlyError("the drive is open for reading only: nothing can be scrubbed")
        finished = self._scrubbing.request()
        if wait:
            await finished.wait()
        return self.scrub_status()

    async def repair(self) -> Mapping[str, Any]:
        """Repair all that is queued, now; packs that are whole again, and that are left."""
        if self._scrubbing is None:
            raise ReadOnlyError("the drive is open for reading only: nothing can be repaired")
        repaired = await self._blocks.repairs.repair_all()
        return {"repaired": repaired, "left": self._index.packs.statistics().packs_to_repair}

    async def check_fragments(self) -> list[str]:
        """One line for each pack of which a fragment is missing, has the wrong size or cannot be asked
        for."""
        findings = Findings()
        await StoreCheck(self._packs, self._index, findings, mend=False).run(lambda _done, _total: None)
        return [finding.text for finding in findings.all]
