"""Moving the small replicated objects (commits, roots) to the nodes that the cluster map wants.

Invariants:
1. Only copies whose tag fits are moved (`ReplicatedObjects`, invariant 4): commits by their hash chain,
   roots by their ballots. What a node made up stays where it is.
2. Copies elsewhere are deleted only after m+1 wanted nodes took the right one: at no moment are there fewer
   good copies than before. That a node was read and had it is not enough, as a store may answer with what it
   held before (`late get` of the simulator): a create or a swap is of what it holds.
3. Only for who holds the drive's lease, which a majority confirms anew before each deletion. Who lost it
   unawares replaces nothing of a later holder's: what is written gives way to a higher ballot.
4. Nothing is chosen by guess: an object without a right copy, or with two that nothing tells apart, stays.
5. A commit that is lost keeps no other from its place. Where the chain ends at one, a commit is moved if all
   its copies say the same; others stay.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Final

from backend.commits import (
    FOLDER,
    ROOTS,
    Copies,
    Copy,
    Ranking,
    ReplicatedCommitLog,
    ReplicatedObjects,
    commit_key,
)
from backend.errors import CorruptError, MissingCommitError
from backend.failpoints import declare
from backend.nodes import Node
from backend.system import THIS_MACHINE, Environment, plain_hash

COPIED: Final = declare(
    "rebalance.object-copied", "one more wanted node has a commit or root; the old copies are all there"
)
DELETED: Final = declare(
    "rebalance.object-deleted", "m+1 wanted nodes have a commit or root; one copy elsewhere is gone"
)

_BATCH: Final = 256

Accept = Callable[[Copy], bool]
Progress = Callable[[int, int], None]


class ObjectRebalance:
    """`nodes` and `ranking` are those of `objects`; `log` is not opened, and knows what the lease claims;
    `verify` confirms the lease, or raises. No root is written by others while a block of `still` runs."""

    def __init__(
        self,
        objects: ReplicatedObjects,
        nodes: Mapping[str, Node],
        ranking: Ranking,
        log: ReplicatedCommitLog,
        verify: Callable[[], Awaitable[None]],
        still: Callable[[], AbstractAsyncContextManager[None]] = nullcontext,
        environment: Environment = THIS_MACHINE,
    ) -> None:
        self._objects = objects
        self._nodes = nodes
        self._ranking = ranking
        self._log = log
        self._verify = verify
        self._still = still
        self._failpoints = environment.failpoints
        self.moved = 0
        """copies that were written where there was none, or another one"""
        self.missing: MissingCommitError | None = None
        """The lost commit at which the chain ends, if there is one."""

    async def run(self, progress: Progress) -> None:
        """Put all commits and roots in order. `CorruptError` if the newest commit is not found, or an object
        has no copy that is right for certain: what was moved before stays moved. What nodes raise. Safe to
        cancel and to repeat."""
        try:
            head = await self._log.open()
        except MissingCommitError as error:
            self.missing = error
            await self._settle_unlinked(progress)
        else:
            await self._settle_chain(head.number, progress)
        for key in sorted((await self._objects.keys(ROOTS)).holders):
            await self._settle_root(key)

    async def _settle_root(self, key: str) -> None:
        """Others wait only while a root is moved, and for nothing that is in order."""
        if self._is_in_order(key, await self._objects.find_all(key)):
            return
        async with self._still():
            found = await self._objects.find_all(key)
            if found.good:
                await self._settle(key, found, lambda _copy: True)

    def _is_in_order(self, key: str, found: Copies) -> bool:
        """Whether the wanted nodes, and no others, have a copy, and all the same."""
        return found.good.keys() | found.damaged.keys() == set(self._wanted(key)) and (
            not found.damaged and len(set(found.good.values())) == 1
        )

    def _wanted(self, key: str) -> Sequence[str]:
        return self._ranking(key.encode())[: self._objects.copies]

    async def _settle_chain(self, top: int, progress: Progress) -> None:
        number = 0
        while commits := await self._log.commits_after(number, _BATCH):
            for commit, commit_hash in commits:
                await self._settle_commit(commit.number, commit_hash)
            number = commits[-1][0].number
            progress(number, top)

    async def _settle_unlinked(self, progress: Progress) -> None:
        keys = sorted((await self._objects.keys(FOLDER)).holders)
        for done, key in enumerate(keys, 1):
            found = await self._objects.find_all(key)
            if len({copy.data for copy in found.good.values()}) == 1:
                await self._settle(key, found, lambda _copy: True)
            progress(done, len(keys))

    async def _settle_commit(self, number: int, commit_hash: bytes) -> None:
        key = commit_key(number)
        await self._settle(key, await self._objects.find_all(key), _of_hash(commit_hash))

    async def _settle(self, key: str, found: Copies, accept: Accept) -> None:
        right = _right(key, found, accept)
        wanted = self._wanted(key)
        elsewhere = sorted((found.good.keys() | found.damaged.keys()) - set(wanted))
        for name in wanted:
            lacks = found.good.get(name) != right
            if lacks or elsewhere:
                await self._objects.restore(name, key, right)
            if lacks:
                self._failpoints.reached(COPIED)
                self.moved += 1
        for name in elsewhere:
            await self._verify()
            await self._nodes[name].delete(key)
            self._failpoints.reached(DELETED)


def _of_hash(commit_hash: bytes) -> Accept:
    return lambda copy: plain_hash(copy.data) == commit_hash


def _right(key: str, found: Copies, accept: Accept) -> Copy:
    """Of the accepted copies with the highest ballot, the one that most nodes have: what was acknowledged
    last is on more nodes than what it replaced (`ReplicatedObjects`, invariant 1)."""
    accepted = [copy for copy in found.good.values() if accept(copy)]
    highest = max((copy.ballot for copy in accepted), default=None)
    votes = Counter(copy for copy in accepted if copy.ballot == highest).most_common(2)
    if not votes:
        raise CorruptError(f"{key}: no copy is good; fsck.drivefs says more")
    if len(votes) == 2 and votes[0][1] == votes[1][1]:
        raise CorruptError(
            f"{key} is in two states and nothing says which is newer: mount the drive, unmount it, try again"
        )
    return votes[0][0]
