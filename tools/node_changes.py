"""The nodes over a drive's life: adding, removing, exchanging them, and moving what they hold.

One core for a drive that nobody uses (`drivefs node ... DRIVE` holds its lease) and for one in use (its mount
does, under the lease that it has: `tools.mounted_nodes`). The drive's keys are needed: a node may say
anything, and only what they vouch for is moved.

The order of an addition: the new folder gets its identity, the map gets the node (one at a time), then the
fragments and copies that belong there move. Of a removal: the map drains the nodes (weight 0: nothing new
goes there), all they hold moves to the others, and what a lost node held is rebuilt there; then, when nothing
is left on them, the map lets go of them one by one, and their folders are emptied. Of an exchange: see
`tools.node_exchange`. After any interruption the drive can be mounted, with all its promised redundancy, and
the same command goes on with what is left.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import partial
from typing import Final, Protocol

import trio

from backend.cluster import (
    DriveFile,
    HeldDrive,
    ObjectRebalance,
    Rebalance,
    RebalanceReport,
    check_nodes,
    left_on,
)
from backend.coding import Profile, copies_of
from backend.commits import ReplicatedCommitLog, ReplicatedObjects, ranking_of
from backend.errors import UnavailableError
from backend.failpoints import declare
from backend.nodes import NodeEntry, NodePlace
from backend.system import THIS_MACHINE, patience
from tools import compose, drive_nodes, node_entries
from tools.compose import UnlockedDrive
from tools.errors import ToolError
from tools.quantities import counted, format_size

ADDED: Final = declare("node.added", "the map has the new node, which holds nothing")
DRAINED: Final = declare("node.drained", "the map gives the node nothing new; all it holds is there")
EMPTIED: Final = declare("node.emptied", "all that the node held is elsewhere; the map has it still")
TAKEN_OUT: Final = declare("node.taken-out", "the map has let go of the node; its folder is a node's still")
VOTES: Final = declare("node.votes", "one more node votes, which has neither lease nor log yet")

EMPTYINGS: Final = 3
"""So often what a node holds is moved, until nothing is left: of a drive in use, some of it may be in other
hands for a moment."""

Look = Callable[[], Awaitable[None]]
Hold = Callable[[UnlockedDrive], AbstractAsyncContextManager[HeldDrive]]
"""The drive, by the map that is in force, and its lease."""


class Listener(Protocol):
    """A person, or who tells one."""

    def say(self, line: str) -> None:
        """Something was done."""

    def warn(self, line: str) -> None:
        """Something is not as it should be, and the change goes on."""

    def step(self, what: str) -> None:
        """A part of the work begins."""

    def update(self, done: int, total: int) -> None:
        """So many of so many (0: not known) of this part are done."""

    def clear(self) -> None:
        """No part is under way any more."""


class NodeChanges:
    """Changes of the nodes of one drive, one at a time. `drive` follows them. Raises `DriveError`,
    `ToolError` or `OSError` with one line for a person; safe to cancel and to repeat."""

    def __init__(self, drive: UnlockedDrive, hold: Hold, listener: Listener) -> None:
        self.drive = drive
        self._hold = hold
        self._tell = listener

    @property
    def file(self) -> DriveFile:
        """The drive file with the map in force."""
        return self.drive.file

    # Adding

    async def add(self, new: Sequence[NodePlace], zone: str | None, rate: float | None) -> None:
        """Have nodes at these places too, or keep those that were to be removed; each gets its share. `rate`:
        bytes a second that moving reads at most."""
        await trio.to_thread.run_sync(_require_all_there, self.drive.folder, self.file)
        for place in new:
            await self._add_one(place, zone)
        await self.rebalance(rate)

    async def _add_one(self, place: NodePlace, zone: str | None) -> None:
        folder, file = self.drive.folder, self.file
        known = next((entry for entry in file.nodes if entry.place(folder) == place), None)
        if known is not None and known.weight > 0:
            self._tell.say(f"{place}: is {known.name} already")
            return
        async with self._hold(self.drive) as held:
            if known is not None:
                nodes = node_entries.reweighted(file, [known.name], 1.0)
            else:
                entry = await trio.to_thread.run_sync(node_entries.new_node, folder, file, place, zone)
                nodes = (*file.nodes, entry)
            await self._change(held, nodes)
        THIS_MACHINE.failpoints.reached(ADDED)
        name = self.file.nodes[-1].name if known is None else known.name
        self._tell.say(f"{folder}: {place} is {name} (epoch {self.file.epoch})")

    # Removing

    async def remove(self, names: Sequence[str], rate: float | None) -> None:
        """Let go of the nodes, when all that they hold is elsewhere. `rate`: as of `add`."""
        folder, file = self.drive.folder, self.file
        entries = [node_entries.named(file, name) for name in names]
        _require_enough_without(folder, file, names)
        await trio.to_thread.run_sync(_require_others_there, folder, file, names)
        if any(entry.weight > 0 for entry in entries):
            async with self._hold(self.drive) as held:
                await self._change(held, node_entries.reweighted(file, names, 0.0))
            THIS_MACHINE.failpoints.reached(DRAINED)
        for name in names:
            await self._remove_one(node_entries.named(self.file, name), rate)

    async def _remove_one(self, entry: NodeEntry, rate: float | None) -> None:
        name, place = entry.name, entry.place(self.drive.folder)
        async with self._hold(self.drive) as held:
            await self._empty(held, name, rate)
            await self._require_empty(held, name)
            THIS_MACHINE.failpoints.reached(EMPTIED)
            others = tuple(each for each in self.file.nodes if each.name != name)
            await self._change(held, others, partial(self._last_look, held, name))
        THIS_MACHINE.failpoints.reached(TAKEN_OUT)
        self._tell.say(f"{self.drive.folder}: {name} is no node any more (epoch {self.file.epoch})")
        if await trio.to_thread.run_sync(check_nodes.retire, place, entry, self.file.id):
            self._tell.say(f"{place}: holds nothing of the drive now")
        else:
            self._tell.say(f"{place}: was not there; what is on it is not needed, and may be deleted")
        await self.fill_votes()

    async def _empty(self, held: HeldDrive, name: str, rate: float | None) -> None:
        for _ in range(EMPTYINGS):
            await self._move(held, rate)
            if not await self._left_on(held, name):
                return

    async def _last_look(self, held: HeldDrive, name: str) -> None:
        """`_require_empty`, while nothing is published: a node that takes long is not waited for."""
        with trio.move_on_after(patience.SECONDS):
            await self._require_empty(held, name)
            return
        raise UnavailableError(f"{name}: does not answer, so it stays a node; run this again", [name])

    async def _require_empty(self, held: HeldDrive, name: str) -> None:
        if left := await self._left_on(held, name):
            raise ToolError(
                f"{name} still holds {counted(len(left), 'object')}, the first: {left[0]}; it stays a node "
                "and takes nothing new; fsck.drivefs -y --data of the drive unmounted, or drivefs gc of a "
                "mounted one, may mend what cannot be moved, then run this again"
            )

    async def _left_on(self, held: HeldDrive, name: str) -> Sequence[str]:
        """Nothing of a node that is away: what it had was found elsewhere or rebuilt, else the moving would
        have ended with an error."""
        alone = replace(self.file, nodes=(node_entries.named(self.file, name),))
        away = await trio.to_thread.run_sync(drive_nodes.nodes_away, self.drive.folder, alone)
        return () if away else await left_on(held.nodes[name])

    # Votes

    async def fill_votes(self) -> bool:
        """Have as many nodes vote as there should be: one more with each map. If there was one to come, what
        they keep is moved to its places (`settle_objects`). Whether there was."""
        before = self.file
        while (name := await self._next_to_vote()) is not None:
            nodes = tuple(replace(each, votes=each.votes or each.name == name) for each in self.file.nodes)
            async with self._hold(self.drive) as held:
                await self._change(held, nodes)
            THIS_MACHINE.failpoints.reached(VOTES)
        if self.file is before:
            return False
        await self.settle_objects()
        return True

    async def _next_to_vote(self) -> str | None:
        return await trio.to_thread.run_sync(drive_nodes.next_to_vote, self.drive.folder, self.file)

    async def settle_objects(self) -> None:
        """Put commits and roots in their places among the voters, if all nodes are there."""
        if await trio.to_thread.run_sync(drive_nodes.nodes_away, self.drive.folder, self.file):
            return  # copies in other places are found all the same; the next move has them in order
        async with self._hold(self.drive) as held:
            await self.move_objects(held)

    # Other maps

    async def have(self, nodes: Callable[[], tuple[NodeEntry, ...]]) -> None:
        """Have these nodes instead, which are asked for in a thread when the lease is held."""
        async with self._hold(self.drive) as held:
            await self._change(held, await trio.to_thread.run_sync(nodes))

    async def finish(self, interrupted: DriveFile) -> None:
        """The map of `interrupted` is the one after this, and some have it already: now all do."""
        async with self._hold(self.drive) as held:
            self._take(interrupted, await held.put_in_force(interrupted))

    async def _change(
        self, held: HeldDrive, nodes: tuple[NodeEntry, ...], last_look: Look = trio.lowlevel.checkpoint
    ) -> None:
        self._take(*await held.change(nodes, last_look))

    def _take(self, new: DriveFile, warnings: Sequence[str]) -> None:
        self.drive = replace(self.drive, file=new)
        for line in warnings:
            self._tell.warn(line)

    # Moving

    async def rebalance(self, rate: float | None) -> None:
        """Put all in its place. `rate`: as of `add`."""
        await self.fill_votes()
        async with self._hold(self.drive) as held:
            await self._move(held, rate)

    async def _move(self, held: HeldDrive, rate: float | None) -> None:
        """`ToolError` if something could not be put in order."""
        await held.use.settle()
        self._tell.step("fragments")
        try:
            fragments = Rebalance(
                held.nodes,
                drive_nodes.cluster_map(self.file),
                compose.pack_codec(self.drive),
                held.verify,
                rate,
                held.use.users,
            )
            report = await fragments.run(self._tell.update)
            copies = await self.move_objects(held)
        finally:
            self._tell.clear()
        _require_nothing_left(report)
        self._tell.say(
            f"{counted(report.moved, 'fragment')} moved ({format_size(report.moved_bytes)}), "
            f"{report.rebuilt} rebuilt, {counted(copies, 'copy')} of commits and roots written"
        )

    async def move_objects(self, held: HeldDrive) -> int:
        """Put commits and roots in their places among the voters: how many copies were written."""
        self._tell.step("commits")
        cluster = drive_nodes.cluster_map(self.file)
        copies = copies_of(cluster, drive_nodes.parity(self.file))
        ranking = ranking_of(cluster, copies, everyone=True)
        objects = ReplicatedObjects(held.nodes, ranking, copies, self.file.id, self.drive.keys.object)
        log = ReplicatedCommitLog(compose.small_objects(self.drive, held.nodes), claims=held.lease.claimed)
        small = ObjectRebalance(objects, held.nodes, ranking, log, held.verify, held.use.still)
        try:
            await small.run(self._tell.update)
        finally:
            self._tell.clear()
        if small.missing is not None:
            self._tell.warn(f"{small.missing}; the other commits are moved where their copies agree")
        return small.moved


def _require_nothing_left(report: RebalanceReport) -> None:
    if report.left:
        raise ToolError(
            f"{counted(len(report.left), 'pack')} could not be put in order, the first: {report.left[0]}; "
            "nothing of them was deleted; run fsck.drivefs -y --data, then this again"
        )


# What must be there


def _require_all_there(folder: str, file: DriveFile) -> None:
    away = drive_nodes.nodes_away(folder, file)
    if away:
        reasons = "; ".join(str(error) for error in away)
        raise UnavailableError(
            f"nothing is added while nodes are away ({reasons}): bring them back, or replace them "
            "(drivefs node replace)",
            [error.node for error in away],
        )


def _require_enough_without(folder: str, file: DriveFile, names: Sequence[str]) -> None:
    profile = Profile.parse(file.profile)
    left = sum(entry.weight > 0 and entry.name not in names for entry in file.nodes)
    if left < profile.total:
        raise ToolError(
            f"{folder}: profile {profile} needs {profile.total} nodes and {left} would be left: add a node "
            "first (drivefs node add), or put a new folder in its place (drivefs node replace)"
        )


def _require_others_there(folder: str, file: DriveFile, names: Sequence[str]) -> None:
    """Nodes that are to go may be lost already, as many as the profile can do without."""
    away = drive_nodes.nodes_away(folder, file)
    drive_nodes.require_enough_nodes(file, away)
    others = [error for error in away if error.node not in names]
    if others:
        raise UnavailableError(
            f"nothing is moved while others are away ({'; '.join(map(str, others))}): bring them back, or "
            "remove them in the same command",
            [error.node for error in others],
        )
