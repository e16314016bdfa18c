"""The search for the newest commit among the answers of the voters, up to m of which may be made up.

Invariants:
1. Only authentic copies are believed (`ReplicatedObjects`, invariant 4).
2. What is acknowledged is found: the lease's records claim it (`lease_record.Claim`), and enough nodes took
   it that one of them is neither away nor lies. The search begins at the number that the claim names, or
   that this device knew, and goes up by reading; the next one counts if an authentic copy of it is found.
3. A list may be late, so it decides nothing. It helps in two cases: where the claims were lost it saves
   reading from commit 1 on; and it shows an authentic commit behind an absent one, which is an error.
4. The list of one node causes a few reads at most, whatever it contains.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable
from typing import Final

from backend.commits.lease_record import Claim
from backend.commits.object_format import Copy
from backend.commits.replicated_objects import Copies, Listing, ReplicatedObjects
from backend.errors import (
    CorruptError,
    DriveError,
    FormatError,
    RollbackError,
    TransientError,
    UnavailableError,
)
from backend.system import plain_hash

FOLDER: Final = "commits/"
_KEY: Final = re.compile(r"commits/([0-9a-f]{16})")
_LOOKED_AT: Final = 16
"""So many of the numbers behind the newest commit are looked at."""
_LOG = logging.getLogger(__name__)


def commit_key(number: int) -> str:
    """The key of commit `number` on nodes."""
    return f"{FOLDER}{number:016x}"


def number_of(key: str) -> int | None:
    """The number of the commit whose key it is; None if it is no commit's."""
    match = _KEY.fullmatch(key)
    return int(match[1], 16) if match else None


class CommitSearch:
    """Any number of callers. `note_damaged` is told of a commit of which some nodes, named in the text, have
    a copy that is no good."""

    def __init__(self, objects: ReplicatedObjects, note_damaged: Callable[[int, str], None]) -> None:
        self._objects = objects
        self._note_damaged = note_damaged

    async def newest(self, listing: Listing, known: int, claim: Claim) -> tuple[int, Copy] | None:
        """The number and a copy of the newest commit, given what the nodes list, the number of one that this
        device knows (0: none) and what the lease's records claim; None if the log is empty. `RollbackError`;
        `CorruptError` (gap, damage); `TransientError`; `UnavailableError`."""
        holders = {number: names for key, names in listing.holders.items() if (number := number_of(key))}
        listed = max(
            (number for number in holders if len(holders[number]) >= self._objects.copies), default=0
        )
        top = max(listed, known, claim.number)
        copy = await self._claimed_copy(claim) if top == claim.number else await self.newest_copy(top)
        if copy is None and known > max(listed, claim.number):
            raise RollbackError(
                f"the commit log ends at commit {max(listed, claim.number)}, but this device has seen commit "
                f"{known}: the nodes are older than this cache; nothing was changed"
            )
        if copy is None and top:
            raise TransientError(f"commit {top}, the newest, vanished while it was read: try again")
        while (following := await self.newest_copy(top + 1)) is not None:
            top, copy = top + 1, following
        await self._require_nothing_behind(top, holders)
        return None if copy is None else (top, copy)

    async def _claimed_copy(self, claim: Claim) -> Copy | None:
        """The copy of what is claimed: that commit, or another of its number that a later holder wrote, who
        did not know the claim's, which so was not acknowledged. Between copies of one ballot (two clones of
        one process wrote them) the claim decides."""
        if not claim.number:
            return None
        copies = await self._copies(claim.number)
        copy = max(copies, key=lambda copy: (copy.ballot, plain_hash(copy.data) == claim.hash), default=None)
        if copy is None or (copy.ballot <= claim.epoch and plain_hash(copy.data) != claim.hash):
            raise CorruptError(
                f"commit {claim.number}, the newest as the lease's records say, is on no node that answers"
            )
        return copy

    async def _require_nothing_behind(self, top: int, numbers: Iterable[int]) -> None:
        behind = sorted(number for number in numbers if number > top + 1)
        for number in behind[:_LOOKED_AT]:
            if await self.newest_copy(number) is not None:
                raise CorruptError(f"the commit log has a gap: commit {top + 1} is on no node")

    async def newest_copy(self, number: int) -> Copy | None:
        """The copy of the highest ballot; None if there is none and could be none: at most m nodes have
        something else in its place. Raises as `newest`."""
        return max(await self._copies(number), key=lambda copy: copy.ballot, default=None)

    async def _copies(self, number: int) -> list[Copy]:
        """The good copies. Those that cannot be read may have a higher ballot than those that can:
        `UnavailableError` if, with nodes away, these could be all that an acknowledged commit has."""
        found = await self._objects.find_all(commit_key(number))
        unread = found.away | found.damaged.keys()
        if found.away and len(unread) >= self._objects.copies:
            raise UnavailableError(
                f"commit {number} cannot be looked for, too many nodes are away: {', '.join(sorted(unread))}",
                sorted(unread),
            )
        if found.good:
            if found.damaged:
                self._note_damaged(number, ", ".join(sorted(found.damaged)))
        elif len(found.damaged) >= self._objects.copies:
            raise _nothing_good(number, found)
        elif found.damaged:
            _LOG.warning("commit %d is no commit of this drive: left out (%s)", number, found.whose_damage())
        return list(found.good.values())


def _nothing_good(number: int, found: Copies) -> DriveError:
    unknown = all(damage.is_unknown for damage in found.damaged.values())
    kind = FormatError if unknown else CorruptError
    return kind(f"commit {number}: every copy is damaged ({found.whose_damage()})")
