"""The sealer: turns dirty data into blocks that are on their way to the store.

Invariants:
1. A layer's data is turned into blocks by one task at a time (`Layer.sealing`); a piece is replaced
   only where it is still the piece that was read, so a write that comes meanwhile wins.
2. Reading, cutting, hashing, compressing and encrypting run in threads; pieces and extents are
   looked at and changed on the event-loop thread only.
3. Memory is bounded: at most `WINDOW` bytes of plaintext a batch, and of a long run one batch that is
   being cut beside one that is being sealed.
4. A block is offered to the store before a piece refers to it; that it is durable is for
   `BlockStore.flush` to say, later.
5. A file of which the journal cannot be read costs no other file anything.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import trio

from backend.buffer import Buffer
from backend.errors import CorruptError, DriveError, NotFoundError, UnavailableError
from backend.failpoints import declare
from backend.system import Environment, each
from backend.upstream import BlockId, BlockStore, SealedBlock
from cache.blocks.block_codec import BlockCodec
from cache.blocks.chunking import MIN_BLOCK, Chunker
from cache.errors import FileSystemError, InputOutputError, UnreadableError
from cache.journal import Data, Hole, Layer, Stored, replace_data

log = logging.getLogger(__name__)

WINDOW = 8 << 20
"""Plaintext bytes in one batch; more than two blocks of the largest size."""
AHEAD = 16 << 20
"""A sequential writer's file is sealed ahead when this much more of it is there."""
_TURN = 32
"""After so many files the other tasks get their turn."""

SEALED = declare("sealer.sealed", "a batch's blocks were offered to the store; no piece refers to them")

ReadJournal = Callable[[int, int], bytes]
"""(position, length) -> bytes; any thread."""


class StoredExtents(Protocol):
    """What the sealer asks of the file whose layer it seals, to absorb small neighbours."""

    def extent_before(self, inode: int, offset: int) -> tuple[int, int] | None:
        """(start, end) of the stored extent that ends exactly at `offset`."""

    def extent_after(self, inode: int, offset: int) -> tuple[int, int] | None:
        """(start, end) of the stored extent that begins exactly at `offset`."""

    def read_stored(self, inode: int, start: int, end: int) -> Awaitable[bytes]:
        """The bytes that the extents say."""


@dataclass(slots=True)
class _Run:
    """Contiguous bytes to be cut into blocks: data pieces, and at either end absorbed bytes."""

    inode: int
    layer: Layer
    start: int
    end: int
    sources: list[Data]
    before: bytes = b""
    after: bytes = b""
    whole: bool = True
    """False: more bytes follow in the file, so the last piece of the cut is not a block yet"""


@dataclass(slots=True)
class _Cut:
    """A block to be: its place in the file and its plaintext."""

    run: _Run
    start: int
    end: int
    id: BlockId | None
    """None: all zeros, so a hole"""
    plaintext: memoryview


@dataclass(slots=True)
class _Batch:
    runs: list[_Run] = field(default_factory=list)
    size: int = 0


