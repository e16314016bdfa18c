"""Syncing: what was appended to the journal reaches the disk.

Invariants:
1. `sync` returns after everything appended before the call is on the disk, `sync_records` after all but the
   bytes of large writes is. Any number of tasks call both; they share one fdatasync.
2. An fsync that failed is for good (`cache.journal.failure`); it is never retried. One that did not begin, or
   was cancelled before it began, leaves as unsynced what it took.
3. Files are emptied and closed under `lock` only, which is held while an fdatasync may be using them.
4. A file that lost its name is found out by the sync that took it: nothing is durable by it.

Event-loop thread; the disk is waited for in another one.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import trio

from backend import failpoints, file_limit
from backend.system import durable
from cache.errors import JournalLostError
from cache.journal.bulk import BulkFile, BulkFiles
from cache.journal.failure import Failure
from cache.journal.kept_segments import KeptSegments

SYNCED = failpoints.declare("journal.synced", "fdatasync returned; the caller was not told yet")
RECORDS_SYNCED = failpoints.declare(
    "journal.records-synced", "the records are on the disk, the bytes of large writes perhaps not"
)


class Syncing:
    """See the module. `on_nameless` is called with the name of a file that was found to have lost it."""

    def __init__(
        self,
        folder: Path,
        kept: KeptSegments,
        bulk: BulkFiles,
        failure: Failure,
        on_nameless: Callable[[str], None],
    ) -> None:
        self._folder = folder
        self._kept = kept
        self._bulk = bulk
        self._failure = failure
        self._on_nameless = on_nameless
        self._synced = 0
        """sequence number before which every record, and what it refers to, is on the disk"""
        self.lock = trio.Lock()
        self.nameless = False
        """no file gets a name any more, so none is durable (`cache.journal.custody`)"""

    async def sync(self) -> None:
        """See `Journal.sync`."""
        target = self._kept.next_sequence
        while self._synced < target and not self.nameless:
            async with self.lock:
                if self._synced < target and not self.nameless:
                    reached = self._kept.next_sequence
                    await self._sync_files(self._bulk.unsynced(0, self._kept.end))
                    self._synced = reached
                    failpoints.failpoint(SYNCED)
        self._failure.check()
        if self.nameless:
            raise JournalLostError(f"the files of the journal {self._folder} were removed")

    async def sync_records(self, first: int, last: int) -> None:
        """See `Journal.sync_records`."""
        async with self.lock:
            if self.nameless:
                return
            await self._sync_files(self._bulk.unsynced(first, last))
            failpoints.failpoint(RECORDS_SYNCED)

    async def _sync_files(self, bulk: list[BulkFile]) -> None:
        """The records, and what is in these files by now."""
        self._failure.check()
        ends = [file.end for file in bulk]
        numbers, new_names = self._kept.take_unsynced()
        files = [(file.path, file.descriptor) for file in bulk]
        files += [(s.path, s.descriptor) for s in self._kept.in_order if s.number in numbers]
        try:
            nameless = await trio.to_thread.run_sync(self._sync_on_disk, files, new_names)
        except durable.NotBegunError as error:
            self._kept.still_unsynced(numbers, new_names)
            raise self._failure.refused(error) from error
        except OSError as error:
            raise self._failure.fail(f"cannot be synced ({file_limit.reason(error)})") from error
        except BaseException:  # cancelled before it began: nothing is synced
            self._kept.still_unsynced(numbers, new_names)
            raise
        for file, end in zip(bulk, ends, strict=True):
            file.synced_to = end
        if nameless:
            self._on_nameless(nameless)

    def _sync_on_disk(self, files: list[tuple[str, int]], new_names: bool) -> str:
        """Sync them; the path of one that nobody will find, if there is one."""
        for _, descriptor in files:
            durable.current().sync_data(descriptor)
        nameless = next((path for path, descriptor in files if os.fstat(descriptor).st_nlink == 0), "")
        if new_names and not nameless:
            durable.current().sync_folder(str(self._folder))
        return nameless
