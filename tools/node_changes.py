"""`drivefs node add`, `remove`, `rebalance`: the nodes over a drive's life. The secret is needed:
a node may say anything, and only what the drive's key vouches for is moved.

Only while the drive is not mounted: a mount keeps the cluster map that it began with. The order of an
addition: the new folder gets its identity, the map gets the node (one at a time), then the fragments and
copies that belong there move. Of a removal: the map drains the nodes (weight 0: nothing new goes there), all
they hold moves to the others, and what a lost node held is rebuilt there; then, when nothing is left on them,
the map lets go of them one by one, and their folders are emptied. After any interruption the drive can be
mounted, with all its promised redundancy, and the same command goes on with what is left.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Final, TypeVar

import trio

from backend.cluster import (
    DriveFile,
    HeldDrive,
    NodeEntry,
    ObjectRebalance,
    Rebalance,
    RebalanceReport,
    check_nodes,
    held,
    left_on,
)
from backend.coding import Profile, copies_of
from backend.commits import ReplicatedCommitLog, ReplicatedObjects, ranking_of
from backend.errors import UnavailableError, UsageError, sole
from backend.failpoints import declare
from backend.keys import DriveKeys
from backend.nodes import NodePlace
from backend.system import THIS_MACHINE
from tools import compose, drive_nodes, fsck, old_drive
from tools.commands import node_entries
from tools.compose import UnlockedDrive
from tools.errors import ToolError
from tools.host import mounts
from tools.host.progress import Progress
from tools.node_options import CREDENTIALS_HELP, given_places
from tools.quantities import counted, format_size, parse_size
from tools.terminal import complain, say

Result = TypeVar("Result")

ADDED: Final = declare("node.added", "the map has the new node, which holds nothing")
DRAINED: Final = declare("node.drained", "the map gives the node nothing new; all it holds is there")
EMPTIED: Final = declare("node.emptied", "all that the node held is elsewhere; the map has it still")
TAKEN_OUT: Final = declare("node.taken-out", "the map has let go of the node; its folder is a node's still")
VOTES: Final = declare("node.votes", "one more node votes, which has neither lease nor log yet")


def register(actions: Any) -> None:
    """Add them to `drivefs node ...`."""
    adding = actions.add_parser("add", help="more nodes for a drive; the drive is unmounted")
    adding.add_argument(
        "paths",
        metavar="PATH",
        nargs="+",
        help="an empty folder, on a disk of its own; or a URL",
    )
    adding.add_argument("--credentials", metavar="C", help=CREDENTIALS_HELP)
    adding.add_argument("--zone", metavar="Z", help="what they may fail together with (default: their disk)")
    removing = actions.add_parser("remove", help="take nodes out of a drive; the drive is unmounted")
    removing.add_argument("names", metavar="NODE", nargs="+", help="the node's name in `node list`")
    moving = actions.add_parser("rebalance", help="finish what an interrupted add or remove left")
    for parser, command in ((adding, _add), (removing, _remove), (moving, _rebalance)):
        parser.add_argument("drive", metavar="DRIVE")
        parser.add_argument(
            "--rate", metavar="SIZE", type=_rate, help="read at most so much a second while moving"
        )
        fsck.add_secret_options(parser)
        parser.set_defaults(command=command)


def _rate(text: str) -> float:
    rate = parse_size(text)
    if not rate:
        raise UsageError("--rate must be more than nothing")
    return float(rate)


def _add(options: argparse.Namespace) -> int:
    drive = _unused_drive(options)
    new = given_places(options.paths, options.credentials)
    drive_nodes.require_distinct(new, "the same folder is given twice")
    _require_all_there(drive.folder, drive.file)
    return run(_add_all, drive, new, options.zone, options.rate)


def _remove(options: argparse.Namespace) -> int:
    drive = _unused_drive(options)
    names = list(dict.fromkeys(options.names))
    for name in names:
        node_entries.named(drive.file, name)
    _require_enough_without(drive.folder, drive.file, names)
    _require_others_there(drive.folder, drive.file, names)
    return run(_remove_all, drive, names, options.rate)


def _rebalance(options: argparse.Namespace) -> int:
    return run(_move_all, _unused_drive(options), options.rate)


def run(work: Callable[..., Awaitable[Result]], *arguments: object) -> Result:
    try:
        return trio.run(work, *arguments)
    except BaseExceptionGroup as group:
        raise sole(group) from None


def _unused_drive(options: argparse.Namespace) -> UnlockedDrive:
    folder = os.path.abspath(options.drive)
    mount = mounts.find(folder)
    if mount is not None and mount in mounts.drives():
        raise ToolError(
            f"{folder}: the drive {mount.source} is mounted here; nodes are changed while it is not mounted: "
            f"umount.drivefs {folder}, then give {mount.source} in its place"
        )
    survey = check_nodes.survey(folder)
    old_drive.require_unused(folder, survey.file)
    drive = fsck.unlock_any(folder, survey, fsck.secret_source(options))
    if was_interrupted(folder, survey):
        finish(drive)
    return drive


def was_interrupted(folder: str, survey: check_nodes.Survey) -> bool:
    """Whether the drive's folder has not the map that counts: it is the last that gets a new one."""
    return any(place.folder == folder for place, _ in survey.wrong)


