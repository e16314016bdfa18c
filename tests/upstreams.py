"""Upstreams for tests: a local one over any nodes, put together as `tools.compose` does it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import trio

from backend.blocks.block_store import PackedBlockStore
from backend.blocks.sqlite_index import SqliteBlockIndex
from backend.coding.erasure import Profile, code_for
from backend.coding.placement import ClusterMap, ClusterNode
from backend.commits.commit_log import ReplicatedCommitLog
from backend.commits.lease import Lease
from backend.commits.lease_record import Holder
from backend.commits.lease_votes import LeaseVotes
from backend.commits.process_identity import Life, life_of, this_process
from backend.commits.replicated_objects import Ranking, ReplicatedObjects, ranking_of
from backend.commits.voter_rounds import REMEMBERED
from backend.keys.keys import DriveKeys
from backend.local.gate import Gate
from backend.local.local_upstream import LocalUpstream
from backend.local.session_writer import SessionWriter
from backend.nodes.directory import DirectoryNode
from backend.nodes.health import NodeHealth
from backend.nodes.identity import NodeIdentity, initialise_directory_node
from backend.nodes.node import Node
from backend.packs.pack_codec import PackCodec
from backend.system import THIS_MACHINE, Environment
from backend.upstream import Head
from cache.disk import CachedBlocks, DiskCache
from tools import compose
from tools.drive_nodes import patient

DRIVE = bytes(range(16))
KEYS = DriveKeys(bytes(range(32)), DRIVE)


def directory_nodes(folder: Path, count: int = 6) -> dict[str, Node]:
    """New nodes below `folder`, or those that are there."""
    nodes: dict[str, Node] = {}
    for number in range(count):
        identity = NodeIdentity(f"node{number}", DRIVE, f"zone{number}")
        path = str(folder / identity.name)
        initialise_directory_node(path, DRIVE, identity.name, identity.zone)
        nodes[identity.name] = DirectoryNode(path, identity)
    return nodes


@dataclass
class LocalDrive:
    """A 4+2 drive on six nodes; each upstream it makes is another mount with an index of its own.

    `life` says how other mounts' processes look; by default as they are (this one: running)."""

    nodes: Mapping[str, Node]
    life: Life | None = None
    seconds: float = 30.0
    environment: Environment = THIS_MACHINE
    require_map: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint
    disk: DiskCache | None = None
    """where sealed blocks are kept on this machine, if they are"""
    is_patient: bool = False
    """Whether nodes are waited for as long as `tools.compose` does; else for ever."""
    gate: Gate | None = None
    """what an upstream's writers pass, if others close it"""

    def cluster(self) -> ClusterMap:
        """All nodes, alike."""
        return ClusterMap(1, tuple(ClusterNode(node.name, node.zone) for node in self.nodes.values()))

    def objects(self, health: NodeHealth | None = None) -> ReplicatedObjects:
        """The drive's small objects, without any lease."""
        nodes = self._waited_for(compose.OBJECT_PATIENCE)
        return ReplicatedObjects(nodes, self.ranking(), 3, DRIVE, KEYS.object, health)

    def _waited_for(self, seconds: float) -> Mapping[str, Node]:
        return patient(self.nodes, seconds) if self.is_patient else self.nodes

    def ranking(self) -> Ranking:
        """Where small objects go."""
        return ranking_of(self.cluster(), 3)

    def make(
        self, *, writing: bool = True, host: str = "here", index_path: str = ":memory:"
    ) -> LocalUpstream:
        """An upstream that is not yet opened."""
        cluster = self.cluster()
        index = SqliteBlockIndex(index_path, DRIVE, parity=2, environment=self.environment)
        codec = PackCodec(code_for(Profile.parse("4+2")), DRIVE, KEYS.pack)
        health = NodeHealth(REMEMBERED)
        objects = self.objects(health)
        holder = replace(this_process(), host=host)
        lease = (
            Lease(
                self._waited_for(compose.LEASE_PATIENCE),
                DRIVE,
                KEYS.lease,
                holder,
                seconds=self.seconds,
                environment=self.environment,
                life=self._life_of,
                health=health,
            )
            if writing
            else None
        )
        writer = SessionWriter(lease)
        blocks = PackedBlockStore(
            self.nodes, codec, cluster, index, writer, linger=0.01, environment=self.environment
        )
        if lease:
            log = ReplicatedCommitLog(objects, lease.verify, lease.claimed, environment=self.environment)
        else:
            asked = self._waited_for(compose.OBJECT_PATIENCE)
            claims = partial(LeaseVotes(asked, DRIVE, KEYS.lease, health=health).claim, 5.0)
            log = ReplicatedCommitLog(objects, claims=claims, poll_seconds=0.01)
        self.blocks, self.index = blocks, index
        if self.disk is None:
            return LocalUpstream(blocks, log, objects, writer, require_map=self.require_map, gate=self.gate)
        cached = CachedBlocks(blocks, self.disk)
        return LocalUpstream(blocks, log, objects, writer, blocks=cached, beside=[cached.run])

    @asynccontextmanager
    async def opened(
        self,
        *,
        writing: bool = True,
        host: str = "here",
        known: Head | None = None,
        index_path: str = ":memory:",
    ) -> AsyncIterator[LocalUpstream]:
        """An upstream that runs, closed at the end. `index_path`: where its block index is."""
        upstream = self.make(writing=writing, host=host, index_path=index_path)
        blocks = self.blocks
        await upstream.open(known=known)
        await upstream.prepare(blocks.reconcile)
        async with trio.open_nursery() as nursery:
            await nursery.start(upstream.run)
            yield upstream
            await upstream.close()

    def _life_of(self, holder: Holder, observer: Holder) -> Life:
        return self.life or life_of(holder, observer)
