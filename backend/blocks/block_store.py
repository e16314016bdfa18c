"""The block store: dedup, packing, storing at write quorum, reading, repair, rebuilding the index.

It has two roles of `backend.upstream`, `BlockStore` and `Housekeeping`: what their methods promise is said
there. How space is given back: `backend.blocks.compaction`. Before each write the session's
`WriteAuthority` is asked.

Invariants:
1. A block is in the buffer or in the index from `put_blocks` on; it passes from one to the other without
   an await in between, and only after its pack is durable at write quorum (I4).
2. At most `parallel` packs are being stored. One that fails is kept and tried again with growing waits, at
   once when `flush` asks, until it is stored: nothing taken is ever dropped while the process lives.
3. All state is touched by the event loop's thread only; encoding, hashing and node I/O run in threads.
4. Tasks belong to the nursery inside `run`; cancelling it loses only what was not flushed.
5. A released block is missing for writers from the moment of its release. Given again, it is stored anew and
   read from there; the old copy may go at any time. What was released in an earlier session goes only after
   it was released again in this one: in between another mount may have found a use for it (I3).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

import trio

from backend.blocks.block_buffer import DEFAULT_CAPACITY, DEFAULT_TARGET, BlockBuffer, PendingPack
from backend.blocks.block_index import BlockIndex, BlockLocation
from backend.blocks.block_reader import BlockReader
from backend.blocks.compaction import Compactor
from backend.blocks.index_pages import mark_dying, statistics_of
from backend.blocks.index_reconciliation import IndexReconciliation, Progress, ReconcileReport
from backend.blocks.index_upkeep import IndexUpkeep
from backend.blocks.pack_moves import PackMoves, PackTurns
from backend.blocks.presence import Presence
from backend.blocks.repair_queue import FIRST_WAIT as REPAIR_WAIT
from backend.blocks.repair_queue import NoteRepair, RepairQueue, forget
from backend.blocks.write_authority import WriteAuthority
from backend.buffer import Buffer
from backend.coding import CapacityModel, ClusterMap, ask_status
from backend.errors import DriveError, NotFoundError, UnavailableError, UsageError
from backend.failpoints import declare
from backend.nodes import Node, Space
from backend.packs import MAX_BLOCK_SIZE, Pack, PackCodec, PackStore, PackWrite, require_placeable
from backend.system import THIS_MACHINE, Environment
from backend.upstream import (
    BlockId,
    BlockPart,
    CompactionReport,
    SealedBlock,
    Shortfall,
    StoreStatus,
)

AFTER_QUORUM: Final = declare(
    "blocks.after-quorum", "a pack is durable at write quorum; the index does not know it yet"
)
AFTER_INDEX: Final = declare(
    "blocks.after-index", "a pack is stored and in the index; who waits for flush does not know it yet"
)

PARALLEL: Final = 4
STRAGGLER_PATIENCE: Final = 1.0

log = logging.getLogger(__name__)


class PackedBlockStore:
    """Called by many tasks at once. `run` must be running for anything to be stored; call `reconcile`
    once after opening: it fills an index that is new. `nodes` are by name."""

    def __init__(
        self,
        nodes: Mapping[str, Node],
        codec: PackCodec,
        cluster: ClusterMap,
        index: BlockIndex,
        writer: WriteAuthority,
        *,
        linger: float = 0.2,
        target: int = DEFAULT_TARGET,
        capacity: int = DEFAULT_CAPACITY,
        parallel: int = PARALLEL,
        hedge_after: float = 0.5,
        repair_wait: float = REPAIR_WAIT,
        note_repair: NoteRepair = forget,
        environment: Environment = THIS_MACHINE,
    ) -> None:
        require_placeable(cluster, nodes)
        self._nodes = nodes
        self._environment = environment
        profile = codec.code.profile
        self._codec = codec
        self._profile = profile
        self._index = index
        self._writer = writer
        self._linger = linger
        self._data_share = profile.k / profile.total
        self._capacity = CapacityModel(cluster, profile)
        self._slots = trio.Semaphore(parallel)
        self._buffer = BlockBuffer(capacity, target, environment)
        self._packs = PackStore(nodes, codec, cluster, self._note_wrong, hedge_after, environment)
        self._turns = PackTurns()
        self._repairs = RepairQueue(
            self._packs, index, self._is_pending, repair_wait, note_repair, self._turns
        )
        reconciliation = IndexReconciliation(self._packs, index, self._is_pending, self._turns)
        self._compactor = Compactor(self._packs, index, self._is_in_hand, self._repairs.wake, environment)
        self.moves: Final = PackMoves(index, self._turns, self._is_pending)
        """for who moves packs to other nodes beside this store"""
        self._compact_lock = trio.Lock()
        self._released = False
        self._presence = Presence(index, profile.m)
        self._upkeep = IndexUpkeep(reconciliation, self._presence, nodes, self._repairs.wake)
        self._reader = BlockReader(
            index, self._packs.reader, self._presence, self._locate, self._moved, self._suspect
        )

    @property
    def repairs(self) -> RepairQueue:
        """For tools that want everything repaired now."""
        return self._repairs

    def have_cluster(self, cluster: ClusterMap) -> None:
        """Place packs by this map from now on; `nodes` has all that it names. `UsageError`: it has not."""
        require_placeable(cluster, self._nodes)
        self._capacity = CapacityModel(cluster, self._profile)
        self._packs.have_cluster(cluster)
        self._upkeep.forget_others()

    async def wait_for_writes(self) -> None:
        """Return when no fragment is on its way any more to where an earlier map had it."""
        await self._packs.wait_for_writes()

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Store what is put, repair, and look again for nodes that were away; until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._repairs.run)
            nursery.start_soon(self._upkeep.run)
            task_status.started()
            while True:
                await self._slots.acquire()
                pack = await self._buffer.next_pack(self._linger)
                nursery.start_soon(self._store, nursery, pack)

    async def missing(self, ids: Iterable[BlockId]) -> set[BlockId]:
        await trio.lowlevel.checkpoint()
        return {block for block in ids if not self._has(block)}

    async def put_blocks(self, blocks: Sequence[SealedBlock]) -> None:
        self._writer.require()
        for block in blocks:
            if not self._has(block.id):
                await self._buffer.wait_for_room(len(block.data))
            if not self._has(block.id):
                self._buffer.take(block)
        await trio.lowlevel.checkpoint()

    async def flush(self) -> None:
        await self._writer.ensure()
        await self._buffer.flush()

    async def redundancy(self, patience: float) -> Shortfall:
        """A node that was away counts as such until it is compared with the index. It is of what this session
        may write, so none if it is for reading only."""
        if not self._writer.may_write:
            return Shortfall()
        upkeep = self._upkeep
        if upkeep.away and await upkeep.is_any_back():
            with trio.move_on_after(patience):
                await upkeep.compare()
        short = await self._repairs.settle(patience, upkeep.away)
        if not (upkeep.away and upkeep.incomplete):
            return short
        return Shortfall(short.packs + upkeep.incomplete, tuple(sorted({*short.nodes, *upkeep.away})))

    async def get_block(self, block: BlockId) -> Buffer:
        return (await self.get_block_part(block, 0, MAX_BLOCK_SIZE)).data

    async def get_block_part(self, block: BlockId, offset: int, length: int) -> BlockPart:
        buffered = self._buffer.read(block)
        if buffered is not None:
            return BlockPart(buffered[offset : offset + length], len(buffered))
        return await self._reader.part(block, offset, length)

    async def get_block_again(self, block: BlockId) -> bytes:
        buffered = self._buffer.read(block)
        if buffered is not None:
            return bytes(buffered)
        return await self._reader.again(block)

    async def report_wrong(self, block: BlockId) -> bool:
        await trio.lowlevel.checkpoint()
        return self._reader.report_wrong(block)

    async def stored_blocks(self, after: bytes, limit: int) -> list[BlockId]:
        await trio.lowlevel.checkpoint()
        return self._index.ids_after(after, limit)

    async def release(self, blocks: Sequence[BlockId]) -> list[BlockId]:
        await self._writer.ensure()
        self._released = True
        return await mark_dying(self._index.dying, blocks, self._environment.wall_clock())

    async def revive(self, blocks: Sequence[BlockId]) -> None:
        await trio.lowlevel.checkpoint()
        self._index.dying.revive(blocks)

    async def sizes(self, blocks: Sequence[BlockId]) -> dict[BlockId, int]:
        await trio.lowlevel.checkpoint()
        lengths = ((block, self._index.length(block)) for block in blocks)
        return {block: length for block, length in lengths if length is not None}

    async def compact(self, grace: float, bytes_per_second: float, *, debris: bool) -> CompactionReport:
        self._writer.require_deleting()
        if not self._released:
            raise UsageError("blocks are deleted only after they were released in this session")
        async with self._compact_lock:
            until_ns = self._environment.wall_clock() - int(grace * 1e9)
            report = await self._compactor.run(self._writer.verify, until_ns, bytes_per_second)
            if debris and not self._upkeep.away:
                report.debris = await self._compactor.sweep_debris(self._writer.verify)
        return report

    async def status(self) -> StoreStatus:
        names = list(self._nodes)
        found = await ask_status(self._nodes.values())
        for name in filter(self._packs.has_refused_space, found):
            found[name] = replace(found[name], free=0, full=True)
        sums = await statistics_of(self._index.packs)
        spaces = {
            name: Space(node.total, node.free, node.filesystem)
            for name, node in found.items()
            if node.state == "ok"
        }
        return StoreStatus(
            blocks=sums.blocks,
            block_bytes=sums.block_bytes,
            packs=sums.packs,
            stored_bytes=sums.stored_bytes,
            pending_bytes=self._buffer.size,
            packs_to_repair=sums.packs_to_repair,
            nodes=tuple(found[name] for name in names),
            data_share=self._data_share,
            capacity=self._capacity.capacity(spaces),
            takers=self._capacity.takers(spaces),
            write_quorum=self._capacity.write_quorum,
        )

    async def close(self) -> None:
        """Close the index; cancel `run` before."""
        await trio.lowlevel.checkpoint()
        self._index.close()

    async def reconcile(self, progress: Progress | None = None) -> ReconcileReport:
        """Make the index agree with the nodes: add packs that it does not know (all, to a new
        index), queue those for repair whose fragments are not listed. Forgets nothing. Idempotent; `run`
        repeats it by itself while nodes are away."""
        return await self._upkeep.compare(progress)

    def _has(self, block: BlockId) -> bool:
        return block in self._buffer or self._presence.has(block)

    def _is_pending(self, pack_id: bytes) -> bool:
        return self._buffer.has_pack(pack_id) or self._packs.is_being_written(pack_id)

    def _is_in_hand(self, pack_id: bytes) -> bool:
        return self._is_pending(pack_id) or self._turns.is_taken(pack_id)

    def _note_wrong(self, pack: Pack, fragment: int) -> None:
        if pack.missing >> fragment & 1 or self._index.dying.is_doomed(pack.id):
            return
        name, now = pack.nodes[fragment], self._index.packs.get(pack.id)
        if now is None or now.nodes[fragment] != name:  # moved since it was looked up
            return
        log.warning("%s: fragment %d of pack %s is missing or wrong", name, fragment, pack.id.hex())
        self._want_repair(pack, 1 << fragment)

    def _suspect(self, pack: Pack) -> None:
        self._want_repair(pack, 0)

    def _want_repair(self, pack: Pack, missing: int) -> None:
        try:
            self._index.packs.want_repair(pack.id, missing)
        except DriveError as error:
            log.warning("pack %s is to be repaired, but the index cannot note it: %s", pack.id.hex(), error)
        self._repairs.wake()

    async def _locate(self, block: BlockId) -> BlockLocation:
        """The block's place. One that nobody knows may lie on nodes that were away: look again."""
        location, upkeep = self._index.locate(block), self._upkeep
        if location is None and upkeep.away:
            await upkeep.compare_for_block()
            location = self._index.locate(block)
        if location is None:  # who asks for a block that was forgotten needs it
            self._index.dying.revive([block])
            location = self._index.locate(block)
        if location is not None:
            return location
        if upkeep.away:
            away = ", ".join(upkeep.away)
            raise UnavailableError(
                f"block {block.hex()[:16]} is not on the nodes that answer; away: {away}", upkeep.away
            )
        raise NotFoundError(f"block {block.hex()[:16]} is not stored")

    async def _moved(self, block: BlockId, before: BlockLocation) -> BlockLocation | None:
        """The block's new place, if a compaction (here, or by the mount that writes) has moved it, or its
        pack has moved to other nodes."""
        location = self._index.locate(block)
        if location is not None and _is_same_place(location, before) and not self._upkeep.away:
            await self._upkeep.compare_for_block()
            location = self._index.locate(block)
        return None if location is None or _is_same_place(location, before) else location

    async def _store(self, nursery: trio.Nursery, pack: PendingPack) -> None:
        """Store one pack, however long it takes, and give the slot back."""
        attempt = partial(self._store_once, nursery, pack)
        write = await self._buffer.keep_trying(pack, attempt, logging.WARNING)
        if write.missing():
            nursery.start_soon(self._note_ended, write)
        with trio.move_on_after(STRAGGLER_PATIENCE):
            await write.ended.wait()
        self._slots.release()

    async def _store_once(self, nursery: trio.Nursery, pack: PendingPack) -> PackWrite:
        if not pack.data:
            encode = partial(pack.encode, self._codec)
            pack.fix(*await self._packs.cpu.finish(encode))
        write = await self._packs.write(nursery, pack.id, pack.data)
        self._environment.failpoints.reached(AFTER_QUORUM)
        self._index.add_restored(replace(write.pack, missing=write.missing()), pack.entries())
        self._environment.failpoints.reached(AFTER_INDEX)
        self._presence.note_stored(pack.ids())
        self._buffer.remove(pack)
        return write

    async def _note_ended(self, write: PackWrite) -> None:
        """Tell the index when the last fragments of a stored pack are written or have failed."""
        await write.ended.wait()
        try:
            self._index.packs.set_written(write.pack.id, write.pack.nodes, write.missing())
        except DriveError as error:
            # What was noted with the pack stands: fragments that have come since count as missing.
            log.warning("the index cannot be written now: %s", error)
        self._repairs.note_progress()
        if write.missing():
            self._repairs.wake()


def _is_same_place(one: BlockLocation, other: BlockLocation) -> bool:
    return (one.pack.id, one.pack.nodes) == (other.pack.id, other.pack.nodes)
