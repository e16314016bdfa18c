"""The drive: the one core that every door uses. POSIX calls on inodes and raw names.

Names and attributes are `cache.tree.tree.Tree`, whose invariants hold here too; this adds content, the
background work and the end. Event-loop thread only.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from stat import S_ISREG
from typing import Final

import trio

from backend.errors import DriveError, FencedError
from backend.upstream import BlockId, StoreStatus, Upstream
from cache.attributes import FileSystemStatistics
from cache.blocks import AHEAD, BlockCache, Content, Sealer
from cache.errors import (
    DirectoryError,
    DriveFullError,
    FileSystemError,
    FileTooBigError,
    InvalidArgumentError,
    JournalLostError,
    UnreadableError,
)
from cache.health import Health
from cache.history import PastTree
from cache.journal import Layer, Ledger, Need, Trimming
from cache.messages import DriveStatus, SetApart
from cache.namespace import MAX_NAME, MAX_SIZE, Point, sqlite_errors
from cache.publish import Quiet, SnapshotKeeper
from cache.retention import RetentionKeeper, SpaceAccounting, paths_of
from cache.tree import BLOCK_SIZE, Tree

log = logging.getLogger(__name__)

TICK: Final = 1.0
PATIENCE: Final = 10.0
"""Seconds without any progress after which `redundancy` no longer waits."""
STATUS_INTERVAL: Final = 30.0
STATUS_PAUSE: Final = 0.5
"""Seconds between two looks at the nodes, however often they change."""
NAMED: Final = 10
"""So many files are named in a message."""
LARGEST_RECORD: Final = 8 << 20
"""A larger write is journaled in several records."""


class Drive(Tree):
    """See the module. Made by `cache.opening.open_drive`, which also runs recovery; `run` must be
    running while the drive is used."""

    retention: RetentionKeeper
    """set by `cache.opening.open_drive` before anything runs"""

    def __init__(
        self,
        ledger: Ledger,
        trimming: Trimming,
        content: Content,
        blocks: BlockCache,
        sealer: Sealer,
        upstream: Upstream,
        snapshots: SnapshotKeeper,
        close_local: Callable[[], None],
        quiet: Quiet,
        journal_limit: int,
        read_only: bool,
    ) -> None:
        super().__init__(ledger, journal_limit, read_only)
        self.trimming = trimming
        self._content = content
        self.blocks = blocks
        self._sealer = sealer
        self._upstream = upstream
        self._snapshots = snapshots
        self._close_local = close_local
        self._quiet = quiet
        self.past = PastTree(self._namespace, content, ledger.flush)
        self._sealing_ahead: dict[int, Layer] = {}
        self._seal_ahead = trio.Event()
        self._store_status: StoreStatus | None = None
        self.health: Health | None = None
        """set by who builds the store; None where nobody can look after it"""
        self.notices: list[str] = []
        """set by who opens the drive: what the person who opens it is to be told"""
        self.set_aside = 0
        """likewise: how many states lie here that the drive has gone past"""

    @property
    def read_only(self) -> bool:
        """Whether nothing can be changed."""
        return self._read_only

    async def stored_sizes(self, blocks: Sequence[BlockId]) -> dict[BlockId, int]:
        """Sealed bytes of those of the blocks that are stored."""
        return await self._upstream.housekeeping.sizes(blocks)

    def statistics(self) -> FileSystemStatistics:
        """statvfs(3): data that fits with all its redundancy, beside what waits to be stored; what is free
        but not available is the reserve. Zeros as long as nothing is known of the nodes."""
        capacity = None if self._store_status is None else self._store_status.capacity
        sizes = (0, 0, 0) if capacity is None else (capacity.total, capacity.free, capacity.available)
        unstored = self.ledger.room.unstored
        total, free, available = sizes[0], max(sizes[1] - unstored, 0), max(sizes[2] - unstored, 0)
        inodes = self._namespace.statistics().inodes
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

    # Content

    async def read(self, inode: int, offset: int, size: int) -> bytes | memoryview:
        """Up to `size` bytes; fewer only at the file's end. `DriveError` if they cannot be had."""
        row = self._row(inode)
        if not row.is_regular:  # the size of others counts no bytes of content
            raise DirectoryError("is a directory") if row.is_directory else InvalidArgumentError("no file")
        layer = self._dirty.top(inode)
        whole = row.size if layer is None else layer.size(row.size)
        end = min(offset + size, whole)
        if end <= offset:
            return b""
        return await self._content.read(inode, offset, end, whole)

    async def write(self, inode: int, offset: int, data: bytes | memoryview) -> None:
        """All of `data` at `offset`. Waits while the journal is full and the nodes are slower, and not for
        ever. `DriveFullError`: the nodes could not store it."""
        await self._room(self._need(inode, offset + len(data), len(data)), len(data))
        row = self._row(inode)
        if not S_ISREG(row.mode):
            raise InvalidArgumentError("not a regular file")
        if offset + len(data) > MAX_SIZE:
            raise FileTooBigError("a file is at most 2^63-1 bytes")
        if not data:
            return
        view = memoryview(data)
        for start in range(0, len(view), LARGEST_RECORD):
            part = view[start : start + LARGEST_RECORD]
            layer = self.ledger.write(inode, offset + start, part, self.now())
        self.publisher.wake()
        if layer.written_to - layer.sealed_to >= 2 * AHEAD and inode not in self._sealing_ahead:
            self._sealing_ahead[inode] = layer
            self._seal_ahead.set()

    def _need(self, inode: int, end: int, size: int) -> Need:
        """What room a write asks for: where nothing but the reserve is left, to overwrite is less."""
        if self.ledger.room.allows(Need.GROW, size) or end > self.size(inode):
            return Need.GROW
        return Need.CHANGE

    async def settle(self, inode: int) -> None:
        """A descriptor of the file was closed: its content is ready for a commit."""
        self._dirty.settle(inode)

    async def fsync(self, inode: int, *, alone: bool = False) -> None:
        """Everything accepted so far, of this file and all others, survives a power cut. `alone`: as of
        `Journal.sync`.
        `InputOutputError` if the disk did not take it. Where the journal is lost the nodes have it then.
        `FencedError`: what is in the journal will never be published."""
        self._dirty.sync(inode)
        try:
            await self.ledger.journal.sync(alone=alone)
        except JournalLostError:
            await self.sync()
        await self._confirm_writer()

    async def _confirm_writer(self) -> None:
        try:
            await self._upstream.confirm_writer()
        except FencedError as error:
            await self.publisher.fence(error)
            raise

    async def sync(self) -> None:
        """Everything accepted so far is stored and published. Raises what stopped it. `DriveFullError`: all
        but files for which the nodes have no room; `UnreadableError`: all but others that are set apart."""
        if not self._read_only:
            await self.publisher.sync()
        apart = await self.set_apart()
        if apart:
            is_full = self.ledger.set_apart.lack_of_room() is not None
            raise (DriveFullError if is_full else UnreadableError)(_without(apart))

    async def set_apart(self) -> dict[str, str]:
        """Why files are not published, by path (`cache.journal.set_apart`)."""
        reasons = self.publisher.set_apart()
        if not reasons:
            return {}
        self.ledger.flush()
        paths = await trio.to_thread.run_sync(paths_of, self._namespace.path, reasons.keys())
        return {paths[inode]: reason for inode, reason in reasons.items()}

    @property
    def lost_journal(self) -> str:
        """One line for people if the journal was taken away under the mount; empty while it is there."""
        return self.ledger.custody.lost

    @property
    def is_only_here(self) -> bool:
        """Whether something was accepted that is neither on the nodes nor in a journal that can be found."""
        return not self._read_only and not self.ledger.custody.check() and self.ledger.unpublished

    async def redundancy(self) -> str:
        """Wait until what is stored has all the redundancy that the profile promises, as long as that goes
        on; a line for people if it has less."""
        if self._read_only:
            return ""
        short = await self._upstream.housekeeping.redundancy(PATIENCE)
        if not short.packs:
            return ""
        packs = "1 pack lacks" if short.packs == 1 else f"{short.packs} packs lack"
        where = f" on {', '.join(short.nodes)}" if short.nodes else ""
        return (
            f"not yet with the redundancy that was promised: {packs} fragments{where}; "
            "a mount of the drive writes what is not there when it can"
        )

    # Life

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """The background work, until cancelled."""
        await self._refresh_status()
        async with trio.open_nursery() as nursery:
            self._content.tasks = nursery
            nursery.start_soon(self._status_loop)
            if not self._read_only:
                nursery.start_soon(self.publisher.run)
                nursery.start_soon(self._tick_loop)
                nursery.start_soon(self._confirm_loop)
                nursery.start_soon(self._seal_ahead_loop)
                nursery.start_soon(self._snapshots.run)
                if self.health is not None:
                    nursery.start_soon(self.health.run)
                nursery.start_soon(self.retention.run)
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                self._content.tasks = None

    async def _confirm_loop(self) -> None:
        with suppress(FencedError):
            while True:
                await trio.sleep(TICK)
                await self._confirm_writer()

    async def _tick_loop(self) -> None:
        seen = -1
        while True:
            await trio.sleep(TICK)
            self.ledger.local_room.look_anew()
            self.trimming.fit_segments()
            await self.ledger.journal.prepare()
            self.ledger.custody.check()
            if self.ledger.accepted != seen or self.any_unused:
                seen = self._tick(seen)
            await self._delete_slowly()

    async def _delete_slowly(self) -> None:
        """What a tick left of the inodes to be deleted, as the disk is short of room; until none can be."""
        before = len(self._unused) + 1
        while 0 < len(self._unused) < before and self.trimming.is_tight:
            before = len(self._unused)
            await self.trimming.relieve()
            self.delete_unused()

    def _tick(self, seen: int) -> int:
        try:
            with sqlite_errors(self._namespace.path):
                self.delete_unused()
            accepted = self.ledger.accepted
            self.ledger.flush()
        except (DriveError, FileSystemError, OSError) as error:
            log.warning("the namespace cannot be written now (the journal has it all): %s", error)
            return seen
        return accepted

    async def _status_loop(self) -> None:
        room = self.ledger.room
        while True:
            with trio.move_on_after(STATUS_INTERVAL):
                await room.wanted.wait()
            await self._refresh_status()
            await self.ledger.wake_waiting()
            await trio.sleep(STATUS_PAUSE)

    async def _refresh_status(self) -> None:
        """Ask the store, and reckon with what it says."""
        room = self.ledger.room
        room.wanted = trio.Event()
        accepted, unstored = room.accepted, self.ledger.unstored_bytes
        try:
            status = self._store_status = await self._upstream.housekeeping.status()
        except DriveError as error:
            log.info("the store's state cannot be had now: %s", error)
        else:
            unstored = max(unstored, status.pending_bytes)
            was_full = room.is_full
            room.measured(status.capacity, accepted, unstored, trio.current_time())
            if room.is_full and not was_full:
                log.warning("the drive is full: its nodes have only their reserve left")

    async def _seal_ahead_loop(self) -> None:
        while True:
            await self._seal_ahead.wait()
            self._seal_ahead = trio.Event()
            while self._sealing_ahead:
                inode, layer = next(iter(self._sealing_ahead.items()))
                try:
                    async with self._quiet.working():
                        await self._sealer.seal_ahead(inode, layer)
                except (DriveError, FileSystemError, OSError) as error:
                    log.info("sealing ahead has to wait: %s", error)
                    layer.sealed_to = layer.written_to
                del self._sealing_ahead[inode]

    def settled(self, inode: int) -> None:
        """The content of `inode` is not frozen any more."""
        self._delete_if_unused(inode)

    async def status(self) -> DriveStatus:
        """For people and tools: what is accepted, not yet stored, not yet published; the store."""
        await self._refresh_status()
        apart = await self.set_apart()
        ledger, sealer, totals = self.ledger, self._sealer, self._namespace.statistics()
        head = ledger.head
        return DriveStatus(
            read_only=self._read_only,
            fenced=self.publisher.fenced,
            problem=ledger.custody.lost or self.publisher.problem,
            journal_lost=bool(ledger.custody.lost),
            set_aside=self.set_aside,
            set_apart=tuple(SetApart(path, reason) for path, reason in apart.items()),
            commit=head.number,
            published=not ledger.unpublished,
            pending_commit=None if ledger.pending is None else ledger.pending.number,
            open_operations=ledger.open_operations,
            dirty_files=len(self._dirty),
            dirty_bytes=self._dirty.data_bytes(),
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
            scrub=None if self.health is None else self.health.scrub_status(),
            store=self._store_status,
        )

    def _reachable_limit(self) -> int:
        """What the journal may take, as its disk is now."""
        used = self.ledger.journal.used_bytes
        return int(min(self._journal_limit, used + max(self.ledger.local_left(), 0)))

    def points(self) -> list[Point]:
        """The retained points, the oldest first."""
        return self._namespace.points.points()

    def space(self) -> SpaceAccounting:
        """For measuring the drive as of now."""
        self.ledger.flush()
        return SpaceAccounting(self._namespace.path, self._upstream.housekeeping)

    async def close(self) -> None:
        """Write down the state and let go of all files. What is not published stays in the journal;
        the next open goes on. Idempotent. `run` has to have ended; nothing else may be called any more."""
        if self._closing:
            return
        self._closing = True
        await self.ledger.wake_waiting()
        try:
            if not self._read_only:
                self.ledger.flush()
                with suppress(JournalLostError):  # it was said, and all is stored, or was given up
                    await self.ledger.journal.sync()
                await self.trimming.settle()
        finally:
            # The lock of the state folder is let go of last: who waits for it finds everything closed.
            try:
                await self._upstream.close()
            finally:
                self._close_local()


def _without(apart: Mapping[str, str]) -> str:
    """What a sync says that left these files out."""
    files = "; ".join(f"{path} ({reason})" for path, reason in list(apart.items())[:NAMED])
    more = f"; and {len(apart) - NAMED} more" if len(apart) > NAMED else ""
    if len(apart) == 1:
        return (
            f"all is stored but 1 file: {files}; it stays in the journal and is tried again; deleting it "
            "ends that"
        )
    return (
        f"all is stored but {len(apart)} files: {files}{more}; they stay in the journal and are tried again; "
        "deleting them ends that"
    )
