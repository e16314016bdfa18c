"""The check of a hub: packs of the database against fragments on the nodes, and the other way round.

Invariants:
1. A check deletes two things only: a copy of a fragment that also lies on the node which the database names,
   and a pack that the database has not known for long (`backend.hub.stray_packs`). A pack that it has not
   known for a short time stays, as it may be newer than a database that was restored.
2. A listing alone does not prove that a fragment is missing, as the listing is older than the rows: the node
   is asked once more, and the row is read again.
3. It may run beside hubs that serve, and again after any end.
asyncio's thread.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from backend.errors import DriveError, UnavailableError
from backend.findings import Findings
from backend.hub.pack_table import PackTable, StoredPack
from backend.hub.packing import HubBlocks
from backend.hub.stray_packs import StrayPacks, StrayPackTable
from backend.nodes import Node
from backend.packs import FragmentListing, Pack, PackStore, fragment_key, is_wrong, list_fragments

_PATIENCE: Final = 60.0
"""Seconds for one call of a node."""
_BATCH: Final = 1000


class HubCheck:
    """See the module. `mend`: rebuild fragments; else nothing is changed. `data`: read every fragment and
    every pack's index, instead of asking for presence and size."""

    def __init__(
        self,
        packs: PackTable,
        blocks: HubBlocks,
        nodes: Mapping[str, Node],
        strays: StrayPackTable,
        findings: Findings,
        *,
        mend: bool = False,
        data: bool = False,
    ) -> None:
        self._packs = packs
        self._blocks = blocks
        self._nodes = nodes
        self._strays = strays
        self._removing = StrayPacks(strays, nodes)
        self._findings = findings
        self._mend = mend
        self._data = data

    async def run(self) -> None:
        """The whole check. `TransientError`: the database does not answer."""
        listing = await list_fragments(self._nodes, _PATIENCE)
        self._findings.nodes_are_away = bool(listing.away)
        for name in listing.away:
            self._findings.add("left", f"{name}: does not answer")
        async for each in self._packs.all():
            await self._look_at(each, listing)
        await self._look_for_unknown(listing)
        await self._look_at_blocks()

    async def _look_at(self, stored: StoredPack, listing: FragmentListing) -> None:
        store = self._blocks.store(stored.drive)
        wrong = await (self._read(store, stored) if self._data else self._ask(store, stored, listing))
        if (wrong or stored.pack.missing) and await self._packs.get(stored.pack.id) is not None:
            await self._tell(store, stored, wrong)
        elif not wrong:
            await self._look_for_copies(stored.pack, listing)

    async def _ask(self, store: PackStore, stored: StoredPack, listing: FragmentListing) -> list[int]:
        """The fragments that are known to be missing or of another length."""
        found = []
        for index, name in enumerate(stored.pack.nodes):
            if not listing.has(name, stored.pack.id, index) and name not in listing.away:
                try:
                    await store.reader.fragments.tag(stored.pack, index)
                except DriveError as error:
                    if is_wrong(error):
                        found.append(index)
        return found

    async def _read(self, store: PackStore, stored: StoredPack) -> list[int]:
        """The fragments that are missing or damaged; the index of a pack that can be read is compared."""
        found = await store.reader.fragments.inspect(stored.pack, _PATIENCE)
        if len(found.good) >= store.codec.code.profile.k:
            await self._compare(store, stored)
        return sorted(found.wrong())

    async def _compare(self, store: PackStore, stored: StoredPack) -> None:
        """Blocks lie in the pack where the database says."""
        pack_id = stored.pack.id
        try:
            whole = await store.reader.read_whole(stored.pack)
            entries = await store.cpu.finish(lambda: store.codec.index_of(pack_id, whole))
        except DriveError as error:
            self._findings.add("lost", f"pack {pack_id.hex()}: {error}")
            return
        held = {entry.block: (entry.offset, entry.length) for entry in entries}
        for block, place in (await self._packs.places(pack_id)).items():
            if held.get(block) != place:
                text = f"block {block.hex()[:16]} is not where the database says in pack {pack_id.hex()}"
                self._findings.add("lost", text)

    async def _tell(self, store: PackStore, stored: StoredPack, wrong: list[int]) -> None:
        pack = stored.pack
        lacks = sorted({*wrong, *(index for index in range(32) if pack.missing >> index & 1)})
        text = f"pack {pack.id.hex()} lacks " + ", ".join(f"{i} on {pack.nodes[i]}" for i in lacks)
        if not self._mend:
            self._findings.add("left", text)
            return
        try:
            missing = await store.repair(pack)
        except UnavailableError as error:
            self._findings.add("lost", f"{text}: {error}")
            return
        noted = await self._packs.note_missing(pack, missing)
        self._findings.add("left" if missing or not noted else "mended", text)

    async def _look_for_copies(self, pack: Pack, listing: FragmentListing) -> None:
        """Fragments of the pack on nodes that are not to have them: of writes that were late."""
        for name, index in listing.places(pack.id):
            if index < len(pack.nodes) and pack.nodes[index] != name:
                where = pack.nodes[index]
                is_safe = self._mend and listing.has(where, pack.id, index) and await self._is_as_read(pack)
                if is_safe:
                    await self._nodes[name].delete(fragment_key(pack.id, index))
                text = f"{name} has fragment {index} of pack {pack.id.hex()}, which lies on {where}"
                self._findings.add("mended" if is_safe else "left", text)

    async def _is_as_read(self, pack: Pack) -> bool:
        now = await self._packs.get(pack.id)
        return now is not None and now.pack == pack

    async def _look_for_unknown(self, listing: FragmentListing) -> None:
        unknown = due = 0
        packs = listing.packs()
        for start in range(0, len(packs), _BATCH):
            batch = {*packs[start : start + _BATCH]}
            strange = batch - await self._packs.known(batch)
            over = await self._remove(strange, listing) if self._mend else {*await self._strays.due(strange)}
            unknown, due = unknown + len(strange) - len(over), due + len(over)
        if unknown:
            text = "of writes that were cut off, or newer than this database"
            self._findings.add("note", f"{unknown} packs on the nodes are not in the database: {text}")
        if due:
            text = f"{due} packs that the database has not known for as long as any is kept"
            self._findings.add("mended" if self._mend else "left", text)

    async def _remove(self, packs: Collection[bytes], listing: FragmentListing) -> set[bytes]:
        """The packs that went, of those that the database does not know. A fragment whose node fails goes
        when it is listed next."""
        await self._strays.see(packs)
        gone = await self._removing.ended(packs)
        for pack in gone:
            for name, index in listing.places(pack):
                try:
                    await self._removing.delete(name, pack, index)
                except DriveError as error:
                    self._findings.add("left", f"{name}: fragment {index} of pack {pack.hex()}: {error}")
        return gone

    async def _look_at_blocks(self) -> None:
        for bare in await self._packs.bare_blocks():
            drive = f"drive {bare.drive.hex()}"
            if bare.lost:
                self._findings.add("lost", f"{drive}: {bare.lost} blocks that commits name are nowhere")
            if bare.doubted:
                text = "are not what they should be, as a device says, and were not given anew"
                self._findings.add("left", f"{drive}: {bare.doubted} blocks that commits name {text}")
