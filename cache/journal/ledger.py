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
   applied without a pause, so neither a cut nor a save comes between.

What an earlier process left is taken up by `cache.journal.recovery`; what the journal may let go of is
decided by `cache.journal.trimming`. Used on the event-loop thread only.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import trio

from backend.errors import DriveError, NoSpaceError
from backend.failpoints import declare
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
    encode_published,
    encode_times,
    encode_uncut,
)
from cache.journal.journal import Journal
from cache.journal.local_room import LocalRoom
from cache.journal.room import Need, Room
from cache.journal.scan import DATA_OFFSET, PendingCommit
from cache.journal.set_apart import SetApart
from cache.journal.standing import Standing
from cache.namespace import Namespace, Operation, Savepoint, SetAttributes, SetExtents, decode, encode

BATCH_APPLYING = declare(
    "ledger.batch-applying", "a batch is journaled; some of its operations are applied, others are not"
)
CUT_MADE = declare("ledger.cut", "the cut is journaled; nothing of its content is sealed")
REOPENING = declare(
    "ledger.reopening", "the journal says that a cut does not count; the namespace holds it still"
)
EXTENTS_KEPT = declare("ledger.extents", "blocks are stored, one file's extents are journaled")
PUBLISHED = declare("ledger.published", "upstream has the commit; the journal does not say so yet")
SAVED = declare("ledger.saved", "the namespace's transaction is committed")

LARGE_WRITE = 64 << 10
"""Writes of so many bytes are journaled beside the records. A write is one more for it, and an fsync."""


@dataclass(slots=True)
class Positions:
    """How far into the journal some things reach."""

    published: int = 0
    """from here on it says what the state at the newest published cut needs, and what came after"""
    cut: int = 0
    """where the newest published cut ends"""
    durable: int = 0
    """how far the namespace database is on the disk"""
    recorded: int = 0
    """how far the namespace has to be to know the newest published commit"""


