"""`drivefs move-to --to-local`: what comes before a mount moves its drive from a hub to nodes.

The nodes are made, as mkfs makes them, with a drive file that says that the drive is still at the hub. Or
they are those that an earlier move has left or begun to fill.
"""

from __future__ import annotations

import argparse
import os

from backend.cluster import drive_file
from backend.coding import Profile
from backend.errors import UsageError
from tools import compose, fsck, new_drive, new_nodes
from tools.commands import node_requests
from tools.host import mounts
from tools.hub.drives import Address
from tools.hub.login import in_session, logins
from tools.hub.moving_back import require_coming
from tools.hub_address import is_at_hub
from tools.new_drive import Origin
from tools.node_options import CREDENTIALS_HELP, DEFAULT_PROFILE
from tools.terminal import say


def add_node_options(parser: argparse.ArgumentParser) -> None:
    """Those of the nodes that are made, as mkfs has them."""
    add, help_ = parser.add_argument, "of --to-local, as of mkfs.drivefs"
    add("--profile", metavar="K+M", type=Profile.parse, help=help_)
    add("--node", metavar="PATH", action="append", help=help_)
    add("--credentials", metavar="C", help=CREDENTIALS_HELP)
    add("--recovery-file", metavar="F", help=help_)


def require_no_node_options(options: argparse.Namespace) -> None:
    """`UsageError` if one is given, as no nodes are to be made."""
    if options.profile or options.node or options.credentials or options.recovery_file:
        raise UsageError("--profile, --node, --credentials and --recovery-file are of --to-local")


def prepared(options: argparse.Namespace) -> tuple[str, str]:
    """The mountpoint, and the folder whose nodes are ready to take the drive. `UsageError`: it is not mounted
    from a hub, or the folder is something else's."""
    mountpoint = node_requests.mountpoint_of(options.drive)
    mount = None if mountpoint is None else mounts.find(mountpoint)
    if mountpoint is None or mount is None or not is_at_hub(mount.source):
        raise UsageError(
            f"{options.drive}: no drive of a hub is mounted there, and a drive moves while it is"
        )
    folder = os.path.abspath(options.to_local)
    around = mounts.drive_around(folder)
    if around is not None:
        raise UsageError(f"{folder}: lies in the drive that is mounted at {around.mountpoint}")
    origin = _origin(Address.parse(mount.source))
    if os.path.lexists(os.path.join(folder, drive_file.FILE_NAME)):
        require_coming(folder, compose.load_drive(folder), origin.id, origin.moved)
    else:
        _make_nodes(folder, origin, options)
    return mountpoint, folder


def _origin(address: Address) -> Origin:
    found = in_session(logins().load(address.hub), lambda session: session.find_drive(address.name))
    if found.drive is None:
        raise UsageError(f"{address.source}: this account has not sealed its key")
    return Origin(found.uuid, found.drive.key, address.source)


def _make_nodes(folder: str, origin: Origin, options: argparse.Namespace) -> None:
    profile = options.profile or Profile.parse(DEFAULT_PROFILE)
    if options.node is not None and len(options.node) < profile.total:
        raise UsageError(f"profile {profile} needs {profile.total} nodes, but {len(options.node)} are given")
    if not new_drive.is_free(folder):
        raise UsageError(
            f"{folder}: not empty, and no drive: name a new folder, or remove what is in it; a move that was "
            "interrupted while it made the nodes has put nothing of the drive there"
        )
    places = new_nodes.node_places(folder, options.node, options.credentials, profile.total)
    node_requests.wanted_places([*places])
    recovery = new_drive.recovery_key(options.recovery_file)
    opening = new_drive.opening(fsck.secret_source(options).new_secret(), recovery)
    drive = new_drive.described(folder, profile, places, origin, opening)
    new_nodes.require_fit(folder, drive.nodes)
    new_drive.write(folder, drive, recovery, options.recovery_file)
    if recovery is not None and options.recovery_file is None:
        say(*new_drive.recovery_lines(recovery))
    say(f"{folder}: nodes for the drive, profile {drive.profile}; it is still at {origin.moved}")
