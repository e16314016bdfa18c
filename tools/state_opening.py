"""Opening a drive on the state that this machine has of it, whatever stores the drive.

Invariants:
1. The order of opening is: state folder (locked), store, recovery. Each step that fails lets go of what the
   steps before it took.
2. State that the drive has gone past is kept aside, never merged and never deleted.
"""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Protocol

import trio

from backend.commits import SILENT_SECONDS
from backend.errors import LeaseHeldError, sole
from backend.keys import DriveKeys
from backend.system import Environment
from backend.upstream import Head, Upstream
from cache.disk import CachedBlocks
from cache.drive import Circumstances, Drive
from cache.health import Health, NodeChanging
from cache.local import LocalState, stale
from cache.opening import DriveOptions, open_drive
from cache.recovery import StaleCacheError
from tools import old_place, pairing, second_mount
from tools.closing import closed_on_failure
from tools.compose import Waiting
from tools.host import mounts
from tools.host.mounts import Mount
from tools.host.places import Folders

ENDING_SECONDS: Final = 15.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class OpenStore:
    """The store of a drive, open, with its background work running; and what the drive is told of it."""

    upstream: Upstream
    health: Health | None
    node_changes: NodeChanging | None
    disk_cache: CachedBlocks | None


class StoredDrive(Protocol):
    """A drive and its keys, wherever it is stored."""

    @property
    def source(self) -> str:
        """The name of the drive in the kernel's table of mounts."""

    @property
    def drive_id(self) -> bytes:
        """16 bytes."""

    @property
    def keys(self) -> DriveKeys:
        """Those of the drive."""


class Store(Protocol):
    """Where a drive is stored, as its opening sees it."""

    @property
    def drive(self) -> StoredDrive:
        """The drive that is stored there."""

    async def opened(
        self, nursery: trio.Nursery, known: Head | None, seen: Callable[[], Head], *, is_in_state: bool
    ) -> OpenStore:
        """Open it; its tasks belong to `nursery`, and end when the upstream is closed. `known`: the newest
        commit that this machine has seen; `RollbackError` if it is not in the log. `seen`: the newest one at
        any later time, number 0 where there is none. `is_in_state`: recovery asks that too, as the state that
        is here has it. An error leaves nothing behind."""


@asynccontextmanager
async def opened_on_state(
    store: Store, folders: Folders, options: DriveOptions, waiting: Waiting, environment: Environment
) -> AsyncIterator[Drive]:
    """The drive, recovered and ready for `Drive.run`; closed when the block ends. Raises what opening
    raises, a single error never wrapped in a group. `waiting` is told what opening waits for, when it has for
    two seconds, and what one that fails has moved aside."""
    try:
        async with trio.open_nursery() as nursery:
            opened = await _Opening(nursery, store, folders, options, waiting, environment).run()
            try:
                yield opened
            finally:
                with trio.CancelScope(shield=True):
                    await opened.close()
                    if not (options.read_only or opened.ledger.unpublished):
                        await trio.to_thread.run_sync(pairing.note_closing, folders, environment)
    except BaseExceptionGroup as group:
        raise sole(group) from None


class _SetAsideError(Exception):
    """The state was stale, and is set aside. `known`: the newest commit that it had seen; `problems`: what of
    its journal cannot be used."""

    def __init__(self, kept: Path, known: Head | None, problems: Sequence[str]) -> None:
        super().__init__(
            "changes that were not stored when the drive was last used here are set aside, as the drive has "
            f"gone on without them: {'; '.join([str(kept), *problems])}"
        )
        self.known = known


