"""The drive: the one core that every door uses. POSIX calls on inodes and raw names.

A drive is composed of parts, which `cache.opening` builds: inodes to look things up, the tree for names,
attributes, file contents, the publisher, the past. A call of the drive is a method of a part; its contract
stands there. This module has the background work and the end of a drive. Event-loop thread only.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

import trio

from backend.errors import DriveError
from backend.upstream import BlockId, Upstream
from cache.attributes import FileSystemStatistics
from cache.blocks import BlockCache, Content, Sealer
from cache.contact import Contact
from cache.disk import CachedBlocks
from cache.errors import FileSystemError, JournalLostError
from cache.health import Health, NodeChanging
from cache.history import PastTree
from cache.journal import Ledger, Trimming
from cache.keeping import Keeper
from cache.messages import DriveStatus, FileSetApart
from cache.namespace import MAX_NAME, Point, sqlite_errors
from cache.notices import Notices
from cache.presence import Presence
from cache.publish import Publisher, SnapshotKeeper, StoreWatch, waiting
from cache.retention import MassDeletions, RetentionKeeper, SpaceAccounting, VersionKeeper
from cache.slow_waits import SlowWaits
from cache.sync import Broadcast, Coherence, Following
from cache.tree import (
    BLOCK_SIZE,
    ContentClaims,
    Durability,
    FileContents,
    InodeAttributes,
    Inodes,
    Intake,
    PutOff,
    Tree,
)

log = logging.getLogger(__name__)

TICK: Final = 1.0
LOOK_SECONDS: Final = 7.0
"""The store has so long to say how it is: who asks for the status waits for 10 s."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a drive. All work on the same ledger. `following`, `coherence`, `presence` and `versions`:
    of a drive that others write too."""

    ledger: Ledger
    trimming: Trimming
    blocks: BlockCache
    content: Content
    sealer: Sealer
    upstream: Upstream
    snapshots: SnapshotKeeper
    publisher: Publisher
    contact: Contact
    following: Following | None
    coherence: Coherence | None
    presence: Presence | None
    retention: RetentionKeeper
    mass_deletions: MassDeletions
    versions: VersionKeeper | None
    kept_notices: Notices
    store: StoreWatch
    past: PastTree
    keeper: Keeper
    changes: Broadcast
    put_off: PutOff
    intake: Intake
    inodes: Inodes
    claims: ContentClaims
    attributes: InodeAttributes
    tree: Tree
    contents: FileContents
    durability: Durability
    slow_waits: SlowWaits


@dataclass(frozen=True, slots=True)
class Circumstances:
    """Facts that the opener of the drive knows of it. `health`: None where nobody can look after the store;
    `node_changes`: None where it can have no other nodes. `notices`: what the person who opens it is to be
    told. `set_aside`: how many states lie here that the drive has gone past. `disk_cache`: the sealed blocks
    on this machine's disk, if they are kept."""

    health: Health | None = None
    node_changes: NodeChanging | None = None
    notices: tuple[str, ...] = ()
    set_aside: int = 0
    disk_cache: CachedBlocks | None = None


NOTHING_SPECIAL: Final = Circumstances()


