"""`drivefs accept-restore`: a machine whose hub was put back, and went on without commits that the machine
has seen, takes the hub's log for the drive's, and brings in anew what it alone has
(`cache.services.lost_history`).
"""

from __future__ import annotations

import argparse
import os
from typing import Any

import trio

from backend.errors import UsageError
from backend.remote import RecentCommits
from backend.system import THIS_MACHINE
from cache.local import DeviceFile, LocalState, SetAside, found
from cache.opening import DriveOptions
from cache.rebase import Resolved
from cache.services import LostHistory, require_lost, require_whole
from tools import pairing
from tools.commands import node_changes, stale_commands
from tools.commands.subcommand import add_command
from tools.host import places
from tools.host.places import Folders
from tools.hub.drives import Address, HubDrives
from tools.hub.opening import DriveAtHub, opened_drive_at_hub, reader_at_hub, upstream_at_hub
from tools.quantities import counted
from tools.terminal import complain, say


def register(commands: Any) -> None:
    """Add it to the subcommands of `drivefs`."""
    text = "bring in what a hub lost that was put back and went on without it"
    parser = add_command(commands, "accept-restore", text, _run)
    parser.add_argument("drive", metavar="https://HUB/NAME", help="not mounted from this state folder")
    parser.add_argument("--stale", metavar="NAME", help="what was set aside; default: the state in use")
    parser.add_argument("--state-dir", metavar="D", help="as the mount option state_dir")
    parser.add_argument("--cache-dir", metavar="D", help="as the mount option cache_dir")


def _run(options: argparse.Namespace) -> int:
    drives = HubDrives(Address.parse(options.drive), os.environ, THIS_MACHINE)
    drive = drives.found(drives.login.route, complain)
    own = places.folders(drive.id_text, options.cache_dir, options.state_dir, os.environ)
    name = options.stale or node_changes.run(_set_aside, drive, own)
    resolved = node_changes.run(_brought, drive, own, _named(own, name))
    changes, conflicts = len(resolved.operations), len(resolved.decisions)
    say(
        f"{drive.source}: {counted(changes, 'change')} brought in, {counted(conflicts, 'conflict')} decided "
        f"(drivefs notices, drivefs conflicts); mount it. The state before is kept as stale/{name}"
    )
    return 0


async def _set_aside(drive: DriveAtHub, own: Folders) -> str:
    """The name of the state, which is set aside once it is known that it can be brought in."""
    local = LocalState(own.state)
    try:
        known = local.known_head
        if known is None or local.recovery.is_rebased:
            raise UsageError(f"{own.state}: has no state that can be brought in: mount the drive first")
        async with upstream_at_hub(drive) as upstream:
            upstream.keep_commits(RecentCommits(str(own.state)), lambda: known)
            await upstream.log.head()  # it is given what it lacks, if it can be
            await require_lost(upstream.log, known)
            await require_whole(upstream, local.namespace)
        kept = await trio.to_thread.run_sync(local.set_aside)
        DeviceFile(own.state, THIS_MACHINE).set_aside()
        await trio.to_thread.run_sync(pairing.note_closing, own, THIS_MACHINE)
        return kept.name
    finally:
        local.close()


def _named(own: Folders, name: str) -> SetAside:
    for each in found(own.state):
        if each.name == name:
            return each
    raise UsageError(f"{name}: nothing of that name was set aside in {own.state}")


async def _brought(drive: DriveAtHub, own: Folders, kept: SetAside) -> Resolved:
    opening = opened_drive_at_hub(drive, own, DriveOptions(), drive.login.route, waiting=complain)
    with stale_commands.opened(kept) as scratch, stale_commands.opened(kept) as again:
        async with opening as opened, upstream_at_hub(drive) as upstream, trio.open_nursery() as nursery:
            await nursery.start(opened.run)
            reader = reader_at_hub(drive, upstream)
            reader.ring.learn_all(again.key_epochs())
            resolved = await LostHistory(opened, upstream, scratch, again).bring(reader.blocks)
            nursery.cancel_scope.cancel()
    return resolved
