"""Recovery of the lease and the log when a majority of the voters is lost for good.

Invariants:
1. Only authentic copies and records count. The log ends with the highest commit that is left. Commits that
   only the lost nodes had are missing, and the person is told.
2. The new epoch and the new map are far above all that is left: whatever the lost nodes had, if one comes
   back, is below them.
3. The new voters have the lease, the head and its claim before `drive.toml` names them, and the lease's
   records name the new map only after that. An interruption before leaves the map as it was: the next run
   does the same again, and if the lost nodes come back instead, the drive goes on with them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Final

from backend.cluster.drive_file import DriveFile
from backend.coding import ClusterNode, first_voters
from backend.commits import (
    FOLDER,
    Copy,
    Lease,
    LeaseVotes,
    ReplicatedObjects,
    commit_key,
    number_of,
)
from backend.errors import DriveError, UnavailableError, UsageError
from backend.nodes import Node
from backend.system import plain_hash
from backend.upstream import Head

AHEAD: Final = 1 << 20
"""By so much the new epochs are above the highest that is left."""


@dataclass(frozen=True, slots=True)
class Remains:
    """What the nodes that are left have: a copy of the newest commit, and its number (None and 0: there is
    none); the highest epochs of the lease and the map; `claimed`, the highest number that a record names."""

    copy: Copy | None
    number: int
    epoch: int
    map_epoch: int
    claimed: int


def require_lost(file: DriveFile, answering: Collection[str]) -> None:
    """`UsageError` if a majority of the voters answers, `UnavailableError` if no node does."""
    voters = [entry.name for entry in file.nodes if entry.votes]
    there = [name for name in voters if name in answering]
    if len(there) > len(voters) // 2:
        raise UsageError(
            f"nothing is to be recovered: {len(there)} of the {len(voters)} nodes that vote answer "
            f"({', '.join(there)}), which is a majority; lost nodes are replaced (drivefs node replace) or "
            "removed (drivefs node remove)"
        )
    if not answering:
        raise UnavailableError("no node answers: there is nothing to go on from", voters)


async def look(
    file: DriveFile, nodes: Mapping[str, Node], objects: ReplicatedObjects, lease_key: bytes, seconds: float
) -> Remains:
    """What `nodes`, those that are left, have. `objects` is on all of them. `UnavailableError` if one of them
    does not answer: what it has would be given up for good."""
    seen, failed = await LeaseVotes(nodes, file.id, lease_key).look(seconds)
    _require_answers(nodes.keys() - seen.keys(), failed)
    records = [one.record for one in seen.values() if one.record is not None]
    number, copy = await _newest(objects)
    return Remains(
        copy,
        number,
        epoch=max([copy.ballot if copy else 0, *(record.epoch for record in records)]),
        map_epoch=max([file.epoch, *(record.map for record in records)]),
        claimed=max([number, *(record.claim.number for record in records)]),
    )


async def adopt(objects: ReplicatedObjects, remains: Remains, lease: Lease) -> None:
    """Have the newest commit that is left on the new voters, whose objects these are, under the new epoch.
    Raises as `ReplicatedCommitLog.append`.

    If this is interrupted and the lost nodes come back, all commits after that one still count: they are
    found by reading on from it. Only where the lost nodes have another commit of its very number, and none
    after it, what was left counts now, as its ballot is the higher."""
    if remains.copy is not None:
        data = remains.copy.data
        await objects.create(commit_key(remains.number), data, lease.epoch, lambda: None)
        await lease.verify(Head(remains.number, plain_hash(data)))


async def _newest(objects: ReplicatedObjects) -> tuple[int, Copy | None]:
    """The highest commit of which an authentic copy is left, and that of the highest ballot."""
    listing = await objects.list_known(FOLDER)
    _require_answers(listing.away)
    numbers = {number for key in listing.holders if (number := number_of(key))}
    for number in sorted(numbers, reverse=True):
        found = await objects.find_all(commit_key(number))
        _require_answers(found.away)
        if found.good:
            return number, max(found.good.values(), key=lambda copy: copy.ballot)
    return 0, None


def _require_answers(silent: Collection[str], failed: Mapping[str, DriveError] | None = None) -> None:
    """`UnavailableError` if there is one of the `silent`; `failed` says why, where that is known."""
    if silent:
        known = failed or {}
        reasons = "; ".join(str(known.get(name, name)) for name in sorted(silent))
        raise UnavailableError(
            f"nodes that were there do not answer now: {reasons}; nothing was changed, try again",
            sorted(silent),
        )


def recovered(file: DriveFile, answering: Collection[str], remains: Remains, m: int) -> DriveFile:
    """The drive file with the nodes that answer, and voters among them."""
    left = [entry for entry in file.nodes if entry.name in answering]
    usable = [entry for entry in left if entry.weight > 0] or left
    voters = first_voters((ClusterNode(entry.name, entry.zone) for entry in usable), m)
    nodes = tuple(replace(entry, votes=entry.name in voters) for entry in left)
    return replace(file, nodes=nodes, epoch=remains.map_epoch + AHEAD)
