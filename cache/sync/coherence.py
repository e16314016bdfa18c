"""Close-to-open coherence: who opens a file sees what others had published before.

One task asks for all who open. A question counts for those who came before it was asked, as an answer may be
older than whoever came later. Event-loop thread only.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from backend.errors import DriveError, ThrottledError, TransientError
from backend.upstream import Head, Upstream
from cache.contact import Contact
from cache.errors import FileSystemError
from cache.journal import Ledger
from cache.sync.changes import Broadcast

PATIENCE: Final = 12.0
"""Seconds, at most, that somebody waits: to follow waits for what this device is sending. It is longer than a
question may take, so that nobody waits for a second one."""

log = logging.getLogger(__name__)


class _Question:
    """One that is asked for all who wait. `is_reached`: the drive has all that the upstream had then."""

    def __init__(self) -> None:
        self.answered = trio.Event()
        self.is_reached = False


class Coherence:
    """See the module. `follow`: by the publisher."""

    def __init__(
        self,
        ledger: Ledger,
        upstream: Upstream,
        contact: Contact,
        changes: Broadcast,
        follow: Callable[[], Awaitable[None]],
    ) -> None:
        self._ledger = ledger
        self._upstream = upstream
        self._contact = contact
        self._changes = changes
        self._follow = follow
        self._wanted = trio.Event()
        self._next = _Question()

    async def run(self) -> None:
        """Answer, for ever. The contact must be running."""
        while True:
            await self._wanted.wait()
            question, self._wanted, self._next = self._next, trio.Event(), _Question()
            try:
                await self._reach()
                question.is_reached = True
            except (DriveError, FileSystemError, OSError) as error:
                log.info("a file is opened as of what is known here: %s", error)
                if isinstance(error, TransientError):
                    self._contact.doubt()
            question.answered.set()

    async def _reach(self) -> None:
        head = await self._contact.reach(self._head)
        if head.number > self._ledger.head.number:
            await self._follow()

    async def _head(self) -> Head:
        """Of the upstream. One that asks to come later is not away: programs that open many files make many
        questions."""
        while True:
            try:
                return await self._upstream.log.head()
            except ThrottledError as error:
                await trio.sleep(error.seconds)

    async def reach_head(self, *, told: bool) -> bool:
        """Return when the drive has what the upstream had at the call and, with `told`, when the doors were
        told of it; after `PATIENCE` seconds, or at once if the upstream is away, with what is known here.
        Whether the drive has it."""
        if self._contact.is_lost:
            return False
        self._wanted.set()
        question = self._next
        with trio.move_on_after(PATIENCE):
            await question.answered.wait()
            if told:
                await self._changes.settled()
        return question.is_reached
