"""The interfaces by which a drive asks for the health of its store, and has its nodes changed.

Where the nodes are used by this process `backend.care.store_health` and `tools.mounted_nodes` implement them.
"""

from __future__ import annotations

from typing import Protocol

from backend.health import NodeChange, NodesWanted, Repaired, ScrubStatus


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


class NodeChanging(Protocol):
    """See `tools.mounted_nodes.MountedNodes`. One change at a time."""

    async def run(self) -> None:
        """Do what is begun, until cancelled."""

    def begin(self, wanted: NodesWanted) -> None:
        """Begin a change. `ConflictError` while one is under way, `UsageError` if it is none."""

    def stop(self) -> None:
        """End the change that is under way, where it can be gone on with."""

    async def ended(self) -> NodeChange | None:
        """The last change, when it is at its end. None: there was none."""

    def status(self) -> NodeChange | None:
        """Of the change that is under way, or the last one; None: there was none."""
