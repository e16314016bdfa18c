"""The health of a running store, for tools: look at the fragments, scrub, repair. No key is needed.

Event-loop thread. Looking changes nothing; repairing writes only what was rebuilt from k good fragments.
"""

from __future__ import annotations

from backend.blocks import BlockIndex, PackedBlockStore, statistics_of
from backend.care.check_store import StoreCheck
from backend.care.scrub import Scrub
from backend.errors import ReadOnlyError
from backend.findings import Findings
from backend.health import Repaired, ScrubStatus
from backend.packs import PackStore


class StoreHealth:
    """`scrubbing` is None where nothing may be written (the drive is open for reading only)."""

    def __init__(
        self, blocks: PackedBlockStore, index: BlockIndex, packs: PackStore, scrubbing: Scrub | None
    ) -> None:
        self._blocks = blocks
        self._index = index
        self._packs = packs
        self._scrubbing = scrubbing

    async def run(self) -> None:
        """Scrub when it is due, until cancelled."""
        if self._scrubbing is not None:
            await self._scrubbing.run()

    def scrub_status(self) -> ScrubStatus | None:
        """Of the scrub under way, or the last one. None where nothing is scrubbed."""
        return None if self._scrubbing is None else _status(self._scrubbing)

    async def scrub(self, *, wait: bool) -> ScrubStatus:
        """Begin a scrub now, or go on with the one under way; with `wait`, return at its end."""
        if self._scrubbing is None:
            raise ReadOnlyError("the drive is open for reading only: nothing can be scrubbed")
        finished = self._scrubbing.request()
        if wait:
            await finished.wait()
        return _status(self._scrubbing)

    async def repair(self) -> Repaired:
        """Repair all that is queued, now; packs that are whole again, and that are left."""
        if self._scrubbing is None:
            raise ReadOnlyError("the drive is open for reading only: nothing can be repaired")
        repaired = await self._blocks.repairs.repair_all()
        return Repaired(repaired, (await statistics_of(self._index.packs)).packs_to_repair)

    async def check_fragments(self) -> list[str]:
        """One line for each pack of which a fragment is missing, has the wrong size or cannot be asked
        for."""
        findings = Findings()
        await StoreCheck(self._packs, self._index, findings, mend=False).run(lambda _done, _total: None)
        return [finding.text for finding in findings.all]


def _status(scrubbing: Scrub) -> ScrubStatus:
    state = scrubbing.state
    return ScrubStatus(
        running=scrubbing.is_running,
        finished_ns=state.finished_ns,
        fragments=state.fragments,
        by_size=state.by_size,
        bytes=state.bytes,
        wrong=state.wrong,
        unanswered=state.unanswered,
        copies=state.copies,
        copies_wrong=state.copies_wrong,
    )