class Sealer:
    """See the module. `fetch` gives the plaintext of a block, from a cache if it can. `limiter` bounds the
    threads."""

    def __init__(
        self,
        blocks: BlockStore,
        codec: BlockCodec,
        chunker: Chunker,
        read_journal: ReadJournal,
        content: StoredExtents,
        fetch: Callable[[BlockId], Awaitable[Buffer]],
        limiter: trio.CapacityLimiter,
        environment: Environment,
    ) -> None:
        self._blocks = blocks
        self._fetch = fetch
        self._codec = codec
        self._chunker = chunker
        self._read_journal = read_journal
        self._content = content
        self._limiter = limiter
        self._failpoints = environment.failpoints
        self.sealed_bytes = 0
        self.new_bytes = 0
        """plaintext bytes that were not in the store yet, and what they became there"""
        self.new_sealed_bytes = 0

    async def seal(self, layers: Iterable[tuple[int, Layer]]) -> dict[int, UnreadableError]:
        """All data that the layers had before is in blocks when this returns, but for the inodes in the
        answer, which have bytes that cannot be read. Small files go together. Safe to repeat after an
        error."""
        batch, unreadable = _Batch(), dict[int, UnreadableError]()
        for count, (inode, layer) in enumerate(layers, 1):
            if count % _TURN == 0:
                await trio.lowlevel.checkpoint()
            async with _Held(layer.sealing):
                for run in _runs(inode, layer):
                    if run.end - run.start > WINDOW // 2:
                        unreadable |= await self._seal_long(run)
                        continue
                    await self._absorb(run)
                    batch.runs.append(run)
                    batch.size += run.end - run.start
                    if batch.size >= WINDOW // 2:
                        unreadable |= await self._seal_batch(batch.runs)
                        batch = _Batch()
        return unreadable | await self._seal_batch(batch.runs)

    async def seal_ahead(self, inode: int, layer: Layer) -> None:
        """Seal whole blocks of a long sequential write that goes on."""
        async with layer.sealing:
            for run in list(_runs(inode, layer)):
                if run.end - run.start >= AHEAD:
                    run.whole = False
                    await self._seal_windows(run)
                    layer.sealed_to = max(layer.sealed_to, run.end)

    async def _seal_long(self, run: _Run) -> dict[int, UnreadableError]:
        await self._absorb(run)
        try:
            await self._seal_windows(run)
        except UnreadableError as error:
            return {run.inode: error}
        return {}

    async def _seal_windows(self, run: _Run) -> None:
        cuts = await self._cut_window(run, run.start)
        while cuts:
            cuts = await self._store_and_cut(cuts, run)

    async def _store_and_cut(self, cuts: list[_Cut], run: _Run) -> list[_Cut]:
        """Store a window's blocks while the next window is cut: its blocks."""
        following: list[_Cut] = []

        async def cut_next() -> None:
            following.extend(await self._cut_window(run, cuts[-1].end))

        steps: list[Callable[[], Awaitable[None]]] = [partial(self._store, cuts), cut_next]
        await each(lambda step: step(), steps)
        return following

    async def _cut_window(self, run: _Run, start: int) -> list[_Cut]:
        """The blocks of the window that begins there; none at the end of what can be cut yet."""
        if start == run.end:
            return []
        window = _part(run, start, min(start + WINDOW, run.end))
        window.whole = run.whole and window.end == run.end
        return await self._cut([window])

    async def store_again(self, blocks: Iterable[BlockId]) -> list[BlockId]:
        """Give the store those of its lost blocks that a cache here still has; the others."""
        lost: list[BlockId] = []
        for block in blocks:
            try:
                plaintext = memoryview(await self._fetch(block))
            except (NotFoundError, CorruptError, UnavailableError):
                lost.append(block)
                continue
            sealed = await trio.to_thread.run_sync(
                self._seal_blocks, [(block, plaintext)], limiter=self._limiter
            )
            await self._blocks.put_blocks(sealed)
        return lost

    async def _absorb(self, run: _Run) -> None:
        """Take small neighbouring extents into the run, so that small writes do not leave the file
        in ever smaller pieces. One that cannot be read stays what it is."""
        run.before = await self._small_neighbour(run, self._content.extent_before(run.inode, run.start))
        run.start -= len(run.before)
        run.after = await self._small_neighbour(run, self._content.extent_after(run.inode, run.end))
        run.end += len(run.after)

    async def _small_neighbour(self, run: _Run, extent: tuple[int, int] | None) -> bytes:
        if extent is None or extent[1] - extent[0] >= MIN_BLOCK or not _free(run.layer, *extent):
            return b""
        try:
            return await self._content.read_stored(run.inode, *extent)
        except (DriveError, FileSystemError, OSError) as error:
            # Whoever reads the file is told. What was written beside it needs to be stored all the same.
            log.info("bytes %d to %d of inode %d cannot be taken along: %s", *extent, run.inode, error)
            return b""

    async def _seal_batch(self, runs: list[_Run]) -> dict[int, UnreadableError]:
        """All together; each for itself if there is one that cannot be read."""
        if not runs:
            return {}
        try:
            await self._store(await self._cut(runs))
        except UnreadableError as error:
            if len(runs) == 1:
                return {runs[0].inode: error}
        else:
            return {}
        unreadable: dict[int, UnreadableError] = {}
        for run in runs:
            unreadable |= await self._seal_batch([run])
        return unreadable

    async def _cut(self, runs: list[_Run]) -> list[_Cut]:
        return await trio.to_thread.run_sync(self._cut_runs, runs, limiter=self._limiter)

    async def _store(self, cuts: list[_Cut]) -> None:
        """Offer the blocks that the store lacks, and let pieces refer to all of them."""
        wanted = {cut.id: cut.plaintext for cut in cuts if cut.id is not None}
        missing = await self._blocks.missing(wanted)
        # In this order they will lie on the nodes: what follows in a file or a folder is read together.
        new = [(block, plaintext) for block, plaintext in wanted.items() if block in missing]
        blocks = await trio.to_thread.run_sync(self._seal_blocks, new, limiter=self._limiter)
        await self._blocks.put_blocks(blocks)
        self._failpoints.reached(SEALED)
        self.new_bytes += sum(len(plaintext) for _, plaintext in new)
        self.new_sealed_bytes += sum(len(block.data) for block in blocks)
        for cut in cuts:
            self._replace(cut)

    def _cut_runs(self, runs: list[_Run]) -> list[_Cut]:
        return [cut for run in runs for cut in self._cut_run(run)]

    def _cut_run(self, run: _Run) -> Iterator[_Cut]:
        parts = [run.before]
        parts += [self._read(piece) for piece in run.sources]
        parts.append(run.after)
        data = memoryview(b"".join(parts))
        for start, end in self._chunker.cut(data, last=run.whole):
            plaintext = data[start:end]
            block = None if _is_zero(plaintext) else self._codec.block_id(plaintext)
            yield _Cut(run, run.start + start, run.start + end, block, plaintext)

    def _read(self, piece: Data) -> bytes:
        try:
            return self._read_journal(piece.position, piece.end - piece.start)
        except (OSError, InputOutputError) as error:
            raise UnreadableError(str(error)) from error

    def _seal_blocks(self, blocks: list[tuple[BlockId, memoryview]]) -> list[SealedBlock]:
        return [self._codec.seal(block, plaintext) for block, plaintext in blocks]

    def _replace(self, cut: _Cut) -> None:
        run, layer = cut.run, cut.run.layer
        self.sealed_bytes += cut.end - cut.start
        if cut.id is None:
            stored: Stored | None = None
        else:
            stored = Stored(cut.start, cut.end, cut.id, 0)
        replace_data(layer, cut.start, cut.end, stored, run.sources)
        for start, absorbed in ((run.start, run.before), (run.end - len(run.after), run.after)):
            low, high = max(start, cut.start), min(start + len(absorbed), cut.end)
            if low < high and _free(layer, low, high):
                layer.pieces.put(
                    Hole(low, high) if cut.id is None else Stored(low, high, cut.id, low - cut.start)
                )


