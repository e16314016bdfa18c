"""Changing the nodes of a drive that is mounted: in the mount's process, under the mount's lease.

The changes are those of `tools.node_changes`; here is what is special to a drive in use: what the running
session has to be told.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Final

import trio

from backend.blocks import PackMoves
from backend.cluster import DriveFile, HeldDrive, check_nodes
from backend.errors import FencedError, UsageError
from backend.health import NodeChange, NodesWanted, PlaceWanted
from backend.local import RunningNodes
from backend.nodes import LeasedNode, Node, NodePlace, place_at
from backend.system import THIS_MACHINE, Environment
from tools import compose, drive_nodes, node_entries, node_exchange
from tools.compose import UnlockedDrive
from tools.drive_nodes import TOOL_PATIENCE
from tools.errors import ToolError
from tools.node_changes import Listener, NodeChanges
from tools.one_change import GOES_ON, OneChange
from tools.quantities import counted

DEFAULT_RATE: Final = 32.0 * (1 << 20)
"""Bytes a second that moving reads, unless another rate is asked for: programs use the nodes as well."""

REPAIR_PATIENCE: Final = 60.0
"""Seconds that the repair of a replaced node is waited for when nothing gets better."""

Leave = Callable[[HeldDrive, str, float | None, Listener], Awaitable[None]]
"""It has the drive move to an address, with so many bytes a second at most, and tells how far it is."""


class MountedNodes:
    """See `cache.health.NodeChanging`. `drive` is as it was opened, `running` what works with its nodes."""

    def __init__(
        self, drive: UnlockedDrive, running: RunningNodes, environment: Environment = THIS_MACHINE
    ) -> None:
        self._running = running
        self._environment = environment
        self._nodes = running.bare.wrapped(partial(_patient_and_leased, running, environment))
        self._one = OneChange(self._why_stopped)
        self._told = self._one.told
        self._changes = NodeChanges(drive, self._hold, self._told)
        self._leave: Leave | None = None

    def let_leave(self, leave: Leave) -> None:
        """From now on the drive can be asked to move away, by `leave`."""
        self._leave = leave

    async def run(self) -> None:
        await self._one.run()

    async def _why_stopped(self) -> str:
        try:
            await self._running.lease.confirm()
        except FencedError as error:  # the last step of a move, which is not cut off
            return str(error)
        return GOES_ON

    def begin(self, wanted: NodesWanted) -> None:
        self._one.begin(wanted.verb, partial(self._do, self._work_for(wanted)))

    def stop(self) -> None:
        self._one.stop()

    async def ended(self) -> NodeChange | None:
        return await self._one.ended()

    def status(self) -> NodeChange | None:
        return self._told.change

    async def _do(self, work: Callable[[], Awaitable[None]]) -> None:
        await self._finish_interrupted()
        await work()

    def _work_for(self, wanted: NodesWanted) -> Callable[[], Awaitable[None]]:
        """`UsageError` if there is no such change."""
        places = [_place(each) for each in wanted.places]
        rate = wanted.rate or DEFAULT_RATE
        match wanted.verb, len(places), len(wanted.names):
            case "rebalance", 0, 0:
                return partial(self._changes.rebalance, rate)
            case "add", count, 0 if count:
                return partial(self._changes.add, places, wanted.zone, rate)
            case "remove", 0, count if count:
                return partial(self._changes.remove, wanted.names, rate)
            case "replace", 0 | 1, 1:
                return partial(self._replace, wanted.names[0], places, wanted.zone)
            case "move-to", 0, 1 if self._leave is not None:
                return partial(self._move, self._leave, wanted.names[0], wanted.rate)
        raise UsageError(f"there is no such change of nodes: {wanted.verb}")

    async def _replace(self, name: str, places: Sequence[NodePlace], zone: str | None) -> None:
        """Have the node made anew; its fragments are queued for repair, and repaired before this returns."""
        folder = self._changes.drive.folder
        place = places[0] if places else node_entries.named(self._changes.file, name).place(folder)
        await node_exchange.exchange(self._changes, name, place, zone)
        epoch = self._changes.file.epoch
        self._told.say(f"{folder}: {name} is {place} now (epoch {epoch}); rebuilding what it lacks")
        store = self._running.store
        self._told.step("repair")
        await self._running.settle()
        await store.reconcile()
        short = await store.redundancy(REPAIR_PATIENCE)
        self._told.clear()
        if not await self._changes.fill_votes():
            await self._changes.settle_objects()
        if name in short.nodes:
            raise ToolError(
                f"{counted(short.packs, 'pack')} could not be repaired yet; the mount goes on trying"
            )

    async def _move(self, leave: Leave, address: str, rate: float | None) -> None:
        async with self._hold(self._changes.drive) as held:
            await leave(held, address, rate, self._told)

    async def _finish_interrupted(self) -> None:
        """Have the map in force everywhere that an interrupted change began to write. One that this process
        does not know of has been made by somebody else, if it is not the next one."""
        folder, mine = self._changes.drive.folder, self._changes.file
        now = (await trio.to_thread.run_sync(check_nodes.survey, folder)).file
        if now.id == mine.id and now.epoch == mine.epoch + 1:
            await self._changes.finish(replace(now, moved="") if now.moved else now)
            self._told.say(f"{folder}: a change of its nodes was interrupted; it is finished now")

    @asynccontextmanager
    async def _hold(self, drive: UnlockedDrive) -> AsyncIterator[HeldDrive]:
        await trio.lowlevel.checkpoint()
        use = _SessionUse(drive, self._running, self._environment)
        yield HeldDrive(drive.folder, drive.file, self._nodes, self._running.lease, use)


class _SessionUse:
    """See `backend.cluster.cluster_change.Use`."""

    def __init__(self, drive: UnlockedDrive, running: RunningNodes, environment: Environment) -> None:
        self._drive = drive
        self._running = running
        self._environment = environment
        self.still = running.still
        self.settle = running.settle

    @property
    def users(self) -> PackMoves:
        return self._running.store.moves

    def prepare(self, file: DriveFile) -> Callable[[], Awaitable[None]]:
        members = compose.members(self._drive, self._running.bare, file, self._environment)
        return partial(self._running.go_over, members)


def _patient_and_leased(running: RunningNodes, environment: Environment, node: Node) -> Node:
    return LeasedNode(drive_nodes.patient_node(TOOL_PATIENCE, environment, node), running.lease.check)


def _place(wanted: PlaceWanted) -> NodePlace:
    return place_at(wanted.url, "/", wanted.settings)
