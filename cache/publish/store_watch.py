"""Watching the store: asking it now and then how full it is. In between, `Ledger.room` keeps the account."""

from __future__ import annotations

import logging
from typing import Final

import trio

from backend.errors import DriveError
from backend.upstream import Housekeeping, StoreStatus
from cache.contact import Contact
from cache.journal import Ledger

INTERVAL: Final = 30.0
PAUSE: Final = 0.5
"""Seconds between two looks at the nodes, however often they change."""

log = logging.getLogger(__name__)


class StoreWatch:
    """See the module. Event-loop thread."""

    def __init__(self, ledger: Ledger, housekeeping: Housekeeping, contact: Contact) -> None:
        self._ledger = ledger
        self._housekeeping = housekeeping
        self._contact = contact
        self.status: StoreStatus | None = None
        """as of the last look; None: nothing is known"""

    async def run(self) -> None:
        """Look when somebody wants to know, and now and then, until cancelled."""
        room = self._ledger.room
        while True:
            with trio.move_on_after(INTERVAL):
                await room.wanted.wait()
            await self.look()
            await self._ledger.wake_waiting()
            await trio.sleep(PAUSE)

    async def look(self) -> None:
        """Ask the store, and reckon with what it says."""
        room = self._ledger.room
        if room.wanted.is_set():  # else `run` waits for that one
            room.wanted = trio.Event()
        accepted, unstored = room.accepted, self._ledger.unstored_bytes
        try:
            status = self.status = await self._contact.ask(self._housekeeping.status)
        except DriveError as error:
            log.info("the store's state cannot be had now: %s", error)
        else:
            unstored = max(unstored, status.pending_bytes)
            was_full = room.is_full
            room.measured(status.capacity, accepted, unstored, trio.current_time())
            if room.is_full and not was_full:
                log.warning("the drive is full: its nodes have only their reserve left")
