"""Finding the newest commit among what nodes say, of which up to m may say anything.

Invariants:
1. Only authentic copies are believed (`ReplicatedObjects`, invariant 4).
2. What is acknowledged is found: m+1 nodes took it, so one of them is neither away nor lies. The search
   begins at a number that m+1 nodes list, or that this device knew, and goes up; the next number counts if
   an authentic copy of it is found. It is absent if m nodes at most have something else in its place.
   An authentic commit behind an absent one is an error.
3. What a node lists costs no more than a few reads, whatever it lists.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable
from typing import Final

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

    async def newest(self, listing: Listing, known: int) -> tuple[int, Copy] | None:
        """The number and a copy of the newest commit, given what the nodes list and the number of one that
        this device knows (0: none); None if the log is empty. `RollbackError`; `CorruptError` (gap,
        damage); `TransientError`; `UnavailableError`."""
        holders = {number: names for key, names in listing.holders.items() if (number := number_of(key))}
        sure = max((number for number in holders if len(holders[number]) >= self._objects.copies), default=0)
        top = max(sure, known)
        copy = await self.newest_copy(top) if top else None
        if copy is None and known > sure:
            raise RollbackError(
                f"the commit log ends at commit {sure}, but this device has seen commit {known}: "
                "the nodes are older than this cache; nothing was changed"
            )
        if copy is None and top:
            raise TransientError(f"commit {top}, the newest, vanished while it was read: try again")
        while top + 1 in holders and (following := await self.newest_copy(top + 1)) is not None:
            top, copy = top + 1, following
        await self._require_nothing_behind(top, holders)
        return None if copy is None else (top, copy)

    async def _require_nothing_behind(self, top: int, numbers: Iterable[int]) -> None:
        behind = sorted(number for number in numbers if number > top + 1)
        for number in behind[:_LOOKED_AT]:
            if await self.newest_copy(number) is not None:
                raise CorruptError(f"the commit log has a gap: commit {top + 1} is on no node")

    async def newest_copy(self, number: int) -> Copy | None:
        """The copy of the highest ballot; None if there is none and could be none. Copies that cannot be read
        may have a higher one than those that can: `UnavailableError` if, with nodes away, these could be all
        m+1 of an acknowledged commit. It is not enough that the listing before saw n-m nodes: others may have
        gone since."""
        found = await self._objects.find_all(commit_key(number))
        unread = found.away | found.damaged.keys()
        if found.away and len(unread) >= self._objects.copies:
            raise UnavailableError(f"commit {number} cannot be looked for", sorted(unread))
        if found.good:
            if found.damaged:
                self._note_damaged(number, ", ".join(sorted(found.damaged)))
            return max(found.good.values(), key=lambda copy: copy.ballot)
        if len(found.damaged) >= self._objects.copies:
            raise _nothing_good(number, found)
        if found.damaged:
            _LOG.warning("commit %d is no commit of this drive: left out (%s)", number, found.whose_damage())
        return None


def _nothing_good(number: int, found: Copies) -> DriveError:
    unknown = all(isinstance(error, FormatError) for error in found.damaged.values())
    kind = FormatError if unknown else CorruptError
    return kind(f"commit {number}: every copy is damaged ({found.whose_damage()})")
