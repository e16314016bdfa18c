"""Making the block index agree with what lies on the nodes: after a crash, a power cut, or from nothing.

Invariants:
1. Nothing is forgotten: a pack that no node lists stays in the index and is queued for repair, since its
   nodes may be away, and forgetting is no repair.
2. A pack is added only with an index that authenticates under the drive's key; what is known of each of
   its fragments comes from the nodes' listings.
3. Only packs that were in the index and no longer being written before the nodes were listed are compared
   with the listings, and none that was moved or repaired since: a fragment that arrived meanwhile is never
   taken for a missing one. Nor is one added that was: the nodes are listed anew for it.
4. Memory: one integer per listed pack; pack indices are read a few at a time.
5. A slow node costs its patience once for each reader. It is asked last from then on, as long as it takes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import trio

from backend.blocks.block_index import BlockIndex
from backend.blocks.index_pages import ids_of
from backend.blocks.pack_moves import PackTurns
from backend.coding import fill
from backend.errors import CorruptError, DriveError, FormatError
from backend.packs import (
    FOOTER_SIZE,
    TRAILER_SIZE,
    FragmentListing,
    Pack,
    PackEntry,
    PackStore,
    decode_trailer,
    fragment_key,
    list_fragments,
)

TAIL: Final = 16 * 1024
"""So much of a pack's end is read at first: with 1 MiB blocks it holds the whole index."""
READERS: Final = 8
LIST_PATIENCE: Final = 30.0
FOOTER_PATIENCE: Final = 1.0
"""Seconds until another node is asked how long a pack is. Any of them can say it."""

Progress = Callable[[int, int], None]
"""Called with how many of how many unknown packs were looked at."""


@dataclass(slots=True)
class ReconcileReport:
    """The result of a reconciliation. `away`: nodes that could not be listed. `unreadable`: ids of packs with
    k listed fragments or more whose index could not be read. `incomplete`: packs with fewer than k fragments
    on the nodes that answered (left by a write that never finished, unless nodes are away), or of which m
    nodes at most say that there is one, and nothing of it can be read (made up)."""

    added: int = 0
    marked: int = 0
    incomplete: int = 0
    unreadable: list[str] = field(default_factory=list)
    away: list[str] = field(default_factory=list)


