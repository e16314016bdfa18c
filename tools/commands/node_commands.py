"""`drivefs check`, `scrub`, `repair` of a running mount; `drivefs node` and `rebuild-drive-file` of a
drive's folder.

What a replaced node lacks the check of `fsck.drivefs -y` rebuilds (`tools.node_exchange`). A run that was
interrupted after the drive file was written is finished by `fsck.drivefs -y`, or by the next mount.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from backend.care import repair_record
from backend.cluster import DriveFile, check_nodes, cluster_change, drive_file, drive_file_copies
from backend.errors import NodeError, UsageError
from backend.health import NodesWanted, ScrubStatus
from backend.nodes import NodeEntry, NodePlace, place_at, stored_url
from cache.messages import CHECK, REPAIR, SCRUB, Nothing, ScrubWanted
from tools import drive_nodes, fsck, node_entries, node_exchange, old_drive
from tools.commands import node_changes, node_requests, recover_command
from tools.commands.status_report import describe_scrub
from tools.compose import UnlockedDrive
from tools.control_client import ControlClient
from tools.errors import Parser, ToolError
from tools.host import mounts, places
from tools.hub_address import drive_on_nodes
from tools.node_options import CREDENTIALS_HELP, given_places
from tools.quantities import counted
from tools.terminal import say


def register(commands: Any) -> None:
    """Add them to the subcommands of `drivefs`."""
    _add_online(commands)
    node = commands.add_parser("node", help="the nodes of a drive: list, add, remove, replace")
    actions = node.add_subparsers(required=True, metavar="ACTION", parser_class=Parser)
    listing = actions.add_parser("list", help="each node with its zone, folder and state")
    listing.add_argument("drive", type=drive_on_nodes, metavar="DRIVE")
    listing.set_defaults(command=_list)
    replacing = actions.add_parser("replace", help="a node made anew, in its place or in another")
    replacing.add_argument(
        "drive", type=drive_on_nodes, metavar="DRIVE", help="its folder, or where it is mounted"
    )
    replacing.add_argument("old", metavar="NODE", help="the node's name in `node list`")
    replacing.add_argument(
        "path",
        metavar="NEWPATH",
        nargs="?",
        help="an empty folder, on another disk; or a URL (default: its own, which is empty now)",
    )
    replacing.add_argument("--credentials", metavar="C", help=CREDENTIALS_HELP)
    replacing.add_argument("--zone", metavar="Z", help="what it may fail together with (default: its disk)")
    fsck.add_folder_options(replacing)
    fsck.add_secret_options(replacing)
    replacing.set_defaults(command=_replace)
    node_changes.register(actions)
    recover_command.register(actions)
    rebuild = commands.add_parser("rebuild-drive-file", help="drive.toml is lost: take it from the nodes")
    rebuild.add_argument("nodes", metavar="NODE", nargs="+", help="folders of nodes")
    rebuild.add_argument(
        "drive",
        type=drive_on_nodes,
        metavar="DRIVE",
        help="the drive's folder; it is made if it is not there",
    )
    rebuild.set_defaults(command=_rebuild)


def _add_online(commands: Any) -> None:
    for name, action, text in (
        ("check", _check, "look whether a mounted drive is sound; changes nothing"),
        ("scrub", _scrub, "look at all fragments of a mounted drive in the background, and mend"),
        ("repair", _repair, "repair now what is known to be missing or wrong"),
    ):
        parser = commands.add_parser(name, help=text)
        parser.add_argument("mountpoint", metavar="MOUNTPOINT")
        parser.set_defaults(command=action)
        if name == "scrub":
            parser.add_argument(
                "--now", action="store_true", help="begin now; without, say how the last one went"
            )
            parser.add_argument("--wait", action="store_true", help="begin now, and return at its end")


def _check(options: argparse.Namespace) -> int:
    problems = ControlClient.of_mount(options.mountpoint).call(CHECK, Nothing()).problems
    for problem in problems:
        say(problem)
    say(f"{options.mountpoint}: {counted(len(problems), 'problem') if problems else 'clean'}")
    return 1 if problems else 0


def _scrub(options: argparse.Namespace) -> int:
    client = ControlClient.of_mount(options.mountpoint)
    if options.now and not options.wait:
        say(_scrub_begun(options.mountpoint, client.call(SCRUB, ScrubWanted())))
    elif options.wait or client.status().hub:  # a hub has the scrubs, which the mount says
        say(describe_scrub(client.call(SCRUB, ScrubWanted(wait=True))))
    else:
        say(describe_scrub(client.status().scrub))
    return 0


def _scrub_begun(mountpoint: str, scrub: ScrubStatus) -> str:
    """Of one that was under way already, how far it is. The counts of the last one are none of this one's."""
    begun = describe_scrub(scrub) if scrub.running else "a scrub has begun"
    return (
        f"{mountpoint}: {begun}; drivefs scrub {mountpoint} says how far it is, and with --wait "
        "returns at its end"
    )


def _repair(options: argparse.Namespace) -> int:
    found = ControlClient.of_mount(options.mountpoint).call(REPAIR, Nothing())
    say(f"{options.mountpoint}: {counted(found.repaired, 'pack')} repaired, {found.left} left")
    return 1 if found.left else 0


def _list(options: argparse.Namespace) -> int:
    folder = mounts.drive_folder(options.drive)
    file = check_nodes.survey(folder).file
    away = {error.node: str(error) for error in drive_nodes.nodes_away(folder, file)}
    for entry in file.nodes:
        state = away.get(entry.name, "ok" if entry.weight else "ok, takes nothing new")
        say(f"{entry.name}  {entry.zone}  {entry.place(folder)}  {state}")
    return 1 if away else 0


