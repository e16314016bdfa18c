"""Fetching whole fragments of a pack and judging them by their footers and checksums.

Invariants:
1. A fragment counts as good only if its checksum holds and its footer names the drive, pack, index,
   profile and sizes that were asked for: nothing else reaches the erasure decoder.
2. A fragment that is absent or wrong is told apart from one whose node did not answer: only the first
   is a reason to write it anew.
3. Tasks live in nurseries of the call that needs them; a cancelled call leaves nothing running but
   abandoned read threads, which the node's limiter bounds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

import anyio

from backend.errors import CorruptError, DriveError, FormatError, NotFoundError, UnavailableError
from backend.nodes import Node, NodeHealth, NodeSpeed
from backend.packs.fragment_format import fragment_key
from backend.packs.pack import Pack
from backend.packs.pack_codec import PackCodec
from backend.system import CutOff, Group, Threads, current_time, task_group


@dataclass(slots=True)
class Collected:
    """The answers of the nodes: good payloads by index; of the others the error. Absent from both: not asked,
    or not answered in time."""

    good: dict[int, bytes] = field(default_factory=dict)
    failed: dict[int, DriveError] = field(default_factory=dict)

    def wrong(self) -> list[int]:
        """The fragments that are known to be absent or damaged, as opposed to out of reach."""
        return [index for index, error in self.failed.items() if is_wrong(error)]


def is_wrong(error: DriveError) -> bool:
    """Whether the error says that the fragment itself is bad, not that its node is away."""
    return isinstance(error, NotFoundError | CorruptError | FormatError)


def named(node: str, what: DriveError | str) -> str:
    """The fault of a node, with its name in front once."""
    text = str(what)
    return text if text.startswith(f"{node}:") else f"{node}: {text}"


class FragmentReader:
    """Reads from `nodes` by name. `cpu` bounds the threads that hash."""

    def __init__(
        self,
        nodes: Mapping[str, Node],
        codec: PackCodec,
        health: NodeHealth,
        speed: NodeSpeed,
        cpu: Threads,
        hedge_after: float,
    ) -> None:
        self._nodes = nodes
        self._codec = codec
        self._profile = codec.code.profile
        self._health = health
        self._speed = speed
        self._cpu = cpu
        self._hedge_after = hedge_after

    async def collect(self, pack: Pack) -> Collected:
        """Good fragments until there are k, asking the most promising nodes first, one more for each
        failure, and all others when the first are slower than they usually are. They may be fewer: see
        `require_enough`."""
        order = self._by_promise(pack)
        usual = max(self._slow_after(pack, index) for index in order[: self._profile.k])
        search = _Search(iter(order), self._profile.k)
        async with task_group() as group:
            search.scope = group.cancel_scope
            for _ in range(self._profile.k):
                self._ask_next(group, pack, search)
            group.start_soon(self._ask_all_later, group, pack, search, max(self._hedge_after, usual))
        return search.found

    async def inspect(self, pack: Pack, patience: float) -> Collected:
        """Every fragment, good or not; a node that takes longer than `patience` seconds is left out."""
        found = Collected()
        with anyio.move_on_after(patience):
            async with task_group() as group:
                for index in range(self._profile.total):
                    group.start_soon(self._fetch_into, pack, index, found)
        return found

    def require_enough(self, pack: Pack, found: Collected) -> None:
        """`UnavailableError`, naming the nodes that did not give a good fragment, if fewer than k did."""
        k = self._profile.k
        if len(found.good) >= k:
            return
        lost = [index for index in range(self._profile.total) if index not in found.good]
        lost.sort(key=lambda index: pack.nodes[index])
        reasons = "; ".join(named(pack.nodes[i], found.failed.get(i, "no answer in time")) for i in lost)
        raise UnavailableError(
            f"pack {pack.id.hex()}: {len(found.good)} good fragments of the {k} needed ({reasons})",
            [pack.nodes[index] for index in lost],
        )

    async def fetch(self, pack: Pack, index: int) -> bytes:
        """One fragment's payload. `CorruptError`/`FormatError`/`NotFoundError` if it is bad, else what
        the node raises."""
        node = self.node(pack, index)
        expected = self._codec.fragment_length(pack.size)
        begun = current_time()
        data = await node.get(fragment_key(pack.id, index), 0, expected + 1)
        self._speed.note(pack.nodes[index], len(data), current_time() - begun)
        return await self._cpu.finish(partial(self._codec.payload, pack, index, data))

    async def tag(self, pack: Pack, index: int) -> str:
        """The tag of a fragment (`ObjectState`), of which the length is right. Errors as of `fetch`."""
        key, expected = fragment_key(pack.id, index), self._codec.fragment_length(pack.size)
        found = await self.node(pack, index).state(key)
        if found.size != expected:
            raise CorruptError(f"{key}: {found.size} bytes, not {expected}")
        return found.tag

    def node(self, pack: Pack, index: int) -> Node:
        """The node that keeps a fragment; `UnavailableError` if the drive no longer has it."""
        name = pack.nodes[index]
        if name not in self._nodes:
            raise UnavailableError(f"{name}: not among the drive's nodes", [name])
        return self._nodes[name]

    def _by_promise(self, pack: Pack) -> list[int]:
        """Fragment numbers: nodes in good health first, near ones before far ones, then data before parity;
        known gaps last."""
        times = [self._slow_after(pack, index) for index in range(self._profile.total)]
        far = max(2 * sorted(times)[self._profile.k - 1], self._hedge_after)

        def demerit(index: int) -> tuple[int, bool, bool, int]:
            avoided = self._health.is_avoided(pack.nodes[index])
            return (pack.missing >> index & 1, avoided, times[index] > far, index)

        return sorted(range(self._profile.total), key=demerit)

    def _slow_after(self, pack: Pack, index: int) -> float:
        return self._speed.slow_after(pack.nodes[index], self._codec.fragment_length(pack.size))

    def _ask_next(self, group: Group, pack: Pack, search: _Search) -> bool:
        index = next(search.candidates, None)
        if index is not None:
            search.running += 1
            group.start_soon(self._ask, group, pack, index, search)
        return index is not None

    async def _ask(self, group: Group, pack: Pack, index: int, search: _Search) -> None:
        await self._fetch_into(pack, index, search.found)
        search.running -= 1
        if index in search.found.failed:
            self._ask_next(group, pack, search)
        if len(search.found.good) >= search.enough or not search.running:
            search.scope.cancel()

    async def _ask_all_later(self, group: Group, pack: Pack, search: _Search, patience: float) -> None:
        await anyio.sleep(patience)
        while self._ask_next(group, pack, search):
            pass

    async def _fetch_into(self, pack: Pack, index: int, found: Collected) -> None:
        name = pack.nodes[index]
        try:
            found.good[index] = await self.fetch(pack, index)
            self._health.answered(name)
        except DriveError as error:
            found.failed[index] = error
            if not is_wrong(error):
                self._health.troubled(name)


@dataclass(slots=True)
class _Search:
    candidates: Iterator[int]
    enough: int
    found: Collected = field(default_factory=Collected)
    running: int = 0
    scope: CutOff = field(default_factory=anyio.CancelScope)
