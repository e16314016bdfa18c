"""Rebalancing: what lies on the nodes moves to where the cluster map wants it, when nodes come and go.

Invariants:
1. No key is used: which fragment is where, the nodes list; what it is, and whether it is whole, is in the
   fragment (docs/format/fragment.md). Each machine's block index learns of it by reconciliation.
2. A copy is deleted only after the node where the fragment belongs took it durably in this run: at no moment
   has a pack fewer fragments than before, and never two on one node for long. That that node was read and had
   it is not enough, as a store may answer with what it held before.
3. Fragments that are on a wanted node stay (`backend.coding.placement.settle`): moving is for the others
   only. What no node has is rebuilt from k others, as repair does it.
4. A crash at any point leaves at most a fragment on two nodes, of which the next run deletes one.
5. Only while a majority of the nodes confirms the lease, asked anew before each deletion.
6. Of a drive in use, the process that uses it is asked for each pack, and told where fragments lie before the
   copies elsewhere go (`Users`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol

import anyio.lowlevel

from backend.coding import ClusterMap, place, settle
from backend.errors import CorruptError, DriveError, UnavailableError
from backend.failpoints import declare
from backend.nodes import Node, RateLimitedNode, TokenBucket, all_keys
from backend.packs import (
    FOOTER_SIZE,
    MAX_PAYLOAD,
    FragmentListing,
    Pack,
    PackCodec,
    PackStore,
    fragment_key,
    is_wrong,
    list_fragments,
)
from backend.system import THIS_MACHINE, Environment, task_group

BEFORE_COPY: Final = declare(
    "rebalance.before-copy", "a fragment was read and is on its old node; the new one may not have it"
)
COPIED: Final = declare("rebalance.copied", "a fragment is durable on its new node, and is on the old one")
DELETED: Final = declare("rebalance.deleted", "a fragment is on its new node only")

AT_ONCE: Final = 4

Verify = Callable[[], Awaitable[None]]
Progress = Callable[[int, int], None]


@dataclass(slots=True)
class RebalanceReport:
    """The results of a rebalance: fragments moved and their bytes, fragments rebuilt, second copies deleted.
    `left`: one line for each pack that could not be put in order."""

    moved: int = 0
    moved_bytes: int = 0
    rebuilt: int = 0
    deleted: int = 0
    left: list[str] = field(default_factory=list)


class Users(Protocol):
    """Those who use the packs while they are moved: see `backend.blocks.pack_moves.PackMoves`."""

    async def begin(self) -> None:
        """A run begins; the nodes have not been listed."""

    def exclusive(self, pack_id: bytes) -> AbstractAsyncContextManager[Sequence[str] | None]:
        """Nobody else changes the pack while the block runs; where its fragments are known to lie, if that is
        known. None: it is to be left alone."""

    def moved(self, pack_id: bytes, index: int, name: str) -> None:
        """Fragment `index` is durable on the node of that name, and may go elsewhere."""

    def rebuilt(self, pack_id: bytes, nodes: Sequence[str]) -> None:
        """All fragments of the pack are good, and lie on these nodes."""


class Nobody:
    """See `Users`: of a drive that is not in use."""

    async def begin(self) -> None:
        await anyio.lowlevel.checkpoint()

    @asynccontextmanager
    async def exclusive(self, pack_id: bytes) -> AsyncIterator[Sequence[str] | None]:
        await anyio.lowlevel.checkpoint()
        yield ()

    def moved(self, pack_id: bytes, index: int, name: str) -> None:
        """Nobody has to know."""

    def rebuilt(self, pack_id: bytes, nodes: Sequence[str]) -> None:
        """Nobody has to know."""


NOBODY: Final[Users] = Nobody()


class Rebalance:
    """One run at a time, by who holds the drive's lease; `verify` confirms it, or raises. `nodes` are all
    nodes of the drive by name; those that shall take nothing new (weight 0) may be away. `rate` bounds the
    bytes that are read a second."""

    def __init__(
        self,
        nodes: Mapping[str, Node],
        cluster: ClusterMap,
        codec: PackCodec,
        verify: Verify,
        rate: float | None = None,
        users: Users = NOBODY,
        environment: Environment = THIS_MACHINE,
    ) -> None:
        self._nodes = nodes
        self._cluster = cluster
        self._profile = codec.code.profile
        self._verify = verify
        self._users = users
        self._failpoints = environment.failpoints
        self._read_from = nodes if rate is None else _limited(nodes, rate)
        self._packs = PackStore(
            self._read_from, codec, cluster, lambda _pack, _index: None, environment=environment
        )

    async def run(self, progress: Progress) -> RebalanceReport:
        """Put all packs in order. `UnavailableError` if a node that is to keep something is away; what a node
        raises ends the run. Safe to cancel and to repeat: the next run goes on."""
        report = RebalanceReport()
        await self._users.begin()
        listing = await list_fragments(self._nodes)
        self._require_nodes(listing.away)
        packs = sorted(listing.packs())
        remaining, done = iter(packs), 0
        progress(done, len(packs))

        async def work() -> None:
            nonlocal done
            for pack_id in remaining:
                async with self._users.exclusive(pack_id) as known:
                    if known is not None:
                        await self._settle(pack_id, self._holders(pack_id, listing, known), known, report)
                done += 1
                progress(done, len(packs))

        async with task_group() as group:
            for _ in range(AT_ONCE):
                group.start_soon(work)
        return report

    def _require_nodes(self, away: Sequence[str]) -> None:
        needed = [node.name for node in self._cluster.nodes if node.weight > 0 and node.name in away]
        if needed:
            raise UnavailableError(
                f"nothing is moved while nodes are away: {', '.join(needed)}; bring them back, replace them "
                "(drivefs node replace) or remove them too",
                needed,
            )

    def _holders(self, pack_id: bytes, listing: FragmentListing, known: Sequence[str]) -> list[list[str]]:
        """The nodes that list each fragment, and the one that is known to have it: the listing may be old.
        A node that could not be listed holds nothing: what was on it is on another one, or is rebuilt."""
        holders = [listing.holders(pack_id, index) for index in range(self._profile.total)]
        for held, name in zip(holders, known, strict=False):
            if name in self._nodes and name not in (*held, *listing.away):
                held.append(name)
        return holders

    async def _settle(
        self, pack_id: bytes, holders: Sequence[list[str]], known: Sequence[str], report: RebalanceReport
    ) -> None:
        """`known`: as `Users.alone` said it. A fragment in its place is looked at if it is known
        elsewhere, so that the users hear where it lies."""
        targets = settle(place(self._cluster, pack_id, self._profile.total), holders)
        work = _PackWork(pack_id, targets, holders, is_known=bool(known))
        for index, target in enumerate(targets):
            elsewhere = any(name not in ("", target) for name in known[index : index + 1])
            if elsewhere or holders[index] != [target]:
                await self._settle_fragment(work, index, report)
        if work.lacking:
            await self._rebuild(work, report)

    async def _settle_fragment(self, work: _PackWork, index: int, report: RebalanceReport) -> None:
        """Have one good copy on its node and none elsewhere; without a good copy it is noted as lacking."""
        target, held = work.targets[index], work.holders[index]
        for name in sorted(held, key=lambda name: name != target):
            data = await self._read(work, name, index)
            if data is None:
                continue
            if held != [target]:
                self._failpoints.reached(BEFORE_COPY)
                await self._nodes[target].put(fragment_key(work.pack_id, index), [data])
                self._failpoints.reached(COPIED)
            if name != target:
                report.moved += 1
                report.moved_bytes += len(data)
            self._users.moved(work.pack_id, index, target)
            deleted = await self._delete_others(work, index)
            report.deleted += deleted - (name != target)
            return
        work.lacking.append(index)

    async def _read(self, work: _PackWork, name: str, index: int) -> bytes | None:
        """A node's copy of a fragment, verified; None if it is wrong."""
        try:
            key = fragment_key(work.pack_id, index)
            data = await self._read_from[name].get(key, 0, MAX_PAYLOAD + FOOTER_SIZE + 1)
            judge = partial(self._packs.codec.pack_size, work.pack_id, index, data)
            work.size = await self._packs.cpu.finish(judge)
        except DriveError as error:
            if not is_wrong(error):
                raise
            work.wrong.append(f"fragment {index}: {name}: {error}")
            return None
        return data

    async def _delete_others(self, work: _PackWork, index: int) -> int:
        """Delete the copies that are not where they should be: how many."""
        others = [name for name in work.holders[index] if name != work.targets[index]]
        for name in others:
            await self._verify()
            await self._nodes[name].delete(fragment_key(work.pack_id, index))
            self._failpoints.reached(DELETED)
        return len(others)

    async def _rebuild(self, work: _PackWork, report: RebalanceReport) -> None:
        """Rebuild what no node has, or only damaged; then the damaged copies go. Too few fragments to do so
        stay where they are: those of a write that never finished, if they are whole and the users do not know
        the pack; else it is told."""
        present = self._profile.total - len(work.lacking)
        if present >= self._profile.k and await self._repair(work):
            report.rebuilt += len(work.lacking)
            for index in work.lacking:
                deleted = await self._delete_others(work, index)
                report.deleted += deleted
        elif (
            present >= self._profile.k
            or work.is_known
            or (work.wrong and not self._is_made_up(work, present))
        ):
            reasons = "; ".join(work.wrong) or "fragments are missing"
            report.left.append(f"pack {work.pack_id.hex()} cannot be made whole ({reasons})")

    def _is_made_up(self, work: _PackWork, present: int) -> bool:
        """Whether m nodes at most say that there is such a pack, and show no fragment that is whole."""
        names = {name for names in work.holders for name in names}
        return not present and len(names) <= self._profile.m

    async def _repair(self, work: _PackWork) -> bool:
        try:
            pack = await self._described(work)
            is_whole = not await self._packs.repair(pack)
        except (CorruptError, UnavailableError) as error:
            work.wrong.append(str(error))
            return False
        if is_whole:
            self._users.rebuilt(work.pack_id, work.targets)
        return is_whole

    async def _described(self, work: _PackWork) -> Pack:
        """The pack as it lies now, all of `lacking` known to be missing."""
        there = (index for index in range(len(work.targets)) if index not in work.lacking)
        while not work.size:
            index = next(there, None)
            if index is None:
                raise CorruptError("no fragment of it is whole")
            await self._read(work, work.targets[index], index)
        missing = sum(1 << index for index in work.lacking)
        return Pack(
            work.pack_id, work.size, self._packs.codec.stored_size(work.size), tuple(work.targets), missing
        )


@dataclass(slots=True)
class _PackWork:
    """A pack being put in order: where its fragments are to lie, which nodes had them when it began, and
    whether the users know it: then it was stored whole once."""

    pack_id: bytes
    targets: list[str]
    holders: Sequence[list[str]]
    is_known: bool
    size: int = 0
    lacking: list[int] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def _limited(nodes: Mapping[str, Node], rate: float) -> dict[str, Node]:
    bucket = TokenBucket(rate, rate)
    return {name: RateLimitedNode(node, bucket) for name, node in nodes.items()}


async def left_on(node: Node) -> list[str]:
    """The keys of what a node keeps of the drive. The lease is not among them: it is nobody's data."""
    found = [await all_keys(node, folder) for folder in ("packs/", "commits/", "roots/")]
    return [key for keys in found for key in keys]
