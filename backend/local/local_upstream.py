"""The in-process upstream, one session: a drive's block store, commit log, roots and lease on its nodes.

The roles are objects of their own; what is here is the session: opening, background work, closing.

Invariants:
1. A writer holds the lease, and knows that its cluster map is the one in force, before it reads the log and
   writes anything there. It keeps renewing the lease in `open`, `prepare`, `run`; every append is confirmed
   by a majority of the nodes after it was written (`backend.commits.commit_log`, invariant 1).
2. Without a lease nothing is written to any node: every writing call raises `ReadOnlyError`. With one that
   ran out (the machine was suspended, nodes were away) it is renewed first (`SessionWriter`).
3. `run` owns all background tasks; `close` ends them before it gives the lease back, so that nothing of
   this process writes under a lease that another may hold.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final

import trio

from backend.blocks import PackedBlockStore
from backend.commits import Lease, ReplicatedCommitLog, ReplicatedObjects
from backend.errors import DriveError
from backend.local.gate import Gate
from backend.local.leased_objects import LeasedLog, LeasedRoots
from backend.local.session_writer import SessionWriter
from backend.system import plain_task_group
from backend.upstream import BlockStore, Head

_LONGEST_PAUSE: Final = 16
"""times the first one"""
_LOG = logging.getLogger(__name__)


class LocalUpstream:
    """See `backend.upstream.Upstream`. Order of calls: `open`, `prepare` (if need be), `nursery.start(run)`,
    the rest, `close`."""

    def __init__(
        self,
        store: PackedBlockStore,
        log: ReplicatedCommitLog,
        objects: ReplicatedObjects,
        writer: SessionWriter,
        *,
        blocks: BlockStore | None = None,
        beside: Sequence[Callable[[], Awaitable[None]]] = (),
        require_map: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint,
        gate: Gate | None = None,
        mend_seconds: float = 60.0,
    ) -> None:
        """`log` must have `Lease.verify` of the writer's lease as its fence and `Lease.claimed` as its
        claims, and `store` the same writer. `blocks` stands before the store, if given. `beside` is
        background work, done until the session ends. `require_map` raises if the cluster map that all this
        was built from is not in force any more. `gate`: what writes commits and roots passes it.
        `mend_seconds` is the first pause after commits could not be mended."""
        self.blocks: Final[BlockStore] = blocks or store
        self.housekeeping: Final = store
        self.presence: Final = None
        self._gate = gate or Gate()
        self.log: Final = LeasedLog(log, writer, self._gate)
        self.roots: Final = LeasedRoots(objects, writer, self._gate)
        self._log = log
        self._writer = writer
        self._lease = writer.lease
        self._beside = beside
        self._require_map = require_map
        self._mend_seconds = mend_seconds
        self._scope = trio.CancelScope()
        self._stopped = trio.Event()
        self._running = False

    @property
    def epoch(self) -> int:
        """The epoch that a commit for `append` must carry; 0 if this is read-only."""
        return self._writer.epoch

    async def open(self, *, known: Head | None = None, trusted: Head | None = None) -> Head:
        """Acquire the lease (`LeaseHeldError`), then, if the cluster map still counts, open the log: `known`
        and `trusted`, and what is raised, as in `ReplicatedCommitLog.open`. If that fails the lease is
        given back."""
        if self._lease is None:
            return await self._log.open(known=known, trusted=trusted)
        await self._lease.acquire()
        try:
            await self._open_log(self._lease, known, trusted)
            if self._log.highest_epoch >= self._lease.epoch:
                await self._skip_epochs(self._lease, self._log.highest_epoch)
                await self._open_log(self._lease, known, trusted)
            return await self._log.become_writer(self._lease.epoch)
        except BaseException:
            with trio.CancelScope(shield=True):
                await self._lease.release()
            raise

    async def prepare(self, work: Callable[[], Awaitable[object]]) -> None:
        """Do `work`, which comes before `run` and may take longer than the lease lasts (an index of many
        packs is made anew, nodes are slow). Raises what it raises."""
        if self._lease is None:
            await work()
        else:
            await _while_renewing(self._lease, work)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Everything that goes on in the background, until `close` or until the task is cancelled. When the
        lease is lost this goes on (reading still works); writing calls raise `FencedError`."""
        self._running = True
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    for work in self._beside:
                        nursery.start_soon(work)
                    if self._lease is not None:
                        nursery.start_soon(self._lease.run)
                        nursery.start_soon(self._mend)
                        await nursery.start(self.housekeeping.run)
                    task_status.started()
                    await trio.sleep_forever()
        finally:
            self._stopped.set()

    async def confirm_writer(self) -> None:
        """See `Upstream.confirm_writer`."""
        if self._lease is not None:
            await self._lease.confirm()

    async def close(self) -> None:
        """See `Upstream.close`."""
        self._scope.cancel()
        if self._running:
            await self._stopped.wait()
        await self.housekeeping.close()
        if self._lease is not None:
            await self._lease.release()

    async def _open_log(self, lease: Lease, known: Head | None, trusted: Head | None) -> None:
        """`lease` was acquired just now: what is read under it counts only if the map still does. A long log
        takes longer to verify than the lease lasts."""
        await self._require_map()
        await _while_renewing(lease, partial(self._log.open, known=known, trusted=trusted))

    async def _skip_epochs(self, lease: Lease, used: int) -> None:
        """The nodes' lease records were lost: go on above the epochs that the log has."""
        _LOG.warning("the lease's epoch is behind the commit log's, %d: skipped", used)
        await lease.release()
        await lease.acquire(minimum_epoch=used + 1)

    async def _mend(self) -> None:
        """Put commits that were found damaged or in too few copies in order again; after each failure a
        longer pause."""
        pause = self._mend_seconds
        while True:
            await self._log.needs_mending.wait()
            try:
                await self._log.mend(self._gate.passing)
                pause = self._mend_seconds
            except DriveError as error:
                _LOG.info("commits could not be mended yet: %s", error)
                await trio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE * self._mend_seconds)


async def _while_renewing(lease: Lease, work: Callable[[], Awaitable[object]]) -> None:
    """Do `work` with the lease renewed meanwhile. Raises what it raises, not in a group."""
    async with plain_task_group() as group:
        group.start_soon(lease.run)
        try:
            await work()
        finally:
            group.cancel_scope.cancel()
