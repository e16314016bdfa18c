"""The answers of a mount to what is asked about nodes of a drive at a hub: they are the hub's to look to."""

from __future__ import annotations

from typing import NoReturn

import trio

from backend.errors import UsageError
from backend.health import NodeChange, NodesWanted, Repaired, ScrubStatus


class HubCare:
    """See `cache.health.Health` and `cache.health.NodeChanging`. `url`: of the hub."""

    def __init__(self, url: str) -> None:
        self._url = url

    def refuse(self) -> NoReturn:
        """`UsageError` that says whose work it is."""
        raise UsageError(
            f"the drive is at the hub {self._url}, which has its nodes and looks after them: this is for the "
            "hub's operator to do"
        )

    async def run(self) -> None:
        """Nothing is to be done here."""
        await trio.lowlevel.checkpoint()

    def scrub_status(self) -> ScrubStatus | None:
        return None

    async def scrub(self, *, wait: bool) -> ScrubStatus:
        self.refuse()

    async def repair(self) -> Repaired:
        self.refuse()

    async def check_fragments(self) -> list[str]:
        """None can be seen from here. Whether each block that is needed is there was asked before."""
        return []

    def begin(self, wanted: NodesWanted) -> None:
        self.refuse()

    def stop(self) -> None:
        self.refuse()

    async def ended(self) -> NodeChange | None:
        self.refuse()

    def status(self) -> NodeChange | None:
        return None
