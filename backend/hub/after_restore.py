"""What nodes know and a restored database has not: it is brought back, before the hub is served again.

A database that was restored has the state of its backup. What came later is in three places: blocks in packs
on the nodes, which name their drive; old commits in log segments, which are packs as well; the newest commits
with the devices that have seen them, which hand them over (`backend.remote.recent_commits`).

Invariants:
1. Nothing on a node is deleted or changed.
2. A commit is taken only as the next of its drive's log, by the hash that it goes on from, as any other.
3. Nothing is deleted for a whole time of retention: what the lost part of the log had revived is released in
   an older database.
4. A block whose pack is gone, or lacks too many fragments to be read, counts as missing: it is read from
   another pack that has it, or a device that has it gives it anew. While it is not known of a pack whether it
   can be read, no other is brought back.
5. Each step is a transaction of its own, and done once: it may be cut off anywhere, and is run again.
asyncio's thread.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from backend.coding import fill
from backend.commits import decode_commit
from backend.errors import (
    BlocksMissingError,
    ConflictError,
    DriveError,
    FencedError,
    ReadOnlyError,
    UsageError,
)
from backend.failpoints import declare
from backend.findings import Findings
from backend.hub.block_table import BlockTable
from backend.hub.commit_table import CommitTable
from backend.hub.database import Database
from backend.hub.housekeeping import LOCK
from backend.hub.pack_table import PackTable
from backend.hub.packing import DriveNumber, HubBlocks, commit_in_segment
from backend.nodes import Node
from backend.packs import (
    FOOTER_SIZE,
    MAX_BLOCK_SIZE,
    FragmentFooter,
    FragmentListing,
    Pack,
    PackEntry,
    decode_footer,
    fragment_key,
    list_fragments,
)
from backend.system import THIS_MACHINE, Environment

_PATIENCE: Final = 60.0
"""Seconds for one call of a node."""
_BATCH: Final = 1000

BROUGHT: Final = declare("restore.brought", "the restored database has one more pack that the nodes know")


@dataclass(frozen=True, slots=True)
class _Found:
    """A pack that the database does not know, with its bytes and index."""

    drive: DriveNumber
    pack: Pack
    data: bytes
    entries: Sequence[PackEntry]

    def bytes_of(self, entry: PackEntry) -> bytes:
        return self.data[entry.offset : entry.offset + entry.length]

    def commits(self) -> dict[int, PackEntry]:
        """The commits of a log segment, in order; empty: the pack has blocks. A segment lists each by its
        hash, and devices can store no block that looks like that."""
        found = {}
        for entry in self.entries:
            commit = commit_in_segment(entry.block, self.bytes_of(entry))
            if commit is None:
                return {}
            found[commit.number] = entry
        return dict(sorted(found.items()))


class AfterRestore:
    """See the module. No process may serve the hub meanwhile."""

    def __init__(
        self,
        database: Database,
        blocks: HubBlocks,
        nodes: Mapping[str, Node],
        findings: Findings,
        environment: Environment = THIS_MACHINE,
    ) -> None:
        self._database = database
        self._packs = PackTable(database)
        self._table = BlockTable(database)
        self._commits = CommitTable(database)
        self._blocks = blocks
        self._nodes = nodes
        self._findings = findings
        self._failpoints = environment.failpoints
        self._segments: defaultdict[DriveNumber, list[tuple[int, Pack]]] = defaultdict(list)
        self._brought: Counter[DriveNumber] = Counter()
        self._strange: Counter[bytes] = Counter()
        self._unreadable = 0
        self._lost: list[Pack] = []

    async def run(self) -> bool:
        """Bring back what there is. False: nodes are away that may have more, it is to be run again.
        `UsageError`: the hub is served, or this runs already; `TransientError`: the database does not
        answer."""
        async with self._database.alone(LOCK) as is_ours:
            if not is_ours:
                raise UsageError("another process looks after the hub's packs now: end all of them first")
            return await self._run()

    async def _run(self) -> bool:
        listing = await list_fragments(self._nodes, _PATIENCE)
        for name in listing.away:
            self._findings.add("left", f"{name}: does not answer")
        await self._table.keep_all()
        if not await self._doubt_lost(listing):
            return False
        found = listing.packs()
        for start in range(0, len(found), _BATCH):
            batch = found[start : start + _BATCH]
            known = await self._packs.known(batch) | await self._packs.ended(batch)
            for pack_id in batch:
                if pack_id not in known:
                    await self._bring_back(pack_id, listing)
        for pack in self._lost:
            await self._table.leave_pack(pack)
        for drive, segments in self._segments.items():
            await self._continue_log(drive, segments)
        self._tell()
        return not (listing.away and self._unreadable)

    async def _doubt_lost(self, listing: FragmentListing) -> bool:
        """Packs that were deleted after the backup was made, or in part: a node was away then. False: of some
        the nodes that are away decide it."""
        uncertain, k = 0, self._blocks.code.profile.k
        async for each in self._packs.all():
            left = listing.count_different(each.pack.id)
            if left + len(listing.away) < k:
                await self._table.lose_pack(each.pack)
                self._lost.append(each.pack)
            uncertain += left < k <= left + len(listing.away)
        if gone := len(self._lost):
            text = "cannot be read from the nodes any more: their blocks are missing"
            self._findings.add("note", f"{gone} packs of the database {text}")
        if uncertain:
            self._findings.add("left", f"{uncertain} packs cannot be read without the nodes that are away")
        return not uncertain

    async def _bring_back(self, pack_id: bytes, listing: FragmentListing) -> None:
        found = await self._read(pack_id, listing)
        if found is None:
            return
        if commits := found.commits():
            self._segments[found.drive].append((min(commits), found.pack))
            return
        await self._table.add(found.drive.number, found.pack, found.entries)
        self._brought[found.drive] += len(found.entries)
        self._failpoints.reached(BROUGHT)

    async def _read(self, pack_id: bytes, listing: FragmentListing) -> _Found | None:
        """The pack, by the first footer that leads to an index of its drive; None, and it is noted: no footer
        does, or the database has not the drive."""
        strange: bytes | None = None
        for name, index in listing.places(pack_id):
            footer = await self._footer(name, pack_id, index)
            if footer is None:
                continue
            drive = await self._packs.drive(footer.drive_id)
            if drive is None:
                strange = footer.drive_id
            elif found := await self._opened(drive, footer, listing):
                return found
        if strange is None:
            self._unreadable += 1
        else:
            self._strange[strange] += 1
        return None

    async def _footer(self, name: str, pack_id: bytes, index: int) -> FragmentFooter | None:
        """That of the fragment, whose checksum nobody has looked at; None: it has none, or its node does not
        give it."""
        key = fragment_key(pack_id, index)
        try:
            size = (await self._nodes[name].state(key)).size
            footer = decode_footer(await self._nodes[name].get(key, max(0, size - FOOTER_SIZE), FOOTER_SIZE))
        except DriveError:
            return None
        return footer if (footer.pack_id, footer.index) == (pack_id, index) else None

    async def _opened(
        self, drive: DriveNumber, footer: FragmentFooter, listing: FragmentListing
    ) -> _Found | None:
        """None: it is no pack of the drive, or too little of it can be read."""
        store = self._blocks.store(drive)
        own = store.placement(footer.pack_id)
        held = [listing.holder(footer.pack_id, index) for index in range(len(own))]
        missing = sum(1 << index for index, name in enumerate(held) if name is None)
        nodes = tuple(fill(held, own, [*own, *self._nodes]))
        pack = Pack(footer.pack_id, footer.pack_size, 0, nodes, missing)
        try:
            return await self._whole(drive, pack)
        except DriveError:
            return None

    async def _whole(self, drive: DriveNumber, pack: Pack) -> _Found:
        store = self._blocks.store(drive)
        data = await store.reader.read_whole(pack)
        return _Found(drive, pack, data, await store.cpu.finish(lambda: store.codec.index_of(pack.id, data)))

    async def _continue_log(self, drive: DriveNumber, segments: list[tuple[int, Pack]]) -> None:
        """Commits of the segments that go on from the drive's head are appended."""
        before = await self._commits.head(drive.number)
        for _, pack in sorted(segments, key=lambda each: each[0]):
            found = await self._whole(drive, pack)
            try:
                await self._append(found)
                await self._keep_segment(found)
            except BlocksMissingError as error:
                text = f"commits of segment {pack.id.hex()} name blocks that are nowhere: {error}"
                self._findings.add("left", f"drive {drive.uuid.hex()}: {text}")
            except (ReadOnlyError, FencedError):
                text = "is or was being moved, as at the backup. Its commits stay on the nodes: move it again"
                self._findings.add("left", f"drive {drive.uuid.hex()}: {text}")
                return
        head = await self._commits.head(drive.number)
        if head.number > before.number:
            text = f"commits {before.number + 1} to {head.number} are in the log again"
            self._findings.add("mended", f"drive {drive.uuid.hex()}: {text}")

    async def _append(self, found: _Found) -> None:
        for number, entry in found.commits().items():
            encoded, head = found.bytes_of(entry), await self._commits.head(found.drive.number)
            if (number, decode_commit(encoded).previous) == (head.number + 1, head.hash):
                await self._commits.append(found.drive.number, encoded, head)

    async def _keep_segment(self, found: _Found) -> None:
        """The pack is the segment of its commits again, if it is the next one of a log that has all of them.
        Else it stays on the nodes, and these commits in the database."""
        drive, commits = found.drive.number, found.commits()
        first, last = min(commits), max(commits)
        logged = await self._commits.between(drive, first - 1, last, MAX_BLOCK_SIZE)
        if {each.number: each.hash for each in logged} != {n: entry.block for n, entry in commits.items()}:
            return
        places = [(number, entry.offset, entry.length) for number, entry in commits.items()]
        with suppress(ConflictError):  # the backup's segments may end elsewhere
            await self._commits.leave(drive, first - 1, last, found.pack, places)

    def _tell(self) -> None:
        for drive, count in self._brought.items():
            text = f"{count} blocks are in the database again. Devices hand over the commits that name them"
            self._findings.add("mended", f"drive {drive.uuid.hex()}: {text}")
        for drive_id, count in self._strange.items():
            text = (
                f"is not in the database: {count} packs of it stay on the nodes. It was made after the backup"
            )
            self._findings.add("left", f"drive {drive_id.hex()} {text}")
