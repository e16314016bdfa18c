"""Showing presences, and waiting for those of others, of whichever hub process took them.

What this process takes wakes who waits at once. What others took, and what has ended, is found by a look at
all drives that somebody waits for, every `_LOOK` seconds. asyncio's thread.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import anyio

from backend.errors import TransientError
from backend.hub.presence_table import PresenceTable
from backend.upstream import SealedPresence

_LOOK: Final = 1.0

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Poll:
    """One that waits. `drives`: with the marks that it knows; `found`: the marks that are others."""

    drives: Mapping[int, int]
    found: dict[int, int] = field(default_factory=dict)
    woken: anyio.Event = field(default_factory=anyio.Event)


class Presences:
    """See the module."""

    def __init__(self, table: PresenceTable) -> None:
        self._table = table
        self._polls: defaultdict[int, set[_Poll]] = defaultdict(set)
        self._some_wait = anyio.Event()

    async def show(self, drive: int, device: int, shown: Sequence[SealedPresence]) -> None:
        """As of `PresenceTable.show`."""
        await self._table.show(drive, device, shown)
        if drive in self._polls:
            await self._look([drive])

    async def of_others(self, drive: int, device: int) -> list[SealedPresence]:
        """As of `PresenceTable.of_others`."""
        return await self._table.of_others(drive, device)

    async def wait(self, drives: Mapping[int, int]) -> dict[int, int]:
        """The marks of those drives whose mark is another one than said (0: nothing is shown), as soon as
        there is one. Whoever waits no longer is to cancel this."""
        poll = _Poll(drives)
        for drive in drives:
            self._polls[drive].add(poll)
        self._some_wait.set()
        try:
            # A query that is given up in its middle costs the connection: it is short, and goes on.
            with anyio.CancelScope(shield=True):
                await self._look([*drives])
            await poll.woken.wait()
            return poll.found
        finally:
            self._leave(poll)

    def _leave(self, poll: _Poll) -> None:
        for drive in poll.drives:
            self._polls[drive].discard(poll)
            if not self._polls[drive]:
                del self._polls[drive]

    async def run(self) -> None:
        """Look at what other processes took, for ever."""
        while True:
            if not self._polls:
                self._some_wait = anyio.Event()
                await self._some_wait.wait()
            await anyio.sleep(_LOOK)
            await self._look([*self._polls])

    async def _look(self, drives: Sequence[int]) -> None:
        try:
            marks = await self._table.marks(drives)
        except TransientError as error:
            log.info("presences cannot be looked at now: %s", error)
            return
        for drive in drives:
            mark = marks.get(drive, 0)
            for poll in self._polls.get(drive, ()):
                if poll.drives[drive] != mark:
                    poll.found[drive] = mark
                    poll.woken.set()
