"""Recovery of the lease and the log when a majority of the voters is lost for good.

Invariants:
1. Only authentic copies and records count. The log ends with the highest commit that is left. Commits that
   only the lost nodes had are missing, and the person is told.
2. The new epoch and the new map are far above all that is left: whatever the lost nodes had, if one comes
   back, is below them.
3. Before `drive.toml` is written the new voters get copies as they are, and an epoch of the lease: nothing
   that the lost nodes would have to give way to. Only where the lease's records claim the newest commit that
   is left, or one after it, it gets the new epoch: what the lost nodes have after it is found by reading on.
4. The lease's records name the new map only after `drive.toml` does. So an interruption leaves the old map in
   force or the new one, and with either the drive opens as soon as a majority of its voters answers.
5. No good copy is deleted, and one is replaced only by a higher ballot, and only where it is certain which
   copy counts: where commits are missing it is guessed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from backend.cluster.drive_file import DriveFile
from backend.coding import ClusterNode, first_voters
from backend.commits import (
    FOLDER,
    NO_CLAIM,
    ROOTS,
    Claim,
    Copies,
    Copy,
    Lease,
    LeaseVotes,
    Ranking,
    ReplicatedObjects,
    commit_format,
    commit_key,
    number_of,
)
from backend.errors import CorruptError, DriveError, UnavailableError, UsageError
from backend.failpoints import declare
from backend.nodes import Node
from backend.system import THIS_MACHINE, plain_hash
from backend.upstream import NO_COMMIT, Head

AHEAD: Final = 1 << 20
"""By so much the new epochs are above the highest that is left."""
COPIED: Final = declare(
    "node.recover-copied", "one more new voter has a commit or root; drive.toml has the lost ones still"
)


@dataclass(frozen=True, slots=True)
class Remains:
    """What the nodes that are left have: a copy of the newest commit, and its number (None and 0: there is
    none); the highest epochs of the lease and the map; the highest claim of a record."""

    copy: Copy | None
    number: int
    epoch: int
    map_epoch: int
    claim: Claim

    @property
    def head(self) -> Head:
        """The newest commit."""
        return Head(self.number, plain_hash(self.copy.data) if self.copy else NO_COMMIT)

    @property
    def lost(self) -> int:
        """So many commits after it were stored."""
        return max(self.claim.number - self.number, 0)

    @property
    def is_past_doubt(self) -> bool:
        """Whether no lost node can have another commit of that number that counts: the records claim that
        very commit, or a later one. There may be commits after it on the lost nodes."""
        return self.lost > 0 or self.claim.hash == self.head.hash


def voters_there(file: DriveFile, answering: Collection[str]) -> list[str]:
    """The voters that answer, if they are a majority; else nothing."""
    voters = _voters_of(file)
    there = sorted(voters.intersection(answering))
    return there if len(there) > len(voters) // 2 else []


def require_lost(file: DriveFile, answering: Collection[str]) -> None:
    """`UsageError` if a majority of the voters answers, `UnavailableError` if no node does."""
    voters = _voters_of(file)
    if there := voters_there(file, answering):
        raise UsageError(
            f"nothing is to be recovered: {len(there)} of the {len(voters)} nodes that vote answer "
            f"({', '.join(there)}), which is a majority; lost nodes are replaced (drivefs node replace) or "
            "removed (drivefs node remove)"
        )
    if not answering:
        raise UnavailableError("no node answers: there is nothing to go on from", sorted(voters))


async def look(
    file: DriveFile, nodes: Mapping[str, Node], objects: ReplicatedObjects, lease_key: bytes, seconds: float
) -> Remains:
    """The remains on `nodes`, those that are left. `objects` is on all of them. `UnavailableError` if one of
    them does not answer: what it has would be given up for good."""
    seen, failed = await LeaseVotes(nodes, file.id, lease_key).look(seconds)
    made_up = {name for name, error in failed.items() if isinstance(error, CorruptError)}
    _require_answers(nodes.keys() - seen.keys() - made_up, failed)
    records = [one.record for one in seen.values() if one.record is not None]
    claim = max((record.claim for record in records), default=NO_CLAIM)
    number, copy = await _newest(objects, _voters_of(file), claim)
    return Remains(
        copy,
        number,
        epoch=max([copy.ballot if copy else 0, *(record.epoch for record in records)]),
        map_epoch=max([file.epoch, *(record.map for record in records)]),
        claim=claim,
    )


async def adopt(objects: ReplicatedObjects, remains: Remains, lease: Lease) -> None:
    """Have the newest commit that is left under the new epoch on the new voters, whose objects these are, and
    claimed by the lease's records. Raises as `ReplicatedCommitLog.append`. Idempotent."""
    if remains.copy is not None:
        await objects.create(commit_key(remains.number), remains.copy.data, lease.epoch, lambda: None)
    await lease.verify(remains.head)


