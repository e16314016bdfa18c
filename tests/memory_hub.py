"""A hub in memory: one drive that several devices write, each in a session of its own
(`backend.upstream`, "where several sessions write").

Nothing here knows a key, or an operation: the order of the commits and their envelopes say all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import trio

from backend.errors import BlocksMissingError
from backend.upstream import (
    RESERVED_SECONDS,
    BlockId,
    BlockPart,
    BlockStore,
    Commit,
    CommitLog,
    CompactionReport,
    Head,
    Housekeeping,
    Roots,
    SealedBlock,
    Shortfall,
    StoreStatus,
)
from tests.memory_upstream import MemoryUpstream


class MemoryHub(MemoryUpstream):
    """The hub itself; its faults are those of `MemoryUpstream`. `session` gives devices theirs."""

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[int, trio.Event] = {}
        """the commit of such a device waits for the event before it is looked at"""
        self.waiting: set[int] = set()
        """devices whose commit does"""

    def session(self) -> HubSession:
        """A new session of a device."""
        return HubSession(self)

    def check_lacking(self, missing: list[BlockId]) -> None:
        if missing:
            raise BlocksMissingError(f"{len(missing)} blocks of a commit are not stored", missing)

    async def append(self, commit: Commit, expected: Head) -> Head:
        if commit.device in self.held:
            self.waiting.add(commit.device)
            await self.held[commit.device].wait()
            self.waiting.discard(commit.device)
        count = len(self.commits)
        try:
            return await super().append(commit, expected)
        finally:  # its answer may be lost
            if len(self.commits) > count:
                self._took(commit)

    def _took(self, commit: Commit) -> None:
        for block in commit.dropped:
            if block in self.stored:
                self.released.setdefault(block, trio.current_time())
        for block in commit.added:
            self.released.pop(block, None)

    def collect(self, grace: float = RESERVED_SECONDS) -> int:
        """Delete what was released so many seconds ago; the number of blocks."""
        until = trio.current_time() - grace
        dead = [block for block, at in self.released.items() if at <= until]
        for block in dead:
            del self.stored[block], self.released[block]
        return len(dead)


class HubSession:
    """See `backend.upstream.Upstream`: the session of one device, and its four roles in one. What was put and
    not flushed is lost with it."""

    def __init__(self, hub: MemoryHub) -> None:
        self._hub = hub
        self._buffered: dict[BlockId, SealedBlock] = {}

    @property
    def epoch(self) -> int:
        return self._hub.epoch

    @property
    def log(self) -> CommitLog:
        return self

    @property
    def blocks(self) -> BlockStore:
        return self

    @property
    def roots(self) -> Roots:
        return self._hub

    @property
    def housekeeping(self) -> Housekeeping:
        return self

    async def confirm_writer(self) -> None:
        await self._hub.confirm_writer()

    async def head(self) -> Head:
        return await self._hub.head()

    async def append(self, commit: Commit, expected: Head) -> Head:
        return await self._hub.append(commit, expected)

    async def commits_after(self, number: int, limit: int = 256) -> list[tuple[Commit, bytes]]:
        return await self._hub.commits_after(number, limit)

    async def wait_for_change(self, number: int) -> None:
        await self._hub.wait_for_change(number)

    async def missing(self, ids: Iterable[BlockId]) -> set[BlockId]:
        return await self._hub.missing(ids) - self._buffered.keys()

    async def put_blocks(self, blocks: Sequence[SealedBlock]) -> None:
        await trio.lowlevel.checkpoint()
        if self._hub.gate is not None:
            await self._hub.gate.wait()
        self._buffered |= {block.id: block for block in blocks}

    async def flush(self) -> None:
        blocks = list(self._buffered.values())
        await self._hub.put_blocks(blocks)
        await self._hub.flush()
        for block in blocks:
            self._buffered.pop(block.id, None)

    async def get_block(self, block: BlockId) -> bytes:
        found = self._buffered.get(block)
        return await self._hub.get_block(block) if found is None else bytes(found.data)

    async def get_block_part(self, block: BlockId, offset: int, length: int) -> BlockPart:
        whole = await self.get_block(block)
        return BlockPart(whole[offset : offset + length], len(whole))

    async def get_block_again(self, block: BlockId) -> bytes:
        found = self._buffered.get(block)
        return await self._hub.get_block_again(block) if found is None else bytes(found.data)

    async def report_wrong(self, block: BlockId) -> bool:
        return await self._hub.report_wrong(block)

    async def stored_blocks(self, after: bytes, limit: int) -> list[BlockId]:
        return await self._hub.stored_blocks(after, limit)

    async def release(self, blocks: Sequence[BlockId]) -> list[BlockId]:
        await trio.lowlevel.checkpoint()
        return [block for block in blocks if block not in self._hub.released]

    async def revive(self, blocks: Sequence[BlockId]) -> None:
        await trio.lowlevel.checkpoint()

    async def sizes(self, blocks: Sequence[BlockId]) -> dict[BlockId, int]:
        return await self._hub.sizes(blocks)

    async def compact(self, grace: float, bytes_per_second: float, *, debris: bool) -> CompactionReport:
        await trio.lowlevel.checkpoint()
        return CompactionReport()

    async def redundancy(self, patience: float) -> Shortfall:
        return await self._hub.redundancy(patience)

    async def status(self) -> StoreStatus:
        return await self._hub.status()

    async def close(self) -> None:
        await trio.lowlevel.checkpoint()
