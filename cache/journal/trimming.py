"""Trimming: what the journal may let go of, and how large its segments are.

Invariants:
1. A segment goes only when everything in it is published, and when the namespace on disk has it together
   with the record that it is published.
2. The writes that the state at the newest published cut needs stay until the next commit is published. A
   later operation may have made them superfluous, even a Delete, but that operation can be lost with the
   journal's end.

Event-loop thread only.
"""

from __future__ import annotations

import logging
from typing import Final

import trio

from backend.errors import DriveError
from backend.failpoints import declare
from cache.errors import FileSystemError
from cache.journal.ledger import Ledger

log = logging.getLogger(__name__)

CHECKPOINTED = declare("ledger.checkpointed", "the namespace is durable; old segments are still there")

SMALLEST_SEGMENT: Final = 64 << 10
FEW: Final = 16
"""Changes between two times that the namespace is written down, at least, where its disk is short."""
LARGEST_CHANGE: Final = 128 << 10
"""Bytes that the deletion of an inode with large attributes takes of the write-ahead log."""
MUCH_FOLLOWED: Final = 4 << 20
MUCH: Final = 64 << 20
"""With so much left on the disk the log need not be looked after: it is emptied at this size."""


class Trimming:
    """See the module."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._journal, self._namespace = ledger.journal, ledger.namespace
        self.largest_segment = ledger.journal.segment_size
        self.pinned_bytes = 0
        """of the journal, kept only for files that are set apart; as of the last `trim`"""
        self._relieved_at = 0
        self._kept_bytes = 0
        """of the journal, as of the last `trim`"""
        self._writing_down = trio.Lock()
        """Of two checkpoints at once the second does nothing."""

    @property
    def journal_bytes(self) -> int:
        """Bytes of the journal that publishing can free."""
        return self._journal.used_bytes - self.pinned_bytes

    async def trim(self) -> None:
        """Make the namespace durable and let the journal segments go that nobody needs. A start that finds
        neither makes the namespace anew from the log: where they have lost their names, what is published
        is all that is needed."""
        self.fit_segments()
        is_empty, needed = not self._ledger.unpublished, self._needed_position()
        self.pinned_bytes = self._pinned_bytes()
        positions = self._ledger.positions
        known = max(needed, positions.recorded)
        try:
            if not self._ledger.custody.check():
                positions.durable = known
            if known > positions.durable:
                await self._make_durable()
            if known <= positions.durable:
                if is_empty:  # a journal without any segment is one that somebody took away
                    await self._journal.sync_records(0, 0)
                self._journal.drop_before(needed)
                await self._journal.close_dropped()
                self._ledger.local_room.look_anew()
        finally:
            self._kept_bytes = self._journal.record_bytes
            await self._ledger.wake_waiting()

    async def after_follow(self) -> None:
        """Others' commits were journaled: trim now and then, also where nothing is published from here."""
        if self._journal.record_bytes - self._kept_bytes > MUCH_FOLLOWED:
            await self.trim()

    @property
    def is_tight(self) -> bool:
        """Whether many changes at once may take more than the disk has, until they are written down."""
        return self._ledger.local_left() < MUCH

    @property
    def is_crowded(self) -> bool:
        """Whether `relieve` has something to do. Cheap."""
        changes = self._ledger.accepted - self._relieved_at
        if changes < FEW:
            return False
        return (
            self._ledger.local_left() < min(changes * LARGEST_CHANGE, MUCH) and not self._ledger.custody.lost
        )

    async def relieve(self) -> None:
        """Write the namespace down and empty its write-ahead log, as the disk is short: what is deleted moves
        within the database, so a log of many deletions may take more room than they ever free. Errors are for
        the next save to say."""
        self._relieved_at = self._ledger.accepted
        try:
            await self._make_durable()
        except (DriveError, FileSystemError, OSError) as error:
            log.info("the namespace cannot be written down now: %s", error)

    def fit_segments(self) -> None:
        """Choose the segments' size. Where the disk is short, the journal takes it in small pieces and keeps
        none for later: the reserve is for the databases. To be called before a segment is begun to let go of
        the last one."""
        left = max(self._ledger.local_left(), 0)
        self._journal.segment_size = max(int(min(self.largest_segment, left / 8)), SMALLEST_SEGMENT)
        if not left:
            self._journal.give_back_spares()

    async def settle(self) -> None:
        """Nothing is accepted any more: the namespace is durable, and of what is published nothing is left in
        the journal."""
        if self._ledger.custody.check():
            await self._make_durable()
        if not self._ledger.unpublished:
            await self.trim()

    def _needed_position(self) -> int:
        """The oldest position that says something unpublished."""
        if not self._ledger.unpublished:
            self._journal.leave(self._namespace.commit)
            return self._journal.end
        oldest, published = self._ledger.dirty.oldest_position(), self._ledger.positions.published
        return published if oldest is None else min(published, oldest)

    def _pinned_bytes(self) -> int:
        """Bytes that the journal could let go of if no file were set apart."""
        set_apart, dirty = self._ledger.set_apart, self._ledger.dirty
        set_apart.forget_gone(dirty)
        if not set_apart:
            return 0
        others = [layer.oldest for inode, layer in dirty.tops() if inode not in set_apart]
        return self._journal.bytes_before(min([*others, self._ledger.positions.cut]))

    async def _make_durable(self) -> None:
        async with self._writing_down:
            self._ledger.save()
            reached = await trio.to_thread.run_sync(self._namespace.checkpoint)
            if reached is not None:
                self._ledger.positions.durable = reached
                if not self._ledger.unpublished:
                    self._namespace.empty_log()
            self._journal.environment.failpoints.reached(CHECKPOINTED)
