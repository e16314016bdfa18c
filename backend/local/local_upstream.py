"""The in-process upstream: a drive's block store, commit log, roots and lease on its nodes.

Invariants:
1. A writer holds the lease before it reads the log, and keeps renewing it in `open`, `prepare`, `run`; every
   append is confirmed by a majority of the nodes after it was written (`backend.commits.commit_log`,
   invariant 1).
2. Without a lease nothing is written to any node: every writing call raises `ReadOnlyError`. With one that
   ran out (the machine was suspended, nodes were away) it is renewed first.
3. `run` owns all background tasks; `close` ends them before it gives the lease back, so that nothing of
   this process writes under a lease that another may hold.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Protocol

import trio

from backend.buffer import Buffer
from backend.commits import ROOTS, CommitLog, Lease, ReplicatedObjects
from backend.errors import ConflictError, CorruptError, DriveError, FencedError, ReadOnlyError, UsageError
from backend.upstream import (
    BlockId,
    BlockPart,
    Commit,
    CompactionReport,
    Head,
    SealedBlock,
    Shortfall,
    StoreStatus,
)

_LOG = logging.getLogger(__name__)


class Blocks(Protocol):
    """What is needed of `backend.blocks.block_store.BlockStore`; each method as in `Upstream`."""

    async def missing(self, ids: Iterable[BlockId]) -> set[BlockId]:
        """See `Upstream.missing`."""

    async def put_blocks(self, blocks: Sequence[SealedBlock]) -> None:
        """See `Upstream.put_blocks`."""

    async def flush(self) -> None:
        """See `Upstream.flush`."""

    async def redundancy(self, patience: float) -> Shortfall:
        """See `Upstream.redundancy`."""

    async def get_block(self, block: BlockId) -> Buffer:
        """See `Upstream.get_block`."""

    async def get_block_part(self, block: BlockId, offset: int, length: int) -> BlockPart:
        """See `Upstream.get_block_part`."""

    async def get_block_again(self, block: BlockId) -> bytes:
        """See `Upstream.get_block_again`."""

    async def report_wrong(self, block: BlockId) -> bool:
        """See `Upstream.report_wrong`."""

    async def stored_blocks(self, after: bytes, limit: int) -> list[BlockId]:
        """See `Upstream.stored_blocks`."""

    async def release(self, blocks: Sequence[BlockId]) -> list[BlockId]:
        """See `Upstream.release`."""

    async def revive(self, blocks: Sequence[BlockId]) -> None:
        """See `Upstream.revive`."""

    async def sizes(self, blocks: Sequence[BlockId]) -> dict[BlockId, int]:
        """See `Upstream.sizes`."""

    async def compact(
        self, verify: Callable[[], Awaitable[None]], grace: float, bytes_per_second: float, *, debris: bool
    ) -> CompactionReport:
        """See `Upstream.compact`; `verify` confirms the lease, or raises."""

    async def status(self) -> StoreStatus:
        """See `Upstream.status`."""

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Pack, store and repair until cancelled."""

    async def close(self) -> None:
        """Let go of the database. Idempotent."""


