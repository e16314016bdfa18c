"""A hub in memory: one drive that several devices write, each in a session of its own
(`backend.upstream`, "where several sessions write").

Nothing here knows a key, or an operation: the order of the commits and their envelopes say all.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import TypeVar

import trio

from backend.errors import AwayError, BlocksMissingError
from backend.upstream import (
    MAX_PRESENCES,
    PRESENCE_SECONDS,
    RESERVED_SECONDS,
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
    SealedPresence,
    Shortfall,
    StoreStatus,
)
from cache.disk import CachedBlocks
from tests.memory_upstream import MemoryUpstream

Answer = TypeVar("Answer")


class Line:
    """The way of a device to the hub, which may be cut: then no call is answered, those under way neither."""

    def __init__(self) -> None:
        self.calls = 0
        """so many were made while it was cut"""
        self._is_cut = self._is_silent = False
        self._under_way: set[trio.CancelScope] = set()

    def cut(self, *, silent: bool = False) -> None:
        """From now on calls fail or, where it is `silent`, are not answered at all."""
        self._is_cut, self._is_silent = True, silent
        for scope in self._under_way:
            scope.cancel()

    def cut_in_thread(self) -> None:
        """As `cut`, in any thread: those under way go on."""
        self._is_cut = True

    def mend(self) -> None:
        """New calls are answered again; those that were made meanwhile never are."""
        self._is_cut = False

    async def call(self, call: Callable[[], Awaitable[Answer]]) -> Answer:
        """The hub's answer. `AwayError`: it is lost, whether or not the hub did what it was asked for."""
        if self._is_cut:
            self.calls += 1
        else:
            with trio.CancelScope() as scope:
                self._under_way.add(scope)
                try:
                    return await call()
                finally:
                    self._under_way.discard(scope)
        await trio.lowlevel.checkpoint()
        if self._is_silent:
            await trio.sleep_forever()
        raise AwayError("the line to the hub is cut")


