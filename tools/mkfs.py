"""`mkfs.drivefs`: make a new, empty drive.

Order: all that can be refused is refused first. Then, with `--force`, the old drive goes. Then the new one
comes (`tools.new_drive`). The exit code is 0, or 1 with one line (mkfs(8)).
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Sequence

from backend.cluster import DriveFile, drive_file
from backend.coding import Profile
from backend.errors import UsageError
from backend.nodes import NodePlace
from tools import errors, new_drive, new_nodes, old_drive
from tools.capacity_report import describe_limit, describe_needs
from tools.errors import MKFS_CODES, Parser
from tools.hub_address import drive_on_nodes
from tools.node_options import CREDENTIALS_HELP, DEFAULT_PROFILE
from tools.quantities import counted
from tools.secret_source import SecretSource
from tools.terminal import complain, say


def main() -> None:
    """The console script."""
    errors.run("mkfs.drivefs", MKFS_CODES, mkfs)


def mkfs(arguments: Sequence[str]) -> int:
    """The command; its exit code is 0, or that of the error that is raised."""
    options = _parse(arguments)
    folder = os.path.abspath(options.drive)
    places = new_nodes.node_places(folder, options.node, options.credentials, options.profile.total)
    recovery = new_drive.recovery_key(options.recovery_file)
    old = _old_nodes(folder, [*places], force=options.force)
    secret = _source(options).new_secret()
    opening = new_drive.opening(secret, recovery)
    drive = new_drive.described(folder, options.profile, places, new_drive.new_origin(), opening)
    new_nodes.require_fit(folder, drive.nodes, old)
    if options.force:
        old_drive.remove(folder, old)
    new_drive.write(folder, drive, recovery, options.recovery_file)
    _report(folder, drive, recovery, options)
    return 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser(prog="mkfs.drivefs", description="Make a new drivefs drive.")
    add = parser.add_argument
    add(
        "drive",
        type=drive_on_nodes,
        metavar="DRIVE",
        help="the drive's folder; it is made if it is not there",
    )
    add(
        "--profile",
        type=_profile,
        default=DEFAULT_PROFILE,
        metavar="K+M",
        help=f"any K of K+M nodes are enough; or copies:N (default: {DEFAULT_PROFILE})",
    )
    add(
        "--node",
        action="append",
        metavar="PATH",
        help="a folder or URL for a node, once for each; on different disks",
    )
    add("--credentials", metavar="C", help=CREDENTIALS_HELP)
    add("--passphrase-file", metavar="F", help="the file's first and only line is the passphrase")
    add("--key-file", metavar="F", help="32 or more random bytes open the drive")
    add("--passphrase-command", metavar="C", help="the command's output is the passphrase")
    add("--recovery-file", metavar="F", help="write a recovery key to this new file (mode 0600)")
    add(
        "--force",
        action="store_true",
        help="use folders that are not empty; replace a drive that is not in use",
    )
    add("-q", "--quiet", action="store_true", help="say nothing but warnings and errors")
    options = parser.parse_args(arguments)
    _check(options)
    return options


def _profile(text: str) -> Profile:
    return Profile.parse(text)


def _check(options: argparse.Namespace) -> None:
    given = options.node
    if given is not None and len(given) < options.profile.total:
        raise UsageError(
            f"profile {options.profile} needs {options.profile.total} nodes, but {len(given)} are given"
        )
    _source(options)


def _source(options: argparse.Namespace) -> SecretSource:
    return SecretSource.chosen(
        os.environ, options.passphrase_file, options.key_file, options.passphrase_command
    )


def _old_nodes(folder: str, places: Sequence[NodePlace], *, force: bool) -> list[NodePlace]:
    """The places that are to be emptied."""
    if force:
        return old_drive.removable(folder, places)
    if os.path.lexists(os.path.join(folder, drive_file.FILE_NAME)):
        raise UsageError(f"{folder}: there is a drive here already; --force makes a new one in its place")
    if not new_drive.is_free(folder):
        raise UsageError(f"{folder}: not empty; --force uses it all the same")
    return []


def _report(folder: str, drive: DriveFile, recovery: str | None, options: argparse.Namespace) -> None:
    _warn_of_shared_disks(drive, options.profile.m)
    spaces = {node.name: node.place(folder).space() for node in drive.nodes}
    small = describe_limit(drive, spaces)
    if small is not None:
        complain(f"mkfs.drivefs: warning: {small}")
    if recovery is not None and options.recovery_file is None:
        say(*new_drive.recovery_lines(recovery))
    if options.quiet:
        return
    if options.recovery_file is not None:
        where = os.path.abspath(options.recovery_file)
        say(f"{where}: the recovery key, which opens the drive: keep it elsewhere, not on this machine")
    nodes = counted(len(drive.nodes), "node")
    say(f"{folder}: a new drive, profile {drive.profile}, {nodes}, id {drive.id.hex()}")
    say(*filter(None, [describe_needs(options.profile)]))


def _warn_of_shared_disks(drive: DriveFile, may_be_lost: int) -> None:
    disks = Counter(node.zone for node in drive.nodes)
    most = max(disks.values())
    if len(disks) == 1:
        what = "all nodes are on one disk, so they protect against no disk failure"
    elif most > may_be_lost:
        what = f"{most} nodes are on one disk, but only {may_be_lost} may be lost: that disk must not fail"
    else:
        return
    complain(f"mkfs.drivefs: warning: {what}")
