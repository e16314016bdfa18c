"""Giving space back: packs without blocks that anyone needs are deleted, thin ones are rewritten.

Invariants:
1. Only blocks that the index has as dying since before the grace are forgotten, and the index forgets them
   before anything of theirs leaves a node: from then on a write stores them anew (I3).
2. A thin pack's living blocks are durable in a new pack, and the index reads them from there, before the
   first fragment of the old one goes. They move as the sealed bytes that they are: no key but the pack key.
3. A fragment is deleted only while a majority of the nodes confirms the lease, asked anew for each one, and
   one at a time: a process that was stopped and fenced meanwhile can delete one fragment at most, which
   parity makes up for.
4. A crash at any point leaves: blocks that nothing refers to, which an index made anew from the packs may
   list again; a block in two packs; a doomed pack, deleted by the next run; or fewer than k fragments of a
   deleted pack, which `sweep_debris` finds. All of it is collected again; none of it is read wrongly.
5. A pack that is being written or repaired is left alone (`BlockIndex.doom`).
6. The index is a cache on one disk, which may rot: a doomed pack that blocks are read from is left alone.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

import anyio
import anyio.lowlevel

from backend.blocks.block_buffer import DEFAULT_TARGET
from backend.blocks.block_index import BlockIndex
from backend.errors import DriveError
from backend.failpoints import declare
from backend.packs import (
    PACK_ID_SIZE,
    FragmentListing,
    Pack,
    PackEntry,
    PackNeeds,
    PackStore,
    fragment_key,
    list_fragments,
    together,
)
from backend.system import Environment, plain_task_group
from backend.upstream import CompactionReport, SealedBlock

FORGOTTEN: Final = declare(
    "compaction.forgotten", "the index has forgotten dead blocks; their packs are whole"
)
WRITTEN: Final = declare(
    "compaction.written", "living blocks are durable in a new pack; the index reads them from the old one"
)
MOVED: Final = declare("compaction.moved", "living blocks are read from the new pack; the old one is whole")
DOOMED: Final = declare("compaction.doomed", "packs are doomed; their fragments are all there")
DELETING: Final = declare(
    "compaction.deleting", "a fragment of a doomed pack is about to go; others may be gone"
)
DELETED: Final = declare("compaction.deleted", "a doomed pack's fragments are gone; the index still lists it")
DEBRIS: Final = declare("compaction.debris", "a fragment of a pack that cannot be read is about to go")

_PAGE: Final = 2000

Verify = Callable[[], Awaitable[None]]

log = logging.getLogger(__name__)


class Compactor:
    """One run at a time. `is_pending` says which packs are being written by this process, `wake_repairs`
    that a new pack may lack fragments."""

    def __init__(
        self,
        packs: PackStore,
        index: BlockIndex,
        is_pending: Callable[[bytes], bool],
        wake_repairs: Callable[[], None],
        environment: Environment,
    ) -> None:
        self._nodes = packs.nodes
        self._packs = packs
        self._codec = packs.codec
        self._index = index
        self._is_pending = is_pending
        self._wake_repairs = wake_repairs
        self._environment = environment

    async def run(self, verify: Verify, until_ns: int, bytes_per_second: float) -> CompactionReport:
        """Forget what has been dying since before `until_ns`, delete and rewrite packs. `verify` confirms the
        lease or raises; `bytes_per_second` bounds the rewriting. May be cancelled or fail at any point; the
        next run goes on. Nodes that are away keep their fragments until a later run."""
        report = CompactionReport()
        await verify()
        report.blocks = await self._forget(until_ns)
        doomed = self._index.dying.doomed()
        census, read_from = await self._take_census()
        await self._delete_all(_without(read_from, doomed), verify, report)
        await self._drop([one.pack.id for one in census if not one.blocks], verify, report)
        for group in together((one for one in census if one.is_thin()), DEFAULT_TARGET):
            if not await self._packs.has_room(sum(one.needed for one in group)):
                log.info("thin packs stay: the nodes have no room for what is needed of them")
                break
            await self._rewrite([one.pack for one in group], verify, report)
            await anyio.sleep(sum(one.needed for one in group) / bytes_per_second)
        return report

    async def _forget(self, until_ns: int) -> int:
        total = 0
        while count := self._index.dying.forget(until_ns, _PAGE):
            self._environment.failpoints.reached(FORGOTTEN)
            total += count
            await anyio.lowlevel.checkpoint()
        return total

    async def _take_census(self) -> tuple[list[PackNeeds], set[bytes]]:
        """The needs of each pack that is there now, and the ids of all packs that blocks are read from.
        Blocks only ever move to later packs, so what the count misses while it is made is too high, never
        too low."""
        found: dict[bytes, PackNeeds] = {}
        read_from: set[bytes] = set()
        last = b""
        while packs := self._index.packs.after(last, _PAGE):
            last = packs[-1].id
            found |= {pack.id: PackNeeds(pack) for pack in packs if not self._is_pending(pack.id)}
            await anyio.lowlevel.checkpoint()
        last = b""
        while located := self._index.locations(last, _PAGE):
            last = located[-1][0]
            for _, pack_id, _, length in located:
                read_from.add(pack_id)
                if pack_id in found:
                    found[pack_id].needed += length
                    found[pack_id].blocks += 1
            await anyio.lowlevel.checkpoint()
        return list(found.values()), read_from

    async def _rewrite(self, old: Sequence[Pack], verify: Verify, report: CompactionReport) -> None:
        """Write what is needed of the packs as one new pack, then drop them. A pack that cannot be read now
        is left as it is."""
        blocks: list[SealedBlock] = []
        readable = []
        for pack in old:
            try:
                blocks += await self._needed(pack)
                readable.append(pack.id)
            except DriveError as error:
                log.info("pack %s is not compacted now: %s", pack.id.hex(), error)
        if blocks:
            await self._write(blocks, readable)
            report.rewritten += len(readable)
        await self._drop(readable, verify, report)

    async def _needed(self, pack: Pack) -> list[SealedBlock]:
        whole = await self._packs.reader.read_whole(pack)
        entries = self._codec.index_of(pack.id, whole)
        return [
            SealedBlock(entry.block, whole[entry.offset : entry.offset + entry.length])
            for entry in entries
            if self._is_read_from(entry, pack)
        ]

    def _is_read_from(self, entry: PackEntry, pack: Pack) -> bool:
        location = self._index.locate(entry.block)
        return location is not None and (location.pack.id, location.offset) == (pack.id, entry.offset)

    async def _write(self, blocks: Sequence[SealedBlock], old: Sequence[bytes]) -> None:
        pack_id = self._environment.random_bytes(PACK_ID_SIZE)
        encode = partial(self._codec.encode, pack_id, blocks)
        data, entries = await self._packs.cpu.finish(encode)
        async with plain_task_group() as group:
            write = await self._packs.write(group, pack_id, data)
            self._environment.failpoints.reached(WRITTEN)
            self._index.move(replace(write.pack, missing=write.missing()), entries, old)
            self._environment.failpoints.reached(MOVED)
        self._index.packs.set_written(pack_id, write.pack.nodes, write.missing())
        if write.missing():
            self._wake_repairs()

    async def _drop(self, pack_ids: Sequence[bytes], verify: Verify, report: CompactionReport) -> None:
        for first in range(0, len(pack_ids), _PAGE):
            doomed = self._index.dying.doom(pack_ids[first : first + _PAGE])
            if doomed:
                self._environment.failpoints.reached(DOOMED)
            await self._delete_all(doomed, verify, report)

    async def _delete_all(self, packs: Sequence[Pack], verify: Verify, report: CompactionReport) -> None:
        for pack in packs:
            if self._is_pending(pack.id):
                continue
            if await self._delete(pack, verify):
                self._environment.failpoints.reached(DELETED)
                self._index.dying.remove_pack(pack.id)
                report.packs += 1
                report.stored_bytes += pack.stored_size
            else:
                report.waiting += 1

    async def _delete(self, pack: Pack, verify: Verify) -> bool:
        """Delete all fragments; False if some node did not answer."""
        self._packs.reader.forget(pack.id)
        gone = True
        for index, name in enumerate(pack.nodes):
            await verify()
            self._environment.failpoints.reached(DELETING)
            gone = await self._delete_fragment(name, pack.id, index) and gone
        return gone

    async def _delete_fragment(self, name: str, pack_id: bytes, index: int) -> bool:
        """A node that the drive has no more, as it was lost and removed, keeps nothing of it."""
        node = self._nodes.get(name)
        if node is None:
            return True
        try:
            await node.delete(fragment_key(pack_id, index))
        except DriveError as error:
            log.info("%s keeps a fragment that nobody needs until it answers: %s", name, error)
            return False
        return True

    async def sweep_debris(self, verify: Verify) -> int:
        """Delete the fragments of packs of which fewer than k are left: how many. Only while all nodes
        answer; the caller knows that every block that is needed is in a pack that the index has."""
        listing = await list_fragments(self._nodes)
        count = 0
        for number, pack_id in enumerate(listing.packs() if not listing.away else (), 1):
            if number % _PAGE == 0:
                await anyio.lowlevel.checkpoint()
            if self._is_debris(listing, pack_id):
                count += await self._delete_debris(listing.places(pack_id), pack_id, verify)
        return count

    def _is_debris(self, listing: FragmentListing, pack_id: bytes) -> bool:
        return (
            listing.count(pack_id) < self._codec.code.profile.k
            and self._index.packs.get(pack_id) is None
            and not self._is_pending(pack_id)
        )

    async def _delete_debris(self, places: Sequence[tuple[str, int]], pack_id: bytes, verify: Verify) -> int:
        count = 0
        for name, index in places:
            await verify()
            self._environment.failpoints.reached(DEBRIS)
            count += await self._delete_fragment(name, pack_id, index)
        return count


def _without(read_from: set[bytes], doomed: Sequence[Pack]) -> list[Pack]:
    """The doomed packs that nothing is read from, as it should be with all."""
    wrong = [pack.id.hex() for pack in doomed if pack.id in read_from]
    if wrong:
        log.error("the block index is wrong: doomed packs are read from, and stay: %s", ", ".join(wrong))
    return [pack for pack in doomed if pack.id not in read_from]
