"""`drivefs node add`, `remove`, `rebalance`: the nodes over a drive's life (`tools.node_changes`), of a drive
that is mounted here or of one that nobody uses."""

from __future__ import annotations

import argparse
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import trio

from backend.cluster import HeldDrive, check_nodes, drive_file, held
from backend.errors import UsageError, sole
from backend.health import NodesWanted
from tools import compose, drive_nodes, fsck, new_nodes, old_drive
from tools.commands import node_requests
from tools.compose import UnlockedDrive
from tools.host.progress import Progress
from tools.hub_address import drive_on_nodes
from tools.node_changes import NodeChanges
from tools.node_options import CREDENTIALS_HELP, given_places
from tools.quantities import parse_size
from tools.terminal import complain, say

Result = TypeVar("Result")


def register(actions: Any) -> None:
    """Add them to `drivefs node ...`."""
    adding = actions.add_parser("add", help="more nodes for a drive")
    adding.add_argument(
        "paths",
        metavar="PATH",
        nargs="+",
        help="an empty folder, on a disk of its own; or a URL",
    )
    adding.add_argument("--credentials", metavar="C", help=CREDENTIALS_HELP)
    adding.add_argument("--zone", metavar="Z", help="what they may fail together with (default: their disk)")
    removing = actions.add_parser("remove", help="take nodes out of a drive")
    removing.add_argument("names", metavar="NODE", nargs="+", help="the node's name in `node list`")
    moving = actions.add_parser("rebalance", help="finish what an interrupted add or remove left")
    stopping = actions.add_parser("stop", help="end what changes the nodes of a mounted drive")
    stopping.add_argument("mountpoint", metavar="MOUNTPOINT")
    stopping.set_defaults(command=_stop)
    for parser, command in ((adding, _add), (removing, _remove), (moving, _rebalance)):
        parser.add_argument(
            "drive", type=drive_on_nodes, metavar="DRIVE", help="its folder, or where it is mounted"
        )
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
    new = given_places(options.paths, options.credentials)
    new_nodes.require_distinct(new, "the same folder is given twice")
    if (mounted := node_requests.mountpoint_of(options.drive)) is not None:
        places = node_requests.wanted_places(new)
        wanted = NodesWanted(verb="add", places=places, zone=options.zone, rate=options.rate)
        return node_requests.change(mounted, wanted)
    run(changes_of(_unused_drive(options)).add, new, options.zone, options.rate)
    return 0


def _remove(options: argparse.Namespace) -> int:
    names = list(dict.fromkeys(options.names))
    if (mounted := node_requests.mountpoint_of(options.drive)) is not None:
        wanted = NodesWanted(verb="remove", names=tuple(names), rate=options.rate)
        return node_requests.change(mounted, wanted)
    run(changes_of(_unused_drive(options)).remove, names, options.rate)
    return 0


def _rebalance(options: argparse.Namespace) -> int:
    if (mounted := node_requests.mountpoint_of(options.drive)) is not None:
        return node_requests.change(mounted, NodesWanted(verb="rebalance", rate=options.rate))
    run(changes_of(_unused_drive(options)).rebalance, options.rate)
    return 0


def _stop(options: argparse.Namespace) -> int:
    return node_requests.stop(options.mountpoint)


def run(work: Callable[..., Awaitable[Result]], *arguments: object) -> Result:
    try:
        return trio.run(work, *arguments)
    except BaseExceptionGroup as group:
        raise sole(group) from None


def _unused_drive(options: argparse.Namespace) -> UnlockedDrive:
    folder = os.path.abspath(options.drive)
    survey = check_nodes.survey(folder)
    drive_file.require_here(folder, survey.file)
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
    async with held_drive(drive) as changing:
        for line in await changing.finish():
            _warn(line)


class _Terminal:
    """See `tools.node_changes.Listener`."""

    def __init__(self, name: str) -> None:
        progress = Progress(name)
        self.step, self.update, self.clear = progress.step, progress.update, progress.clear

    def say(self, line: str) -> None:
        say(line)

    def warn(self, line: str) -> None:
        _warn(line)


def changes_of(drive: UnlockedDrive) -> NodeChanges:
    """Of a drive that nobody uses, told on the terminal."""
    return NodeChanges(drive, held_drive, _Terminal(drive.folder))


@asynccontextmanager
async def held_drive(drive: UnlockedDrive) -> AsyncIterator[HeldDrive]:
    """A drive that nobody uses, with its lease. Raises as `held`."""
    bare = drive_nodes.open_nodes(drive.folder, drive.file)
    nodes = drive_nodes.patient(bare, drive_nodes.TOOL_PATIENCE)
    lease = compose.lease_on(bare, drive, say, is_patient=True)
    async with held(drive.folder, drive.file, nodes, lease) as changing:
        yield changing


def _warn(line: str) -> None:
    complain(f"drivefs: warning: {line}")