class Ledger:
    """See the module."""

    def __init__(self, journal: Journal, namespace: Namespace, custody: Custody) -> None:
        self.journal = journal
        self.environment: Final = journal.environment
        self.failpoints = journal.environment.failpoints
        self.custody = custody
        self.namespace = namespace
        self.dirty = DirtyFiles()
        self.room, self.standing = Room(), Standing()
        self.local_room = LocalRoom(os.path.dirname(os.path.abspath(namespace.path)), self.environment.disk)
        self.set_apart = SetApart()
        self.positions = Positions()
        self.pending: PendingCommit | None = None
        self.operations: list[bytes] = []
        """of the open commit, encoded"""
        self.operation_bytes = 0
        self.has_diverged = False
        self.rebase_synced: trio.Event | None = None
        """while the namespace has a rebase that a power cut can still take from the journal: not saved"""
        self.freed = trio.Condition()
        """notified when journal segments were let go, or the drive is closing"""
        self.accepted = 0
        """records accepted by this process"""
        self.large_write = LARGE_WRITE

    @property
    def head(self) -> Head:
        """The newest published commit that the namespace holds."""
        return self.namespace.head()

    def begin_open_commit(self) -> None:
        """Begin a segment for the commit that is open now. To be called when commits of others were applied
        to the namespace after `replay`."""
        self.journal.begin_segment(self.namespace.commit)

    # Accepting

    def accept(self, operation: Operation) -> None:
        """Journal and apply one operation, which must be valid on the present state."""
        encoded = encode(operation)
        self.journal.append(RecordType.OPERATION, (encoded,), self.namespace.commit)
        self._apply(operation)
        self._accepted(operation, encoded)

    def accept_all(self, operations: Sequence[Operation]) -> None:
        """Journal and apply operations, each of which must be valid on the state that those before it leave:
        all of them, also after a crash, or none. No operations make no record. `FileTooBigError`: more than a
        record holds; `NoSpaceLeftError`, ...: nothing was accepted."""
        self._accept_encoded(operations, [encode(operation) for operation in operations])

    def _accept_encoded(self, operations: Sequence[Operation], encoded: list[bytes]) -> None:
        if encoded:
            self.journal.append(*_record_of(encoded), self.namespace.commit)
        passing = BATCH_APPLYING if len(operations) > 1 else None
        for operation, its_encoding in zip(operations, encoded, strict=True):
            self._apply(operation, passing=passing)
            self._accepted(operation, its_encoding)

    def _accepted(self, operation: Operation, encoded: bytes) -> None:
        self.dirty.observe(operation)
        self.remember(encoded)
        self.accepted += 1

    def _apply(self, operation: Operation, commit: int | None = None, passing: str | None = None) -> None:
        """Apply an operation that is in the journal. If this fails, journal and namespace differ. Then
        nothing more is accepted or saved, and the next open replays the journal. `passing`: a failpoint on
        the way."""
        try:
            if passing is not None:
                self.failpoints.reached(passing)
            self.namespace.apply(operation, commit)
        except BaseException:
            self.fail_diverged()
            raise

    def roll_back(self, savepoint: Savepoint) -> None:
        """As of `Namespace.roll_back`, of which the journal knows nothing yet. If that fails, they differ."""
        try:
            self.namespace.roll_back(savepoint)
        except BaseException:
            self.fail_diverged()
            raise

    def fail_diverged(self) -> None:
        """Journal and namespace differ: nothing more is accepted or saved."""
        self.has_diverged = True
        self.journal.fail("holds a change that the namespace could not take")

    def remember(self, encoded: bytes) -> None:
        """An operation is part of the open commit."""
        self.operations.append(encoded)
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

    def truncate(self, inode: int, size: int, time_ns: int, operations: Sequence[Operation] = ()) -> None:
        """Journal a new size, and then operations as `accept_all` does. Where no room can be made, nothing
        was accepted; where the disk refuses the operations' record, the size was."""
        payload = CONTENT_HEADER.pack(inode, size, time_ns)
        encoded = [encode(operation) for operation in operations]
        if encoded:
            _, (rest,) = _record_of(encoded)
            self.journal.make_room([len(payload), len(rest)], self.namespace.commit)
        position = self.journal.append(RecordType.TRUNCATE, (payload,), self.namespace.commit)
        self.accepted += 1
        self.dirty.truncate(inode, size, position, time_ns)
        self._accept_encoded(operations, encoded)

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
        return self.pending is not None or bool(self.operations) or len(self.dirty) > 0

    def has_local_room(self, need: Need) -> bool:
        """Whether this machine's disk has room for more. It is asked anew before anything is refused."""
        if self.local_room.allows(need, self.local_left()):
            return True
        self.local_room.look_anew()
        return self.local_room.allows(need, self.local_left())

    def local_left(self) -> float:
        """Bytes that are left on this machine's disk, beside the reserve."""
        accepted, local = self.room.accepted, self.local_room
        return local.calm_left if accepted < local.calm_until else local.look(accepted, self.operation_bytes)

    @property
    def unstored_bytes(self) -> int:
        """Bytes of what was accepted and is not in the commit log: content and operations. Walks all dirty
        files."""
        pending = 0 if self.pending is None else sum(map(len, self.pending.operations))
        return self.dirty.data_bytes() + self.operation_bytes + pending

    @property
    def open_operations(self) -> int:
        """Operations of the open commit."""
        return len(self.operations)

    def cut(self, inodes: list[int]) -> PendingCommit | None:
        """End the open commit; it takes the content of `inodes`. None if there is nothing in it."""
        assert self.pending is None
        begin = self.journal.end
        for inode in inodes:
            self._state_content(inode)
        if not self.operations:
            return None
        number = self.namespace.commit
        time_ns = max(self.environment.wall_clock(), self.namespace.last_commit_time() + 1)
        start = self.journal.append(RecordType.CUT, (encode_cut(number, time_ns, inodes),), number)
        for inode in inodes:
            self.dirty.freeze(inode)
        end = self.journal.end
        oldest = self.dirty.oldest_top(end)
        pending = PendingCommit(number, time_ns, end, [], inodes, begin=begin, start=start, oldest=oldest)
        self.hand_over(pending)
        self.namespace.begin_commit(number + 1)
        self.failpoints.reached(CUT_MADE)
        return self.pending

    def hand_over(self, pending: PendingCommit) -> None:
        """The operations of the open commit are those of `pending`, which was cut."""
        pending.operations, self.operations, self.operation_bytes = self.operations, [], 0
        self.pending = pending

    def _state_content(self, inode: int) -> None:
        """Make a dirty file's size and times an operation of the open commit."""
        row, layer = self.namespace.inode(inode), self.dirty.top(inode)
        assert row is not None
        assert layer is not None
        size = layer.size(row.size)
        self.accept(SetAttributes(inode, size=size, mtime_ns=layer.mtime_ns, ctime_ns=layer.ctime_ns))

    @property
    def can_take_back(self) -> bool:
        """Whether the pending commit has its cut only, and this process made the cut."""
        pending = self.pending
        return pending is not None and pending.begin is not None and not pending.extents

    def reopen(self) -> None:
        """Take the cut of the pending commit back (`can_take_back`). The commit is open again, together with
        all that was accepted since, and a new cut can leave content out. Upstream must not have been asked to
        append the commit. Raises what `Journal.append` raises, and nothing has changed then."""
        pending = self.pending
        assert pending is not None
        assert pending.begin is not None
        count, number = len(pending.inodes), pending.number
        # The records that follow must not be in a segment that says that the next commit is open.
        self.journal.begin_segment(number)
        self.journal.append(RecordType.UNCUT, (encode_uncut(pending.begin, pending.position),), number)
        later = [decode(encoded) for encoded in self.operations]
        kept = len(pending.operations) - count
        stated = [decode(encoded) for encoded in pending.operations[kept:]]
        self.dirty.take_back([each for each in stated if isinstance(each, SetAttributes)], later)
        self.operations[:0] = pending.operations[:kept]
        self.operation_bytes = sum(map(len, self.operations))
        self.pending = None
        self._redo(later, pending.operations[:kept])

    def _redo(self, later: list[Operation], earlier: list[bytes]) -> None:
        """Bring the namespace from the newest published commit to what is accepted, all in one commit."""
        try:
            self.failpoints.reached(REOPENING)
            self.namespace.undo(self.head.number)
        except BaseException:
            self.fail_diverged()
            raise
        for operation in (*map(decode, earlier), *later):
            self._apply(operation)

    def keep_extents(self, operation: SetExtents) -> None:
        """The pending commit's content of one file: its blocks are stored."""
        assert self.pending is not None
        encoded = encode(operation)
        number = self.pending.number
        self.journal.append(RecordType.EXTENTS, (encode_extents(number, encoded),), self.namespace.commit)
        self._apply(operation, number)
        self.dirty.thaw(operation.inode)
        self.add_extents(encoded)
        self.failpoints.reached(EXTENTS_KEPT)

    def add_extents(self, encoded: bytes) -> None:
        """They are part of the pending commit, if there is one."""
        if self.pending is not None:
            self.pending.extents.append(encoded)

    async def sync_pending(self) -> None:
        """Everything that the pending commit needs survives a power cut when this returns: all records, and
        the bytes of those large writes before the cut that the commit did not take. The bytes that it took
        are in blocks, so they are not synced. `InputOutputError`: it does not, and never will."""
        assert self.pending is not None
        await self.journal.sync_records(self.pending.oldest, self.pending.position)

    def published(self, head: Head) -> None:
        """Upstream has the pending commit."""
        assert self.pending is not None
        self.failpoints.reached(PUBLISHED)
        pending = self.pending
        needed = min(pending.oldest, pending.start)
        payload = encode_published(head.number, pending.time_ns, head.hash, needed)
        self.journal.append(RecordType.PUBLISHED, (payload,), self.namespace.commit)
        self.namespace.record_commit(head.number, head.hash, pending.time_ns, self.namespace.device)
        self.positions.recorded, self.positions.cut = self.journal.end, pending.position
        self.forget_pending()
        self.thaw_all()

    def forget_pending(self) -> None:
        """The pending commit, if there is one, is published."""
        if self.pending is not None:
            self.positions.published = self.pending.oldest
        self.pending = None

    def take_rebased(self, encoded: list[bytes], position: int) -> None:
        """These are the operations of the open commit, and all that is not published, as the record at
        `position` says (`cache.journal.rebasing`)."""
        self.operations, self.operation_bytes = encoded, sum(map(len, encoded))
        self.pending = None
        self.positions.published = position
        self.positions.recorded = self.positions.cut = self.journal.end
        self.rebase_synced = trio.Event()
        self.accepted += 1

    def thaw_all(self) -> None:
        """All that was frozen is in the extents now."""
        for inode, _ in self.dirty.frozen():
            self.dirty.thaw(inode)

    # State on disk

    def save(self) -> None:
        """Commit the namespace's changes together with the journal position that they reflect; nothing as
        long as a rebase is not synced.
        `NoSpaceLeftError`, `InputOutputError`: nothing is lost, may be called again."""
        if self.has_diverged:
            raise InputOutputError("the namespace lacks a change that the journal holds; mount again")
        if self.rebase_synced is not None:
            return
        try:
            self.namespace.save(self.journal.end)
        except NoSpaceError as error:
            raise NoSpaceLeftError(str(error)) from error
        except DriveError as error:
            raise InputOutputError(str(error)) from error
        self.failpoints.reached(SAVED)

    async def wake_waiting(self) -> None:
        """Let those who wait for room look again."""
        async with self.freed:
            self.freed.notify_all()


def _record_of(encoded: list[bytes]) -> tuple[RecordType, tuple[bytes]]:
    """The one record that says these operations, of which there is at least one."""
    if len(encoded) == 1:
        return RecordType.OPERATION, (encoded[0],)
    return RecordType.BATCH, (encode_batch(encoded),)
