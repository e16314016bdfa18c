"""`drivefs move-to`: a mounted drive moves to a hub, or from it to nodes of its own, and a move that was
interrupted is taken back."""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any, Final

from backend.cluster import DriveFile
from backend.errors import UsageError
from backend.health import NodeChange, NodesWanted
from cache.messages import NODES_CHANGE, NODES_STOP, NODES_WAIT, Nothing
from tools import compose, fsck
from tools.commands import move_back_command, move_undo, node_requests
from tools.commands.status_report import describe_node_change
from tools.commands.subcommand import add_command
from tools.control_client import ControlClient, NoAnswerError
from tools.errors import ToolError
from tools.host import mounts
from tools.host.progress import Progress
from tools.hub.drives import Address
from tools.hub.login import in_session, logins
from tools.quantities import parse_size
from tools.terminal import complain, say

SHOWN_EVERY: Final = 0.5
"""Seconds from one look at how far it is to the next."""


def register(commands: Any) -> None:
    """Add it to the subcommands of `drivefs`."""
    move = add_command(commands, "move-to", "move a mounted drive to a hub, or back to nodes", _run)
    move.add_argument("address", metavar="https://HUB/NAME", nargs="?", help="its name there is to be NAME")
    move.add_argument(
        "drive",
        metavar="MOUNTPOINT",
        help="where it is mounted; with --undo: its folder, or https://HUB/NAME where its nodes are lost",
    )
    move.add_argument("--rate", metavar="SIZE", type=parse_size, help="send at most so much a second")
    which = move.add_mutually_exclusive_group()
    which.add_argument(
        "--to-local", metavar="FOLDER", help="move it from its hub to nodes, as a drive in that folder"
    )
    which.add_argument(
        "--undo", action="store_true", help="settle where the drive is: a move of it was interrupted"
    )
    move.add_argument("--deleted", action="store_true", help="with --undo: it was deleted at the hub since")
    move.add_argument(
        "--force", action="store_true", help="with --undo https://HUB/NAME: its new nodes are lost for good"
    )
    move_back_command.add_node_options(move)
    fsck.add_secret_options(move)


def _run(options: argparse.Namespace) -> int:
    if options.undo:
        return move_undo.undo(options)
    if options.deleted or options.force:
        raise UsageError("--deleted and --force go with --undo")
    if options.to_local is not None:
        if options.address is not None:
            raise UsageError("--to-local moves the drive to a folder, and to no address")
        return _begun(*move_back_command.prepared(options), options)
    move_back_command.require_no_node_options(options)
    if options.address is None:
        raise UsageError("say where it is to move: drivefs move-to https://HUB/NAME MOUNTPOINT")
    return _begun(*_prepared(options), options)


def _prepared(options: argparse.Namespace) -> tuple[str, str]:
    """The mountpoint, and the address at a hub that has the drive ready to come."""
    address = Address.parse(options.address)
    mountpoint = node_requests.mountpoint_of(options.drive)
    if mountpoint is None:
        raise UsageError(f"{options.drive}: is not mounted: a drive moves while it is")
    file = compose.load_drive(mounts.drive_folder(mountpoint))
    key = partial(_drive_key, options, file)
    in_session(logins().load(address.hub), lambda session: session.receive_drive(file.id, address.name, key))
    return mountpoint, address.source


def _begun(mountpoint: str, to: str, options: argparse.Namespace) -> int:
    """Have the mount move the drive, to its end."""
    client = ControlClient.of_mount(mountpoint)
    rate = float(options.rate) if options.rate else None
    client.call(NODES_CHANGE, NodesWanted(verb="move-to", names=(to,), rate=rate))
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