class _Held:
    """Holds a lock; the other tasks get no turn if it is free, which takes longer than a small file."""

    __slots__ = ("_lock",)

    def __init__(self, lock: trio.Lock) -> None:
        self._lock = lock

    async def __aenter__(self) -> None:
        try:
            self._lock.acquire_nowait()
        except trio.WouldBlock:
            await self._lock.acquire()

    async def __aexit__(self, *_: object) -> None:
        self._lock.release()


def _is_zero(data: memoryview) -> bool:
    return data[0] == 0 and data[-1] == 0 and data.tobytes().count(0) == len(data)


def _free(layer: Layer, start: int, end: int) -> bool:
    return not layer.pieces.overlapping(start, end)


def _runs(inode: int, layer: Layer) -> Iterator[_Run]:
    """The maximal contiguous runs of data pieces."""
    sources: list[Data] = []
    for piece in list(layer.pieces):
        if not isinstance(piece, Data) or (sources and sources[-1].end != piece.start):
            if sources:
                yield _Run(inode, layer, sources[0].start, sources[-1].end, sources)
            sources = []
        if isinstance(piece, Data):
            sources.append(piece)
    if sources:
        yield _Run(inode, layer, sources[0].start, sources[-1].end, sources)


def _part(run: _Run, start: int, end: int) -> _Run:
    """The part of a run in [start, end)."""
    head, tail = run.start + len(run.before), run.end - len(run.after)
    sources = [
        Data(max(s.start, start), min(s.end, end), s.position + max(s.start, start) - s.start)
        for s in run.sources
        if s.start < end and s.end > start
    ]
    before = run.before[start - run.start : end - run.start] if start < head else b""
    after = run.after[max(start - tail, 0) : end - tail] if end > tail else b""
    return _Run(run.inode, run.layer, start, end, sources, before, after)
