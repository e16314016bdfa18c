"""The ledger: the one way in which accepted changes reach journal, namespace and dirty files.

Invariants:
1. Every change is appended to the journal first, then applied; live calls and replay go through the
   same methods of `Namespace`, `DirtyFiles` and this class.
2. A cut ends commit N: the sizes and times of the files it takes are operations of N, their layers
   are frozen, and N+1 is open. One commit at most is pending (cut and not published).
3. Extents of a pending commit are journaled when its blocks are stored, and the journal's records are synced
   before the commit is appended upstream: a commit that upstream has can always be recognised. So are the
   bytes of large writes before the cut that no block holds; those that blocks hold need not ever be.
4. A batch of operations is one record of the journal, so replay meets all of it or nothing; it is
   applied without a pause, so neither a cut nor a flush comes between.
5. Journal segments go only when all they say is published, and in the durable namespace together with the
   commit that says it. What the state at the newest published cut needs stays until the next one is
   published: later operations, a Delete too, can be lost with the journal's end.

Used on the event-loop thread only.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence

import trio

from backend import failpoints
from backend.errors import DriveError, NoSpaceError
from backend.upstream import Head
from cache.errors import InputOutputError, NoSpaceLeftError
from cache.journal.custody import Custody
from cache.journal.dirty import DirtyFiles, Layer
from cache.journal.format import (
    CONTENT_HEADER,
    RecordType,
    encode_batch,
    encode_cut,
    encode_extents,
    encode_given_up,
    encode_published,
    encode_times,
    encode_uncut,
)
from cache.journal.journal import Journal
from cache.journal.local_room import LocalRoom
from cache.journal.pieces import Data
from cache.journal.room import Need, Room
from cache.journal.scan import DATA_OFFSET, Event, PendingCommit, Scan, scan
from cache.journal.set_apart import SetApart
from cache.namespace import Namespace, Operation, SetAttributes, SetExtents, decode, encode

log = logging.getLogger(__name__)

BATCH_APPLYING = failpoints.declare(
    "ledger.batch-applying", "a batch is journaled; some of its operations are applied, others are not"
)
CUT_MADE = failpoints.declare("ledger.cut", "the cut is journaled; nothing of its content is sealed")
EXTENTS_KEPT = failpoints.declare("ledger.extents", "blocks are stored, one file's extents are journaled")
PUBLISHED = failpoints.declare("ledger.published", "upstream has the commit; the journal does not say so yet")
FLUSHED = failpoints.declare("ledger.flushed", "the namespace's transaction is committed")
CHECKPOINTED = failpoints.declare(
    "ledger.checkpointed", "the namespace is durable; old segments are still there"
)

SMALLEST_SEGMENT = 64 << 10
LARGE_WRITE = 64 << 10
"""Writes of so many bytes are journaled beside the records. A write is one more for it, and an fsync."""


class Ledger:
    """See the module."""

    def __init__(self, journal: Journal, namespace: Namespace, custody: Custody) -> None:
        self.journal = journal
        self.custody = custody
        self.namespace = namespace
        self.dirty = DirtyFiles()
        self.room = Room()
        self.largest_segment = journal.segment_size
        self.local_room = LocalRoom(os.path.dirname(os.path.abspath(namespace.path)))
        self.set_apart = SetApart()
        self.pinned_bytes = 0
        """of the journal, kept only for files that are set apart; as of the last `trim`"""
        self._cut_position = 0
        """where the newest published cut ends"""
        self.pending: PendingCommit | None = None
        self._operations: list[bytes] = []
        self.operation_bytes = 0
        self._diverged = False
        self._scanned = Scan({}, {})
        self._published_position = 0
        """from here on it says what the state at the newest published cut needs, and what came after"""
        self._durable_position = 0
        """how far the namespace database is on the disk"""
        self._recorded_position = 0
        """how far it has to be to know the newest published commit"""
        self.freed = trio.Condition()
        """notified when journal segments were let go, or the drive is closing"""
        self.accepted = 0
        """records accepted by this process"""
        self.large_write = LARGE_WRITE

    @property
    def head(self) -> Head:
        """The newest published commit that the namespace holds."""
        return self.namespace.head()

    # What an earlier process left

    def scan(self) -> bool:
        """Read the journal: dirty files, and the events for `replay`. True if it holds anything
        that is not known to be published."""
        self._scanned = scan(self.journal)
        self.dirty = self._scanned.dirty
        return bool(self._scanned.events) or len(self.dirty) > 0

    @property
    def contradicts_the_log(self) -> bool:
        """Whether the journal lost what a published commit stands on, which no power cut can do: then what
        it says of dirty files may be older than what is published. Until `replay`."""
        return self._scanned.lost is not None and self._scanned.commit <= self.head.number

    def unfinished(self) -> list[PendingCommit]:
        """What the scan found of commits that the journal does not say are published, oldest first."""
        return self._scanned.unfinished()

    def may_be(self, unfinished: PendingCommit, published: list[bytes]) -> bool:
        """Whether a published commit of these operations can be the unfinished one. If its cut was read, its
        first segments may be gone already. Until `replay`."""
        ours = unfinished.all_operations()
        if unfinished.number < self._scanned.commit:
            published = published[max(len(published) - len(ours), 0) :]
        return published == ours

    def take_back_extents(self, number: int) -> None:
        """Blocks that the unfinished commit's content was stored in are gone: it is dirty again, and stored
        anew from the journal, which has all of it (invariant 5). Before `replay`."""
        self._scanned = scan(self.journal, self._scanned.void_from(number))
        self.dirty = self._scanned.dirty

    def unsealed(self) -> tuple[int, list[Data]]:
        """The number of the commit that was cut and that the journal does not say is published (0: none), and
        the bytes of its content that are not in blocks. Before `replay`."""
        cut = self._scanned.pending_cut()
        pieces = [piece for _, layer in self.dirty.frozen() for piece in layer.pieces]
        return (0 if cut is None else cut[0]), [piece for piece in pieces if isinstance(piece, Data)]

    def has_extents(self, number: int) -> bool:
        """Whether content of that unfinished commit is in blocks. Before `replay`."""
        return self._scanned.void_from(number) is not None

    def take_back_cut(self) -> None:
        """The unpublished commit was not cut: a later cut leaves out what cannot be read. Before `replay`;
        upstream must not have the commit."""
        cut = self._scanned.pending_cut()
        assert cut is not None
        self._scanned = scan(self.journal, self._scanned.void, cut[1:])
        self.dirty = self._scanned.dirty

    def begin_open_commit(self) -> None:
        """The namespace was brought on by commits of others, after `replay`: what is accepted from here on is
        in the journal as of the commit that is open now."""
        self.journal.begin_segment(self.namespace.commit)

    def replay(self) -> None:
        """Bring the namespace up to the journal's end, find the pending commit, and begin. After `scan`."""
        self._replay_events()
        self._finish_replay()

    def look(self) -> list[Operation]:
        """Bring the namespace up to the journal's end, of a state that nobody goes on with; what it says that
        is not known to be published. After `scan`. `CorruptError`: the journal does not fit it."""
        self._replay_events()
        pending = [] if self.pending is None else self.pending.all_operations()
        return [decode(encoded) for encoded in [*pending, *self._operations]]

    def _replay_events(self) -> None:
        position = self.namespace.journal_position()
        if self._has_taken_back(position):
            position = 0
            self.namespace.undo(self.head.number)
        elif self._is_ahead(position):
            # The database outlived the journal's tail (a power cut): back to what is published.
            log.warning(
                "the journal ends before the namespace's state: taking back to the last published commit"
            )
            position = 0
            self.namespace.undo(self.head.number)
        published = self.head.number
        for event in self._scanned.events:
            if event.commit > published:
                self._replay_event(event, event.position >= position)
            elif event.kind is RecordType.CUT:
                self._published_position = event.content.oldest

    def _has_taken_back(self, position: int) -> bool:
        """Whether the namespace, as of `position`, holds a cut that was taken back since."""
        scanned = self._scanned
        taken_back = [(uncut.begin, uncut.noted) for uncut in scanned.told_uncut]
        if scanned.uncut is not None:
            taken_back.append((scanned.uncut[0], self.journal.end))
        return any(begin < position <= noted for begin, noted in taken_back)

    def _is_ahead(self, position: int) -> bool:
        """Whether the namespace, as of `position`, holds what the journal lost, or was given up: now, or by a
        process that did not come to write the namespace down after it."""
        scanned = self._scanned
        given_up = [*scanned.told.items(), *scanned.told_void.items()]
        given_up += [(begin, self.journal.end) for begin in (scanned.lost, scanned.void) if begin is not None]
        inside = any(begin < position <= end for begin, end in given_up)
        return inside or not self.journal.reaches(position)

    def _replay_event(self, event: Event, apply: bool) -> None:
        namespace, content = self.namespace, event.content
        if event.kind is RecordType.OPERATION:
            self._remember(encode(content))
            if apply:
                namespace.apply(content)
        elif event.kind is RecordType.CUT:
            self._hand_over(content)
            if apply:
                namespace.begin_commit(event.commit + 1)
        elif event.kind is RecordType.EXTENTS:
            if self.pending is not None:
                self.pending.extents.append(encode(content))
            if apply:
                namespace.apply(content, commit=event.commit)
        elif event.kind is RecordType.PUBLISHED:
            if self.pending is not None:
                self._published_position = self.pending.oldest
            self.pending = None
            if apply:
                time_ns, commit_hash = content
                namespace.record_commit(event.commit, commit_hash, time_ns)

    def _finish_replay(self) -> None:
        published, lost, void = self.head.number, self._scanned.lost, self._scanned.void
        uncut = self._scanned.uncut
        self._scanned = Scan({}, {})
        if self.pending is None or self.pending.number <= published:
            if self.pending is not None:
                self._published_position = self.pending.oldest
            self._settle_pending()
        if self.namespace.commit <= published:
            self.namespace.begin_commit(published + 1)
        self.journal.pass_by(self.namespace.journal_position())
        self.journal.start(self.namespace.commit)
        if lost is not None:
            self.journal.append(RecordType.GIVEN_UP, (encode_given_up(lost),), self.namespace.commit)
        if void is not None:
            self.journal.append(RecordType.VOID, (encode_given_up(void),), self.namespace.commit)
        if uncut is not None:
            self.journal.append(RecordType.UNCUT, (encode_uncut(*uncut),), self.namespace.commit)
        self.namespace.flush(self.journal.end)

    # Accepting

    def accept(self, operation: Operation) -> None:
        """Journal and apply one operation, which must be valid on the present state."""
        encoded = encode(operation)
        self.journal.append(RecordType.OPERATION, (encoded,), self.namespace.commit)
        self._apply(operation)
        self._accepted(operation, encoded)

    def accept_all(self, operations: Sequence[Operation]) -> None:
        """Journal and apply operations, each of which must be valid on the state that those before it leave:
        all of them, also after a crash, or none. `FileTooBigError`: more than a record holds;
        `NoSpaceLeftError`, ...: nothing was accepted."""
        encoded = [encode(operation) for operation in operations]
        self.journal.append(RecordType.BATCH, (encode_batch(encoded),), self.namespace.commit)
        for operation, its_encoding in zip(operations, encoded, strict=True):
            self._apply(operation, passing=BATCH_APPLYING)
            self._accepted(operation, its_encoding)

    def _accepted(self, operation: Operation, encoded: bytes) -> None:
        self.dirty.observe(operation)
        self._remember(encoded)
        self.accepted += 1

    def _apply(self, operation: Operation, commit: int | None = None, passing: str | None = None) -> None:
        """Journal and namespace differ if this fails: then nothing more is accepted or written down,
        and the next open replays the journal. `passing`: a failpoint on the way."""
        try:
            if passing is not None:
                failpoints.failpoint(passing)
            self.namespace.apply(operation, commit)
        except BaseException:
            self._diverged = True
            self.journal.fail("holds a change that the namespace could not take")
            raise

    def _remember(self, encoded: bytes) -> None:
        self._operations.append(encoded)
        self.operation_bytes += len(encoded)
        self.room.accepted += len(encoded)

    def write(self, inode: int, offset: int, data: bytes | memoryview, time_ns: int) -> Layer:
        """Journal file data; the layer that holds it."""
        if len(data) >= self.large_write:
            position, at = self.journal.append_bulk(inode, offset, time_ns, data, self.namespace.commit)
        else:
            header = CONTENT_HEADER.pack(inode, offset, time_ns)
            position = self.journal.append(RecordType.DATA, (header, data), self.namespace.commit)
            at = position + DATA_OFFSET
        self.accepted += 1
        self.room.accepted += len(data)
        return self.dirty.write(inode, offset, len(data), position, at, time_ns)

    @property
    def open_writes(self) -> int:
        """Writes and truncates that no cut took yet."""
        return self.dirty.open_writes

    def truncate(self, inode: int, size: int, time_ns: int) -> None:
        """Journal a new size."""
        payload = CONTENT_HEADER.pack(inode, size, time_ns)
        position = self.journal.append(RecordType.TRUNCATE, (payload,), self.namespace.commit)
        self.accepted += 1
        self.dirty.truncate(inode, size, position, time_ns)

    def set_times(self, inode: int, mtime_ns: int, ctime_ns: int) -> None:
        """Journal the times of a file's dirty content; the file has a top layer."""
        payload = encode_times(inode, mtime_ns, ctime_ns)
        self.journal.append(RecordType.TIMES, (payload,), self.namespace.commit)
        self.accepted += 1
        self.dirty.set_times(inode, mtime_ns, ctime_ns)

    # Commits

    @property
    def unpublished(self) -> bool:
        """Whether anything accepted is not in the commit log yet."""
        return self.pending is not None or bool(self._operations) or len(self.dirty) > 0

    def has_local_room(self, need: Need) -> bool:
        """Whether this machine's disk lets more be accepted; none is refused by what it said long ago."""
        if self.local_room.allows(need, self.local_left()):
            return True
        self.local_room.look_anew()
        return self.local_room.allows(need, self.local_left())

    def local_left(self) -> float:
        """Bytes that are left on this machine's disk, beside the reserve."""
        accepted, local = self.room.accepted, self.local_room
        return local.calm_left if accepted < local.calm_until else local.look(accepted, self.operation_bytes)

    @property
    def journal_bytes(self) -> int:
        """What of the journal can be let go of by publishing."""
        return self.journal.used_bytes - self.pinned_bytes

    @property
    def unstored_bytes(self) -> int:
        """Bytes of what was accepted and is not in the commit log: content and operations. Walks all dirty
        files."""
        pending = 0 if self.pending is None else sum(map(len, self.pending.operations))
        return self.dirty.data_bytes() + self.operation_bytes + pending

    @property
    def open_operations(self) -> int:
        """Operations of the open commit."""
        return len(self._operations)

    def cut(self, inodes: list[int]) -> PendingCommit | None:
        """End the open commit; it takes the content of `inodes`. None if there is nothing in it."""
        assert self.pending is None
        for inode in inodes:
            self._state_content(inode)
        if not self._operations:
            return None
        number = self.namespace.commit
        time_ns = max(time.time_ns(), self.namespace.last_commit_time() + 1)
        self.journal.append(RecordType.CUT, (encode_cut(number, time_ns, inodes),), number)
        for inode in inodes:
            self.dirty.freeze(inode)
        end = self.journal.end
        self._hand_over(PendingCommit(number, time_ns, end, [], inodes, oldest=self.dirty.oldest_top(end)))
        self.namespace.begin_commit(number + 1)
        failpoints.failpoint(CUT_MADE)
        return self.pending

    def _hand_over(self, pending: PendingCommit) -> None:
        pending.operations, self._operations, self.operation_bytes = self._operations, [], 0
        self.pending = pending

    def _state_content(self, inode: int) -> None:
        """Make a dirty file's size and times an operation of the open commit."""
        row, layer = self.namespace.inode(inode), self.dirty.top(inode)
        assert row is not None
        assert layer is not None
        size = layer.size(row.size)
        self.accept(SetAttributes(inode, size=size, mtime_ns=layer.mtime_ns, ctime_ns=layer.ctime_ns))

    def keep_extents(self, operation: SetExtents) -> None:
        """The pending commit's content of one file: its blocks are stored."""
        assert self.pending is not None
        encoded = encode(operation)
        number = self.pending.number
        self.journal.append(RecordType.EXTENTS, (encode_extents(number, encoded),), self.namespace.commit)
        self._apply(operation, number)
        self.dirty.thaw(operation.inode)
        self.pending.extents.append(encoded)
        failpoints.failpoint(EXTENTS_KEPT)

    async def sync_pending(self) -> None:
        """What the pending commit stands on survives a power cut. All its content is in blocks: of the bytes
        of large writes, those of files that were written before the cut and that it did not take.
        `InputOutputError`: not, and never again."""
        assert self.pending is not None
        await self.journal.sync_records(self.pending.oldest, self.pending.position)

    def published(self, head: Head) -> None:
        """Upstream has the pending commit."""
        assert self.pending is not None
        failpoints.failpoint(PUBLISHED)
        pending = self.pending
        payload = encode_published(head.number, pending.time_ns, head.hash)
        self.journal.append(RecordType.PUBLISHED, (payload,), self.namespace.commit)
        self.namespace.record_commit(head.number, head.hash, pending.time_ns)
        self._published_position, self._recorded_position = pending.oldest, self.journal.end
        self._cut_position = pending.position
        self._settle_pending()

    def _settle_pending(self) -> None:
        self.pending = None
        self._thaw_all()

    def _thaw_all(self) -> None:
        for inode, _ in self.dirty.frozen():
            self.dirty.thaw(inode)

    # State on disk

    def flush(self) -> None:
        """Commit the namespace's changes together with the journal position that they reflect.
        `NoSpaceLeftError`, `InputOutputError`: nothing is lost, may be called again."""
        if self._diverged:
            raise InputOutputError("the namespace lacks a change that the journal holds; mount again")
        try:
            self.namespace.flush(self.journal.end)
        except NoSpaceError as error:
            raise NoSpaceLeftError(str(error)) from error
        except DriveError as error:
            raise InputOutputError(str(error)) from error
        failpoints.failpoint(FLUSHED)

    async def trim(self) -> None:
        """Make the namespace durable and let the journal segments go that nobody needs. A start that finds
        neither makes the namespace anew from the log: where they have lost their names, what is published
        is all that is needed."""
        self.fit_segments()
        is_empty, needed = not self.unpublished, self._needed_position()
        self.pinned_bytes = self._pinned_bytes()
        known = max(needed, self._recorded_position)
        try:
            if not self.custody.check():
                self._durable_position = known
            if known > self._durable_position:
                await self._make_durable()
            if known <= self._durable_position:
                if is_empty:  # a journal without any segment is one that somebody took away
                    await self.journal.sync_records(0, 0)
                self.journal.drop_before(needed)
                await self.journal.close_dropped()
                self.local_room.look_anew()
        finally:
            await self.wake_waiting()

    def fit_segments(self) -> None:
        """Where the disk is short, the journal takes it in small pieces and keeps none for later: the reserve
        is for the databases. To be called before a segment is begun to let go of the last one."""
        left = max(self.local_left(), 0)
        self.journal.segment_size = max(int(min(self.largest_segment, left / 8)), SMALLEST_SEGMENT)
        if not left:
            self.journal.give_back_spares()

    async def settle(self) -> None:
        """Nothing is accepted any more: the namespace is durable, and of what is published nothing is left in
        the journal."""
        if self.custody.check():
            await self._make_durable()
        if not self.unpublished:
            await self.trim()

    async def wake_waiting(self) -> None:
        """Let those who wait for room look again."""
        async with self.freed:
            self.freed.notify_all()

    def _needed_position(self) -> int:
        """The oldest position that says something unpublished."""
        if not self.unpublished:
            self.journal.leave(self.namespace.commit)
            return self.journal.end
        oldest = self.dirty.oldest_position()
        return self._published_position if oldest is None else min(self._published_position, oldest)

    def _pinned_bytes(self) -> int:
        """What the journal could let go of if no file were set apart."""
        self.set_apart.forget_gone(self.dirty)
        if not self.set_apart:
            return 0
        others = [layer.oldest for inode, layer in self.dirty.tops() if inode not in self.set_apart]
        return self.journal.bytes_before(min([*others, self._cut_position]))

    async def _make_durable(self) -> None:
        self.flush()
        reached = await trio.to_thread.run_sync(self.namespace.checkpoint)
        if reached is not None:
            self._durable_position = reached
            if not self.unpublished:
                self.namespace.empty_log()
        failpoints.failpoint(CHECKPOINTED)
