"""Reading packs: the bytes wanted from the data fragments as they are, or by decoding.

Invariants:
1. Bytes from the direct path are unchecked (the caller authenticates blocks); bytes from the decoding
   path come only from fragments whose checksums hold. `read_whole` is always the latter.
2. The direct path is given up for the decoding path on the first error or short answer. When it takes
   `hedge_after` seconds, and several times as long as its nodes usually take (`backend.nodes.speed`), both
   race, the direct one begun anew (Dean and Barroso, "The Tail at Scale", CACM 2013); whichever is first
   wins and the other is cancelled. Until then there is no second task: most reads are answered at once, and
   tasks cost more than a small read.
3. One pack is decoded by one task at a time; the others wait and take it from the cache. The cache is
   bounded in bytes and holds only what was decoded from verified fragments.
4. Small blocks of far nodes are read with those around them (`backend.packs.neighbours`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final
from weakref import WeakValueDictionary

import anyio

from backend.buffer import Buffer
from backend.errors import CorruptError, DriveError, UnavailableError
from backend.nodes import Node, NodeHealth, NodeSpeed
from backend.packs.fragment_format import fragment_key
from backend.packs.fragment_reader import FragmentReader, is_wrong
from backend.packs.neighbours import WINDOW, Neighbours
from backend.packs.pack import Pack
from backend.packs.pack_codec import PackCodec
from backend.packs.recent_bytes import RecentBytes
from backend.system import CutOff, Group, Threads, current_time, cut_after, task_group

CACHE_BYTES: Final = 32 * 1024 * 1024

Range = tuple[int, int, int]
ReportWrong = Callable[[Pack, int], None]
"""Called with a pack and the number of a fragment that was found absent or damaged."""


class PackReader:
    """Called by many tasks at once. `report_wrong` must not block."""

    def __init__(
        self,
        nodes: Mapping[str, Node],
        codec: PackCodec,
        cpu: Threads,
        report_wrong: ReportWrong,
        hedge_after: float,
    ) -> None:
        self._health = NodeHealth()
        self._speed = NodeSpeed()
        self.fragments = FragmentReader(nodes, codec, self._health, self._speed, cpu, hedge_after)
        self._code = codec.code
        self._cpu = cpu
        self._report_wrong = report_wrong
        self._hedge_after = hedge_after
        self._decoded = RecentBytes(CACHE_BYTES)
        self._neighbours = Neighbours(self._speed)
        self._locks: WeakValueDictionary[bytes, anyio.Lock] = WeakValueDictionary()

    async def read_range(
        self, pack: Pack, offset: int, length: int, *, has_neighbours: bool = False
    ) -> Buffer:
        """The bytes [offset, offset+length) of the pack. `has_neighbours`: they are a small block, and
        others may be wanted with it (`backend.packs.neighbours`). `UnavailableError` names the nodes when
        fewer than k fragments are good."""
        whole = self._decoded.get(pack.id)
        ranges = self._code.ranges(offset, length, pack.size)
        if whole is None and not self._is_in_trouble(pack, ranges):
            soon = await self._read_soon(pack, ranges)
            if soon is not None:
                return soon
            with cut_after(self._patience(pack, ranges, WINDOW if has_neighbours else 0)) as patience:
                data = await self._read_parts(pack, ranges, has_neighbours)
            if patience.cancelled_caught:
                for index, _, _ in ranges:
                    self._health.troubled(pack.nodes[index])
                return await self._race(pack, ranges, offset, length)
            if data is not None:
                return data
        return (whole or await self.read_whole(pack))[offset : offset + length]

    async def read_whole(self, pack: Pack) -> bytes:
        """The pack, decoded from fragments whose checksums hold. Errors as `read_range`."""
        lock = self._locks.setdefault(pack.id, anyio.Lock())
        async with lock:
            data = self._decoded.get(pack.id)
            if data is None:
                data = await self._decode(pack)
                self._decoded.put(pack.id, data)
            return data

    def forget(self, pack_id: bytes) -> None:
        """Drop the pack from the caches: the next read asks the nodes."""
        self._decoded.forget(pack_id)
        self._neighbours.forget(pack_id)

    async def _decode(self, pack: Pack) -> bytes:
        found = await self.fragments.collect(pack)
        for index in found.wrong():
            self._report_wrong(pack, index)
        self.fragments.require_enough(pack, found)
        decode = partial(self._code.decode, found.good, pack.size)
        return await self._cpu.finish(decode)

    def _is_in_trouble(self, pack: Pack, ranges: Sequence[Range]) -> bool:
        names = [pack.nodes[index] for index, _, _ in ranges]
        return any(pack.missing >> index & 1 for index, _, _ in ranges) or self._health.any_avoided(names)

    def _patience(self, pack: Pack, ranges: Sequence[Range], least: int) -> float:
        """The seconds after which reading the ranges, one after the other, is slow, if each may become one
        of `least` bytes."""
        sizes = ((pack.nodes[index], max(length, least)) for index, _, length in ranges)
        usual = sum(self._speed.slow_after(name, size) for name, size in sizes)
        return max(self._hedge_after, usual)

    async def _read_soon(self, pack: Pack, ranges: Sequence[Range]) -> Buffer | None:
        """The bytes, if their nodes have them at hand: no need to watch the time then."""
        parts = []
        for index, offset, length in ranges:
            try:
                node = self.fragments.node(pack, index)
            except UnavailableError:  # the drive has lost this node for good
                return None
            part = await node.get_soon(fragment_key(pack.id, index), offset, length)
            if part is None:
                return None
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _read_parts(self, pack: Pack, ranges: Sequence[Range], has_neighbours: bool) -> bytes | None:
        """The ranges, one after the other; None, and it is noted, if one cannot be had."""
        read = self._read_small if has_neighbours else self._read_one
        parts = []
        for part in ranges:
            try:
                parts.append(await read(pack, part))
            except DriveError as error:
                self._note(pack, part[0], error)
                return None
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _read_small(self, pack: Pack, part: Range) -> bytes:
        index, offset, length = part
        payload = self._code.fragment_size(pack.size)

        def read(begin: int, size: int) -> Awaitable[bytes]:
            return self._read_one(pack, (index, begin, size))

        return await self._neighbours.read(pack, index, offset, length, payload, read)

    async def _read_one(self, pack: Pack, part: Range) -> bytes:
        index, offset, length = part
        begun = current_time()
        data = await self.fragments.node(pack, index).get(fragment_key(pack.id, index), offset, length)
        if len(data) != length:
            raise CorruptError(f"fragment {index} is too short")
        self._health.answered(pack.nodes[index])
        self._speed.note(pack.nodes[index], length, current_time() - begun)
        return data

    async def _race(self, pack: Pack, ranges: Sequence[Range], offset: int, length: int) -> bytes:
        race = _Race()
        async with task_group() as group:
            race.scope = group.cancel_scope
            group.start_soon(self._read_direct, pack, ranges, race)
            group.start_soon(self._read_decoded, pack, offset, length, race)
        if race.data is not None:
            return race.data
        if race.error is None:
            raise AssertionError("a race of reads ended with neither data nor error")
        raise race.error

    async def _read_direct(self, pack: Pack, ranges: Sequence[Range], race: _Race) -> None:
        parts: dict[int, bytes] = {}
        async with task_group() as group:
            for index, start, length in ranges:
                group.start_soon(self._read_part, group, pack, (index, start, length), parts, race)
        if len(parts) == len(ranges):
            race.win(b"".join(parts[index] for index, _, _ in ranges))

    async def _read_part(
        self, group: Group, pack: Pack, part: Range, parts: dict[int, bytes], race: _Race
    ) -> None:
        index = part[0]
        try:
            parts[index] = await self._read_one(pack, part)
        except DriveError as error:
            self._note(pack, index, error)
            group.cancel_scope.cancel()

    def _note(self, pack: Pack, index: int, error: DriveError) -> None:
        if is_wrong(error):
            self._report_wrong(pack, index)
        else:
            self._health.troubled(pack.nodes[index])

    async def _read_decoded(self, pack: Pack, offset: int, length: int, race: _Race) -> None:
        try:
            race.win((await self.read_whole(pack))[offset : offset + length])
        except DriveError as error:
            race.error = error


@dataclass(slots=True)
class _Race:
    data: bytes | None = None
    error: DriveError | None = None
    scope: CutOff = field(default_factory=anyio.CancelScope)

    def win(self, data: bytes) -> None:
        self.data = data
        self.scope.cancel()
