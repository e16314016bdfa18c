"""Opening a drive: the local state is recovered, reconciled with the commit log, and a `Drive` is made of it.

The local state is the namespace and the journal that an earlier process left. First they are opened and
scanned. A namespace that is empty is restored from the newest snapshot and the commits after it. The
journal is replayed. Then the local state and the log are compared:
- The log has our pending commit: the process was killed after appending it and before noting that. It is
  noted.
- The log is ahead, and nothing here is unpublished: the commits that are missing here are applied.
- The log is ahead, and something here is unpublished: the local state is stale (`StaleCacheError`). It is
  kept aside, never merged by guessing and never dropped.
- The log is behind: `RollbackError`.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import trio

from backend.errors import (
    ConflictError,
    CorruptError,
    FormatError,
    NotFoundError,
    RollbackError,
    UnavailableError,
)
from backend.keys import DriveKeys
from backend.system import THIS_MACHINE, Environment, at_rest
from backend.upstream import Commit, Head, Upstream
from cache import defaults
from cache.blocks import BlockCache, BlockCodec, Chunker, Content, Sealer
from cache.drive import NOTHING_SPECIAL, Circumstances, Drive, Parts
from cache.errors import InputOutputError
from cache.history import PastTree
from cache.journal import LARGE_WRITE, SEGMENT_SIZE, SMALLEST_SEGMENT, Data, Journal, Ledger
from cache.keeping import Keeper, KeptFolders
from cache.local import DEVICE, LocalState
from cache.namespace import MAX_NAME, ROOT_INODE, Delete, OutOfDateError, SetAttributes
from cache.publish import (
    CommitIdentity,
    Intervals,
    Publisher,
    SharedExclusiveLock,
    SnapshotKeeper,
    SnapshotSchedule,
    SnapshotStore,
    StoreWatch,
    Wake,
    blocks_named,
    is_same_commit,
    snapshot,
)
from cache.retention import RetentionKeeper, RetentionSchedule
from cache.sync import Broadcast, Follower, check_log
from cache.tree import ContentClaims, Durability, FileContents, InodeAttributes, Inodes, Intake, PutOff, Tree

log = logging.getLogger(__name__)


class StaleCacheError(ConflictError):
    """The local state holds changes that were made on one which the drive has left behind."""


@dataclass(frozen=True, slots=True)
class DriveOptions:
    """Bytes and seconds. `cache_size`: plaintext blocks in memory. `cache_disk`: sealed blocks on this
    machine's disk, 0: none, None: as the nodes are (who builds the upstream keeps them). `journal_size`:
    writers wait when the journal is larger. `large_write`: a write of so many bytes is journaled beside the
    records. `host`: what this machine is called in the log, for people."""

    cache_size: int = defaults.CACHE_SIZE
    cache_disk: int | None = None
    journal_size: int = defaults.JOURNAL_SIZE
    intervals: Intervals = field(default_factory=Intervals)
    large_write: int = LARGE_WRITE
    snapshots: SnapshotSchedule = field(default_factory=SnapshotSchedule)
    retention: RetentionSchedule = field(default_factory=RetentionSchedule)
    read_only: bool = False
    host: str = field(default_factory=socket.gethostname)


@dataclass(frozen=True, slots=True)
class Client:
    """The objects by which the client side of a drive reads its upstream, and seals for it."""

    codec: BlockCodec
    chunker: Chunker
    blocks: BlockCache
    snapshots: SnapshotStore
    identity: CommitIdentity


def client_of(
    upstream: Upstream,
    drive_id: bytes,
    keys: DriveKeys,
    cache_size: int,
    limiter: trio.CapacityLimiter,
    host: bytes = b"unknown",
    environment: Environment = THIS_MACHINE,
) -> Client:
    """Of a mount, or of a tool that looks at a drive. `limiter`: of the threads that open blocks."""
    codec, chunker = BlockCodec(drive_id, keys.block_id, keys.block), Chunker(keys.chunker)
    return Client(
        codec,
        chunker,
        BlockCache(upstream.blocks, codec, cache_size, limiter),
        SnapshotStore(
            upstream.blocks,
            upstream.roots,
            codec,
            chunker,
            drive_id,
            keys.root,
            keys.snapshot_hash,
            environment,
        ),
        CommitIdentity(drive_id, DEVICE, host, keys.commit),
    )


class _Recovery:
    """The steps of `open_drive` that bring the local state up to date."""

    def __init__(
        self,
        local: LocalState,
        upstream: Upstream,
        follower: Follower,
        snapshots: SnapshotStore,
        blocks: BlockCache,
    ) -> None:
        self._local = local
        self._ledger = local.ledger
        self._left = local.recovery
        self._upstream = upstream
        self._follower = follower
        self._snapshots = snapshots
        self._blocks = blocks

    async def run(self) -> None:
        namespace = self._local.namespace
        if namespace.journal_position() == 0:  # it never saw the journal
            if self._ledger.head.number == 0:
                await self._restore_snapshot()
            await self._catch_up(0)
            await self._check_unfinished()
        if self._left.contradicts_the_log:
            raise self._stale(self._ledger.head.number)
        await self._ask_for_blocks()
        await self._read_pending()
        self._left.replay()
        await self._reconcile()

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

    async def _reconcile(self) -> None:
        ledger, theirs, ours = self._ledger, await self._upstream.log.head(), self._ledger.head
        if theirs == ours:
            return
        if theirs.number <= ours.number:
            raise RollbackError(
                f"the drive's log ends with commit {theirs.number}, but this device has seen commit "
                f"{ours.number} of another history; nothing was changed"
            )
        if ledger.pending is not None:
            ((commit, commit_hash),) = await self._upstream.log.commits_after(ours.number, 1)
            if is_same_commit(ledger.pending, self._follower.encoded_operations(commit), ours, commit):
                ledger.published(Head(commit.number, commit_hash))
        if ledger.head == theirs:
            return
        if ledger.unpublished:
            raise self._stale(theirs.number)
        await self._catch_up(ledger.journal.end)
        ledger.begin_open_commit()

    async def _ask_for_blocks(self) -> None:
        """A commit that was stored and not appended names blocks that nothing in the log names: another mount
        may have let them go. Those of one that the log has are there."""
        for unfinished in self._left.unfinished():
            blocks = blocks_named(unfinished.extents)
            if not blocks or (await self._upstream.log.head()).number >= unfinished.number:
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

    async def _read_pending(self) -> None:
        """Content of a commit that was cut and not appended may not be readable any more: it is cut anew, and
        without that. If some of it is in blocks already, only where it has to be."""
        left = self._left
        number, pieces = left.unsealed()
        if not pieces or (await self._upstream.log.head()).number >= number:
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
                ((commit, _),) = await self._upstream.log.commits_after(unfinished.number - 1, 1)
                if not self._left.may_be(unfinished, self._follower.encoded_operations(commit)):
                    raise self._stale(published)

    def _stale(self, number: int) -> StaleCacheError:
        return StaleCacheError(
            f"{self._local.folder} has unpublished changes, but the drive has gone on without them to "
            f"commit {number}"
        )

    async def _catch_up(self, position: int) -> None:
        """Apply the commits that the namespace lacks; durable when it returns."""
        namespace, number = self._local.namespace, self._ledger.head.number
        while commits := await self._upstream.log.commits_after(number):
            for commit, commit_hash in commits:
                self._apply(commit, commit_hash)
                await self._upstream.housekeeping.revive(commit.added)
                number = commit.number
                await trio.lowlevel.checkpoint()
            namespace.save(position)
        await trio.to_thread.run_sync(namespace.checkpoint)

    def _apply(self, commit: Commit, commit_hash: bytes) -> None:
        try:
            self._follower.apply(commit, commit_hash)
        except OutOfDateError as error:
            raise OutOfDateError(
                f"{error}; nothing was changed; either the log is damaged or what {self._local.folder} holds "
                "of it is: fsck.drivefs compares the two"
            ) from error


def _read_all(journal: Journal, pieces: Sequence[Data]) -> None:
    """Raises what reading them raises."""
    for piece in pieces:
        journal.read_at(piece.position, piece.end - piece.start)


async def open_drive(
    local: LocalState,
    upstream: Upstream,
    drive_id: bytes,
    keys: DriveKeys,
    options: DriveOptions,
    circumstances: Circumstances = NOTHING_SPECIAL,
) -> Drive:
    """Recover and put together. The upstream's background work must be running. On success the drive
    owns `local` and `upstream` and closes both; on an error the caller does."""
    limiter = trio.CapacityLimiter(4)
    largest = min(options.journal_size, max(local.ledger.local_left(), 0))
    # At least about eight segments, so that it can let go of its oldest part.
    local.trimming.largest_segment = min(SEGMENT_SIZE, max(int(largest) // 8, SMALLEST_SEGMENT))
    local.trimming.fit_segments()
    local.ledger.large_write = options.large_write
    host = _host_name(options.host)
    client = client_of(upstream, drive_id, keys, options.cache_size, limiter, host, local.environment)
    blocks, snapshots = client.blocks, client.snapshots
    follower = Follower(local.namespace, client.identity)
    await _Recovery(local, upstream, follower, snapshots, blocks).run()
    ledger = local.ledger
    content = Content(local.namespace, ledger.dirty, ledger.journal, blocks)
    sealer = Sealer(
        upstream.blocks,
        client.codec,
        client.chunker,
        ledger.journal.read_at,
        content,
        limiter,
        local.environment,
    )
    collection_lock = SharedExclusiveLock()
    keeper = SnapshotKeeper(
        ledger, snapshots, local.folder, options.snapshots, collection_lock, local.environment
    )
    wake = Wake()
    put_off = PutOff(ledger, local.trimming, wake, read_only=options.read_only)
    publisher = Publisher(
        ledger,
        local.trimming,
        sealer,
        upstream,
        client.identity,
        options.intervals,
        options.journal_size,
        put_off.accept_times,
        put_off.delete_if_unused,
        keeper.committed,
        collection_lock,
        wake,
    )
    intake = Intake(ledger, local.trimming, publisher, put_off, read_only=options.read_only)
    inodes, changes, claims = Inodes(ledger, put_off), Broadcast(), ContentClaims(ledger, intake)
    kept = KeptFolders(local.folder, local.environment)
    parts = Parts(
        ledger=ledger,
        trimming=local.trimming,
        blocks=blocks,
        content=content,
        sealer=sealer,
        upstream=upstream,
        snapshots=keeper,
        publisher=publisher,
        retention=RetentionKeeper(
            ledger,
            publisher,
            upstream.housekeeping,
            snapshots,
            collection_lock,
            options.retention,
            local.environment,
            read_only=options.read_only,
        ),
        store=StoreWatch(ledger, upstream.housekeeping),
        past=PastTree(local.namespace, content, ledger.save, local.environment),
        keeper=Keeper(kept, ledger, circumstances.disk_cache, client.codec, limiter),
        changes=changes,
        put_off=put_off,
        intake=intake,
        inodes=inodes,
        claims=claims,
        attributes=InodeAttributes(ledger, inodes, intake, claims, put_off),
        tree=Tree(ledger, inodes, intake, put_off, changes),
        contents=FileContents(ledger, inodes, intake, claims, content, sealer, collection_lock),
        durability=Durability(ledger, publisher, upstream, read_only=options.read_only),
    )
    if not options.read_only:
        local.watch()
        ledger.custody.on_loss.append(publisher.wake)
        _delete_orphans(ledger)
        _settle_all(ledger)
        _own_new_root(ledger, local.environment)
        await local.trimming.trim()
    circumstances = replace(circumstances, notices=(*circumstances.notices, *local.notices))
    return Drive(parts, circumstances, options.journal_size, local.close)


def _host_name(host: str) -> bytes:
    """As an operation may have it; some containers have none at all."""
    return os.fsencode(host).replace(b"\0", b"")[:MAX_NAME] or b"unknown"


def _delete_orphans(ledger: Ledger) -> None:
    """Nobody holds an inode now: those without a name go, unless their content is on its way."""
    pending = {inode for inode, _ in ledger.dirty.frozen()}
    for inode in ledger.namespace.orphans():
        if inode not in pending:
            ledger.accept(Delete(inode))


def _settle_all(ledger: Ledger) -> None:
    """Nobody has a file open now: the next commit takes the content of each, so that none is seen empty whose
    creation it publishes. The journal does not say which were closed."""
    for inode, _ in ledger.dirty.tops():
        ledger.dirty.settle(inode)


def _own_new_root(ledger: Ledger, environment: Environment) -> None:
    """The root of a drive that nobody has used yet belongs to who mounts it first."""
    if ledger.head.number == 0 and not ledger.unpublished:
        now = environment.wall_clock()
        ledger.accept(SetAttributes(ROOT_INODE, None, os.geteuid(), os.getegid(), None, now, now, now))
