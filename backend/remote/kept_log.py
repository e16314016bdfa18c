"""A hub's log of which this machine keeps the newest commits, and gives them to a hub that lost them.

A hub whose database was restored has an older log than its devices have seen. To believe it would lose what
was acknowledged; to refuse it for ever helps nobody. Its end is looked for in what this machine goes by: if
it is there, the commits after it are appended anew, as they were, by whoever comes first. They are bound by
hash and signature, so no device can give anything else, and to all others the log is the one that they know.
If it is not there, the log is another one: nothing is given, and the caller refuses it (`RollbackError`).

Invariants:
1. Only commits of a chain that ends with the newest which this machine has applied are given: what a hub
   showed and the follower refused is not.
2. A hub that loses commits again, also while it gets them, is refused for a while: one that lies has no
   device send without end. Giving that was interrupted goes on at once, behind the last one that was taken.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Final

import trio

from backend.commits import decode_commit, encode_commit
from backend.errors import BlocksMissingError, ConflictError
from backend.remote.recent_commits import RecentCommits
from backend.remote.remote_roles import SHORTEST_POLL, RemoteLog
from backend.upstream import Commit, Head

PAUSE: Final = 600.0
"""Seconds after which a hub may get commits again."""

log = logging.getLogger(__name__)


class KeptLog:
    """See the module, and `backend.upstream.CommitLog`. `seen`: the newest commit that this machine goes
    by."""

    def __init__(self, remote: RemoteLog, recent: RecentCommits, seen: Callable[[], Head]) -> None:
        self._remote = remote
        self._recent: Final = recent
        self._seen = seen
        self._ahead: dict[int, bytes] = {}
        self._again = -math.inf
        self._given: float = math.inf
        self._turn = trio.Lock()

    async def head(self) -> Head:
        return await self._completed(await self._remote.head())

    async def append(self, commit: Commit, expected: Head) -> Head:
        before = self._again  # another task may give what the hub lacks while the hub answers
        try:
            head = await self._remote.append(commit, expected)
        except ConflictError:
            if await self.head() != expected or self._again == before:
                raise
            head = await self._remote.append(commit, expected)
        await self._keep([(commit, head.hash)])
        return head

    async def commits_after(self, number: int, limit: int = 256) -> list[tuple[Commit, bytes]]:
        found = await self._remote.commits_after(number, limit)
        await self._keep(found)
        return found

    async def wait_for_change(self, number: int) -> None:
        while True:
            again = trio.current_time() + SHORTEST_POLL
            told = await self._remote.wait_for_other(number)
            if told is None or told >= number or (await self.head()).number != number:
                return
            await trio.sleep_until(again)

    async def _keep(self, found: Sequence[tuple[Commit, bytes]]) -> None:
        """Those that are newer than what this machine goes by: once each, though they are read again until
        it does. A disk that fails takes from others, some day, what is not missing now."""
        seen = self._seen().number
        self._ahead = {number: digest for number, digest in self._ahead.items() if number > seen}
        new = {
            commit.number: (encode_commit(commit), digest)
            for commit, digest in found
            if commit.number > seen and self._ahead.get(commit.number) != digest
        }
        if not new:
            return
        async with self._turn:
            try:
                await trio.to_thread.run_sync(self._recent.add, [encoded for encoded, _ in new.values()])
            except OSError as error:
                log.warning("commits cannot be kept for a hub that loses them: %s", error)
                return
        self._ahead |= {number: digest for number, (_, digest) in new.items()}

    async def _completed(self, head: Head) -> Head:
        """The head of the log, which ended with `head`, after it was given what it lacks."""
        while head.number < (seen := self._seen()).number and self._may_give(head):
            lost = await self._lost(head, seen)
            if not lost:
                return head
            log.warning(
                "the hub lost the commits %d to %d, as after a backup was restored: it gets them from here",
                head.number + 1,
                seen.number,
            )
            try:
                for encoded in lost:
                    head = await self._remote.append(decode_commit(encoded), head)
                    self._given, self._again = head.number, trio.current_time() + PAUSE
                self._given = math.inf
            except BlocksMissingError as error:
                raise BlocksMissingError(
                    f"the hub lost commits with its database, and {len(error.blocks)} blocks that they name: "
                    "drivefs-hub check --after-restore finds those that its nodes have",
                    error.blocks,
                ) from error
            except ConflictError:  # another device gives them as well
                before, head = head, await self._remote.head()
                if head.number <= before.number:
                    return head
        return head

    async def _lost(self, head: Head, seen: Head) -> list[bytes]:
        """The commits after `head` to `seen`, encoded; empty: they are not kept, or the disk fails."""
        async with self._turn:
            try:
                return await trio.to_thread.run_sync(self._recent.chain, head, seen)
            except OSError as error:
                log.warning("the commits that are kept for a hub which loses them cannot be read: %s", error)
                return []

    def _may_give(self, head: Head) -> bool:
        return trio.current_time() >= self._again or head.number >= self._given