class Spreading:
    """Gives the new voters all commits and roots of which an authentic copy is left. `objects` is on all
    nodes that are left, `file` names the voters before; the first `copies` of the `ranking` get each object.
    Every question is put to all nodes: `UnavailableError` if one does not answer; else what a node raises."""

    def __init__(
        self, objects: ReplicatedObjects, file: DriveFile, ranking: Ranking, copies: int, remains: Remains
    ) -> None:
        self._objects = objects
        self._voted = _voters_of(file)
        self._ranking = ranking
        self._copies = copies
        self._remains = remains

    async def run(self) -> list[int]:
        """The numbers of the commits before the newest that are lost. Idempotent."""
        for key in await _listed(self._objects, ROOTS):
            found = await _found(self._objects, key)
            if found.good:
                await self._write(key, found, _best(found, self._voted), is_certain=True)
        return await self._commits()

    async def _commits(self) -> list[int]:
        """From the newest down: what a commit names as the one before it is right, whatever its ballot. Where
        that one is missing the highest ballot is a guess."""
        listed = {number_of(key) for key in await _listed(self._objects, FOLDER)}
        lost: list[int] = []
        wanted: bytes | None = self._remains.head.hash
        for number in range(self._remains.number, 0, -1):
            key = commit_key(number)
            found = await _found(self._objects, key) if number in listed else Copies()
            copy = _best(found, self._voted, wanted) if found.good else None
            if copy is None or (wanted is not None and plain_hash(copy.data) != wanted):
                lost.append(number)
                wanted = None
                continue
            await self._write(key, found, copy, is_certain=wanted is not None)
            wanted = commit_format.decode(copy.data).previous
        return lost[::-1]

    async def _write(self, key: str, found: Copies, copy: Copy, *, is_certain: bool) -> None:
        for name in self._ranking(key.encode())[: self._copies]:
            there = found.good.get(name)
            if there is None or (is_certain and there.ballot < copy.ballot):
                await self._objects.restore(name, key, copy)
                THIS_MACHINE.failpoints.reached(COPIED)


def _voters_of(file: DriveFile) -> set[str]:
    return {entry.name for entry in file.nodes if entry.votes}


def _best(found: Copies, voted: Collection[str], wanted: bytes | None = None) -> Copy:
    """Of the good copies, one whose hash is `wanted` before others, then of the highest ballot; of equals,
    that of a node that voted."""

    def weight(holder: tuple[str, Copy]) -> tuple[bool, int, bool]:
        name, copy = holder
        return wanted is not None and plain_hash(copy.data) == wanted, copy.ballot, name in voted

    return max(found.good.items(), key=weight)[1]


async def _newest(
    objects: ReplicatedObjects, voted: Collection[str], claim: Claim
) -> tuple[int, Copy | None]:
    """The highest commit of which an authentic copy is left. Not one that had to give way to what is claimed:
    it was never acknowledged."""

    def counts(number: int, copy: Copy) -> bool:
        return number != claim.number or copy.ballot > claim.epoch or plain_hash(copy.data) == claim.hash

    numbers = {number for key in await _listed(objects, FOLDER) if (number := number_of(key))}
    for number in sorted(numbers, reverse=True):
        found = await _found(objects, commit_key(number))
        found.good = {name: copy for name, copy in found.good.items() if counts(number, copy)}
        if found.good:
            return number, _best(found, voted)
    return 0, None


async def _listed(objects: ReplicatedObjects, folder: str) -> Sequence[str]:
    listing = await objects.list_known(folder)
    _require_answers(listing.away)
    return sorted(listing.holders)


async def _found(objects: ReplicatedObjects, key: str) -> Copies:
    found = await objects.find_all(key)
    _require_answers(found.away)
    return found


def _require_answers(silent: Collection[str], failed: Mapping[str, DriveError] | None = None) -> None:
    """`UnavailableError` if there is one of the `silent`; `failed` says why, where that is known."""
    if silent:
        known = failed or {}
        reasons = "; ".join(str(known.get(name, name)) for name in sorted(silent))
        raise UnavailableError(
            f"nodes that were there do not answer now: {reasons}; the drive is as it was, try again",
            sorted(silent),
        )


def recovered(
    file: DriveFile, answering: Collection[str], able: Collection[str], remains: Remains, m: int
) -> DriveFile:
    """The drive file with the nodes that answer, and voters among those that are `able` to; `UsageError` if
    none of them is."""
    left = [entry for entry in file.nodes if entry.name in answering]
    may_vote = [entry for entry in left if entry.name in able]
    usable = [entry for entry in may_vote if entry.weight > 0] or may_vote
    if not usable:
        raise UsageError(
            f"none of the nodes that are left can vote ({', '.join(sorted(answering))}): other machines "
            "serve them; put the disk of one into this machine, and its new path into drive.toml"
        )
    voters = first_voters((ClusterNode(entry.name, entry.zone) for entry in usable), m)
    nodes = tuple(replace(entry, votes=entry.name in voters) for entry in left)
    return replace(file, nodes=nodes, epoch=remains.map_epoch + AHEAD)
