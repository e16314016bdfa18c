"""Letting go of the oldest part of the journal, and having files ready for the next.

Invariants:
1. Only whole segments go; bulk files go with the last record that refers to them.
2. What was let go is emptied and closed later, in a thread, never beside an fdatasync that may be using it.

Event-loop thread only.
"""

from __future__ import annotations

import trio

from backend.failpoints import declare
from backend.system import Environment
from cache.journal.bulk import BulkFiles
from cache.journal.format import OFFSET_BITS
from cache.journal.kept_segments import KeptSegments
from cache.journal.segments import Dropped, SegmentFiles, close_all, preallocated

SEGMENT_DROPPED = declare("journal.segment-dropped", "one segment was let go, others may follow")


class Dropping:
    """See the module. `in_use` is held by whoever syncs files."""

    def __init__(
        self,
        kept: KeptSegments,
        files: SegmentFiles,
        bulk: BulkFiles,
        in_use: trio.Lock,
        environment: Environment,
    ) -> None:
        self._kept = kept
        self._files = files
        self._bulk = bulk
        self._in_use = in_use
        self._environment = environment
        self._dropped: list[Dropped] = []

    def drop_before(self, position: int, segment_size: int) -> None:
        """See `Journal.drop_before`. Segments of `segment_size` are kept for later ones."""
        segments, number = self._kept.in_order, position >> OFFSET_BITS
        while len(segments) > 1 and segments[0].number < number:
            self._dropped.append(self._files.let_go(segments[0], segment_size))
            self._kept.pop_oldest()
            self._environment.failpoints.reached(SEGMENT_DROPPED)
        self._dropped += map(Dropped, self._bulk.drop_before(position))

    async def prepare(self, segment_size: int) -> None:
        """See `Journal.prepare`."""
        last = self._kept.in_order[-1]
        if last.end < last.size // 4:
            return
        path = self._files.begin_spare(last.number + 1)
        if path is None:
            return
        made: list[str] = []
        try:
            with trio.CancelScope(shield=True):
                made = await trio.to_thread.run_sync(preallocated, path, segment_size, self._environment.disk)
        finally:
            self._files.end_spare(made)

    async def close_dropped(self) -> None:
        """See `Journal.close_dropped`."""
        async with self._in_use:
            dropped = list(self._dropped)
            if dropped:
                emptied = await trio.to_thread.run_sync(self._files.finish_dropping, dropped)
                self._files.take_spares(emptied, dropped)
                del self._dropped[: len(dropped)]

    def close(self) -> None:
        """Close what was let go. Idempotent."""
        close_all(each.descriptor for each in self._dropped)
        self._dropped.clear()
