"""The client side of a drive: the objects that read its upstream and seal for it.

A mount has them, and a tool that looks at a drive. Event-loop thread; large blocks are opened in threads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import trio

from backend.keys import DriveKeys, KeyRing
from backend.system import THIS_MACHINE, Environment
from backend.upstream import CommitLog, Head, Upstream
from cache.blocks import BlockCache, BlockCodec, Chunker
from cache.contact import Contact, ReachedBlocks
from cache.publish import SnapshotStore
from cache.sync import learn_ahead


@dataclass(frozen=True, slots=True)
class Client:
    """The objects by which the client side of a drive reads its upstream, and seals for it."""

    codec: BlockCodec
    chunker: Chunker
    blocks: BlockCache
    snapshots: SnapshotStore
    ring: KeyRing
    limiter: trio.CapacityLimiter
    """of the threads that open and seal blocks"""


@dataclass(frozen=True, slots=True)
class Shared:
    """A drive that other devices write at the same time. `contact`: with its upstream, which may be away;
    `head`: the newest commit that was followed."""

    contact: Contact
    head: Callable[[], Head]

    async def learn_ahead(self, ring: KeyRing, log: CommitLog) -> None:
        """As `cache.sync.learn_ahead`, of the commits that are not followed yet; and `AwayError`."""
        await self.contact.ask_again(partial(learn_ahead, ring, log, self.head().number))


def client_of(
    upstream: Upstream,
    drive_id: bytes,
    keys: DriveKeys,
    cache_size: int,
    limiter: trio.CapacityLimiter,
    environment: Environment = THIS_MACHINE,
    shared: Shared | None = None,
) -> Client:
    """Of a mount, or of a tool that looks at a drive. `limiter`: as of `Client`. `shared`: of a drive that
    other devices write while it is read."""
    ring = KeyRing(drive_id, keys)
    codec, chunker = BlockCodec(keys.block_id, ring), Chunker(keys.chunker)
    if shared is None:
        blocks = BlockCache(upstream.blocks, codec, cache_size, limiter)
    else:
        store = ReachedBlocks(upstream.blocks, shared.contact)
        ahead = partial(shared.learn_ahead, ring, upstream.log)
        blocks = BlockCache(store, codec, cache_size, limiter, ahead)
    return Client(
        codec,
        chunker,
        blocks,
        SnapshotStore(
            upstream.blocks,
            upstream.roots,
            codec,
            chunker,
            ring,
            keys.snapshot_hash,
            environment,
        ),
        ring,
        limiter,
    )
