"""The interface by which a drive asks for the health of its store.

`backend.care.store_health` implements it where the nodes are used by this process.
"""

from __future__ import annotations

from typing import Protocol

from backend.health import Repaired, ScrubStatus


class Health(Protocol):
    """See `backend.care.store_health.StoreHealth`."""

    async def run(self) -> None:
        """Scrub when it is due, until cancelled."""

    def scrub_status(self) -> ScrubStatus | None:
        """Of the scrub under way, or the last one. None where nothing is scrubbed."""

    async def scrub(self, *, wait: bool) -> ScrubStatus:
        """Begin a scrub now."""

    async def repair(self) -> Repaired:
        """Repair all that is queued, now."""

    async def check_fragments(self) -> list[str]:
        """One line for each pack that is not whole."""
