"""Copying a drive that is in use to another store: its blocks, its log with the same hashes, its snapshot.

Invariants:
1. A commit is given to the destination after the blocks that it names and that are still needed: the
   destination knows from the log that they are needed.
2. Each block is opened before it is given: a block that is damaged in the source is not passed on.
3. The destination is asked what it has: who begins anew goes on with what is lacking.

Blocks that nothing needs any more are left out; commits of long ago may name some. Event-loop thread; rows
are walked in a thread.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Final, Protocol

import trio

from backend.errors import ConflictError, CorruptError, NotFoundError, TransientError
from backend.failpoints import declare
from backend.system import THIS_MACHINE, Environment
from backend.upstream import BlockId, BlockStore, Commit, Head, Roots, SealedBlock
from cache.drive import Drive
from cache.publish import ROOT_NAME
from cache.retention import NeededBlocks

BLOCKS_COPIED: Final = declare("copying.blocks", "the needed blocks are copied; the log is not")
LOG_COPIED: Final = declare("copying.log", "the log is copied; commits were made meanwhile")

PAGE: Final = 1000
AT_ONCE: Final = 8
"""Blocks that are read at once."""
LAPS: Final = 20
"""So often the commits that were made meanwhile are copied, before whoever makes them has to wait."""
_COMMITS: Final = 256

Tell = Callable[[str, int], None]
"""What is copied now, and how much of it was."""

Pace = Callable[[int], Awaitable[None]]
"""It returns when so many bytes may be given."""

log = logging.getLogger(__name__)


async def free_pace(_bytes: int) -> None:
    """The pace of who need not wait."""
    await trio.lowlevel.checkpoint()


class Destination(Protocol):
    """Where the drive is copied to. Errors as of the same roles of `backend.upstream`."""

    @property
    def blocks(self) -> BlockStore:
        """The sealed blocks."""

    @property
    def roots(self) -> Roots:
        """The named objects."""

    async def head(self) -> Head:
        """The newest commit that it has."""

    async def append(self, commit: Commit, expected: Head) -> Head:
        """As `CommitLog.append`; a block that is not stored is left out."""


class Copying:
    """See the module. One at a time of a drive; safe to cancel, and to begin anew."""

    def __init__(
        self,
        drive: Drive,
        destination: Destination,
        tell: Tell,
        environment: Environment = THIS_MACHINE,
        pace: Pace = free_pace,
    ) -> None:
        self._drive = drive
        self._source = drive.upstream
        self._to = destination
        self._tell = tell
        self._failpoints = environment.failpoints
        self._pace = pace
        self._copied = 0
        self._head = Head(0, b"")

    async def run(self) -> None:
        """Copy all that there is, until little was committed meanwhile. `ConflictError`: the destination has
        another history; else what the two raise. A block that is needed and cannot be read ends it."""
        self._head = await self._to.head()
        await self._require_same_history()
        until = self._drive.ledger.head  # later commits, of other devices too, bring their blocks themselves
        await self._copy_needed()
        self._failpoints.reached(BLOCKS_COPIED)
        while self._head.number < until.number:
            await self._append_all(await self._commits(until.number - self._head.number))
        self._failpoints.reached(LOG_COPIED)
        await self._copy_snapshot()
        for _ in range(LAPS):
            if not await self._follow():
                return

    async def finish(self) -> Head:
        """Copy what was committed since, to the last; the newest commit, which both have. Nobody commits
        meanwhile."""
        while await self._follow():
            pass
        return self._head

    async def _require_same_history(self) -> None:
        if not self._head.number:
            return
        found = await self._source.log.commits_after(self._head.number - 1, 1)
        if [digest for _, digest in found] != [self._head.hash]:
            raise ConflictError(
                f"commit {self._head.number} there is not one of this drive: it is a copy of another history"
            )

    async def _copy_needed(self) -> None:
        """Once more where blocks are not stored: they may not be needed any more."""
        lacked: set[bytes] = set()
        while lacking := await self._copy_needed_once():
            if lost := lacked & lacking:
                raise CorruptError(
                    f"{len(lost)} blocks that the drive needs are not stored (drivefs check says of which "
                    "files); nothing was switched"
                )
            lacked = lacking

    async def _copy_needed_once(self) -> set[bytes]:
        """Those that are not stored."""
        self._drive.ledger.save()
        needed = await trio.to_thread.run_sync(NeededBlocks, self._drive.ledger.namespace.path, ())
        lacking: set[bytes] = set()
        try:
            while page := await trio.to_thread.run_sync(needed.some, PAGE):
                lacking |= await self._send(page)
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(needed.close)
        return lacking

    async def _copy_snapshot(self) -> None:
        """A snapshot only saves time, and may be replaced while it is copied."""
        root = await self._drive.snapshots.store.newest()
        if root is None:
            return
        lacking: set[bytes] = set()
        for start in range(0, len(root.blocks), PAGE):
            lacking |= await self._send(root.blocks[start : start + PAGE])
        if lacking:
            log.info("the snapshot is not copied: it was replaced meanwhile")
        else:
            await self._to.roots.put_root(ROOT_NAME, self._drive.snapshots.store.seal_root(root))

    async def _follow(self) -> int:
        """Copy commits that were made since, with their blocks; how many."""
        commits = await self._commits(_COMMITS)
        named = [*dict.fromkeys(block for commit, _ in commits for block in commit.added)]
        stored = await self._source.housekeeping.sizes(named)
        for start in range(0, len(named), PAGE):
            if await self._send(block for block in named[start : start + PAGE] if block in stored):
                raise TransientError("blocks were deleted while they were copied: the same again")
        await self._append_all(commits)
        return len(commits)

    async def _commits(self, most: int) -> Sequence[tuple[Commit, bytes]]:
        if (await self._source.log.head()).number == self._head.number:
            return ()
        return await self._source.log.commits_after(self._head.number, min(most, _COMMITS))

    async def _append_all(self, commits: Iterable[tuple[Commit, bytes]]) -> None:
        for commit, digest in commits:
            self._head = await self._to.append(commit, self._head)
            if self._head != Head(commit.number, digest):
                raise CorruptError(f"commit {commit.number} has another hash there")
            self._tell("commits", commit.number)

    async def _send(self, asked: Iterable[bytes]) -> set[bytes]:
        """Have the destination store those of the blocks that it lacks; those that the source has not."""
        blocks = [BlockId(block) for block in asked]
        missing = await self._to.blocks.missing(blocks)
        lacking, sent = [block for block in blocks if block in missing], set[bytes]()
        for start in range(0, len(lacking), AT_ONCE):
            batch = lacking[start : start + AT_ONCE]
            found: list[SealedBlock] = []
            async with trio.open_nursery() as nursery:
                for block in batch:
                    nursery.start_soon(partial(self._read, block, found))
            self._tell("blocks", self._copied)
            await self._pace(sum(len(block.data) for block in found))
            await self._to.blocks.put_blocks(found)
            sent |= {block.id for block in found}
            self._copied += len(found)
            self._tell("blocks", self._copied)
        await self._to.blocks.flush()
        return {block for block in lacking if block not in sent}

    async def _read(self, block: BlockId, found: list[SealedBlock]) -> None:
        """Add the block to `found`, if the source has it."""
        try:
            found.append(SealedBlock(block, await self._drive.blocks.sealed(block)))
        except NotFoundError as error:
            log.info("block %s: %s", block.hex()[:16], error)
