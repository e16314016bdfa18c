"""An upstream in memory for tests of the client side, with faults that can be switched on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import trio

from backend.commits.commit_format import commit_hash
from backend.errors import (
    ConflictError,
    CorruptError,
    FencedError,
    NoSpaceError,
    NotFoundError,
    TransientError,
    UsageError,
)
from backend.upstream import (
    NO_COMMIT,
    BlockId,
    BlockPart,
    BlockStore,
    Commit,
    CommitLog,
    CompactionReport,
    Head,
    Housekeeping,
    PresenceBoard,
    Roots,
    SealedBlock,
    Shortfall,
    StoreStatus,
)


class MemoryUpstream:
    """See `backend.upstream.Upstream`: the session and its four roles in one. Blocks count as stored
    only after `flush`; `lose_unflushed` does what a crash does. One instance may outlive several drives."""

    def __init__(self) -> None:
        self.commits: list[tuple[Commit, bytes]] = []
        self.stored: dict[BlockId, bytes] = {}
        self.buffered: dict[BlockId, bytes] = {}
        self.released: dict[BlockId, float] = {}
        self.kept_roots: dict[str, bytes] = {}
        self.away = False
        self.full = False
        """no room for blocks; there is for commits"""
        self.fenced = False
        self.corrupt: set[BlockId] = set()
        """blocks whose first copy is wrong"""
        self.failing: dict[BlockId, Exception] = {}
        """what reading a block raises"""
        self.fail_after_append = False
        """the next append is kept, but its caller never hears of it"""
        self.gate: trio.Event | None = None
        """while it is not set, blocks are not taken: sealing is held up in the middle"""
        self.flush_gate: trio.Event | None = None
        """while it is not set, no flush begins: a commit is held up after its cut"""
        self.attempts = 0
        """calls of `flush`"""
        self.may_delete = False
        """whether a commit was appended by this session"""
        self.changed = trio.Event()

    @property
    def epoch(self) -> int:
        return 1

    @property
    def log(self) -> CommitLog:
        return self

    @property
    def blocks(self) -> BlockStore:
        return self

    @property
    def roots(self) -> Roots:
        return self

    @property
    def housekeeping(self) -> Housekeeping:
        return self

    @property
    def presence(self) -> PresenceBoard | None:
        return None

    def lose_unflushed(self) -> None:
        """What the process had in memory is gone."""
        self.buffered.clear()

    def _check(self) -> None:
        if self.away:
            raise TransientError("the nodes are away")

    async def head(self) -> Head:
        await trio.lowlevel.checkpoint()
        if not self.commits:
            return Head(0, NO_COMMIT)
        commit, digest = self.commits[-1]
        return Head(commit.number, digest)

    async def confirm_writer(self) -> None:
        if self.fenced:
            raise FencedError("taken over")

    async def append(self, commit: Commit, expected: Head) -> Head:
        self._check()
        if self.fenced:
            raise FencedError("the lease was taken over")
        head, digest = await self.head(), commit_hash(commit)
        if head.hash == digest:
            return head
        if head != expected or commit.previous != head.hash or commit.number != head.number + 1:
            raise ConflictError("the head has moved")
        missing = [block for block in commit.added if block not in self.stored]
        self.check_lacking(missing)
        self.commits.append((commit, digest))
        self.may_delete = True
        self.tell()
        if self.fail_after_append:
            self.fail_after_append = False
            raise TransientError("the answer was lost")
        return Head(commit.number, digest)

    def tell(self) -> None:
        """Let those who wait for a change of the log look."""
        self.changed.set()
        self.changed = trio.Event()

    def check_lacking(self, missing: list[BlockId]) -> None:
        """A commit names these, which are not stored: who writes alone has lost them."""
        assert not missing, "I1: a commit refers to blocks that are not stored"

    async def commits_after(self, number: int, limit: int = 256) -> list[tuple[Commit, bytes]]:
        await trio.lowlevel.checkpoint()
        return self.commits[number : number + limit]

    async def wait_for_change(self, number: int) -> None:
        while (await self.head()).number <= number:
            await self.changed.wait()

    async def missing(self, ids: Iterable[BlockId]) -> set[BlockId]:
        await trio.lowlevel.checkpoint()
        present = self.stored.keys() - self.released.keys() | self.buffered.keys()
        return {block for block in ids if block not in present}

    async def put_blocks(self, blocks: Sequence[SealedBlock]) -> None:
        await trio.lowlevel.checkpoint()
        if self.gate is not None:
            await self.gate.wait()
        for block in blocks:
            if block.id not in self.stored or block.id in self.released:
                self.buffered[block.id] = bytes(block.data)

    async def flush(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.flush_gate is not None:
            await self.flush_gate.wait()
        self.attempts += 1
        self._check()
        if self.full and self.buffered:
            raise NoSpaceError("the nodes are full")
        self.stored.update(self.buffered)
        for block in self.buffered:
            self.released.pop(block, None)
        self.buffered.clear()

    async def redundancy(self, patience: float) -> Shortfall:
        await trio.lowlevel.checkpoint()
        return Shortfall()

    async def get_block(self, block: BlockId) -> bytes:
        await trio.lowlevel.checkpoint()
        if block in self.buffered:
            return self.buffered[block]
        self._check()
        if block in self.failing:
            raise self.failing[block]
        data = self._stored(block)
        return data[:-1] + bytes([data[-1] ^ 1]) if block in self.corrupt else data

    async def get_block_part(self, block: BlockId, offset: int, length: int) -> BlockPart:
        whole = await self.get_block(block)
        return BlockPart(whole[offset : offset + length], len(whole))

    async def get_block_again(self, block: BlockId) -> bytes:
        await trio.lowlevel.checkpoint()
        if block in self.buffered:
            return self.buffered[block]
        self._check()
        if len(self.corrupt) > 100:
            raise CorruptError("too many fragments are wrong")
        return self._stored(block)

    def _stored(self, block: BlockId) -> bytes:
        if block not in self.stored:
            raise NotFoundError(f"block {block.hex()} is not stored")
        return self.stored[block]

    async def report_wrong(self, block: BlockId) -> bool:
        await trio.lowlevel.checkpoint()
        self.stored.pop(block, None)
        return False

    async def stored_blocks(self, after: bytes, limit: int) -> list[BlockId]:
        await trio.lowlevel.checkpoint()
        return sorted(block for block in self.stored if block > after)[:limit]

    async def release(self, blocks: Sequence[BlockId]) -> list[BlockId]:
        await trio.lowlevel.checkpoint()
        new = [block for block in blocks if block not in self.released]
        self.released = {block: self.released.get(block, trio.current_time()) for block in blocks}
        return new

    async def revive(self, blocks: Sequence[BlockId]) -> None:
        await trio.lowlevel.checkpoint()
        for block in blocks:
            self.released.pop(block, None)

    async def sizes(self, blocks: Sequence[BlockId]) -> dict[BlockId, int]:
        await trio.lowlevel.checkpoint()
        return {block: len(self.stored[block]) for block in blocks if block in self.stored}

    async def compact(self, grace: float, bytes_per_second: float, *, debris: bool) -> CompactionReport:
        await trio.lowlevel.checkpoint()
        self._check()
        if not self.may_delete:
            raise UsageError("blocks are deleted only when this session has appended a commit")
        until = trio.current_time() - grace
        dead = [block for block, since in self.released.items() if since <= until]
        for block in dead:
            del self.stored[block], self.released[block]
        return CompactionReport(blocks=len(dead))

    async def put_root(self, name: str, data: bytes) -> None:
        await trio.lowlevel.checkpoint()
        self._check()
        self.kept_roots[name] = data

    async def get_root(self, name: str) -> list[bytes]:
        await trio.lowlevel.checkpoint()
        return [self.kept_roots[name]] if name in self.kept_roots else []

    async def status(self) -> StoreStatus:
        await trio.lowlevel.checkpoint()
        size = sum(map(len, self.stored.values()))
        return StoreStatus(
            blocks=len(self.stored),
            block_bytes=size,
            packs=0,
            stored_bytes=size,
            pending_bytes=sum(map(len, self.buffered.values())),
            packs_to_repair=0,
        )

    async def close(self) -> None:
        await trio.lowlevel.checkpoint()
