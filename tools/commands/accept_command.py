"""`drivefs accept-restore`: a machine whose hub was put back, and went on without commits that the machine
has seen, takes the hub's log for the drive's, and brings in anew what it alone has
(`cache.services.lost_history`).
"""

from __future__ import annotations

import argparse
import os
from functools import partial
from typing import Any

import trio

from backend.errors import UsageError
from backend.remote import RecentCommits, RemoteUpstream
from backend.system import THIS_MACHINE
from cache.local import DeviceFile, LocalState, SetAside, found, note_brought_in
from cache.opening import DriveOptions
from cache.rebase import Resolved
from cache.services import LostHistory, gone_of_unfinished, has_lost, require_whole
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
    kept = _named(own, name)
    try:
        resolved = node_changes.run(_brought, drive, own, kept)
    except BaseException:
        complain(
            f"drivefs: the state is set aside as stale/{name}, and stays; to go on: {_goes_on(drive, name)}"
        )
        raise
    note_brought_in(kept, THIS_MACHINE)
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
        if local.known_head is None or local.recovery.is_rebased:
            reason = f"{own.state}: has no state that can be brought in: mount the drive first"
            raise UsageError(reason + _left_before(drive, own))
        async with upstream_at_hub(drive) as upstream:
            await _require(upstream, drive, own)
        kept = await trio.to_thread.run_sync(pairing.set_aside, local, own, THIS_MACHINE)
        DeviceFile(own.state, THIS_MACHINE).set_aside()
        return kept.name
    finally:
        local.close()


async def _require(upstream: RemoteUpstream, drive: DriveAtHub, own: Folders) -> None:
    """`UsageError`: nothing was lost, or it cannot be brought in; and what `require_whole` raises. Of the
    state in use with its journal replayed: what the journal has needs nothing of the hub."""
    with stale_commands.looked_at(own.state, own.state) as state:
        state.replay(await gone_of_unfinished(upstream, state))
        known = state.namespace.head()
        upstream.keep_commits(RecentCommits(str(own.state)), lambda: known)
        await upstream.log.head()  # it is given what it lacks, if it can be
        if not await has_lost(upstream.log, known):
            reason = f"the hub has all that this machine has seen (commit {known.number}): "
            raise UsageError(f"{reason}nothing is to be accepted{_left_before(drive, own)}")
        await require_whole(upstream, state.namespace)


def _left_before(drive: DriveAtHub, own: Folders) -> str:
    """The words for that a run may have been interrupted after it had set a state aside."""
    names = [each.name for each in found(own.state) if not each.is_brought_in]
    if not names:
        return ""
    goes_on = _goes_on(drive, names[-1])
    return f"; set aside before: {', '.join(names)}; if a run was interrupted, it goes on by: {goes_on}"


def _goes_on(drive: DriveAtHub, name: str) -> str:
    return f"drivefs accept-restore --stale {name} {drive.source}"


def _named(own: Folders, name: str) -> SetAside:
    for each in found(own.state):
        if each.name == name:
            return each
    raise UsageError(f"{name}: nothing of that name was set aside in {own.state}")


async def _brought(drive: DriveAtHub, own: Folders, kept: SetAside) -> Resolved:
    opening = opened_drive_at_hub(drive, own, DriveOptions(), drive.login.route, waiting=complain)
    looked_at = partial(stale_commands.looked_at, kept.folder, own.state)
    async with upstream_at_hub(drive) as upstream:
        with looked_at() as scratch, looked_at() as again:
            gone = await gone_of_unfinished(upstream, again)
            for state in (scratch, again):
                state.replay(gone)
            async with opening as opened, trio.open_nursery() as nursery:
                await nursery.start(opened.run)
                reader = reader_at_hub(drive, upstream)
                reader.ring.learn_all(again.key_epochs())
                resolved = await LostHistory(opened, upstream, scratch, again).bring(reader.blocks)
                nursery.cancel_scope.cancel()
    return resolved
