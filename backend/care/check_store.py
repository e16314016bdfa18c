"""Checking packs: every fragment present and of the right size or, reading all, whole; every block sound.

Invariants:
1. Nothing is deleted, and nothing is written but fragments that were rebuilt from k good ones (`PackStore`,
   invariant 3). A pack that cannot be rebuilt stays as it is.
2. A fragment whose node is away is neither good nor wrong: it is told, and left.
3. After `run`, `unreadable` holds exactly the blocks that were looked for and could be read from no pack.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from backend.blocks import BlockIndex, BlockLocation, statistics_of
from backend.buffer import Buffer
from backend.errors import CorruptError, DriveError, FormatError
from backend.findings import Findings
from backend.packs import Pack, PackEntry, PackStore, fragment_key, is_wrong, named
from backend.system import task_group
from backend.upstream import BlockId

AT_ONCE: Final = 4
_BATCH: Final = 64

VerifyBlock = Callable[[BlockId, Buffer], None]
"""Raises `CorruptError` or `FormatError` unless the sealed block opens and is what its id says. Any
thread."""
ReadIndex = Callable[[bytes, bytes], list[PackEntry]]
"""The index in the bytes of the pack with that id; `CorruptError`, `FormatError`. Any thread."""
Progress = Callable[[int, int], None]


@dataclass(slots=True)
class _Seen:
    """The fragments of one pack, judged; `good` holds payloads only when everything is read."""

    present: set[int] = field(default_factory=set)
    good: dict[int, bytes] = field(default_factory=dict)
    wrong: dict[int, str] = field(default_factory=dict)
    away: dict[int, str] = field(default_factory=dict)


class StoreCheck:
    """One run over all packs of `index`. With `mend`, what is missing or wrong is rebuilt. With
    `verify` and `read_index`, everything is read."""

    def __init__(
        self,
        packs: PackStore,
        index: BlockIndex,
        findings: Findings,
        *,
        mend: bool,
        verify: VerifyBlock | None = None,
        read_index: ReadIndex | None = None,
    ) -> None:
        self._packs = packs
        self._index = index
        self._findings = findings
        self._mend = mend
        self._verify = verify
        self._read_index = read_index
        self.unreadable: set[BlockId] = set()
        self.checked_bytes = 0

    async def run(self, progress: Progress) -> None:
        """See the class. Safe to cancel and to repeat."""
        total, done, position = (await statistics_of(self._index.packs)).packs, 0, b""
        while batch := self._index.packs.after(position, _BATCH):
            position = batch[-1].id
            for start in range(0, len(batch), AT_ONCE):
                async with task_group() as group:
                    for pack in batch[start : start + AT_ONCE]:
                        group.start_soon(self._check, pack)
                done += len(batch[start : start + AT_ONCE])
                progress(done, total)
        for block in list(self.unreadable):
            await self._look_elsewhere(block)

    async def _check(self, pack: Pack) -> None:
        seen = await self._look(pack)
        now = self._index.packs.get(pack.id)
        if now is None:
            return  # deleted meanwhile
        if now.nodes != pack.nodes:
            await self._check(now)  # moved meanwhile
            return
        enough = self._packs.codec.code.profile.k
        if self._verify is not None:
            await self._check_blocks(pack, seen)
        if len(seen.present) < enough:
            self._report_too_few(pack, seen)
        elif seen.wrong:
            await self._repair(pack, seen)
        for text in seen.away.values() if len(seen.present) >= enough else ():
            self._findings.add("left", f"pack {pack.id.hex()}: {text}")

    async def _look(self, pack: Pack) -> _Seen:
        seen = _Seen()
        judge = self._fetch if self._verify is not None else self._measure
        async with task_group() as group:
            for index in range(self._packs.codec.code.profile.total):
                group.start_soon(judge, pack, index, seen)
        return seen

    async def _fetch(self, pack: Pack, index: int, seen: _Seen) -> None:
        try:
            seen.good[index] = await self._packs.reader.fragments.fetch(pack, index)
            seen.present.add(index)
            self.checked_bytes += len(seen.good[index])
        except DriveError as error:
            self._note(pack, index, error, seen)

    async def _measure(self, pack: Pack, index: int, seen: _Seen) -> None:
        expected = self._packs.codec.fragment_length(pack.size)
        try:
            node = self._packs.reader.fragments.node(pack, index)
            size = (await node.state(fragment_key(pack.id, index))).size
            if size != expected:
                raise CorruptError(f"it has {size} bytes instead of {expected}")
            seen.present.add(index)
        except DriveError as error:
            self._note(pack, index, error, seen)

    def _note(self, pack: Pack, index: int, error: DriveError, seen: _Seen) -> None:
        text = f"fragment {index}: {named(pack.nodes[index], error)}"
        if is_wrong(error):
            seen.wrong[index] = text
        else:
            seen.away[index] = text

    def _report_too_few(self, pack: Pack, seen: _Seen) -> None:
        self._index.packs.want_repair(pack.id, sum(1 << index for index in seen.wrong))
        k = self._packs.codec.code.profile.k
        reasons = "; ".join([*seen.wrong.values(), *seen.away.values()])
        self._findings.add(
            "lost" if len(seen.present) + len(seen.away) < k else "left",
            f"pack {pack.id.hex()}: {len(seen.present)} good fragments of the {k} needed ({reasons})",
        )

    async def _repair(self, pack: Pack, seen: _Seen) -> None:
        what = f"pack {pack.id.hex()}: {'; '.join(seen.wrong.values())}"
        if not self._mend:
            self._findings.add("left", what)
            return
        try:
            missing = await self._packs.repair(pack)
        except DriveError as error:
            self._findings.add("left", f"{what}; it could not be rebuilt: {error}")
            return
        self._index.packs.set_missing(pack.id, missing)
        failed = [index for index in seen.wrong if missing >> index & 1]
        self._findings.add("left" if failed else "mended", what)

    async def _check_blocks(self, pack: Pack, seen: _Seen) -> None:
        """Open every block; where the pack cannot be decoded, those that are in one piece."""
        if len(seen.good) < self._packs.codec.code.profile.k:
            await self._check_pieces(pack)
            return
        judge = partial(self._judge_whole, pack, seen.good)
        seen.good = {}
        try:
            bad = await self._packs.cpu.finish(judge)
        except (CorruptError, FormatError) as error:
            self._findings.add("lost", f"pack {pack.id.hex()} is not what was stored: {error}")
            bad = [entry.block for entry in self._index.blocks_of(pack.id)]
        for block in bad:
            self._findings.add(
                "lost", f"pack {pack.id.hex()}: block {block.hex()[:16]} does not authenticate"
            )
        self.unreadable.update(bad)

    def _judge_whole(self, pack: Pack, good: dict[int, bytes]) -> list[BlockId]:
        """The blocks that do not open; in a thread."""
        if self._verify is None or self._read_index is None:
            return []
        whole = self._packs.codec.code.decode(good, pack.size)
        entries = self._read_index(pack.id, whole)
        ends = ((entry.block, whole[entry.offset : entry.offset + entry.length]) for entry in entries)
        return [block for block, sealed in ends if not self._opens(block, sealed)]

    async def _check_pieces(self, pack: Pack) -> None:
        for entry in self._index.blocks_of(pack.id):
            if not await self._is_sound(entry.block, BlockLocation(pack, entry.offset, entry.length)):
                self.unreadable.add(entry.block)

    async def _look_elsewhere(self, block: BlockId) -> None:
        """A block that is lost in one pack may have been stored anew in another."""
        for place in self._index.other_places(block):
            if await self._is_sound(block, place):
                self._index.read_from(block, place)
                self.unreadable.discard(block)
                return

    async def _is_sound(self, block: BlockId, place: BlockLocation) -> bool:
        try:
            sealed = await self._packs.reader.read_range(place.pack, place.offset, place.length)
        except DriveError:
            return False
        return await self._packs.cpu.finish(partial(self._opens, block, sealed))

    def _opens(self, block: BlockId, sealed: Buffer) -> bool:
        if self._verify is None:
            return True
        try:
            self._verify(block, sealed)
        except (CorruptError, FormatError):
            return False
        return True
