"""`drivefs node recover`: a majority of the nodes that vote is lost for good; going on without them."""

from __future__ import annotations

import argparse
import os
from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import trio

from backend.cluster import DriveFile, check_nodes, cluster_change, drive_file_copies, recovery
from backend.coding import Profile
from backend.commits import Lease, ReplicatedObjects, commit_format, this_process
from backend.errors import ConflictError, TransientError, UnavailableError
from backend.failpoints import declare
from backend.nodes import Node
from backend.system import THIS_MACHINE
from tools import compose, drive_nodes, fsck, old_drive
from tools.commands.node_changes import finish, run, was_interrupted
from tools.compose import TOOL_LEASE_PATIENCE, UnlockedDrive
from tools.drive_nodes import TOOL_PATIENCE, open_nodes, parity, patient
from tools.hub_address import drive_on_nodes
from tools.quantities import counted
from tools.terminal import complain, say

SETTLED: Final = declare(
    "node.recovered", "the new voters have lease and log; drive.toml has the lost ones still"
)
WRITTEN: Final = declare("node.recover-written", "drive.toml has the new voters; the lease does not say so")


def register(actions: Any) -> None:
    """Add it to `drivefs node ...`."""
    parser = actions.add_parser(
        "recover", help="go on without a majority of the nodes that vote, which is lost for good"
    )
    parser.add_argument("drive", type=drive_on_nodes, metavar="DRIVE")
    fsck.add_secret_options(parser)
    parser.set_defaults(command=_recover)


def _recover(options: argparse.Namespace) -> int:
    folder = os.path.abspath(options.drive)
    survey = check_nodes.survey(folder)
    file = survey.file
    answering = _answering(folder, file)
    is_done = was_interrupted(folder, survey) and bool(recovery.voters_there(file, answering))
    if not is_done:
        recovery.require_lost(file, answering)
    old_drive.require_unmounted(folder)
    drive = fsck.unlock_any(folder, survey, fsck.secret_source(options))
    if is_done:
        finish(drive)
    else:
        run(_go_on, drive, _answering(folder, file), drive_nodes.able_to_vote(folder, file))
    return 0


def _answering(folder: str, file: DriveFile) -> list[str]:
    away = {error.node for error in drive_nodes.nodes_away(folder, file)}
    return [entry.name for entry in file.nodes if entry.name not in away]


def _require_lost(drive: UnlockedDrive, left: Collection[str]) -> None:
    """As `recovery.require_lost`, now: a disk may have been found while a passphrase was asked for, or
    commits were copied. `ConflictError` if a node answers that is not among those `left`."""
    now = _answering(drive.folder, drive.file)
    recovery.require_lost(drive.file, now)
    if back := sorted({*now} - {*left}):
        raise ConflictError(f"{', '.join(back)}: came back just now; the drive is as it was, try again")


async def _go_on(drive: UnlockedDrive, answering: list[str], able: set[str]) -> None:
    every = patient(open_nodes(drive.folder, drive.file), TOOL_PATIENCE)
    left = {name: every[name] for name in answering}
    objects = ReplicatedObjects(left, lambda _key: answering, len(left), drive.file.id, drive.keys.object)
    await outlive_holders(drive, left)
    remains = await recovery.look(drive.file, left, objects, drive.keys.lease, TOOL_LEASE_PATIENCE)
    new = replace(drive, file=recovery.recovered(drive.file, answering, able, remains, parity(drive.file)))
    lease, voting = _lease_of(new, remains), compose.small_objects(new, left)
    ranking = compose.object_ranking(new.file)
    spreading = recovery.Spreading(objects, drive.file, ranking, voting.copies, remains)
    same = partial(cluster_change.require_surveyed, drive.folder, drive.file)
    async with cluster_change.holding(lease, same, minimum_epoch=remains.epoch + recovery.AHEAD):
        gaps = await spreading.run()
        if remains.is_past_doubt:
            await recovery.adopt(voting, remains, lease)
        THIS_MACHINE.failpoints.reached(SETTLED)
        await trio.to_thread.run_sync(_require_lost, drive, left)
        await _write(new, lease)
        THIS_MACHINE.failpoints.reached(WRITTEN)
        await _announce(new, voting, remains, lease)
    _report(drive.folder, new.file, remains, gaps)


async def outlive_holders(drive: UnlockedDrive, left: Mapping[str, Node]) -> None:
    """`left`: the voters that answer, all of them. `LeaseHeldError` if a holder lives, `UnavailableError` if
    one does not answer. One that went with its machine is gone when it was silent for as
    long as a mount would wait; no mount can be waited for that takes the lease over."""
    key = drive.keys.lease
    watching = Lease(
        left,
        drive.file.id,
        key,
        this_process(),
        map_epoch=drive.file.epoch,
        is_patient=True,
        waiting=say,
    )
    await watching.outlive_all()


def _lease_of(drive: UnlockedDrive, remains: recovery.Remains) -> Lease:
    """On the new voters. Its records have the epoch of the map before: the new one is not in force yet."""
    present = replace(drive, file=replace(drive.file, epoch=remains.map_epoch))
    nodes = open_nodes(drive.folder, drive.file)
    return compose.lease_on(nodes, present, say, is_patient=True)


async def _write(drive: UnlockedDrive, lease: Lease) -> None:
    """Have the new map in force, if the lease is confirmed."""
    await lease.verify()
    for line in await trio.to_thread.run_sync(drive_file_copies.write_copies, drive.folder, drive.file):
        complain(f"drivefs: warning: {line}")


async def _announce(
    drive: UnlockedDrive, voting: ReplicatedObjects, remains: recovery.Remains, lease: Lease
) -> None:
    """Have the lease's records claim the newest commit, which no other can replace now, and name the new
    map."""
    try:
        await recovery.adopt(voting, remains, lease)
        await lease.announce(drive.file.epoch)
    except (TransientError, UnavailableError) as error:
        complain(f"drivefs: warning: the lease does not say yet that the nodes were changed: {error}")


def _report(folder: str, file: DriveFile, remains: recovery.Remains, gaps: list[int]) -> None:
    votes = ", ".join(entry.name for entry in file.nodes if entry.votes)
    say(f"{folder}: {votes} vote now (epoch {file.epoch})")
    if remains.copy is None:
        say(f"{folder}: no commit is left; the drive is empty")
        return
    made = datetime.fromtimestamp(commit_format.decode(remains.copy.data).time_ns / 1e9, UTC)
    say(f"{folder}: the newest commit that is left is {remains.number}, of {made:%Y-%m-%dT%H:%M:%SZ}")
    if remains.lost:
        say(f"{folder}: {counted(remains.lost, 'commit')} after it were stored, and are lost with the nodes")
    if gaps:
        complain(
            f"drivefs: warning: {counted(len(gaps), 'commit')} before it are lost, the first: {gaps[0]}; "
            "fsck.drivefs -y goes on from the newest snapshot"
        )
    say(
        f"{folder}: what only the lost nodes had is missing: files changed since may be as they were before, "
        "and blocks of which too few fragments are left cannot be read; fsck.drivefs -y --data names them"
    )
    profile = Profile.parse(file.profile)
    lacking = profile.total - sum(entry.weight > 0 for entry in file.nodes)
    if lacking > 0:
        nodes = counted(lacking, "node")
        say(f"{folder}: profile {profile} needs {nodes} more: drivefs node add comes first")