class Drive:
    """See the module. Made by `cache.opening.open_drive`, which also runs recovery; `run` must be
    running while the drive is used."""

    def __init__(
        self,
        parts: Parts,
        circumstances: Circumstances,
        journal_limit: int,
        close_local: Callable[[], None],
    ) -> None:
        self.ledger = parts.ledger
        self.trimming = parts.trimming
        self.blocks = parts.blocks
        self.sealer = parts.sealer
        self.upstream = parts.upstream
        self.snapshots = parts.snapshots
        self.publisher = parts.publisher
        self.contact = parts.contact
        self._following = parts.following
        self._coherence = parts.coherence
        self.presence = parts.presence
        self.is_shared = parts.following is not None
        self.retention = parts.retention
        self._mass_deletions = parts.mass_deletions
        self._versions = parts.versions
        self.kept_notices = parts.kept_notices
        self.store = parts.store
        self.past = parts.past
        self.keeper = parts.keeper
        self.changes = parts.changes
        self.health = circumstances.health
        self.node_changes = circumstances.node_changes
        self.notices = circumstances.notices
        self.set_aside = circumstances.set_aside
        self._disk_cache = circumstances.disk_cache
        self._content = parts.content
        self._contents = parts.contents
        self._durability = parts.durability
        self.put_off = parts.put_off
        self.intake = parts.intake
        self.slow_waits = parts.slow_waits
        self.claims = parts.claims
        self._journal_limit = journal_limit
        self._close_local = close_local
        self._take_calls(parts)

    def _take_calls(self, parts: Parts) -> None:
        """The calls of the parts, as they are: another function between would cost each call something."""
        inodes, put_off, intake = parts.inodes, parts.put_off, parts.intake
        self.attributes, self.size, self.lookup = inodes.attributes, inodes.size, inodes.lookup
        self.entries, self.next_cookie = inodes.entries, inodes.next_cookie
        self.entries_by_name, self.names = inodes.entries_by_name, inodes.names
        self.parent, self.read_link, self.live_row = inodes.parent, inodes.read_link, inodes.row
        self.hold, self.release = put_off.hold, put_off.release
        self.delete_unused, self.accept_times = put_off.delete_unused, put_off.accept_times
        self.moving = intake.moving
        self.now, self.accept_together = intake.now, intake.accept_together
        self.allocate_number = intake.allocate_number
        attributes, tree, contents = parts.attributes, parts.tree, parts.contents
        self.set_attributes, self.set_times = attributes.set_attributes, attributes.set_times
        self.kernel_times, self.touch = attributes.kernel_times, attributes.touch
        self.get_xattr, self.xattr_names = attributes.get_xattr, attributes.xattr_names
        self.set_xattr, self.remove_xattr = attributes.set_xattr, attributes.remove_xattr
        self.make_node, self.symlink, self.link = tree.make_node, tree.symlink, tree.link
        self.make_nameless, self.tell_of_names = tree.make_nameless, tree.tell_of_names
        self.unlink, self.remove_directory = tree.unlink, tree.remove_directory
        self.rename, self.tell_of_name = tree.rename, tree.tell_of_name
        self.read, self.write, self.settle = contents.read, contents.write, contents.settle
        self.room_to_write, self.accept_write = contents.room_to_write, contents.accept_write
        self.accept_attributes = attributes.accept_attributes
        self.accept_xattr, self.accept_xattr_removal = (
            attributes.accept_xattr,
            attributes.accept_xattr_removal,
        )
        self.accept_node, self.accept_symlink = tree.accept_node, tree.accept_symlink
        self.accept_link, self.accept_rename = tree.accept_link, tree.accept_rename
        self.accept_unlink, self.accept_removal = tree.accept_unlink, tree.accept_removal
        durability = parts.durability
        self.fsync, self.sync = durability.fsync, durability.sync
        self.set_apart, self.redundancy = durability.set_apart, durability.redundancy

    @property
    def read_only(self) -> bool:
        """Whether nothing can be changed."""
        return self.intake.read_only

    @property
    def lost_journal(self) -> str:
        """One line for people if the journal was taken away under the mount; empty while it is there."""
        return self.ledger.custody.lost

    @property
    def is_only_here(self) -> bool:
        """See `Durability.is_only_here`."""
        return self._durability.is_only_here

    async def stored_sizes(self, blocks: Sequence[BlockId]) -> dict[BlockId, int]:
        """Sealed bytes of those of the blocks that are stored."""
        return await self.upstream.housekeeping.sizes(blocks)

    async def reach_head(self, *, told: bool) -> bool:
        """As `Coherence.reach_head`. A drive that nobody else writes is as it is. `AbandonedError`: see
        `cache.slow_waits`."""
        if self._coherence is None or not self._is_following:
            return not self.is_shared
        with self.slow_waits.wait():
            return await self._coherence.reach_head(told=told)

    @property
    def _is_following(self) -> bool:
        """Whether others' commits may be followed: what waits here goes on from them by the journal, in which
        a drive that is read-only notes nothing."""
        return not (self.read_only and self.ledger.unpublished)

    def statistics(self) -> FileSystemStatistics:
        """statvfs(3): data that fits with all its redundancy, beside what waits to be stored; what is free
        but not available is the reserve. Zeros as long as nothing is known of the nodes."""
        capacity = None if self.store.status is None else self.store.status.capacity
        sizes = (0, 0, 0) if capacity is None else (capacity.total, capacity.free, capacity.available)
        unstored = self.ledger.room.unstored
        total, free, available = sizes[0], max(sizes[1] - unstored, 0), max(sizes[2] - unstored, 0)
        inodes = self.ledger.namespace.statistics().inodes
        room = 1 << 40
        return FileSystemStatistics(
            BLOCK_SIZE,
            total // BLOCK_SIZE,
            free // BLOCK_SIZE,
            available // BLOCK_SIZE,
            inodes + room,
            room,
            MAX_NAME,
        )

    async def status(self) -> DriveStatus:
        """For people and tools: what is accepted, not yet stored, not yet published; the store."""
        if not self.contact.is_lost:
            await self._look_for(LOOK_SECONDS)
        apart = await self.set_apart()
        ledger, sealer, totals = self.ledger, self.sealer, self.ledger.namespace.statistics()
        head = ledger.head
        return DriveStatus(
            read_only=self.read_only,
            fenced=self.publisher.fenced,
            problem=ledger.custody.lost or self.publisher.problem,
            journal_lost=bool(ledger.custody.lost),
            set_aside=self.set_aside,
            notices=len(self.kept_notices()),
            set_apart=tuple(FileSetApart(path, reason) for path, reason in apart.items()),
            commit=head.number,
            published=not ledger.unpublished,
            pending_commit=None if ledger.pending is None else ledger.pending.number,
            commit_interval=self.publisher.intervals.commit,
            away=self.contact.status(),
            waiting=waiting(ledger),
            open_operations=ledger.open_operations,
            dirty_files=len(ledger.dirty),
            dirty_bytes=ledger.dirty.data_bytes(),
            journal_bytes=ledger.journal.record_bytes,
            journal_limit=self._reachable_limit(),
            files=totals.files,
            directories=totals.inodes - totals.files,
            file_bytes=totals.bytes,
            sealed_bytes=sealer.sealed_bytes,
            new_bytes=sealer.new_bytes,
            new_stored_bytes=sealer.new_sealed_bytes,
            cache_bytes=self.blocks.used,
            cache_hits=self.blocks.hits,
            cache_misses=self.blocks.misses,
            disk_cache=None if self._disk_cache is None else self._disk_cache.status(),
            keeping=self.keeper.status(),
            scrub=None if self.health is None else self.health.scrub_status(),
            node_change=None if self.node_changes is None else self.node_changes.status(),
            store=self.store.status,
        )

    async def _look_for(self, seconds: float) -> None:
        """Ask the store how it is, unless that takes longer: then what is known counts."""
        with trio.move_on_after(seconds) as looking:
            await self.store.look()
        if looking.cancelled_caught:
            self.contact.doubt()
            self.ledger.room.look_soon()

    def _reachable_limit(self) -> int:
        """Bytes that the journal may take, as its disk is now."""
        used = self.ledger.journal.used_bytes
        return int(min(self._journal_limit, used + max(self.ledger.local_left(), 0)))

    def points(self) -> list[Point]:
        """The retained points, the oldest first."""
        return self.ledger.namespace.points.points()

    def space(self) -> SpaceAccounting:
        """For measuring the drive as of now."""
        self.ledger.save()
        return SpaceAccounting(self.ledger.namespace.path, self.upstream.housekeeping)

    # Life

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """The background work, until cancelled."""
        async with trio.open_nursery() as nursery:
            if self.is_shared:  # it may be away, and then takes its time to say so
                nursery.start_soon(self.store.look)
            else:
                await self.store.look()
            await nursery.start(self._content.run)
            nursery.start_soon(self.store.run)
            if self.presence is not None:
                nursery.start_soon(self.presence.run)
            if self.is_shared:
                nursery.start_soon(self.contact.run, self.upstream.log.head)
            nursery.start_soon(self.keeper.run)
            if self._following is not None and self._is_following:
                nursery.start_soon(self._following.run)
            if self._coherence is not None and self._is_following:
                nursery.start_soon(self._coherence.run)
            if not self.read_only:
                nursery.start_soon(self.publisher.run)
                nursery.start_soon(self._tick_loop)
                nursery.start_soon(self._durability.run)
                nursery.start_soon(self._contents.run)
                nursery.start_soon(self.snapshots.run)
                if self.health is not None:
                    nursery.start_soon(self.health.run)
                if self.node_changes is not None:
                    nursery.start_soon(self.node_changes.run)
                nursery.start_soon(self.retention.run)
            task_status.started()

    async def _tick_loop(self) -> None:
        seen = -1
        while True:
            await trio.sleep(TICK)
            self.ledger.local_room.look_anew()
            self.trimming.fit_segments()
            await self.ledger.journal.prepare()
            self.ledger.custody.check()
            if self.ledger.accepted != seen or self.put_off.any_unused:
                seen = self.tick(seen)
            if self.intake.is_writable and not self.ledger.standing.is_aside:
                with self._going_on():
                    self._mass_deletions.look()
                    if self._versions is not None:
                        self._versions.look()
            await self.kept_notices.store()
            with self._going_on():
                await self.put_off.delete_slowly()

    def tick(self, seen: int) -> int:
        with self._going_on():
            self.put_off.delete_unused()
            accepted = self.ledger.accepted
            if not self.ledger.standing.is_aside:  # to write the database would end what is made aside
                self.ledger.save()
                seen = accepted
        return seen

    @contextmanager
    def _going_on(self) -> Iterator[None]:
        """An error of the namespace's disk is said, and the drive goes on: the next tick tries again."""
        try:
            with sqlite_errors(self.ledger.namespace.path):
                yield
        except (DriveError, FileSystemError, OSError) as error:
            log.warning("the namespace cannot be written now (the journal has it all): %s", error)

    async def close(self) -> None:
        """Write down the state and let go of all files. What is not published stays in the journal;
        the next open goes on. Idempotent. `run` has to have ended; nothing else may be called any more."""
        if self.intake.closing:
            return
        self.put_off.close()
        await self.intake.close()
        try:
            if not self.read_only:
                self.ledger.save()
                with suppress(JournalLostError):  # it was said, and all is stored, or was given up
                    await self.ledger.journal.sync()
                await self.trimming.settle()
        finally:
            # The lock of the state folder is let go of last: who waits for it finds everything closed.
            try:
                await self.upstream.close()
            finally:
                self._close_local()
