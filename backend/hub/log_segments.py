"""Old commits lie in packs on the nodes: 100 million commits a day would be 360 GB of the database.

A log segment is a pack (docs/format/pack.md) of consecutive commits of one drive; a commit is listed there by
its hash. A commit is read back by its hash too: bytes that are others are no answer, wherever they come from.

Invariants:
1. A commit leaves the database in the transaction that names the pack which has it, and the pack is durable
   at write quorum then: at any moment it can be read from one of the two.
2. A commit whose bytes are not those of its hash is not moved.
3. The newest commits of a drive stay: devices that were away for a short time read no pack.
4. Moving is safe by several processes at once and to cut off anywhere. A pack that no transaction named is
   left on the nodes, as that of any write that was cut off (`backend/hub/stray_packs.py` removes it).
asyncio's thread.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from itertools import groupby
from typing import Final

from backend.buffer import Buffer
from backend.errors import CorruptError, DriveError, TransientError
from backend.failpoints import declare
from backend.hub.commit_table import CommitTable, LoggedCommit
from backend.hub.packing import DriveNumber, HubBlocks
from backend.packs import MAX_BLOCK_SIZE, Pack, PackEntry
from backend.system import THIS_MACHINE, Environment, plain_hash
from backend.upstream import BlockId, SealedBlock

KEPT: Final = 16
"""The newest commits of a drive, which stay."""
LEAST: Final = 48
"""Commits of a segment, at least: fewer are not worth a pack."""
MOST: Final = 1024
MOST_BYTES: Final = 8 << 20

STORED: Final = declare(
    "segment.stored", "a log segment's pack is durable; the database has the commits, and knows no such pack"
)
NOTED: Final = declare(
    "segment.noted", "the database names a log segment's pack, and has its commits no more"
)

log = logging.getLogger(__name__)


async def commits_after(
    table: CommitTable, blocks: HubBlocks, drive: DriveNumber, number: int, limit: int, most_bytes: int
) -> list[bytes]:
    """Up to `limit` encoded commits after `number`, in order, of `most_bytes` together; but one at least, if
    there is one. `TransientError`: the nodes have other bytes, which is logged;
    errors of `PackReader`."""
    found: list[bytes] = []
    logged = await table.after(drive.number, number, limit, most_bytes)
    for pack, group in groupby(logged, lambda each: each.place and each.place.pack):
        of_pack = list(group)
        found += await _read(blocks, drive, pack, of_pack) if pack else [each.encoded for each in of_pack]
    return found


async def _read(
    blocks: HubBlocks, drive: DriveNumber, pack: Pack, commits: Sequence[LoggedCommit]
) -> list[bytes]:
    """Those commits of one pack, by one read; if that gives others, from fragments whose checksums hold."""
    reader = blocks.store(drive).reader
    places = [each.place for each in commits if each.place]
    start = min(place.offset for place in places)
    end = max(place.offset + place.length for place in places)
    found = _cut(await reader.read_range(pack, start, end - start), start, commits)
    if found is None:
        reader.forget(pack.id)
        found = _cut(await reader.read_whole(pack), 0, commits)
    if found is None:
        log.error("pack %s of drive %d has other bytes than its commits", pack.id.hex(), drive.number)
        raise TransientError("commits cannot be read from where they lie")
    return found


def _cut(data: Buffer, start: int, commits: Sequence[LoggedCommit]) -> list[bytes] | None:
    """The commits, from bytes of a pack that begin at `start`; None: one of them is another."""
    found = []
    for each in commits:
        assert each.place is not None
        at = each.place.offset - start
        encoded = bytes(data[at : at + each.place.length])
        if plain_hash(encoded) != each.hash:
            return None
        found.append(encoded)
    return found


class LogSegments:
    """Moves old commits into packs. See the module."""

    def __init__(
        self,
        table: CommitTable,
        blocks: HubBlocks,
        kept: int = KEPT,
        least: int = LEAST,
        environment: Environment = THIS_MACHINE,
    ) -> None:
        self._table = table
        self._blocks = blocks
        self._kept = kept
        self._least = least
        self._failpoints = environment.failpoints

    async def round(self) -> int:
        """Move what is due of all drives; how many commits. A drive whose segment cannot be stored now, or
        whose log is damaged, is left for the next round. `TransientError`: the database does not answer."""
        moved, last = 0, 0
        while drives := await self._table.with_old_commits(last, self._kept + self._least):
            for drive in drives:
                try:
                    while count := await self.move(drive):
                        moved += count
                except DriveError as error:
                    log.warning("the log of drive %d stays in the database for now: %s", drive.number, error)
            last = drives[-1].number
        return moved

    async def move(self, drive: DriveNumber) -> int:
        """Make one segment of the drive's oldest commits, if it has enough; how many are moved.
        `ConflictError`: another process does it; `CorruptError`: a commit in the database is damaged; errors
        of `HubBlocks.write`."""
        sizes = await self._table.old(drive.number, self._kept, MOST)
        if len(sizes) < self._least:
            return 0
        after, last = sizes[0][0] - 1, _last_of_segment(sizes)
        commits = await self._table.between(drive.number, after, last, MAX_BLOCK_SIZE)
        if commits:
            blocks = [_checked(each) for each in commits]
            numbers = {each.hash: each.number for each in commits}
            await self._blocks.write(drive, blocks, partial(self._note, drive, after, last, numbers))
        else:
            await self._table.leave(drive.number, after, last, None, [])
        self._failpoints.reached(NOTED)
        return last - after

    async def _note(
        self,
        drive: DriveNumber,
        after: int,
        last: int,
        numbers: dict[bytes, int],
        pack: Pack,
        entries: Sequence[PackEntry],
    ) -> None:
        self._failpoints.reached(STORED)
        places = [(numbers[entry.block], entry.offset, entry.length) for entry in entries]
        await self._table.leave(drive.number, after, last, pack, places)


def _last_of_segment(sizes: Sequence[tuple[int, int]]) -> int:
    """The last commit of a segment that begins with the first, by the numbers and sizes of what there is. One
    that is larger than a block stays in the database, and takes no room in the pack."""
    room = MOST_BYTES
    last = sizes[0][0]
    for number, size in sizes:
        room -= size if size <= MAX_BLOCK_SIZE else 0
        if room < 0:
            break
        last = number
    return last


def _checked(commit: LoggedCommit) -> SealedBlock:
    if plain_hash(commit.encoded) != commit.hash:
        raise CorruptError(f"commit {commit.number} in the database is not that of its hash")
    return SealedBlock(BlockId(commit.hash), commit.encoded)