@dataclass(frozen=True, slots=True)
class _Opening:
    """One opening of the drive in `store`; its tasks belong to `nursery`."""

    nursery: trio.Nursery
    store: Store
    folders: Folders
    options: DriveOptions
    waiting: Waiting
    environment: Environment

    async def run(self) -> Drive:
        """The drive, also where a stale state has to be set aside first; it is told what was found."""
        notices = await trio.to_thread.run_sync(old_place.bring_over, self.folders, self.environment.disk)
        try:
            opened = await self._with_state(notices, None)
        except _SetAsideError as error:
            notices.append(
                f"{error}; drivefs stale list {self.store.drive.source} shows it, drivefs stale restore "
                "brings it back"
            )
            opened = await self._with_state(notices, error.known)
        for notice in opened.notices:
            log.warning("%s", notice)
        return opened

    async def _with_state(self, notices: Sequence[str], known: Head | None) -> Drive:
        """The drive with the state that is here, locked. `_SetAsideError`: it was stale."""
        await trio.to_thread.run_sync(self.environment.disk.make_folders, str(self.folders.cache))
        local = await self._local_state()
        known = local.known_head or known
        try:
            return await self._with_store(local, notices, known)
        except StaleCacheError:
            problems = local.ledger.journal.problems
            kept = await trio.to_thread.run_sync(pairing.set_aside, local, self.folders, self.environment)
            _let_go(local, self.waiting)
            raise _SetAsideError(kept, known, problems) from None
        except BaseException:
            _let_go(local, self.waiting)
            raise

    async def _with_store(self, local: LocalState, notices: Sequence[str], known: Head | None) -> Drive:
        if not self.options.read_only:
            await self._note(pairing.require_journal)
        is_in_state = local.known_head is not None

        def seen() -> Head:
            here = local.ledger.head
            return known if known is not None and known.number > here.number else here

        store = await self.store.opened(self.nursery, known, seen, is_in_state=is_in_state)
        async with closed_on_failure(store.upstream):
            return await self._recovered(local, store, notices)

    async def _recovered(self, local: LocalState, store: OpenStore, notices: Sequence[str]) -> Drive:
        found = await trio.to_thread.run_sync(stale.found, self.folders.state)
        set_aside = sum(not each.is_brought_in for each in found)
        circumstances = Circumstances(
            store.health, store.node_changes, tuple(notices), set_aside, store.disk_cache
        )
        drive, options = self.store.drive, self.options
        opened = await open_drive(local, store.upstream, drive.drive_id, drive.keys, options, circumstances)
        if not self.options.read_only:
            # A power cut may not take the files of a journal that the notes say is there.
            await opened.ledger.journal.sync()
            await self._note(pairing.note_opening)
            closing = partial(pairing.note_closing, self.folders, self.environment)
            opened.ledger.custody.on_loss.append(closing)
        return opened

    async def _note(self, call: Callable[[Folders, Environment], None]) -> None:
        """One of the calls by which cache and state folder know each other."""
        await trio.to_thread.run_sync(call, self.folders, self.environment)

    async def _local_state(self) -> LocalState:
        """The state folder, locked. A process whose mount was just taken away by umount(8) still closes its
        databases: it is waited for. `LeaseHeldError` if the drive is mounted, or the wait is over."""
        source = self.store.drive.source
        deadline = trio.current_time() + ENDING_SECONDS
        silent_until = trio.current_time() + SILENT_SECONDS
        while True:
            try:
                return LocalState(self.folders.state, self.environment)
            except LeaseHeldError:
                for mount in mounts.drives():
                    if mount.source == source and await self._has_it_open(mount):
                        raise LeaseHeldError(f"{source}: already mounted at {mount.mountpoint}") from None
                if trio.current_time() > deadline:
                    raise
            if trio.current_time() > silent_until:
                silent_until = math.inf
                self.waiting(
                    f"the last mount of the drive still ends; waiting {ENDING_SECONDS:.0f} s at most"
                )
            await trio.sleep(0.05)

    async def _has_it_open(self, mount: Mount) -> bool:
        def ask() -> bool:
            present = second_mount.shows_the_present(mount)
            return present and second_mount.uses_state(mount, self.folders.state)

        return await trio.to_thread.run_sync(ask, abandon_on_cancel=True)


def _let_go(local: LocalState, tell: Waiting) -> None:
    """Of a state that could not be opened: what was moved aside of it is found by no later opening."""
    for notice in local.notices:
        tell(notice)
    local.close()