def finish(drive: UnlockedDrive) -> None:
    """Have the map that counts everywhere. Raises as `held`."""
    say(f"{drive.folder}: a change of its nodes was interrupted; it is finished now")
    run(_finish, drive)


async def _finish(drive: UnlockedDrive) -> None:
    async with _held(drive) as changing:
        _warn(await changing.finish())


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


# Adding


async def _add_all(
    drive: UnlockedDrive, new: Sequence[NodePlace], zone: str | None, rate: float | None
) -> int:
    for place in new:
        drive = replace(drive, file=await _add_one(drive, place, zone))
    return await _move_all(drive, rate)


async def _add_one(drive: UnlockedDrive, place: NodePlace, zone: str | None) -> DriveFile:
    """The drive file with the node at `place`: a new one, or one that was to be removed and now stays."""
    folder, file = drive.folder, drive.file
    known = next((entry for entry in file.nodes if entry.place(folder) == place), None)
    if known is not None and known.weight > 0:
        say(f"{place}: is {known.name} already")
        return file
    async with _held(drive) as changing:
        if known is not None:
            nodes = node_entries.reweighted(file, [known.name], 1.0)
        else:
            entry = await trio.to_thread.run_sync(node_entries.new_node, folder, file, place, zone)
            nodes = (*file.nodes, entry)
        file = await _change(changing, nodes)
    THIS_MACHINE.failpoints.reached(ADDED)
    say(f"{folder}: {place} is {file.nodes[-1].name if known is None else known.name} (epoch {file.epoch})")
    return file


# Removing


async def _remove_all(drive: UnlockedDrive, names: Sequence[str], rate: float | None) -> int:
    if any(node_entries.named(drive.file, name).weight > 0 for name in names):
        async with _held(drive) as changing:
            drive = replace(
                drive, file=await _change(changing, node_entries.reweighted(drive.file, names, 0.0))
            )
        THIS_MACHINE.failpoints.reached(DRAINED)
    for name in names:
        drive = await _remove_one(drive, node_entries.named(drive.file, name), rate)
    return 0


async def _remove_one(drive: UnlockedDrive, entry: NodeEntry, rate: float | None) -> UnlockedDrive:
    """The drive without the node, which holds nothing then."""
    name, place = entry.name, entry.place(drive.folder)
    async with _held(drive) as changing:
        _report(await _move(changing, drive.keys, rate))
        await _require_empty(changing, name)
        THIS_MACHINE.failpoints.reached(EMPTIED)
        file = await _change(changing, tuple(each for each in drive.file.nodes if each.name != name))
    THIS_MACHINE.failpoints.reached(TAKEN_OUT)
    say(f"{drive.folder}: {name} is no node any more (epoch {file.epoch})")
    if await trio.to_thread.run_sync(check_nodes.retire, place, entry, file.id):
        say(f"{place}: holds nothing of the drive now")
    else:
        say(f"{place}: was not there; what is on it is not needed, and may be deleted")
    return await fill_votes(replace(drive, file=file))


async def fill_votes(drive: UnlockedDrive) -> UnlockedDrive:
    """Have as many nodes vote as there should be: one more with each map. Then what they keep is moved to
    its places."""
    before = drive
    while (
        name := await trio.to_thread.run_sync(drive_nodes.next_to_vote, drive.folder, drive.file)
    ) is not None:
        async with _held(drive) as changing:
            nodes = tuple(replace(each, votes=each.votes or each.name == name) for each in drive.file.nodes)
            drive = replace(drive, file=await _change(changing, nodes))
        THIS_MACHINE.failpoints.reached(VOTES)
    if drive is not before:
        await _settle_votes(drive)
    return drive


