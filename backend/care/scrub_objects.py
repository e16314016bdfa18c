"""The scrub of small objects: every copy of the commits up to the head, and of the roots, is looked at.

Invariants:
1. Only what was read counts. A copy is wrong if its tag does not fit, or if it says something else than the
   others, or if too few nodes have one. A list is not believed: it can only have more nodes read.
2. Nothing is written here. A commit is noted in its log, which reads it again and writes what its chain says
   (`backend.commits.commit_mending`); a root is read again by who writes roots.
3. A node that does not answer is skipped, never called wrong.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Final

from backend.commits import (
    FOLDER,
    Copies,
    Damage,
    Listing,
    ReplicatedCommitLog,
    ReplicatedObjects,
    commit_key,
)
from backend.errors import CorruptError, DriveError, FormatError, NotFoundError
from backend.nodes import PAGE, Node, TokenBucket

LEAST_BYTES: Final = 64 << 10
"""A read of less counts as much against the rate: most commits are small, and a disk has to seek."""

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Seen:
    """Copies that were looked at; those that are wrong or missing; nodes that did not answer; bytes read."""

    copies: int = 0
    wrong: int = 0
    unanswered: int = 0
    bytes: int = 0


class ObjectScrub:
    """`objects` are of the session whose `commits` are mended. `roots`: keys; `mend_root` mends one, and says
    how many copies it wrote. The voters may become others at any time. One caller."""

    def __init__(
        self,
        objects: ReplicatedObjects,
        commits: ReplicatedCommitLog,
        roots: Collection[str],
        mend_root: Callable[[str], Awaitable[int]],
    ) -> None:
        self._objects = objects
        self._commits = commits
        self._roots = roots
        self._mend_root = mend_root

    def batch(self, after: int) -> range:
        """The numbers of the next commits, for one `list_far`; empty behind the head."""
        return range(after + 1, min(after + PAGE, self._commits.head.number) + 1)

    async def list_far(self, after: int, far: Collection[str]) -> Listing:
        """Ask each of these nodes once for its list of the commits behind number `after`."""
        listing = Listing()
        for node in self._voting(commit_key(after), far):
            try:
                keys = await node.keys(FOLDER, commit_key(after))
            except DriveError:
                listing.away.add(node.name)
            else:
                for key in keys:
                    listing.holders.setdefault(key, set()).add(node.name)
        return listing

    async def look_at_commit(
        self, number: int, bucket: TokenBucket, listing: Listing, listed: Collection[str]
    ) -> Seen:
        """Read its copies, but those on the nodes `listed` only if too few are read or in the list."""
        key, seen, found = commit_key(number), Seen(), Copies()
        unread = self._voting(key, listed)
        names = {node.name for node in unread}
        near = [node for node in self._objects.nodes_for(key) if node.name not in names]
        await self._read(key, near, found, seen, bucket)
        elsewhere = (listing.holders.get(key, set()) | listing.away) & names
        if self._lacking(found, len(elsewhere)):
            await self._read(key, unread, found, seen, bucket)
            elsewhere = set()
        seen.wrong = self._wrong(found, len(elsewhere))
        if found.damaged:
            self._commits.to_mend.note_damaged(number, ", ".join(sorted(found.damaged)))
        elif seen.wrong:
            self._commits.to_mend.note(number)
        return seen

    async def look_at_roots(self, bucket: TokenBucket) -> Seen:
        """Read all copies of all roots, and have mended what is not in order."""
        seen = Seen()
        for key in self._roots:
            found = Copies()
            await self._read(key, self._objects.nodes_for(key), found, seen, bucket)
            if found.damaged or (found.good and self._wrong(found, 0)):
                seen.wrong += await self._mended(key, found)
        return seen

    async def _mended(self, key: str, found: Copies) -> int:
        """The copies that were wrong."""
        if found.damaged:
            log.warning("scrub: %s is damaged on %s", key, ", ".join(sorted(found.damaged)))
        try:
            return max(await self._mend_root(key), len(found.damaged))
        except DriveError as error:
            log.warning("scrub: %s could not be mended: %s", key, error)
            return self._wrong(found, 0)

    def _voting(self, key: str, names: Collection[str]) -> list[Node]:
        """Of these nodes those that keep small objects."""
        return [node for node in self._objects.nodes_for(key) if node.name in names]

    def _lacking(self, found: Copies, elsewhere: int) -> int:
        there = len(found.good) + len(found.damaged) + len(found.away) + elsewhere
        return max(0, self._objects.copies - there)

    def _wrong(self, found: Copies, elsewhere: int) -> int:
        """Copies that are damaged, others than most, or missing."""
        same = Counter(copy.data for copy in found.good.values()).most_common(1)
        others = len(found.good) - same[0][1] if same else 0
        return len(found.damaged) + others + self._lacking(found, elsewhere)

    async def _read(
        self, key: str, nodes: Iterable[Node], found: Copies, seen: Seen, bucket: TokenBucket
    ) -> None:
        for node in nodes:
            size = 0
            try:
                copy = found.good[node.name] = await self._objects.read(node, key)
                size = len(copy.data)
            except NotFoundError:
                continue
            except (CorruptError, FormatError) as error:
                found.damaged[node.name] = Damage(str(error), isinstance(error, FormatError))
            except DriveError:
                found.away.add(node.name)
                seen.unanswered += 1
                continue
            seen.copies += 1
            seen.bytes += size
            await bucket.take(max(size, LEAST_BYTES))
