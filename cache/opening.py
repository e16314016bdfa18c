"""Opening a drive: the local state is recovered (`cache.recovery`), and a `Drive` is made of its parts.

The local state is there: `LocalState` has opened and scanned the namespace and the journal that an earlier
process left. So is the upstream, with its lease.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from functools import partial

import trio

from backend.errors import FormatError
from backend.keys import DriveKeys
from backend.system import Environment
from backend.upstream import Upstream
from cache import defaults
from cache.blocks import Content, Sealer, SmallFiles
from cache.client import Client, Shared, client_of
from cache.contact import Contact
from cache.copied_state import CopiedState
from cache.drive import NOTHING_SPECIAL, Circumstances, Drive, Parts
from cache.enrolment import Enrolment
from cache.history import PastTree
from cache.journal import LARGE_WRITE, SEGMENT_SIZE, SMALLEST_SEGMENT, Ledger
from cache.keeping import Keeper, KeptFolders
from cache.local import LocalState
from cache.namespace import MAX_NAME, ROOT_INODE, Delete, SetAttributes
from cache.notices import Notices
from cache.presence import Presence, PresenceCodec
from cache.publish import (
    CommitIdentity,
    Intervals,
    Publisher,
    SharedExclusiveLock,
    SnapshotKeeper,
    SnapshotSchedule,
    StoreWatch,
    Wake,
)
from cache.rebase import is_version
from cache.recovery import Recovery
from cache.retention import MassDeletions, RetentionKeeper, RetentionSchedule, VersionKeeper
from cache.slow_waits import SlowWaits
from cache.sync import Broadcast, Coherence, Follower, Following, Rebaser
from cache.tree import ContentClaims, Durability, FileContents, InodeAttributes, Inodes, Intake, PutOff, Tree

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DriveOptions:
    """Bytes and seconds. `cache_size`: plaintext blocks in memory. `cache_disk`: sealed blocks on this
    machine's disk, 0: none, None: as the nodes are (who builds the upstream keeps them). `journal_size`:
    writers wait when the journal is larger. `large_write`: a write of so many bytes is journaled beside the
    records. `host`: what this machine is called in the log, for people. `is_shared`: other devices write the
    drive at the same time."""

    cache_size: int = defaults.CACHE_SIZE
    cache_disk: int | None = None
    journal_size: int = defaults.JOURNAL_SIZE
    intervals: Intervals = field(default_factory=Intervals)
    large_write: int = LARGE_WRITE
    snapshots: SnapshotSchedule = field(default_factory=SnapshotSchedule)
    retention: RetentionSchedule = field(default_factory=RetentionSchedule)
    read_only: bool = False
    host: str = field(default_factory=socket.gethostname)
    is_shared: bool = False


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
    _fit_journal(local, options)
    limiter, host = trio.CapacityLimiter(4), _host_name(options.host)
    environment, device, contact = local.environment, local.device, Contact(local.environment)
    client = client_of(
        upstream,
        drive_id,
        keys,
        options.cache_size,
        limiter,
        environment,
        Shared(contact, lambda: local.ledger.head) if options.is_shared else None,
    )
    follower = Follower(local.namespace, client.ring)
    notices = Notices(local.folder, environment)
    ledger, trimming, changes = local.ledger, local.trimming, Broadcast()
    kept = KeptFolders(local.folder, environment)
    keeper = Keeper(kept, ledger, circumstances.disk_cache, client.codec, limiter)
    changes.onlookers.append(keeper)  # the first rebase comes with the recovery
    alone = Rebaser(
        ledger, trimming, follower, upstream, device, host, changes, lambda _inode: False, notices
    )

    def enrolment(follow: Callable[[], Awaitable[None]], *, is_copy: bool) -> Enrolment:
        return Enrolment(
            local, upstream, client.ring, keys, host, follow, is_copy=is_copy, is_shared=options.is_shared
        )

    copied = CopiedState(local, upstream, follower, alone, partial(enrolment, is_copy=True))
    knew_the_log = local.known_head is not None
    recovery = Recovery(
        local,
        upstream,
        contact,
        follower,
        client.snapshots,
        client.blocks,
        copied.rebase if options.is_shared else None,
        copied.go_on,
        read_only=options.read_only,
    )
    await recovery.run()
    _require_epochs(local)
    identity = CommitIdentity(client.ring, 0, host, b"")
    if not options.read_only:
        follow = alone.run if local.ledger.unpublished else recovery.follow
        is_copy = knew_the_log and device in follower.makers
        enrolled = await enrolment(follow, is_copy=is_copy).run()
        identity = CommitIdentity(client.ring, enrolled.number, host, enrolled.key)
    codec, disk = PresenceCodec(keys), circumstances.disk_cache
    small_files = None if disk is None else SmallFiles(local.namespace, client.blocks, disk.get_here)
    parts = _Assembly(
        local, upstream, contact, client, identity, options, notices, changes, keeper, codec, small_files
    ).parts()
    if not options.read_only:
        await _begin_writing(local, parts.publisher, identity.device if options.is_shared else None)
    circumstances = replace(circumstances, notices=(*circumstances.notices, *local.notices))
    return Drive(parts, circumstances, options.journal_size, local.close)


def _require_epochs(local: LocalState) -> None:
    """`FormatError` if it has none: no old commit is read again by who has seen all of the log."""
    namespace = local.namespace
    if namespace.head().number and namespace.epochs.newest() is None:
        raise FormatError(
            "the drive was made before there were key epochs: its files can be copied to a new drive, by the "
            "drivefs that made it"
        )


def _fit_journal(local: LocalState, options: DriveOptions) -> None:
    """The sizes of its segments, and of the writes that lie beside them."""
    largest = min(options.journal_size, max(local.ledger.local_left(), 0))
    # At least about eight segments, so that it can let go of its oldest part.
    local.trimming.largest_segment = min(SEGMENT_SIZE, max(int(largest) // 8, SMALLEST_SEGMENT))
    local.trimming.fit_segments()
    local.ledger.large_write = options.large_write


async def _begin_writing(local: LocalState, publisher: Publisher, device: int | None) -> None:
    """The first changes of a drive that was opened for writing. `device`: as of `_delete_orphans`."""
    ledger = local.ledger
    local.watch()
    ledger.custody.on_loss.append(publisher.wake)
    _delete_orphans(ledger, device)
    _settle_all(ledger)
    _own_new_root(ledger, local.environment)
    await local.trimming.trim()


class _Assembly:
    """The parts of a drive: each is given those that it needs when it is made, and none gets one later."""

    def __init__(
        self,
        local: LocalState,
        upstream: Upstream,
        contact: Contact,
        client: Client,
        identity: CommitIdentity,
        options: DriveOptions,
        notices: Notices,
        changes: Broadcast,
        keeper: Keeper,
        presence_codec: PresenceCodec,
        small_files: SmallFiles | None,
    ) -> None:
        self._local = local
        self._ledger = local.ledger
        self._environment = local.environment
        self._upstream = upstream
        self._contact = contact
        self._client = client
        self._identity = identity
        self._options = options
        self._notices = notices
        self._changes = changes
        self._keeper = keeper
        self._presence_codec = presence_codec
        self._collection_lock = SharedExclusiveLock()
        self._wake = Wake()
        journal = self._ledger.journal
        self._slow_waits = SlowWaits()
        self._content = Content(
            local.namespace, self._ledger.dirty, journal, client.blocks, self._slow_waits, small_files
        )
        self._put_off = PutOff(
            self._ledger,
            local.trimming,
            self._wake,
            read_only=options.read_only,
            is_shared=options.is_shared,
        )
        self._sealer = self._made_sealer()
        self._snapshots = self._made_snapshots()
        self._publisher = self._made_publisher()

    def parts(self) -> Parts:
        """All of them; to be called once."""
        ledger, put_off, upstream, options = self._ledger, self._put_off, self._upstream, self._options
        intake = Intake(
            ledger,
            self._local.trimming,
            self._publisher,
            put_off,
            self._slow_waits,
            read_only=options.read_only,
        )
        retention, environment, notices = self._made_retention(), self._environment, self._notices
        inodes, changes, claims = Inodes(ledger, put_off), self._changes, ContentClaims(ledger, intake)
        changes.onlookers.append(claims)
        return Parts(
            ledger=ledger,
            trimming=self._local.trimming,
            blocks=self._client.blocks,
            content=self._content,
            sealer=self._sealer,
            upstream=upstream,
            snapshots=self._snapshots,
            publisher=self._publisher,
            contact=self._contact,
            following=self._made_following() if options.is_shared else None,
            coherence=self._made_coherence() if options.is_shared else None,
            presence=self._made_presence() if options.is_shared else None,
            retention=retention,
            mass_deletions=MassDeletions(ledger, retention, notices, put_off, environment),
            versions=VersionKeeper(ledger, put_off.holds, environment) if options.is_shared else None,
            kept_notices=notices,
            store=StoreWatch(ledger, upstream.housekeeping, self._contact),
            past=PastTree(self._local.namespace, self._content, ledger.save, self._environment),
            keeper=self._keeper,
            changes=changes,
            put_off=put_off,
            intake=intake,
            inodes=inodes,
            claims=claims,
            attributes=InodeAttributes(ledger, inodes, intake, claims, put_off),
            tree=Tree(ledger, inodes, intake, put_off, changes),
            contents=FileContents(
                ledger, inodes, intake, claims, self._content, self._sealer, self._collection_lock
            ),
            slow_waits=self._slow_waits,
            durability=Durability(ledger, self._publisher, upstream, read_only=options.read_only),
        )

    def _made_sealer(self) -> Sealer:
        client = self._client
        return Sealer(
            self._upstream.blocks,
            client.codec,
            client.chunker,
            self._ledger.journal.read_at,
            self._content,
            client.blocks.get,
            client.limiter,
            self._environment,
        )

    def _made_snapshots(self) -> SnapshotKeeper:
        return SnapshotKeeper(
            self._ledger,
            self._client.snapshots,
            self._local.folder,
            self._options.snapshots,
            self._collection_lock,
            self._environment,
        )

    def _made_publisher(self) -> Publisher:
        return Publisher(
            self._ledger,
            self._local.trimming,
            self._sealer,
            self._upstream,
            self._identity,
            self._options.intervals,
            self._options.journal_size,
            self._put_off.before_cut,
            self._put_off.delete_if_unused,
            self._snapshots.committed,
            self._collection_lock,
            self._wake,
            self._contact,
            self._made_rebaser().run if self._options.is_shared else None,
        )

    def _made_following(self) -> Following:
        return Following(self._ledger, self._upstream, self._contact, self._publisher.follow)

    def _made_coherence(self) -> Coherence:
        return Coherence(self._ledger, self._upstream, self._contact, self._changes, self._publisher.follow)

    def _made_presence(self) -> Presence | None:
        board = self._upstream.presence
        if board is None:
            return None
        return Presence(
            self._ledger,
            board,
            self._contact,
            self._presence_codec,
            self._identity.host,
            self._environment,
        )

    def _made_rebaser(self) -> Rebaser:
        identity, ledger = self._identity, self._ledger
        # A reader is no device. What is unpublished here is not rebased on commits of a copy of this state.
        device = identity.device or (ledger.namespace.device if ledger.unpublished else 0)
        return Rebaser(
            ledger,
            self._local.trimming,
            Follower(self._local.namespace, identity.ring),
            self._upstream,
            device,
            identity.host,
            self._changes,
            self._put_off.holds,
            self._notices,
            read_only=self._options.read_only,
        )

    def _made_retention(self) -> RetentionKeeper:
        return RetentionKeeper(
            self._ledger,
            self._publisher,
            self._upstream.housekeeping,
            self._client.snapshots,
            self._collection_lock,
            self._options.retention,
            self._environment,
            read_only=self._options.read_only,
        )


def _host_name(host: str) -> bytes:
    """As an operation may have it; some containers have none at all."""
    return os.fsencode(host).replace(b"\0", b"")[:MAX_NAME] or b"unknown"


def _delete_orphans(ledger: Ledger, device: int | None) -> None:
    """Nobody here holds an inode now: those without a name go, unless their content is on its way, or another
    than `device` (None: there is no other) took the name and may have them open, or they are to be pinned."""
    pending, namespace = {inode for inode, _ in ledger.dirty.frozen()}, ledger.namespace
    for inode in namespace.orphans():
        row = namespace.inode(inode)
        assert row is not None
        is_ours = device is None or row.born > ledger.head.number or namespace.writers.of(row.born) == device
        is_kept = device is not None and is_version(namespace, inode)
        if inode not in pending and is_ours and not is_kept:
            ledger.accept(Delete(inode))


def _settle_all(ledger: Ledger) -> None:
    """Nobody has a file open now: the next commit takes the content of each, so that none is seen empty whose
    creation it publishes. The journal does not say which were closed."""
    for inode, _ in ledger.dirty.tops():
        ledger.dirty.settle(inode)


def _own_new_root(ledger: Ledger, environment: Environment) -> None:
    """The root of a drive that nobody has used yet belongs to who mounts it first."""
    root = ledger.namespace.inode(ROOT_INODE)
    if root is not None and root.born == 0 and not ledger.unpublished:
        now = environment.wall_clock()
        ledger.accept(SetAttributes(ROOT_INODE, None, os.geteuid(), os.getegid(), None, now, now, now))