def _replace(options: argparse.Namespace) -> int:
    mounted = node_requests.mountpoint_of(options.drive)
    if mounted is not None:
        return _replace_mounted(options, mounted)
    folder = os.path.abspath(options.drive)
    survey = check_nodes.survey(folder)
    file = survey.file
    old = node_entries.named(file, options.old)
    [place] = given_places([options.path], options.credentials) if options.path else [old.place(folder)]
    old_drive.require_unused(folder, file)
    drive = fsck.unlock_any(folder, survey, fsck.secret_source(options))
    changes = node_changes.changes_of(_exchanged_without_lease(drive, old, place, options.zone))
    if changes.drive is drive:
        node_changes.run(node_exchange.exchange, changes, old.name, place, options.zone)
    say(f"{folder}: {old.name} is {place} now (epoch {changes.file.epoch}); rebuilding what it lacks")
    begun = time.monotonic()
    own = places.folders(drive.id_text, options.cache_dir, options.state_dir, os.environ)
    code = fsck.mend(changes.drive, own)
    _note_repair(own.cache, place, time.monotonic() - begun)
    node_changes.run(changes.fill_votes)
    return code


def _replace_mounted(options: argparse.Namespace, mountpoint: str) -> int:
    given = given_places([options.path] if options.path else [], options.credentials)
    wanted = node_requests.wanted_places(given)
    return node_requests.change(
        mountpoint, NodesWanted(verb="replace", names=(options.old,), places=wanted, zone=options.zone)
    )


def _exchanged_without_lease(
    drive: UnlockedDrive, old: NodeEntry, place: NodePlace, zone: str | None
) -> UnlockedDrive:
    """The drive with the new place in force, if it is that of a lost voter without which the lease cannot be
    had, as of two voters one is no majority; else `drive` itself. Nobody has the lease meanwhile: a holder
    that a voter knows of is waited for, or refuses, and nobody can acquire it without the lost one."""
    folder, file = drive.folder, drive.file
    node_exchange.require_replaceable(folder, file, old, place)
    left = _voters_left(folder, file)
    if not node_exchange.keeps_vote(file, old) or old.name in left or _is_majority(left, file):
        return drive
    every = drive_nodes.patient(drive_nodes.open_nodes(folder, file), drive_nodes.TOOL_PATIENCE)
    node_changes.run(recover_command.outlive_holders, drive, {name: every[name] for name in left})
    seen = cluster_change.require_unchanged(folder, file)
    nodes = node_exchange.with_new_node(folder, file, old, place, zone, votes=True)
    new = replace(file, nodes=nodes, epoch=file.epoch + 1)
    for line in drive_file_copies.replace_copies(folder, seen, new, lost=[old]):
        say(f"drivefs: warning: {line}")
    return replace(drive, file=new)


def _voters_left(folder: str, file: DriveFile) -> list[str]:
    """The names of the voters that are where the drive file says."""
    away = {error.node for error in drive_nodes.nodes_away(folder, file)}
    return [entry.name for entry in file.nodes if entry.votes and entry.name not in away]


def _is_majority(voters: Sequence[str], file: DriveFile) -> bool:
    return 2 * len(voters) > sum(entry.votes for entry in file.nodes)


def _note_repair(cache: Path, place: NodePlace, seconds: float) -> None:
    """Remember how long it took to fill the new node: `drivefs doctor --durability` reckons with it."""
    if cache.is_dir():
        repair_record.keep(cache, place.stored_bytes(), seconds)


def _rebuild(options: argparse.Namespace) -> int:
    folder = os.path.abspath(options.drive)
    if os.path.lexists(os.path.join(folder, drive_file.FILE_NAME)):
        raise UsageError(
            f"{folder}: there is a {drive_file.FILE_NAME}; fsck.drivefs mends one that is damaged"
        )
    file = _with_paths(folder, check_nodes.survey(folder, options.nodes).file, options.nodes)
    _require_no_later(folder, file)
    away = drive_nodes.nodes_away(folder, file)
    drive_nodes.require_enough_nodes(file, away)
    os.makedirs(folder, exist_ok=True)
    for line in drive_file_copies.write_copies(folder, file):
        say(f"drivefs: warning: {line}")
    say(f"{folder}: {drive_file.FILE_NAME} of drive {file.id.hex()} is there again")
    return 0


def _require_no_later(folder: str, file: DriveFile) -> None:
    """A person may have named a node that was away while the others' were changed."""
    if later := check_nodes.later_copies(file, [entry.place(folder) for entry in file.nodes]):
        names = ", ".join(map(str, later))
        raise ToolError(f"{folder}: {names} have a later drive.toml than most of those named: name them too")


def _with_paths(folder: str, file: DriveFile, nodes: Sequence[str]) -> DriveFile:
    """Each node that was named lies where it was named; it says itself which it is."""
    found: dict[str, NodePlace] = {}
    for node in nodes:
        place = place_at(node, os.getcwd())
        try:
            identity = place.identity(str(place))
        except NodeError as error:
            raise ToolError(str(error)) from None
        if identity.drive_id != file.id:
            raise ToolError(f"{place}: is a node of another drive")
        found[identity.name] = place
    return replace(file, nodes=tuple(_moved(entry, found.get(entry.name), folder) for entry in file.nodes))


def _moved(entry: NodeEntry, place: NodePlace | None, folder: str) -> NodeEntry:
    if place is None:
        return entry
    return replace(entry, url=stored_url(place.url, folder), settings=place.settings)
