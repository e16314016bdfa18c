"""The publisher: turns what has been accepted into commits, one at a time.

Invariants:
1. The steps are, in this order (I1, I2): seal; cut; seal the bytes that were written meanwhile; flush the
   block store; keep the extents in the journal; sync the journal's records; append the commit to the log;
   note in the journal that it is published; trim the journal.
2. The cut leaves out content that cannot be read (`cache.journal.set_apart`). If content that it took
   cannot be read later, or finds no room on the nodes, the cut is taken back and made anew without that
   content. So names and deletions do not wait for contents.
3. A commit that failed on its way is finished before the next is cut. It is built once in a process, so
   that appending it again is idempotent.
4. `cache.publish.cut_rule` says what a commit takes.
5. Only this class makes commits; a fenced publisher makes none, ever.
6. After a loss of the contact the log is followed before anything is sealed for a commit: a device that was
   away hears first of the key epochs that began meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

import trio

from backend.errors import AwayError, BlocksMissingError, ConflictError, DriveError, FencedError, NoSpaceError
from backend.upstream import BlockId, Commit, Head, Upstream
from cache.blocks import Sealer
from cache.contact import FIRST_BACKOFF, MAX_BACKOFF, Contact
from cache.errors import DriveFullError, FileSystemError, InputOutputError
from cache.journal import Layer, Ledger, PendingCommit, Trimming
from cache.namespace import CommitWriter, MalformedError, OutOfDateError, SetWriter
from cache.publish.commit_building import CommitIdentity, blocks_named, build, extents_of
from cache.publish.cut_rule import CutRule, Intervals
from cache.publish.due import Due
from cache.publish.growth import require_growth
from cache.publish.key_epochs import begin_if_due
from cache.publish.pressure import Pressure
from cache.publish.refusal import refusal_of
from cache.publish.shared_exclusive_lock import SharedExclusiveLock
from cache.publish.wake import Wake

log = logging.getLogger(__name__)

ROUNDS = 3
"""So often what has to be in the cut is looked for and sealed before it; what is written meanwhile is sealed
after it."""
CUTS = 3
"""So often a commit is cut, at once, if content of it turns out not to be storable."""


class Publisher:
    """See the module. `before_cut` lets the drive add operations that were put off (times);
    `settled` is told of each inode whose content is not frozen any more: it has become extents, or is dirty
    again. `rebase`: of a drive that others write too."""

    def __init__(
        self,
        ledger: Ledger,
        trimming: Trimming,
        sealer: Sealer,
        upstream: Upstream,
        identity: CommitIdentity,
        intervals: Intervals,
        journal_limit: int,
        before_cut: Callable[[], Awaitable[None]],
        settled: Callable[[int], None],
        after_commit: Callable[[int], Awaitable[None]],
        collection_lock: SharedExclusiveLock,
        wake: Wake,
        contact: Contact,
        rebase: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._ledger = ledger
        self._trimming = trimming
        self._sealer = sealer
        self._upstream = upstream
        self.identity: Final = identity
        self.intervals: Final = intervals
        self.pressure: Final = Pressure(ledger, trimming, journal_limit)
        self._before_cut = before_cut
        self._settled = settled
        self._after_commit = after_commit
        self._collection_lock = collection_lock
        self._contact = contact
        self._rebase = rebase
        self._rule = CutRule(ledger, intervals.version, self.pressure)
        self._built: Commit | None = None
        self._heard_after = 0
        """so many losses of the contact were over when the log was followed last"""
        self._lock = trio.Lock()
        self._due = Due(ledger, intervals, wake, self.pressure, is_shared=rebase is not None)
        self.wake = wake.set
        self.fenced = False
        self.has_published = False
        """whether a commit of this process is in the log"""
        self.refusal: FileSystemError | None = None
        """what writers are told who would wait: this machine's disk is in the way, or the nodes are full"""
        self.problem = ""
        """one line for people: why nothing can be published now; empty if all is well"""

    async def run(self) -> None:
        """Publish for ever; errors are logged and tried again, except that a fenced publisher ends."""
        backoff = FIRST_BACKOFF
        while not self.fenced:
            await self._due.wait()
            began = trio.current_time()
            try:
                await self.publish(everything=False)
                self._due.took = trio.current_time() - began
                backoff = FIRST_BACKOFF
                if self.pressure.blocks_writers or self._ledger.set_apart:
                    await trio.sleep(backoff)
            except FencedError:
                return
            except (DriveError, FileSystemError, OSError):
                await self._contact.pause(backoff)
                backoff = min(2 * backoff, MAX_BACKOFF)

    @property
    def host(self) -> bytes:
        """The name of this machine in the log."""
        return self.identity.host

    async def sync(self) -> None:
        """Everything accepted before the call is stored and published, open files included.
        Raises what stopped it; nothing is lost then, and it may be called again."""
        if self._contact.is_lost and self._ledger.unpublished:
            await self._contact.ask(self._upstream.log.head)  # it says soon that it still is
        async with self._lock:
            if self._ledger.pending is not None:
                await self._try(everything=True)
            await self._try(everything=True)

    async def publish(self, *, everything: bool) -> None:
        """Finish the pending commit, or cut and publish one. Raises what stopped it."""
        async with self._lock:
            await self._try(everything)

    async def _try(self, everything: bool) -> None:
        if self.fenced:
            raise FencedError(self.problem)
        try:
            async with self._collection_lock.shared():
                await self._publish(everything)
        except FencedError as error:
            await self.fence(error)
            raise
        except (DriveError, FileSystemError, OSError) as error:
            self._say_why(error)
            self.refusal = refusal_of(error)
            self._ledger.room.look_soon()
            await self._ledger.wake_waiting()
            raise
        full = self._ledger.set_apart.lack_of_room()
        self.refusal = None if full is None else DriveFullError(str(full))
        if full is not None:
            self._say(f"there is no room for some files (the journal keeps them): {full}")
        elif self.problem:
            log.info("publishing works again")
            self.problem = ""

    def _say_why(self, error: Exception) -> None:
        """Publishing failed for now. That the upstream is away is for the contact to say."""
        problem = f"cannot publish now (will be tried again; the journal keeps everything): {error}"
        if not (self._contact.is_lost or isinstance(error, AwayError)):
            return self._say(problem)
        self._contact.doubt()
        self.problem = problem

    async def fence(self, error: FencedError) -> None:
        """Another session has taken over, or the log cannot be followed. Idempotent."""
        self.fenced = True
        self._say(f"fenced, nothing more will be published from here: {error}")
        await self._ledger.wake_waiting()

    def _say(self, problem: str) -> None:
        if problem != self.problem:
            log.warning("%s", problem)
            self.problem = problem

    async def follow(self) -> None:
        """Bring a drive with many writers to the newest commit; what is not published goes on from there.
        `FencedError`: one on the way there is damaged, revokes this device, or was made by a copy of it."""
        async with self._lock:
            if self.fenced:
                raise FencedError(self.problem)
            try:
                async with self._collection_lock.shared():
                    await self._go_over()
            except FencedError as error:
                await self.fence(error)
                raise

    async def _go_over(self) -> None:
        """As of `follow`; the caller fences."""
        assert self._rebase is not None
        self._require_whole()
        losses = self._contact.losses
        await self._ask_for_blocks()
        self._built = None
        frozen = [inode for inode, _ in self._ledger.dirty.frozen()]
        try:
            await self._rebase()
        except (MalformedError, OutOfDateError) as error:  # no later look finds another commit there
            raise FencedError(str(error)) from error
        for inode in frozen:
            self._settled(inode)
        if self._ledger.unpublished:  # a commit that was on its way is none any more
            self.wake()
        self._check_device()
        self._heard_after = losses

    def _require_whole(self) -> None:
        """`InputOutputError` if the journal holds a change that the namespace lacks: there is no telling what
        a commit would say, or what becomes of it by others'."""
        if self._ledger.has_diverged:
            raise InputOutputError("a change that the journal holds is not shown here: mount again")

    def _check_device(self) -> None:
        """Everybody else would take a commit of a device that was revoked for damage of the log."""
        device = self.identity.device
        row = self._ledger.namespace.devices.of(device)
        if row is not None and row.is_revoked:
            raise FencedError(f"this machine is device {device} of the drive, which was revoked")

    async def _ask_for_blocks(self) -> None:
        """After the rebase the journal has the content of the pending commit no more: its blocks must be
        there, and reserved, before."""
        pending = self._ledger.pending
        if pending is not None and (blocks := blocks_named(pending.extents)):
            missing = await self._upstream.blocks.missing(blocks)
            if missing:
                await self._store_again(missing)

    async def _append(self, pending: PendingCommit) -> Head | None:
        """The new head. None: others were quicker, and the drive is at the head that they made."""
        try:
            try:
                return await self._append_once(pending)
            except BlocksMissingError as error:
                await self._store_again(map(BlockId, error.blocks))
                return await self._append_once(pending)
        except ConflictError:
            if self._rebase is None:
                raise
            before = self._ledger.head
            await self._go_over()
            await require_growth(self._upstream.log, before, self._ledger.head)
            return None

    async def _append_once(self, pending: PendingCommit) -> Head:
        return await self._upstream.log.append(self._build(pending), self._ledger.head)

    async def _store_again(self, blocks: Iterable[BlockId]) -> None:
        """The upstream let go of these, as it heard nothing from this device for too long: give it those that
        are here. `BlocksMissingError` if one is not: nothing has changed."""
        lost = await self._sealer.store_again(blocks)
        await self._upstream.blocks.flush()
        if lost:
            raise BlocksMissingError(
                f"{len(lost)} blocks of what was written here are not stored any more, and no cache has "
                "them; mount the drive again: then they are stored from the journal",
                lost,
            )

    async def _publish(self, everything: bool) -> None:
        self._require_whole()
        is_shared = self._rebase is not None
        if is_shared and self._ledger.unpublished and self._heard_after != self._contact.losses:
            await self._go_over()
        while True:
            pending = await self._stored(everything)
            if pending is None:
                if self.pressure.blocks_writers:
                    await self._trimming.trim()
                return
            await self._ledger.sync_pending()
            if (head := await self._append(pending)) is not None:
                break
        self.has_published = True
        self._ledger.published(head)
        self.identity.ring.learn_all(self._ledger.namespace.epochs.until(head.number))
        self._built = None
        await self._trimming.trim()
        self._ledger.room.look_soon()
        await self._after_commit(sum(map(len, pending.all_operations())))

    async def _stored(self, everything: bool) -> PendingCommit | None:
        """The pending commit, or a new one, with all its content stored. None if there is nothing that a
        commit could say."""
        ledger = self._ledger
        if everything:
            ledger.set_apart.try_all()
        for _ in range(CUTS):
            pending = ledger.pending or await self._cut(everything)
            if pending is None:
                return None
            layers = ledger.dirty.frozen()
            failed = await self._seal_and_flush(layers, flush=True)
            if not failed:
                await self._keep_extents(layers)
                self._rule.note_stored()
                return pending
            if not ledger.can_take_back:
                break
            log.warning("commit %d is cut anew, without what cannot be stored now", pending.number)
            ledger.reopen()
            for inode, _ in layers:
                self._settled(inode)
            tried = [(inode, layer) for inode, layer in ledger.dirty.tops() if inode in failed]
            ledger.set_apart.note(tried, failed, trio.current_time())
        raise next(iter(failed.values()))

    async def _cut(self, everything: bool) -> PendingCommit | None:
        """Seal what is due, and cut. None if there is nothing that a commit could say."""
        ledger, apart = self._ledger, self._ledger.set_apart
        with self._rule.choosing(everything) as choice:
            for _ in range(ROUNDS):
                looked = choice.look()
                layers = [(inode, layer) for inode, layer in looked if layer.has_data or inode in apart]
                if not layers:
                    break
                failed = await self._seal_and_flush(layers, flush=apart.lack_of_room() is not None)
                apart.note(layers, failed, trio.current_time())
                choice.leave_out(failed)
            await self._before_cut()
            self._say_who()
            begin_if_due(ledger, self.identity.ring)
            return ledger.cut(choice.take())

    def set_apart(self) -> dict[int, str]:
        """The reasons why files with a name are not published, by inode (`cache.journal.set_apart`)."""
        ledger = self._ledger
        ledger.set_apart.forget_gone(ledger.dirty)
        rows = {inode: ledger.namespace.inode(inode) for inode in ledger.set_apart.reasons()}
        reasons = ledger.set_apart.reasons()
        return {inode: reasons[inode] for inode, row in rows.items() if row is not None and row.nlink > 0}

    def _say_who(self) -> None:
        """Another machine than that of the last commit names itself, in its first own."""
        ledger, writer = self._ledger, CommitWriter(self.identity.device, self.identity.host)
        if ledger.unpublished and ledger.namespace.writers.newest() != writer:
            ledger.accept(SetWriter(*writer))

    async def _seal_and_flush(self, layers: list[tuple[int, Layer]], *, flush: bool) -> dict[int, Exception]:
        """Have the content of the layers in blocks and, if `flush`, these stored; why that of some files
        cannot be. The nodes may lack room for what nobody here needs: that is no reason."""
        failed: dict[int, Exception] = {}
        try:
            failed |= await self._sealer.seal(each for each in layers if each[1].has_data)
            if flush:
                await self._upstream.blocks.flush()
        except NoSpaceError as error:
            failed = dict.fromkeys(await self._unstored(layers), error) | failed
        return failed

    async def _unstored(self, layers: list[tuple[int, Layer]]) -> list[int]:
        """Of which files something is not on the nodes."""
        named = {block for _, layer in layers for block in layer.blocks()}
        stored = await self._upstream.housekeeping.sizes([BlockId(block) for block in named])
        return [inode for inode, layer in layers if layer.has_data or not layer.blocks() <= stored.keys()]

    async def _keep_extents(self, layers: list[tuple[int, Layer]]) -> None:
        for count, (inode, layer) in enumerate(layers, 1):
            row = self._ledger.namespace.inode(inode)
            assert row is not None
            self._ledger.keep_extents(extents_of(row, layer))
            self._settled(inode)
            if count % 64 == 0:
                await trio.lowlevel.checkpoint()

    def _build(self, pending: PendingCommit) -> Commit:
        if self._built is None or self._built.number != pending.number:
            self._built = build(self.identity, pending, self._ledger.namespace, self._upstream.epoch)
        return self._built