class LocalUpstream:
    """See `backend.upstream.Upstream`. Order of calls: `open`, `prepare` (if need be), `nursery.start(run)`,
    the rest, `close`."""

    def __init__(
        self,
        blocks: Blocks,
        log: CommitLog,
        roots: ReplicatedObjects,
        lease: Lease | None,
        *,
        mend_seconds: float = 60.0,
    ) -> None:
        """`log` must have `lease.verify` as its fence. Without `lease` the drive is read-only.
        `mend_seconds` is the pause after commits could not be mended."""
        self._blocks = blocks
        self._log = log
        self._roots = roots
        self._lease = lease
        self._mend_seconds = mend_seconds
        self._scope = trio.CancelScope()
        self._stopped = trio.Event()
        self._running = False
        self._appended = False

    @property
    def epoch(self) -> int:
        """What a commit for `append` must carry as its epoch; 0 if this is read-only."""
        return self._lease.epoch if self._lease else 0

    async def open(self, *, known: Head | None = None, trusted: Head | None = None) -> Head:
        """Acquire the lease (`LeaseHeldError`), then open the log: `known` and `trusted`, and what is
        raised, as in `CommitLog.open`. If that fails the lease is given back."""
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
                    if self._lease is not None:
                        nursery.start_soon(self._lease.run)
                        nursery.start_soon(self._mend)
                        await nursery.start(self._blocks.run)
                    task_status.started()
                    await trio.sleep_forever()
        finally:
            self._stopped.set()

    async def head(self) -> Head:
        """See `Upstream.head`."""
        if self._lease is None:
            return await self._log.refresh()
        return self._log.head

    async def confirm_writer(self) -> None:
        """See `Upstream.confirm_writer`."""
        if self._lease is not None:
            await self._lease.confirm()

    async def append(self, commit: Commit, expected: Head) -> Head:
        """See `Upstream.append`."""
        await self._writer().ensure()
        head = await self._log.append(commit, expected)
        self._appended = True
        return head

    async def commits_after(self, number: int, limit: int = 256) -> list[tuple[Commit, bytes]]:
        """See `Upstream.commits_after`."""
        return await self._log.commits_after(number, limit)

    async def wait_for_change(self, number: int) -> None:
        """See `Upstream.wait_for_change`."""
        await self._log.wait_for_change(number)

    async def missing(self, ids: Iterable[BlockId]) -> set[BlockId]:
        """See `Upstream.missing`."""
        return await self._blocks.missing(ids)

    async def put_blocks(self, blocks: Sequence[SealedBlock]) -> None:
        """See `Upstream.put_blocks`."""
        self._writer()
        await self._blocks.put_blocks(blocks)

    async def flush(self) -> None:
        """See `Upstream.flush`."""
        await self._writer().ensure()
        await self._blocks.flush()

    async def redundancy(self, patience: float) -> Shortfall:
        """See `Upstream.redundancy`; of what this process may write, so none without a lease."""
        return Shortfall() if self._lease is None else await self._blocks.redundancy(patience)

    async def get_block(self, block: BlockId) -> Buffer:
        """See `Upstream.get_block`."""
        return await self._blocks.get_block(block)

    async def get_block_part(self, block: BlockId, offset: int, length: int) -> BlockPart:
        """See `Upstream.get_block_part`."""
        return await self._blocks.get_block_part(block, offset, length)

    async def get_block_again(self, block: BlockId) -> bytes:
        """See `Upstream.get_block_again`."""
        return await self._blocks.get_block_again(block)

    async def report_wrong(self, block: BlockId) -> bool:
        """See `Upstream.report_wrong`."""
        return await self._blocks.report_wrong(block)

    async def stored_blocks(self, after: bytes, limit: int) -> list[BlockId]:
        """See `Upstream.stored_blocks`."""
        return await self._blocks.stored_blocks(after, limit)

    async def release(self, blocks: Sequence[BlockId]) -> list[BlockId]:
        """See `Upstream.release`."""
        await self._writer().ensure()
        return await self._blocks.release(blocks)

    async def revive(self, blocks: Sequence[BlockId]) -> None:
        """See `Upstream.revive`."""
        await self._blocks.revive(blocks)

    async def sizes(self, blocks: Sequence[BlockId]) -> dict[BlockId, int]:
        """See `Upstream.sizes`."""
        return await self._blocks.sizes(blocks)

    async def compact(self, grace: float, bytes_per_second: float, *, debris: bool) -> CompactionReport:
        """See `Upstream.compact`."""
        verify = self._writer().verify
        if not self._appended:
            raise UsageError("blocks are deleted only when this session has appended a commit")
        return await self._blocks.compact(verify, grace, bytes_per_second, debris=debris)

    async def put_root(self, name: str, data: bytes) -> None:
        """See `Upstream.put_root`."""
        lease = self._writer()
        await lease.ensure()
        try:
            await self._roots.put(ROOTS + name, data, lease.epoch)
        except ConflictError as error:
            await lease.verify()
            raise FencedError(str(error)) from None

    async def get_root(self, name: str) -> list[bytes]:
        """See `Upstream.get_root`; a damaged copy is left out, and all damaged are `CorruptError`."""
        return await self._roots.get_all(ROOTS + name)

    async def status(self) -> StoreStatus:
        """See `Upstream.status`."""
        return await self._blocks.status()

    async def close(self) -> None:
        """See `Upstream.close`."""
        self._scope.cancel()
        if self._running:
            await self._stopped.wait()
        await self._blocks.close()
        if self._lease is not None:
            await self._lease.release()

    def _writer(self) -> Lease:
        if self._lease is None:
            raise ReadOnlyError("the drive is open for reading only")
        return self._lease

    async def _open_log(self, lease: Lease, known: Head | None, trusted: Head | None) -> None:
        """A long log takes longer to verify than the lease lasts."""
        await _while_renewing(lease, partial(self._log.open, known=known, trusted=trusted))

    async def _skip_epochs(self, lease: Lease, used: int) -> None:
        """The nodes' lease records were lost: go on above the epochs that the log has."""
        _LOG.warning("the lease's epoch is behind the commit log's, %d: skipped", used)
        await lease.release()
        await lease.acquire(minimum_epoch=used + 1)

    async def _mend(self) -> None:
        """Put commits that were found damaged or in too few copies in order again."""
        while True:
            await self._log.needs_mending.wait()
            try:
                await self._log.mend()
            except CorruptError as error:
                _LOG.error("%s", error)
                return
            except DriveError as error:
                _LOG.info("commits could not be mended yet: %s", error)
                await trio.sleep(self._mend_seconds)


async def _while_renewing(lease: Lease, work: Callable[[], Awaitable[object]]) -> None:
    """Do `work` with the lease renewed meanwhile. Raises what it raises, not in a group."""
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lease.run)
        try:
            await work()
        except Exception as error:
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