class IndexReconciliation:
    """One run at a time. `is_pending` says which packs are being written by this process."""

    def __init__(
        self,
        packs: PackStore,
        index: BlockIndex,
        is_pending: Callable[[bytes], bool],
        turns: PackTurns,
    ) -> None:
        self._nodes = packs.nodes
        self._packs = packs
        self._codec = packs.codec
        self._profile = packs.codec.code.profile
        self._index = index
        self._is_pending = is_pending
        self._turns = turns
        self._slow: set[str] = set()

    async def run(self, progress: Progress | None = None) -> ReconcileReport:
        """Compare, mark, add. Safe to repeat and to cancel at any point."""
        report = ReconcileReport()
        with self._turns.noted() as moved:
            late = await self._run(moved, report, progress or _no_progress)
        while late:
            await self._turns.ended(late)
            with self._turns.noted() as moved:
                listing = await self._listed(report)
                late = await self._add_all(late, moved, listing, report, _no_progress)
        return report

    async def _run(
        self, moved: Collection[bytes], report: ReconcileReport, progress: Progress
    ) -> Sequence[bytes]:
        """The unknown packs of which the listing says nothing, as they were moved since."""
        known = {each for each in await ids_of(self._index.packs) if not self._is_pending(each)}
        listing = await self._listed(report)
        for pack_id in known:
            await trio.lowlevel.checkpoint()
            if pack_id not in moved:
                self._compare(pack_id, listing, report)
        unknown = [pack_id for pack_id in listing.packs() if pack_id not in known]
        return await self._add_all(sorted(unknown), moved, listing, report, progress)

    async def _listed(self, report: ReconcileReport) -> FragmentListing:
        listing = await list_fragments(self._nodes, LIST_PATIENCE)
        report.away = listing.away
        return listing

    def _compare(self, pack_id: bytes, listing: FragmentListing, report: ReconcileReport) -> None:
        pack = self._index.packs.get(pack_id)
        if pack is None:
            return
        nodes, missing = self._whereabouts(pack_id, pack.nodes, listing, report)
        if nodes != list(pack.nodes):
            self._index.packs.set_nodes(pack_id, nodes)
        if missing & ~pack.missing:
            self._index.packs.want_repair(pack_id, missing)
            report.marked += 1

    def _whereabouts(
        self, pack_id: bytes, expected: Sequence[str], listing: FragmentListing, report: ReconcileReport
    ) -> tuple[list[str], int]:
        """On which node each fragment lies, and the bits of those that are nowhere they could be. One that no
        node lists may lie on a node that is away; else it is missing, and belongs on a node of its own."""
        listed = [
            name if listing.has(name, pack_id, index) else listing.holder(pack_id, index)
            for index, name in enumerate(expected)
        ]
        placed = [name for name in listed if name is not None]
        if len(placed) == len(listed):
            return placed, 0
        usable = [*expected, *self._packs.placement(pack_id)]
        usable = [name for name in usable if name in self._nodes]
        nodes = fill(listed, expected, sorted(usable, key=lambda name: name not in report.away))
        lacking = [index for index, name in enumerate(listed) if name is None]
        return nodes, sum(1 << index for index in lacking if nodes[index] not in report.away)

    async def _add_all(
        self,
        unknown: Sequence[bytes],
        moved: Collection[bytes],
        listing: FragmentListing,
        report: ReconcileReport,
        progress: Progress,
    ) -> Sequence[bytes]:
        """Those that were moved since they were listed are left out, and returned."""
        done, remaining, late = 0, iter(unknown), list[bytes]()

        async def read_some() -> None:
            nonlocal done
            for pack_id in remaining:
                found = await self._looked_at(pack_id, listing, report)
                if pack_id in moved:
                    late.append(pack_id)
                else:
                    self._note(pack_id, found, listing, report)
                done += 1
                progress(done, len(unknown))

        async with trio.open_nursery() as nursery:
            for _ in range(READERS):
                nursery.start_soon(read_some)
        return late

    async def _looked_at(
        self, pack_id: bytes, listing: FragmentListing, report: ReconcileReport
    ) -> tuple[Pack, list[PackEntry]] | None:
        """As `_read`; None also for a pack that is known by now, or of which too little is listed."""
        await trio.lowlevel.checkpoint()
        if self._is_known(pack_id) or self._is_incomplete(pack_id, listing):
            return None
        nodes, missing = self._whereabouts(pack_id, self._packs.placement(pack_id), listing, report)
        return await self._read(Pack(pack_id, 0, 0, tuple(nodes), missing), listing)

    def _note(
        self,
        pack_id: bytes,
        found: tuple[Pack, list[PackEntry]] | None,
        listing: FragmentListing,
        report: ReconcileReport,
    ) -> None:
        if self._is_known(pack_id):
            return
        if found is not None:
            self._index.add_pack(*found)
            report.added += 1
        elif self._is_incomplete(pack_id, listing) or len(listing.nodes_with(pack_id)) <= self._profile.m:
            report.incomplete += 1
        else:
            report.unreadable.append(pack_id.hex())

    def _is_known(self, pack_id: bytes) -> bool:
        return self._is_pending(pack_id) or self._index.packs.get(pack_id) is not None

    def _is_incomplete(self, pack_id: bytes, listing: FragmentListing) -> bool:
        profile = self._profile
        listed = [listing.holder(pack_id, index) is not None for index in range(profile.total)]
        return sum(listed) < profile.k

    async def _read(self, pack: Pack, listing: FragmentListing) -> tuple[Pack, list[PackEntry]] | None:
        """The pack with its size, and its blocks, by the first fragment whose footer leads to an index
        that authenticates."""
        tried: set[int] = set()
        for index, patience in self._footers(pack, listing):
            try:
                size = await self._size_by_footer(pack, index, patience)
                if size is not None and size not in tried:
                    tried.add(size)
                    sized = Pack(pack.id, size, self._codec.stored_size(size), pack.nodes, pack.missing)
                    return sized, await self._read_index(sized)
            except DriveError:
                continue
        return None

    def _footers(self, pack: Pack, listing: FragmentListing) -> Iterator[tuple[int, float]]:
        """The listed fragments with the seconds that each has: quick nodes first, then those that were slow,
        for as long as they take."""
        there = [
            index for index in range(self._profile.total) if listing.has(pack.nodes[index], pack.id, index)
        ]
        yield from ((index, FOOTER_PATIENCE) for index in there if pack.nodes[index] not in self._slow)
        yield from ((index, math.inf) for index in there if pack.nodes[index] in self._slow)

    async def _size_by_footer(self, pack: Pack, index: int, patience: float) -> int | None:
        """None if the node took longer than `patience`, in seconds: it is slow from now on."""
        node, key = self._packs.reader.fragments.node(pack, index), fragment_key(pack.id, index)
        with trio.move_on_after(patience):
            length = (await node.state(key)).size
            footer = await node.get(key, max(0, length - FOOTER_SIZE), FOOTER_SIZE)
            return self._codec.claimed_size(pack.id, footer)
        self._slow.add(node.name)
        return None

    async def _read_index(self, pack: Pack) -> list[PackEntry]:
        try:
            return await self._read_index_directly(pack)
        except (CorruptError, FormatError):
            whole = await self._packs.reader.read_whole(pack)
            return self._codec.index_of(pack.id, whole)

    async def _read_index_directly(self, pack: Pack) -> list[PackEntry]:
        start = max(0, pack.size - TAIL)
        tail = await self._packs.reader.read_range(pack, start, pack.size - start)
        trailer = decode_trailer(tail[-TRAILER_SIZE:], pack.size)
        offset, length = trailer.index_offset, trailer.index_length
        if offset >= start:
            sealed = tail[offset - start : offset - start + length]
        else:
            sealed = await self._packs.reader.read_range(pack, offset, length)
        return self._codec.open_index(pack.id, trailer, sealed)


def _no_progress(_done: int, _total: int) -> None:
    """Nobody wants to know."""
