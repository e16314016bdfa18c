"""Syncing: what was appended to the journal reaches the disk.

An fdatasync of blocks that were only preallocated makes the file system note that they are written now. An
fdatasync of blocks that were written before, even with zeros, takes two thirds of that time. So an fsync
writes zeros ahead of the journal's end. The event loop puts them into the page cache, because nobody else
may write into a file that is being appended to. One turn of a thread then waits for the records and the
zeros.

Invariants:
1. `sync` returns after everything appended before the call is on the disk, `sync_records` after all but the
   bytes of large writes is. Any number of tasks call both; they share one fdatasync.
2. An fsync that failed is for good (`cache.journal.failure`), wherever it was waited for; it is never
   retried. One that did not begin, or was cancelled before it began, leaves as unsynced what it took.
3. Files are emptied and closed under `lock` only, which is held while an fdatasync may be using them.
4. A file that lost its name is found out by the sync that took it: nothing is durable by it. One that the
   journal let go of meanwhile needs none.
5. The disk is waited for on the event loop only for a caller who is alone, if one descriptor and no name is
   to be synced, all of it lies in blocks that are written, and the disk was quick just now
   (`cache.journal.disk_pace`, which says what remains of the danger that it hangs). Else in a thread.
6. Zeros are written behind the last record only, and within what is preallocated: they take no room.

Event-loop thread.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from backend import file_limit
from backend.failpoints import declare
from backend.system import Environment, NotBegunError
from cache.errors import JournalLostError
from cache.journal.bulk import BulkFile, BulkFiles
from cache.journal.disk_pace import SLOW_IN_THREAD_NS, SLOW_NS, DiskPace
from cache.journal.failure import Failure
from cache.journal.kept_segments import KeptSegments
from cache.journal.segments import Segment, write_zeros

AHEAD: Final = 512 << 10
"""So many bytes are written ahead at once: the disk takes a millisecond for them, the loop a tenth of one."""

SYNCED = declare("journal.synced", "fdatasync returned; the caller was not told yet")
RECORDS_SYNCED = declare(
    "journal.records-synced", "the records are on the disk, the bytes of large writes perhaps not"
)

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Round:
    """One turn of the disk: files, each with how much of it is on the disk when it is over, and whether names
    are to be synced too. `nameless`: then the paths of files without a name; `took_ns`: then how long the
    disk was waited for."""

    bulk: list[tuple[BulkFile, int]]
    segments: list[tuple[Segment, int]]
    new_names: bool
    nameless: Sequence[str] = ()
    took_ns: int = 0

    @property
    def files(self) -> list[tuple[str, int]]:
        """Paths and descriptors."""
        bulk = [(file.path, file.descriptor) for file, _ in self.bulk]
        return bulk + [(segment.path, segment.descriptor) for segment, _ in self.segments]

    def is_over(self) -> None:
        """All of it is on the disk."""
        for file, end in self.bulk:
            file.synced_to = end
        for segment, end in self.segments:
            segment.ready = max(segment.ready, end)


class Syncing:
    """See the module. `on_nameless` is called with the name of a file that was found to have lost it."""

    def __init__(
        self,
        folder: Path,
        kept: KeptSegments,
        bulk: BulkFiles,
        failure: Failure,
        on_nameless: Callable[[str], None],
        environment: Environment,
    ) -> None:
        self._folder = folder
        self._kept = kept
        self._bulk = bulk
        self._failure = failure
        self._on_nameless = on_nameless
        self._disk = environment.disk
        self._failpoints = environment.failpoints
        self._pace = DiskPace()
        self._synced = 0
        """sequence number before which every record, and what it refers to, is on the disk"""
        self.lock = trio.Lock()
        self.nameless = False
        """no file gets a name any more, so none is durable (`cache.journal.custody`)"""

    async def sync(self, alone: bool) -> None:
        """See `Journal.sync`."""
        target = self._kept.next_sequence
        if alone and self._synced < target and self._may_wait_here():
            self._sync_here()
        while self._synced < target and not self.nameless:
            async with self.lock:
                if self._synced < target and not self.nameless:
                    reached = self._kept.next_sequence
                    ahead = self._write_ahead()
                    await self._sync_files(self._bulk.unsynced(0, self._kept.end), ahead)
                    self._synced = reached
                    self._failpoints.reached(SYNCED)
        self._failure.check()
        if self.nameless:
            raise JournalLostError(f"the files of the journal {self._folder} were removed")

    async def sync_records(self, first: int, last: int) -> None:
        """See `Journal.sync_records`."""
        async with self.lock:
            if self.nameless:
                return
            await self._sync_files(self._bulk.unsynced(first, last))
            self._failpoints.reached(RECORDS_SYNCED)

    async def _sync_files(self, bulk: list[BulkFile], ahead: int = 0) -> None:
        """The records, what is in these files by now, and zeros in the last segment up to `ahead`."""
        with self._round(bulk, ahead) as this:
            await trio.to_thread.run_sync(self._wait_for_disk, this)
        if not this.bulk:  # many bytes take a quick disk long, too
            self._pace.note(this.took_ns, SLOW_IN_THREAD_NS)

    def _may_wait_here(self) -> bool:
        """Whether the conditions of invariant 5 hold for a caller who is alone."""
        kept = self._kept
        if self.nameless or self.lock.locked() or kept.has_new_names or len(kept.unsynced) != 1:
            return False
        last = kept.in_order[-1]
        if last.number not in kept.unsynced or last.end > last.ready or not self._pace.is_quick():
            return False
        return not self._bulk.unsynced(0, kept.end)

    def _sync_here(self) -> None:
        """As `_sync_files`, without giving up control: nothing is appended or let go meanwhile."""
        reached = self._kept.next_sequence
        with self._round([]) as this:
            self._wait_for_disk(this)
        self._pace.note(this.took_ns, SLOW_NS)
        self._synced = reached
        self._failpoints.reached(SYNCED)

    def _write_ahead(self) -> int:
        """Zeros behind the last record, if what comes there is not written; their end, 0 without any."""
        last = self._kept.in_order[-1]
        end = min(last.end + AHEAD, last.size)
        if last.end <= last.ready:
            return 0
        try:
            write_zeros(last.descriptor, last.end, end, self._disk)
        except OSError as error:  # the records are as they were
            log.info("nothing is written ahead in %s: %s", last.path, error)
            return 0
        return end

    @contextmanager
    def _round(self, bulk: list[BulkFile], ahead: int = 0) -> Iterator[_Round]:
        """Around waiting for the disk: what it is waited for, and what comes of it."""
        self._failure.check()
        this = self._begin_round(bulk, ahead)
        numbers = {segment.number for segment, _ in this.segments}
        try:
            yield this
        except NotBegunError as error:
            self._kept.still_unsynced(numbers, this.new_names)
            raise self._failure.refused(error) from error
        except OSError as error:
            raise self._failure.fail(f"cannot be synced ({file_limit.reason(error)})") from error
        except BaseException:  # cancelled before it began: nothing is synced
            self._kept.still_unsynced(numbers, this.new_names)
            raise
        this.is_over()
        kept = {path for path, _ in self._bulk.named()} | {segment.path for segment in self._kept.in_order}
        lost = [path for path in this.nameless if path in kept]
        if lost:
            self._on_nameless(lost[0])

    def _begin_round(self, bulk: list[BulkFile], ahead: int) -> _Round:
        numbers, new_names = self._kept.take_unsynced()
        segments = [(each, each.end) for each in self._kept.in_order if each.number in numbers]
        if segments:
            last, end = segments[-1]
            segments[-1] = last, max(end, ahead)
        return _Round([(file, file.end) for file in bulk], segments, new_names)

    def _wait_for_disk(self, this: _Round) -> None:
        """Any thread."""
        files, began_at = this.files, self._pace.now()
        for _, descriptor in files:
            self._disk.sync_data(descriptor)
        this.nameless = [path for path, file in files if os.fstat(file).st_nlink == 0]
        if this.new_names:
            self._sync_names(may_be_gone=bool(this.nameless))
        this.took_ns = self._pace.now() - began_at

    def _sync_names(self, *, may_be_gone: bool) -> None:
        """Those of the journal's folder, which may be gone itself. Any thread."""
        try:
            self._disk.sync_folder(str(self._folder))
        except NotBegunError as error:
            if not (may_be_gone and error.errno == errno.ENOENT):
                raise