async def _settle_votes(drive: UnlockedDrive) -> None:
    if drive_nodes.nodes_away(drive.folder, drive.file):
        return  # copies in other places are found all the same; the next move has them in order
    progress = Progress(drive.folder)
    try:
        async with _held(drive) as changing:
            await _move_objects(changing, drive.keys, progress)
    finally:
        progress.clear()


async def exchange(drive: UnlockedDrive, nodes: Callable[[], tuple[NodeEntry, ...]]) -> DriveFile:
    """The drive file with these nodes instead, of which one has another place."""
    async with _held(drive) as changing:
        return await _change(changing, await trio.to_thread.run_sync(nodes))


async def _require_empty(drive: HeldDrive, name: str) -> None:
    if name in {error.node for error in drive_nodes.nodes_away(drive.folder, drive.file)}:
        return  # what it had was found elsewhere or rebuilt: else the moving would have ended with an error
    left = await left_on(drive.nodes[name])
    if left:
        raise ToolError(
            f"{name} still holds {counted(len(left), 'object')}, the first: {left[0]}; it stays a node and "
            "takes nothing new; fsck.drivefs -y --data may mend what cannot be moved, then run this again"
        )


# Moving


async def _move_all(drive: UnlockedDrive, rate: float | None) -> int:
    drive = await fill_votes(drive)
    async with _held(drive) as changing:
        _report(await _move(changing, drive.keys, rate))
    return 0


async def _move(drive: HeldDrive, keys: DriveKeys, rate: float | None) -> tuple[RebalanceReport, int]:
    """Put all in its place: what was done, and copies of small objects written. `ToolError` if something
    could not be put in order."""
    unlocked, cluster = UnlockedDrive(drive.folder, drive.file, keys), drive_nodes.cluster_map(drive.file)
    progress = Progress(drive.folder)
    try:
        progress.step("fragments")
        codec = compose.pack_codec(unlocked)
        fragments = Rebalance(drive.nodes, cluster, codec, drive.verify, rate)
        report = await fragments.run(progress.update)
        moved = await _move_objects(drive, keys, progress)
    finally:
        progress.clear()
    if report.left:
        raise ToolError(
            f"{counted(len(report.left), 'pack')} could not be put in order, the first: {report.left[0]}; "
            "nothing of them was deleted; run fsck.drivefs -y --data, then this again"
        )
    return report, moved


async def _move_objects(drive: HeldDrive, keys: DriveKeys, progress: Progress) -> int:
    """Put commits and roots in their places among the voters: how many copies were written."""
    progress.step("commits")
    cluster = drive_nodes.cluster_map(drive.file)
    copies = copies_of(cluster, drive_nodes.parity(drive.file))
    ranking = ranking_of(cluster, copies, everyone=True)
    objects = ReplicatedObjects(drive.nodes, ranking, copies, drive.file.id, keys.object)
    voted = compose.small_objects(UnlockedDrive(drive.folder, drive.file, keys), drive.nodes)
    log = ReplicatedCommitLog(voted, claims=drive.lease.claimed)
    small = ObjectRebalance(objects, drive.nodes, ranking, log, drive.verify)
    await small.run(progress.update)
    if small.missing is not None:
        complain(f"drivefs: warning: {small.missing}; the other commits are moved where their copies agree")
    return small.moved


def _report(done: tuple[RebalanceReport, int]) -> None:
    report, objects = done
    say(
        f"{counted(report.moved, 'fragment')} moved ({format_size(report.moved_bytes)}), {report.rebuilt} "
        f"rebuilt, {counted(objects, 'copy')} of commits and roots written"
    )


# The drive


@asynccontextmanager
async def _held(drive: UnlockedDrive) -> AsyncIterator[HeldDrive]:
    bare = drive_nodes.open_nodes(drive.folder, drive.file)
    nodes = drive_nodes.patient(bare, drive_nodes.TOOL_PATIENCE)
    lease = compose.lease_on(bare, drive)
    async with held(drive.folder, drive.file, nodes, lease) as changing:
        yield changing


async def _change(drive: HeldDrive, nodes: tuple[NodeEntry, ...]) -> DriveFile:
    new, warnings = await drive.change(nodes)
    _warn(warnings)
    return new


def _warn(lines: Sequence[str]) -> None:
    for line in lines:
        complain(f"drivefs: warning: {line}")
