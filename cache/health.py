"""What a drive wants to know of its store's health: `backend.care.store_health` where the nodes are at
hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Health(Protocol):
    """See `backend.care.store_health.StoreHealth`."""

    async def run(self) -> None:
        """Scrub when it is due, until cancelled."""

    def scrub_status(self) -> Mapping[str, Any]:
        """Of the scrub under way, or the last one."""

    async def scrub(self, *, wait: bool) -> Mapping[str, Any]:
        """Begin a scrub now."""

    async def repair(self) -> Mapping[str, Any]:
        """Repair all that is queued, now."""

    async def check_fragments(self) -> list[str]:
        """One line for each pack that is not whole."""
