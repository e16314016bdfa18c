"""The answers of a mount to what is asked about nodes of a drive at a hub: they are the hub's to look to. The
drive can be asked to move from there to nodes of its own."""

from __future__ import annotations

from functools import partial
from typing import NoReturn, Protocol

import trio

from backend.errors import UsageError
from backend.health import NodeChange, NodesWanted, Repaired, ScrubStatus
from tools.node_changes import Listener
from tools.one_change import GOES_ON, OneChange


class Leave(Protocol):
    """The way from the hub."""

    @property
    def has_moved(self) -> str:
        """One line that says where the drive is now; empty: it has not moved."""

    async def __call__(self, folder: str, rate: float | None, tell: Listener) -> None:
        """Have the drive move to the nodes of a folder, with so many bytes a second at most, and tell how far
        it is."""


class HubCare:
    """See `cache.health.Health`. `url`: of the hub."""

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


class HubNodes:
    """See `cache.health.NodeChanging`: the one change is that the drive leaves the hub."""

    def __init__(self, care: HubCare) -> None:
        self._care = care
        self._leave: Leave | None = None
        self._one = OneChange(self._why_stopped)

    def let_leave(self, leave: Leave) -> None:
        """From now on the drive can be asked to move to nodes, by `leave`."""
        self._leave = leave

    async def run(self) -> None:
        await self._one.run()

    def begin(self, wanted: NodesWanted) -> None:
        if self._leave is None or wanted.verb != "move-to" or len(wanted.names) != 1:
            self._care.refuse()
        self._one.begin(wanted.verb, partial(self._leave, wanted.names[0], wanted.rate, self._one.told))

    def stop(self) -> None:
        if self._one.told.change is None:
            self._care.refuse()
        self._one.stop()

    async def ended(self) -> NodeChange | None:
        if self._one.told.change is None:
            self._care.refuse()
        return await self._one.ended()

    def status(self) -> NodeChange | None:
        return self._one.told.change

    async def _why_stopped(self) -> str:
        await trio.lowlevel.checkpoint()
        return GOES_ON if self._leave is None else self._leave.has_moved or GOES_ON
