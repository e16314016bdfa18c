"""The nodes that an open session works with, and other ones in their place while it works.

Invariants:
1. While the nodes are exchanged no commit and no root is written: each is written to the voters of one map,
   and confirmed by a majority of the same.
2. The lease goes over first, and all else without an await in between: there is no moment in which a copy is
   placed by one map and the lease asked of another.
3. A pack is placed by the map that is in force when its writing begins; where its fragments lie, the index
   knows. `settle` waits for those that began before.
4. Reading never waits: who looked up a node before goes on with that one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from backend.blocks import PackedBlockStore
from backend.care import Scrub
from backend.coding import ClusterMap, copies_of, voters
from backend.commits import Lease, ReplicatedObjects, ranking_of
from backend.local.gate import Gate
from backend.nodes import Node, NodeSet
from backend.packs import PackStore


@dataclass(frozen=True, slots=True)
class Members:
    """The nodes of a cluster map: all of them by name, the map, how many may be lost, those where reading
    costs, and for how many seconds the lease is held."""

    nodes: Mapping[str, Node]
    cluster: ClusterMap
    parity: int
    far: Collection[str]
    lease_seconds: float


@dataclass(frozen=True, slots=True)
class RunningNodes:
    """All that knows the nodes of a session. The sets `leasing` and `answering`, and those that `store`,
    `looking` and `scrub` were given, are made of `bare` (`NodeSet.wrapped`); `gate` is passed by whoever
    writes commits and roots."""

    bare: NodeSet
    leasing: NodeSet
    answering: NodeSet
    store: PackedBlockStore
    looking: PackStore
    objects: ReplicatedObjects
    lease: Lease
    scrub: Scrub
    gate: Gate

    @asynccontextmanager
    async def still(self) -> AsyncIterator[None]:
        """No commit and no root is being written while the block runs."""
        async with self.gate.closed():
            yield

    async def settle(self) -> None:
        """Return when nothing is on its way any more to where an earlier map had it."""
        await self.store.wait_for_writes()

    async def go_over(self, members: Members) -> None:
        """Work with these nodes from now on; their map is in force. Within `still` only. The lease is on
        their voters then, and confirmed by none of them."""
        voting = voters(members.cluster)
        self.bare.have({**self.bare, **members.nodes})
        await self.lease.go_over({name: self.leasing[name] for name in voting}, members.lease_seconds)
        self.bare.have(members.nodes)
        copies = copies_of(members.cluster, members.parity)
        answering = {name: self.answering[name] for name in voting}
        self.objects.have(answering, ranking_of(members.cluster, copies), copies)
        self.store.have_cluster(members.cluster)
        self.looking.have_cluster(members.cluster)
        self.scrub.have_far(members.far)
