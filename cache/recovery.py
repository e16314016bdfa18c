"""The local state that an earlier process left, brought up to date with the commit log.

The local state is the namespace and the journal. A namespace that is empty is restored from the newest
snapshot and the commits after it. The journal is replayed. Then the local state and the log are compared:
- The log has our pending commit: the process was killed after appending it and before noting that. It is
  noted.
- The log is ahead, and nothing here is unpublished: the commits that are missing here are applied.
- The log is ahead, and something here is unpublished: if the drive has many writers, that is rebased. If not,
  the local state is stale (`StaleCacheError`). It is kept aside, never merged by guessing and never dropped.
- The log has commits that a copy of this state made as this device: what is unpublished here goes on as that
  of another device (`cache.copied_state`).
- The log is behind, or of another history: `RollbackError`. A drive that others write too can be read all the
  same, as it is here: what only this machine has seen is copied out of it (docs/recovery.md).
- The upstream of a drive that others write too does not answer: if this folder knows a state of the drive, it
  goes on from that; the rest comes when the upstream answers (`cache.sync`).

Each step can be repeated: a process that is killed in the middle begins anew.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from typing import Final, TypeVar

import trio

from backend.commits import decode_commit
from backend.errors import (
    AwayError,
    ConflictError,
    CorruptError,
    FormatError,
    NotFoundError,
    RollbackError,
    UnavailableError,
)
from backend.system import at_rest, plain_hash
from backend.upstream import Commit, Head, Upstream
from cache.blocks import BlockCache
from cache.contact import Contact
from cache.errors import InputOutputError
from cache.journal import Data, Journal, PendingCommit
from cache.local import LocalState
from cache.namespace import OutOfDateError
from cache.publish import SnapshotStore, blocks_named, is_same_commit, refuse_rollback, snapshot
from cache.sync import CopiedStateError, Follower, check_log

log = logging.getLogger(__name__)

AT_ONCE: Final = 256
"""Commits that are asked for at once."""
Answer = TypeVar("Answer")


class StaleCacheError(ConflictError):
    """The local state holds changes that were made on one which the drive has left behind."""


class Recovery:
    """The steps that bring the local state up to date. The upstream is open; nothing else uses the state.
    `rebase`, `go_on_as_another`: of a drive that others write too; the second one where `rebase` raised
    `CopiedStateError`, and something is unpublished."""

    def __init__(
        self,
        local: LocalState,
        upstream: Upstream,
        contact: Contact,
        follower: Follower,
        snapshots: SnapshotStore,
        blocks: BlockCache,
        rebase: Callable[[], Awaitable[None]] | None = None,
        go_on_as_another: Callable[[], Awaitable[None]] | None = None,
        *,
        read_only: bool = False,
    ) -> None:
        self._local = local
        self._ledger = local.ledger
        self._left = local.recovery
        self._upstream = upstream
        self._contact = contact
        self._follower = follower
        self._snapshots = snapshots
        self._blocks = blocks
        self._rebase = rebase
        self._go_on_as_another = go_on_as_another
        self._read_only = read_only

    async def run(self) -> None:
        """All of it, once. `StaleCacheError`, `RollbackError`; what the upstream raises. `AwayError`: it does
        not answer, and what is here does not do without it."""
        self._follower.learn_epochs()
        if self._rebase is not None and self._ledger.head.number:
            with suppress(AwayError):  # the contact is lost then
                await self._contact.reach(self._upstream.log.head)
        try:
            await self._bring_namespace()
        except AwayError as error:
            raise AwayError(
                f"{error}; {self._local.folder} has no state of the drive, or only part of one: it can be "
                "opened without the upstream only after it was with it"
            ) from error
        if self._left.contradicts_the_log:
            raise self._stale(self._ledger.head.number)
        await self._asked(self._ask_for_blocks)
        await self._read_pending()
        known = set(self._follower.makers)
        self._left.replay(self._follow_again)
        self._follower.makers = known
        self._follower.learn_epochs()
        try:
            await self._asked(self._reconcile)
        except RollbackError as error:
            if self._rebase is None or not self._read_only:
                raise
            self._local.note(f"{error}; the drive is shown as this machine has seen it")

    async def _bring_namespace(self) -> None:
        """To a state that the journal can be replayed on."""
        if self._local.namespace.journal_position() == 0:  # it never saw the journal
            if self._ledger.head.number == 0:
                await self._restore_snapshot()
            await self._catch_up(0, self._left.base if self._rebase is not None else None)
            await self._check_unfinished()
        elif self._left.is_rebased:
            self._left.forget_unpublished()
            if not self._left.has_followed:  # an older drivefs did not keep them
                await self._catch_up(0, self._left.base)

    def _follow_again(self, encoded: bytes) -> None:
        """Apply a commit that an earlier process followed: that says nothing of copies of this device."""
        self._follower.learn_epochs()  # own commits between may have begun some
        self._follower.apply(decode_commit(encoded), plain_hash(encoded))

    async def _asked(self, question: Callable[[], Awaitable[Answer]]) -> Answer | None:
        """The answer to a question that can wait. None: the upstream of a drive that others write too is
        away, as is known from now on."""
        if self._contact.is_lost:
            return None
        try:
            return await question()
        except AwayError as error:
            if self._rebase is None:
                raise
            self._contact.lose(error)
            return None

    async def follow(self) -> None:
        """Apply the commits that the drive lacks, after `run`. Nothing is unpublished."""
        await self._catch_up(self._ledger.journal.end)
        self._ledger.begin_open_commit()

    async def _restore_snapshot(self) -> None:
        root = await self._snapshots.newest()
        if root is None:
            return
        path = self._local.folder / "snapshot.db"
        try:
            await self._snapshots.get(root, path, self._blocks)
            await trio.to_thread.run_sync(snapshot.verify_hostile, str(path))
            # Before it takes the namespace's place: the next open would believe what this one refuses.
            if await trio.to_thread.run_sync(check_log.head_of, path) != root.head:
                raise CorruptError(f"the snapshot says it is of commit {root.head.number} and is of another")
        except (CorruptError, FormatError, NotFoundError, UnavailableError) as error:
            log.warning("%s; replaying the whole log instead", error)
            at_rest.remove_database(str(path), self._local.environment.disk)
            return
        self._local.namespace.replace_from(str(path), 0)
        self._follower.learn_epochs()

    async def _reconcile(self) -> None:
        ledger, theirs, ours = self._ledger, await self._upstream.log.head(), self._ledger.head
        if theirs == ours:
            return
        refuse_rollback(theirs, ours)
        if self._rebase is not None and ledger.unpublished:
            try:
                await self._rebase()
            except CopiedStateError as error:
                await self._go_on_as_copy(error)
            return
        if ledger.pending is not None:
            commit, commit_hash = await self._commit(ours.number + 1)
            if is_same_commit(ledger.pending, self._follower.encoded_operations(commit), ours, commit):
                ledger.published(Head(commit.number, commit_hash))
                self._follower.learn_epochs()
        if ledger.head == theirs:
            return
        if ledger.unpublished:
            raise self._stale(theirs.number)
        await self.follow()

    async def _go_on_as_copy(self, error: CopiedStateError) -> None:
        """Somebody else wrote the drive as this device since. A reader, which may be no device of it, shows
        what is here."""
        if self._read_only:
            self._local.note(f"{error}; the drive is shown as this machine has seen it")
        elif not self._ledger.unpublished:  # the first commit that was lacking was its own
            await self.follow()
        elif self._go_on_as_another is not None:
            await self._go_on_as_another()

    async def _ask_for_blocks(self) -> None:
        """A commit that was stored and not appended names blocks that nothing in the log names: another mount
        may have let them go. Those of one that the log has are there."""
        for unfinished in self._left.unfinished():
            blocks = blocks_named(unfinished.extents)
            if not blocks or await self._may_be_published(unfinished):
                continue
            missing = await self._upstream.blocks.missing(blocks)
            if missing:
                log.warning(
                    "%d blocks of commit %d, which was not appended, are not there any more: they are stored "
                    "again from the journal",
                    len(missing),
                    unfinished.number,
                )
                self._left.take_back_extents(unfinished.number)
                return

    async def _commit(self, number: int) -> tuple[Commit, bytes]:
        """The commit of that number, which the log has, and its hash. `CorruptError`: it does not show it."""
        commits = await self._upstream.log.commits_after(number - 1, 1)
        if not commits:
            raise CorruptError(f"the drive's log does not show commit {number}, though it goes on after that")
        return commits[0]

    async def _may_be_published(self, unfinished: PendingCommit) -> bool:
        """Whether the log has a commit of that number; where others write too, whether it is that one."""
        commits = await self._upstream.log.commits_after(unfinished.number - 1, 1)
        if not commits or self._rebase is None:
            return bool(commits)
        # The journal may hold commits of ours that the namespace was not saved with.
        await self._follower.learn_ahead(self._upstream.log, unfinished.number)
        return self._left.may_be(unfinished, self._follower.encoded_operations(commits[0][0]))

    async def _read_pending(self) -> None:
        """Content of a commit that was cut and not appended may not be readable any more: it is cut anew, and
        without that. If some of it is in blocks already, only where it has to be."""
        left = self._left
        number, pieces = left.unsealed()
        if not pieces:
            return
        head = await self._asked(self._upstream.log.head)
        # All its content is in blocks, by the journal, before a commit is appended.
        if head is not None and head.number >= number:
            return
        if not left.has_extents(number):
            left.take_back_cut()
            return
        try:
            await trio.to_thread.run_sync(_read_all, self._ledger.journal, pieces)
        except (OSError, InputOutputError) as error:
            log.warning("commit %d is cut anew, as content of it cannot be read: %s", number, error)
            left.take_back_cut()

    async def _check_unfinished(self) -> None:
        """The namespace came from the log alone: what the journal holds of commits that the log has must
        be what the log says of them, or the end of it."""
        published = self._ledger.head.number
        for unfinished in self._left.unfinished():
            if unfinished.number <= published:
                commit, _ = await self._commit(unfinished.number)
                if not self._left.may_be(unfinished, self._follower.encoded_operations(commit)):
                    raise self._stale(published)

    def _stale(self, number: int) -> StaleCacheError:
        return StaleCacheError(
            f"{self._local.folder} has unpublished changes, but the drive has gone on without them to "
            f"commit {number}"
        )

    async def _catch_up(self, position: int, until: int | None = None) -> None:
        """Apply the commits that the namespace lacks, up to commit `until` if there is one; durable when it
        returns."""
        namespace, number = self._local.namespace, self._ledger.head.number
        while commits := await self._upstream.log.commits_after(number, _limit(number, until)):
            for commit in self._applied(commits):
                number = commit.number
                await trio.lowlevel.checkpoint()
            await self._upstream.housekeeping.revive(
                [block for commit, _ in commits for block in commit.added]
            )
            namespace.save(position)
        await trio.to_thread.run_sync(namespace.checkpoint)

    def _applied(self, commits: Sequence[tuple[Commit, bytes]]) -> Iterator[Commit]:
        """Apply these, one with each step."""
        try:
            yield from self._follower.apply_all(commits)
        except OutOfDateError as error:
            raise OutOfDateError(
                f"{error}; nothing was changed; either the log is damaged or what {self._local.folder} holds "
                "of it is: fsck.drivefs compares the two"
            ) from error


def _limit(number: int, until: int | None) -> int:
    """The number of commits after `number` to be asked for at once."""
    return AT_ONCE if until is None else max(min(AT_ONCE, until - number), 0)


def _read_all(journal: Journal, pieces: Sequence[Data]) -> None:
    """Raises what reading them raises."""
    for piece in pieces:
        journal.read_at(piece.position, piece.end - piece.start)
