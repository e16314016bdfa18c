"""`drivefs move-to`: a mounted drive moves to a hub, and a move that was interrupted is taken back."""

from __future__ import annotations

import argparse
import os
from functools import partial
from typing import Any, Final

from backend.cluster import DriveFile, check_nodes
from backend.errors import UsageError
from backend.health import NodeChange, NodesWanted
from cache.messages import NODES_CHANGE, NODES_STOP, NODES_WAIT, Nothing
from tools import compose, fsck, old_drive
from tools.commands import node_changes, node_requests
from tools.commands.status_report import describe_node_change
from tools.commands.subcommand import add_command
from tools.compose import UnlockedDrive
from tools.control_client import ControlClient, NoAnswerError
from tools.errors import ToolError
from tools.host import mounts
from tools.host.progress import Progress
from tools.hub.account_session import account_session
from tools.hub.drives import Address
from tools.hub.login import in_session, logins
from tools.quantities import parse_size
from tools.terminal import complain, say

SHOWN_EVERY: Final = 0.5
"""Seconds from one look at how far it is to the next."""


def register(commands: Any) -> None:
    """Add it to the subcommands of `drivefs`."""
    move = add_command(commands, "move-to", "move a mounted drive to a hub", _run)
    move.add_argument("address", metavar="https://HUB/NAME", nargs="?", help="its name there is to be NAME")
    move.add_argument("drive", metavar="MOUNTPOINT", help="where it is mounted; with --undo: its folder")
    move.add_argument("--rate", metavar="SIZE", type=parse_size, help="send at most so much a second")
    move.add_argument(
        "--undo", action="store_true", help="the drive stays where it is: a move to a hub was interrupted"
    )
    fsck.add_secret_options(move)


def _run(options: argparse.Namespace) -> int:
    if options.undo:
        return _undo(options)
    if options.address is None:
        raise UsageError("say where it is to move: drivefs move-to https://HUB/NAME MOUNTPOINT")
    return _move(options)


def _move(options: argparse.Namespace) -> int:
    address = Address.parse(options.address)
    mountpoint = node_requests.mountpoint_of(options.drive)
    if mountpoint is None:
        raise UsageError(f"{options.drive}: is not mounted: a drive moves while it is")
    file = compose.load_drive(mounts.drive_folder(mountpoint))
    key = partial(_drive_key, options, file)
    in_session(logins().load(address.hub), lambda session: session.receive_drive(file.id, address.name, key))
    client = ControlClient.of_mount(mountpoint)
    rate = float(options.rate) if options.rate else None
    client.call(NODES_CHANGE, NodesWanted(verb="move-to", names=(address.source,), rate=rate))
    done = _followed(client, mountpoint)
    say(*done.said)
    if done.problem:
        raise ToolError(done.problem)
    return 0


def _drive_key(options: argparse.Namespace, file: DriveFile) -> bytes:
    return compose.drive_key(file, fsck.secret_source(options).secrets())


def _followed(client: ControlClient, mountpoint: str) -> NodeChange:
    """The move at its end; on a terminal, how far it is. Who interrupts this ends it."""
    progress = Progress(mountpoint)
    try:
        while True:
            try:
                ended = client.call(NODES_WAIT, Nothing(), SHOWN_EVERY).change
            except NoAnswerError:
                if (change := client.status().node_change) is not None:
                    progress.step(describe_node_change(change))
            else:
                assert ended is not None  # it was begun
                return ended
    except KeyboardInterrupt:
        client.call(NODES_STOP, Nothing())
        ended = client.call(NODES_WAIT, Nothing()).change
        assert ended is not None  # it was begun
        complain(f"drivefs: {node_requests.how_it_ended(ended)}")
        raise
    finally:
        progress.clear()


def _undo(options: argparse.Namespace) -> int:
    folder = os.path.abspath(options.drive)
    survey = check_nodes.survey(folder)
    if not survey.file.moved:
        raise UsageError(f"{folder}: the drive has not moved")
    old_drive.require_unused(folder, survey.file)
    secrets = fsck.secret_source(options).secrets()
    drive = compose.unlock_moved(folder, survey.file, secrets)
    node_changes.run(_brought_back, drive)
    say(f"{folder}: the drive is here, and has not moved; mount it as before")
    return 0


async def _brought_back(drive: UnlockedDrive) -> None:
    """Nobody who has the lease moves it then, and no request of an earlier mover counts at the hub."""
    login = logins().load(Address.parse(drive.file.moved).hub)
    async with node_changes.held_drive(drive) as held, account_session(login) as session:
        await session.stop_import(drive.file.id)
        for line in await held.come_back():
            complain(f"drivefs: warning: {line}")
