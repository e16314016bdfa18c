"""Opening a drive: in which order what `tools.compose` builds takes hold of the state, the nodes and the log.

Invariants:
1. The order of opening is: state folder (locked), lease, commit log, block index, background work,
   recovery. Each step that fails lets go of what the steps before it took.
2. The block index agrees with the nodes before recovery reads a block (I4): an index that is new,
   damaged or behind is completed from the packs.
3. State that the drive has gone past is kept aside, never merged and never deleted.
"""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import trio

from backend.commits import REMEMBERED, SILENT_SECONDS
from backend.errors import DriveError, LeaseHeldError, sole
from backend.nodes import Node, NodeHealth, NodeSet, PatientNode
from backend.system import THIS_MACHINE, Environment
from backend.upstream import Head
from cache.blocks import BlockCache
from cache.drive import Circumstances, Drive
from cache.local import LocalState, stale
from cache.opening import DriveOptions, open_drive
from cache.recovery import StaleCacheError
from tools import compose, old_place, pairing, second_mount
from tools.compose import INDEX_FILE, Built, UnlockedDrive, Waiting
from tools.drive_nodes import open_nodes
from tools.host import mounts
from tools.host.mounts import Mount
from tools.host.places import Folders
from tools.mounted_nodes import MountedNodes

ENDING_SECONDS: Final = 15.0
RESTORING_CACHE: Final = 64 << 20

log = logging.getLogger(__name__)


@asynccontextmanager
async def opened_drive(
    drive: UnlockedDrive,
    folders: Folders,
    options: DriveOptions,
    *,
    scrub_interval: float = 0.0,
    waiting: Waiting = log.info,
    environment: Environment = THIS_MACHINE,
) -> AsyncIterator[Drive]:
    """The drive, recovered and ready for `Drive.run`; closed when the block ends. Raises what opening
    raises, a single error never wrapped in a group. `scrub_interval`: seconds, 0: only when asked to.
    `waiting` is told what opening waits for, when it has for two seconds, and what one that fails has moved
    aside. `environment`: of the device that opens it."""
    try:
        async with trio.open_nursery() as nursery:
            opening = _Opening(nursery, drive, folders, options, scrub_interval, waiting, environment)
            opened = await opening.run()
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
    """One opening of `drive`; its tasks belong to `nursery`."""

    nursery: trio.Nursery
    drive: UnlockedDrive
    folders: Folders
    options: DriveOptions
    scrub_interval: float
    waiting: Waiting
    environment: Environment

    async def run(self) -> Drive:
        """The drive, also where a stale state has to be set aside first; it is told what was found."""
        notices = await trio.to_thread.run_sync(old_place.bring_over, self.folders, self.environment.disk)
        try:
            opened = await self._with_state(notices, None)
        except _SetAsideError as error:
            notices.append(
                f"{error}; drivefs stale list {self.drive.folder} shows it, drivefs stale restore brings it "
                "back"
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
            return await self._with_nodes(local, notices, known)
        except StaleCacheError:
            # A journal that is set aside is not missed, also if this ends in the middle.
            await self._note(pairing.note_closing)
            problems = local.ledger.journal.problems
            kept = await trio.to_thread.run_sync(local.set_aside)
            _let_go(local, self.waiting)
            raise _SetAsideError(kept, known, problems) from None
        except BaseException:
            _let_go(local, self.waiting)
            raise

    async def _with_nodes(self, local: LocalState, notices: Sequence[str], known: Head | None) -> Drive:
        nodes = NodeSet(open_nodes(self.drive.folder, self.drive.file, self.environment))
        if not self.options.read_only:
            await self._note(pairing.require_journal)
        await trio.to_thread.run_sync(
            pairing.forget_foreign_index, self.folders, INDEX_FILE, self.environment
        )
        if not self.options.read_only:
            for node in nodes.values():
                self.nursery.start_soon(_remove_debris, node)
        built = await self._built(nodes)
        try:
            await built.upstream.open(known=known)
            await built.upstream.prepare(built.store.reconcile)
            await self.nursery.start(built.upstream.run)
            return await self._recovered(local, built, notices)
        except BaseException:
            with trio.CancelScope(shield=True):
                await built.upstream.close()
            raise

    async def _built(self, nodes: Mapping[str, Node]) -> Built:
        drive, cache, environment = self.drive, self.folders.cache, self.environment
        voters, lease = NodeHealth(REMEMBERED), None
        if not self.options.read_only:
            lease = compose.lease_on(nodes, drive, self.waiting, environment, voters)
        asked = self.options.cache_disk
        disk = await trio.to_thread.run_sync(compose.disk_cache, drive, cache, asked, environment)
        return compose.build_upstream(
            drive, nodes, cache, self.scrub_interval, lease, voters, environment, disk
        )

    async def _recovered(self, local: LocalState, built: Built, notices: Sequence[str]) -> Drive:
        set_aside = len(await trio.to_thread.run_sync(stale.found, self.folders.state))
        changing = None
        if built.nodes is not None:
            changing = MountedNodes(self.drive, built.nodes, self.environment)
        circumstances = Circumstances(built.health, changing, tuple(notices), set_aside, built.disk_cache)
        file, keys = self.drive.file, self.drive.keys
        opened = await open_drive(local, built.upstream, file.id, keys, self.options, circumstances)
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
        folder = self.drive.folder
        deadline = trio.current_time() + ENDING_SECONDS
        silent_until = trio.current_time() + SILENT_SECONDS
        while True:
            try:
                return LocalState(self.folders.state, self.environment)
            except LeaseHeldError:
                for mount in mounts.drives():
                    if mount.source == folder and await _shows_the_present(mount):
                        raise LeaseHeldError(f"{folder}: already mounted at {mount.mountpoint}") from None
                if trio.current_time() > deadline:
                    raise
            if trio.current_time() > silent_until:
                silent_until = math.inf
                self.waiting(
                    f"the last mount of the drive still ends; waiting {ENDING_SECONDS:.0f} s at most"
                )
            await trio.sleep(0.05)


async def _shows_the_present(mount: Mount) -> bool:
    return await trio.to_thread.run_sync(second_mount.shows_the_present, mount, abandon_on_cancel=True)


def _let_go(local: LocalState, tell: Waiting) -> None:
    """Of a state that could not be opened: what was moved aside of it is found by no later opening."""
    for notice in local.notices:
        tell(notice)
    local.close()


@asynccontextmanager
async def opened_blocks(drive: UnlockedDrive, index_folder: Path) -> AsyncIterator[BlockCache]:
    """The blocks on the nodes, for reading only and beside any mount, with an index that is made anew in
    `index_folder`. `UnavailableError`."""
    nodes = open_nodes(drive.folder, drive.file)
    voters = NodeHealth(REMEMBERED)
    built = compose.build_upstream(drive, nodes, index_folder, 0.0, None, voters, THIS_MACHINE, None)
    try:
        await built.store.reconcile()
        yield compose.client(drive, built.upstream, RESTORING_CACHE).blocks
    finally:
        with trio.CancelScope(shield=True):
            await built.upstream.close()


async def _remove_debris(node: Node) -> None:
    """Let the node remove what interrupted writes left long ago. Nobody waits for that."""
    try:
        await PatientNode(node, compose.OBJECT_PATIENCE).tidy()
    except DriveError as error:
        log.info("%s was not tidied: %s", node.name, error)