class MemoryHub(MemoryUpstream):
    """The hub itself; its faults are those of `MemoryUpstream`. `session` gives devices theirs."""

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[int, trio.Event] = {}
        """the commit of such a device waits for the event before it is looked at"""
        self.waiting: set[int] = set()
        """devices whose commit does"""
        self.shown: dict[HubSession, tuple[float, Sequence[SealedPresence]]] = {}
        """by session what it shows, and until when"""
        self.shown_anew = trio.Event()

    def session(self, line: Line | None = None) -> HubSession:
        """A new session of a device."""
        return HubSession(self, line or Line())

    def show(self, session: HubSession, shown: Sequence[SealedPresence]) -> None:
        """What the session shows from now on."""
        assert len(shown) <= MAX_PRESENCES
        self.shown[session] = trio.current_time() + PRESENCE_SECONDS, [*shown]
        self.shown_anew.set()
        self.shown_anew = trio.Event()

    def shown_to(self, session: HubSession) -> list[SealedPresence]:
        """What others show it."""
        now = trio.current_time()
        others = [shown for other, shown in self.shown.items() if other is not session]
        return [each for until, shown in others if until > now for each in shown]

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
            if any(taken is commit for taken, _ in self.commits[count:]):
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
    not flushed is lost with it. `line`: to the hub."""

    def __init__(self, hub: MemoryHub, line: Line) -> None:
        self._hub = hub
        self._call = line.call
        self._buffered: dict[BlockId, SealedBlock] = {}
        self.cached: CachedBlocks | None = None
        """the disk cache of the device, before the hub"""
        self._known: list[bytes] = []
        """the keys of what others showed at the last news: what is said anew is none"""

    @property
    def epoch(self) -> int:
        return self._hub.epoch

    @property
    def log(self) -> CommitLog:
        return self

    @property
    def blocks(self) -> BlockStore:
        return self if self.cached is None else self.cached

    @property
    def roots(self) -> Roots:
        return self

    @property
    def housekeeping(self) -> Housekeeping:
        return self

    @property
    def presence(self) -> PresenceBoard | None:
        return self

    async def show(self, shown: Sequence[SealedPresence]) -> None:
        async def show() -> None:
            await trio.lowlevel.checkpoint()
            self._hub.show(self, shown)

        await self._call(show)

    async def of_others(self) -> list[SealedPresence]:
        async def look() -> list[SealedPresence]:
            await trio.lowlevel.checkpoint()
            return self._hub.shown_to(self)

        return await self._call(look)

    def listen(self, is_wanted: Callable[[], bool]) -> None:
        pass

    async def wait_for_news(self) -> None:
        while (shown := [each.key for each in self._hub.shown_to(self)]) == self._known:
            await self._hub.shown_anew.wait()
        self._known = shown

    async def confirm_writer(self) -> None:
        await self._hub.confirm_writer()

    async def head(self) -> Head:
        return await self._call(self._hub.head)

    async def append(self, commit: Commit, expected: Head) -> Head:
        return await self._call(partial(self._hub.append, commit, expected))

    async def commits_after(self, number: int, limit: int = 256) -> list[tuple[Commit, bytes]]:
        return await self._call(partial(self._hub.commits_after, number, limit))

    async def wait_for_change(self, number: int) -> None:
        await self._call(partial(self._hub.wait_for_change, number))

    async def missing(self, ids: Iterable[BlockId]) -> set[BlockId]:
        return await self._call(partial(self._hub.missing, ids)) - self._buffered.keys()

    async def put_blocks(self, blocks: Sequence[SealedBlock]) -> None:
        await trio.lowlevel.checkpoint()
        if self._hub.gate is not None:
            await self._hub.gate.wait()
        self._buffered |= {block.id: block for block in blocks}

    async def flush(self) -> None:
        blocks = list(self._buffered.values())
        await self._call(partial(self._hub.put_blocks, blocks))
        await self._call(self._hub.flush)
        for block in blocks:
            self._buffered.pop(block.id, None)

    async def get_block(self, block: BlockId) -> bytes:
        found = self._buffered.get(block)
        return await self._call(partial(self._hub.get_block, block)) if found is None else bytes(found.data)

    async def get_block_part(self, block: BlockId, offset: int, length: int) -> BlockPart:
        whole = await self.get_block(block)
        return BlockPart(whole[offset : offset + length], len(whole))

    async def get_block_again(self, block: BlockId) -> bytes:
        found = self._buffered.get(block)
        again = partial(self._hub.get_block_again, block)
        return await self._call(again) if found is None else bytes(found.data)

    async def report_wrong(self, block: BlockId) -> bool:
        return await self._call(partial(self._hub.report_wrong, block))

    async def stored_blocks(self, after: bytes, limit: int) -> list[BlockId]:
        return await self._call(partial(self._hub.stored_blocks, after, limit))

    async def release(self, blocks: Sequence[BlockId]) -> list[BlockId]:
        await trio.lowlevel.checkpoint()
        return [block for block in blocks if block not in self._hub.released]

    async def revive(self, blocks: Sequence[BlockId]) -> None:
        await trio.lowlevel.checkpoint()

    async def sizes(self, blocks: Sequence[BlockId]) -> dict[BlockId, int]:
        return await self._call(partial(self._hub.sizes, blocks))

    async def put_root(self, name: str, data: bytes) -> None:
        await self._call(partial(self._hub.put_root, name, data))

    async def get_root(self, name: str) -> list[bytes]:
        return await self._call(partial(self._hub.get_root, name))

    async def compact(self, grace: float, bytes_per_second: float, *, debris: bool) -> CompactionReport:
        await trio.lowlevel.checkpoint()
        return CompactionReport()

    async def redundancy(self, patience: float) -> Shortfall:
        return await self._call(partial(self._hub.redundancy, patience))

    async def status(self) -> StoreStatus:
        return await self._call(self._hub.status)

    async def close(self) -> None:
        await trio.lowlevel.checkpoint()
