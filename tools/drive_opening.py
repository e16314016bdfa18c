"""Opening a drive of nodes: in which order what `tools.compose` builds takes hold of the nodes and the log.

Invariants:
1. The order of opening is: state folder (`tools.state_opening`), lease, commit log, block index, background
   work, recovery. Each step that fails lets go of what the steps before it took.
2. The block index agrees with the nodes before recovery reads a block (I4): an index that is new,
   damaged or behind is completed from the packs.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from backend.commits import REMEMBERED
from backend.errors import DriveError
from backend.nodes import Node, NodeHealth, NodeSet, PatientNode
from backend.system import THIS_MACHINE, Environment
from backend.upstream import Head
from cache.client import Client
from cache.drive import Drive
from cache.opening import DriveOptions
from tools import compose, pairing
from tools.closing import closed_at_end, closed_on_failure
from tools.compose import INDEX_FILE, Built, UnlockedDrive, Waiting
from tools.drive_nodes import far_nodes, open_nodes
from tools.host.places import Folders
from tools.mounted_nodes import MountedNodes
from tools.state_opening import OpenStore, opened_on_state

RESTORING_CACHE: Final = 64 << 20

log = logging.getLogger(__name__)


def opened_drive(
    drive: UnlockedDrive,
    folders: Folders,
    options: DriveOptions,
    *,
    scrub_interval: float = 0.0,
    waiting: Waiting = log.info,
    environment: Environment = THIS_MACHINE,
) -> AbstractAsyncContextManager[Drive]:
    """As `opened_on_state`. `scrub_interval`: seconds, 0: only when asked to. `environment`: of the device
    that opens it."""
    store = _NodeStore(drive, folders, options, scrub_interval, waiting, environment)
    return opened_on_state(store, folders, options, waiting, environment)


@dataclass(frozen=True, slots=True)
class _NodeStore:
    """The nodes of `drive`; see `tools.state_opening.Store`."""

    drive: UnlockedDrive
    folders: Folders
    options: DriveOptions
    scrub_interval: float
    waiting: Waiting
    environment: Environment

    async def opened(
        self, nursery: trio.Nursery, known: Head | None, seen: Callable[[], Head], *, is_in_state: bool
    ) -> OpenStore:
        nodes = NodeSet(open_nodes(self.drive.folder, self.drive.file, self.environment))
        await trio.to_thread.run_sync(
            pairing.forget_foreign_index, self.folders, INDEX_FILE, self.environment
        )
        if not self.options.read_only:
            for node in nodes.values():
                nursery.start_soon(_remove_debris, node)
        built = await self._built(nodes)
        async with closed_on_failure(built.upstream):
            await built.upstream.open(known=known)
            await built.upstream.prepare(built.store.reconcile)
            await nursery.start(built.upstream.run)
        changes = None
        if built.nodes is not None:
            changes = MountedNodes(self.drive, built.nodes, self.environment)
        return OpenStore(built.upstream, built.health, changes, built.disk_cache)

    async def _built(self, nodes: Mapping[str, Node]) -> Built:
        drive, cache, environment = self.drive, self.folders.cache, self.environment
        voters, lease = NodeHealth(REMEMBERED), None
        if not self.options.read_only:
            lease = compose.lease_on(nodes, drive, self.waiting, environment, voters)
        asked, is_far = self.options.cache_disk, bool(far_nodes(drive.folder, drive.file))
        disk = await trio.to_thread.run_sync(compose.disk_cache, cache, asked, is_far, environment)
        return compose.build_upstream(
            drive, nodes, cache, self.scrub_interval, lease, voters, environment, disk
        )


@asynccontextmanager
async def opened_reader(drive: UnlockedDrive, index_folder: Path) -> AsyncIterator[Client]:
    """The reader of the blocks on the nodes, beside any mount, with an index that is made anew in
    `index_folder`. It knows no key epoch yet. `UnavailableError`."""
    nodes = open_nodes(drive.folder, drive.file)
    voters = NodeHealth(REMEMBERED)
    built = compose.build_upstream(drive, nodes, index_folder, 0.0, None, voters, THIS_MACHINE, None)
    async with closed_at_end(built.upstream):
        await built.store.reconcile()
        yield compose.client(drive, built.upstream, RESTORING_CACHE)


async def _remove_debris(node: Node) -> None:
    """Let the node remove what interrupted writes left long ago. Nobody waits for that."""
    try:
        await PatientNode(node, compose.OBJECT_PATIENCE).tidy()
    except DriveError as error:
        log.info("%s was not tidied: %s", node.name, error)
