"""`drivefs node recover`: a majority of the nodes that vote is lost for good; going on without them."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

import trio

from backend.cluster import DriveFile, ObjectRebalance, check_nodes, cluster_change, recovery
from backend.coding import Profile, copies_of, voters
from backend.commits import Lease, Ranking, ReplicatedCommitLog, ReplicatedObjects, commit_format, ranking_of
from backend.errors import CorruptError, TransientError, UnavailableError
from backend.failpoints import declare, failpoint
from backend.nodes import Node
from tools import compose, drive_nodes, fsck, old_drive
from tools.commands.node_changes import run
from tools.compose import LEASE_PATIENCE, UnlockedDrive
from tools.drive_nodes import TOOL_PATIENCE, cluster_map, open_nodes, parity, patient
from tools.quantities import counted
from tools.terminal import complain, say

SETTLED: Final = declare(
    "node.recovered", "the new voters have lease and log; drive.toml has the lost ones still"
)


def register(actions: Any) -> None:
    """Add it to `drivefs node ...`."""
    parser = actions.add_parser(
        "recover", help="go on without a majority of the nodes that vote, which is lost for good"
    )
    parser.add_argument("drive", metavar="DRIVE")
    fsck.add_secret_options(parser)
    parser.set_defaults(command=_recover)


def _recover(options: argparse.Namespace) -> int:
    folder = os.path.abspath(options.drive)
    survey = check_nodes.survey(folder)
    file = survey.file
    away = {error.node for error in drive_nodes.nodes_away(folder, file)}
    answering = [entry.name for entry in file.nodes if entry.name not in away]
    recovery.require_lost(file, answering)
    old_drive.require_no_sign_of_use(folder, file)
    drive = fsck.unlock_any(folder, survey, fsck.secret_source(options))
    run(_go_on, drive, answering)
    return 0


async def _go_on(drive: UnlockedDrive, answering: list[str]) -> None:
    every = patient(open_nodes(drive.folder, drive.file), TOOL_PATIENCE)
    left = {name: every[name] for name in answering}
    everywhere = _objects_on(drive, left, len(left))
    remains = await recovery.look(drive.file, left, everywhere, drive.keys.lease, LEASE_PATIENCE)
    file = recovery.recovered(drive.file, answering, remains, parity(drive.file))
    new = replace(drive, file=file)
    lease = _lease_of(new, remains)
    same = partial(cluster_change.require_surveyed, drive.folder, drive.file)
    async with cluster_change.holding(lease, same, minimum_epoch=remains.epoch + recovery.AHEAD):
        await _settle(new, left, remains, lease)
        failpoint(SETTLED)
        await _announce(new, lease)
    _report(drive.folder, file, remains)


def _lease_of(drive: UnlockedDrive, remains: recovery.Remains) -> Lease:
    """On the new voters. Its records have the epoch of the map before: the new one is not in force yet."""
    present = replace(drive, file=replace(drive.file, epoch=remains.map_epoch))
    return compose.lease_on(open_nodes(drive.folder, drive.file), present)


async def _announce(drive: UnlockedDrive, lease: Lease) -> None:
    """Write the new map, if the lease is confirmed, then have the lease's records name it."""
    await lease.verify()
    for line in await trio.to_thread.run_sync(check_nodes.write_copies, drive.folder, drive.file):
        complain(f"drivefs: warning: {line}")
    try:
        await lease.announce(drive.file.epoch)
    except (TransientError, UnavailableError) as error:
        complain(f"drivefs: warning: the lease does not say yet that the nodes were changed: {error}")


def _objects_on(drive: UnlockedDrive, nodes: Mapping[str, Node], copies: int) -> ReplicatedObjects:
    """Commits and roots on these of the drive's nodes."""
    return ReplicatedObjects(nodes, _ranking_on(drive, nodes), copies, drive.file.id, drive.keys.object)


def _ranking_on(drive: UnlockedDrive, nodes: Mapping[str, Node]) -> Ranking:
    rank = ranking_of(cluster_map(drive.file), len(nodes), everyone=True)
    return lambda key: [name for name in rank(key) if name in nodes]


async def _settle(
    drive: UnlockedDrive, left: Mapping[str, Node], remains: recovery.Remains, lease: Lease
) -> None:
    """Have the head, and all that is left of the log and the roots, on the new voters."""
    cluster = cluster_map(drive.file)
    copies = copies_of(cluster, parity(drive.file))
    voting = {name: left[name] for name in voters(cluster)}
    await recovery.adopt(_objects_on(drive, voting, copies), remains, lease)
    log = ReplicatedCommitLog(_objects_on(drive, left, len(left)), claims=lease.claimed)
    objects = _objects_on(drive, left, copies)
    moving = ObjectRebalance(objects, left, _ranking_on(drive, left), log, lease.verify)
    try:
        await moving.run(lambda _done, _total: None)
    except CorruptError as error:
        complain(f"drivefs: warning: {error}; fsck.drivefs -y goes on from the newest snapshot")


def _report(folder: str, file: DriveFile, remains: recovery.Remains) -> None:
    votes = ", ".join(entry.name for entry in file.nodes if entry.votes)
    say(f"{folder}: {votes} vote now (epoch {file.epoch})")
    if remains.copy is None:
        say(f"{folder}: no commit is left; the drive is empty")
        return
    made = datetime.fromtimestamp(commit_format.decode(remains.copy.data).time_ns / 1e9, UTC)
    say(f"{folder}: the newest commit that is left is {remains.number}, of {made:%Y-%m-%dT%H:%M:%SZ}")
    if remains.claimed > remains.number:
        lost = remains.claimed - remains.number
        say(f"{folder}: {counted(lost, 'commit')} after it were stored, and are lost with the nodes")
    say(
        f"{folder}: what only the lost nodes had is missing: files changed since may be as they were before, "
        "and blocks of which too few fragments are left cannot be read; fsck.drivefs -y --data names them"
    )
    profile = Profile.parse(file.profile)
    lacking = profile.total - sum(entry.weight > 0 for entry in file.nodes)
    if lacking > 0:
        nodes = counted(lacking, "node")
        say(f"{folder}: profile {profile} needs {nodes} more: drivefs node add comes first")
