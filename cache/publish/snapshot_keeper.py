"""When snapshots are made: often enough that nobody replays a long log, seldom enough to cost little.

A snapshot is made in the background, of the newest published commit. It is made from a copy of the database
in which later commits are undone. One is made at a time. If it fails, the next commit tries again: the log
is the truth, a snapshot only saves time.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

import trio

from backend.errors import DriveError
from backend.system import Environment, at_rest
from cache.errors import FileSystemError
from cache.journal import Ledger, Need
from cache.publish import snapshot
from cache.publish.shared_exclusive_lock import SharedExclusiveLock
from cache.publish.snapshot_store import SnapshotStore

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SnapshotSchedule:
    """A snapshot is due after so many commits, or so many bytes of operations, since the last."""

    commits: int = 1000
    operation_bytes: int = 16 << 20


class SnapshotKeeper:
    """See the module. Event-loop thread; copying and undoing run in a thread."""

    def __init__(
        self,
        ledger: Ledger,
        store: SnapshotStore,
        folder: Path,
        schedule: SnapshotSchedule,
        collection_lock: SharedExclusiveLock,
        environment: Environment,
    ) -> None:
        self._ledger = ledger
        self.store = store
        self._path = folder / "snapshot-new.db"
        self._schedule = schedule
        self._collection_lock = collection_lock
        self._disk = environment.disk
        self._commits = 0
        self._operation_bytes = 0
        self._due = trio.Event()

    async def committed(self, operation_bytes: int) -> None:
        """A commit with so many bytes of operations was published."""
        self._commits += 1
        self._operation_bytes += operation_bytes
        schedule = self._schedule
        if self._commits >= schedule.commits or self._operation_bytes >= schedule.operation_bytes:
            self._due.set()

    async def run(self) -> None:
        """Make snapshots when they are due, for ever."""
        while True:
            await self._due.wait()
            self._due = trio.Event()
            try:
                await self.make()
            except (DriveError, FileSystemError, OSError) as error:
                log.info("no snapshot could be made now: %s", error)

    async def make(self) -> None:
        """Store a snapshot of the newest published commit."""
        self._commits = self._operation_bytes = 0
        self._ledger.save()
        head = self._ledger.head
        if head.number == 0 or not self._has_room():
            return
        path = str(self._path)
        at_rest.remove_database(path, self._disk)  # what a killed process left
        try:
            await trio.to_thread.run_sync(
                snapshot.export, self._ledger.namespace.path, path, head.number, self._disk
            )
            async with self._collection_lock.shared():
                await self.store.put(self._path, head)
        finally:
            at_rest.remove_database(path, self._disk)
        log.info("snapshot of commit %d stored", head.number)

    def _has_room(self) -> bool:
        """A snapshot takes nothing of a reserve. How much of it is new to the nodes is not known before."""
        size = os.stat(self._ledger.namespace.path).st_size
        if self._ledger.room.allows(Need.GROW, size) and self._ledger.local_left() > size:
            return True
        log.info("no snapshot is made now: there is no room for its %d bytes", size)
        return False
