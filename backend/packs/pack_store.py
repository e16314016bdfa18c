"""Packs on nodes: write at a quorum, read, repair.

Invariants:
1. A pack id names one sequence of bytes for ever: a write that is tried again puts the same fragments,
   so fragments of several tries can be mixed.
2. `write` returns only when `write_quorum` fragments are durable, each on a node of its own. The rest may
   still be under way: those tasks belong to the nursery that was given, tell `ended` when all ended,
   and are bounded per node, so that a node that hangs holds bounded memory and is skipped.
3. A fragment that its node refuses goes to a node that has none of the pack, while there is one: never two
   fragments of a pack on one node. `PackWrite.pack.nodes` says where each lies.
4. Repair writes a fragment only after it rebuilt it from k fragments that were read and verified just
   now, never deletes, and leaves alone packs that are still being written.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

import anyio

from backend.buffer import Buffer
from backend.coding import ClusterMap, place, stand_ins
from backend.errors import (
    DriveError,
    NoSpaceError,
    ReadOnlyError,
    TransientError,
    UnavailableError,
    UsageError,
)
from backend.failpoints import declare
from backend.nodes import Node
from backend.packs.fragment_format import fragment_key
from backend.packs.fragment_reader import named
from backend.packs.pack import Pack
from backend.packs.pack_codec import PackCodec
from backend.packs.pack_reader import PackReader, ReportWrong
from backend.system import THIS_MACHINE, Environment, Group, Threads

BEFORE_FRAGMENT: Final = declare(
    "pack.before-fragment", "a fragment is about to be written; others of its pack may be durable already"
)
BEFORE_STAND_IN: Final = declare(
    "pack.before-stand-in", "a node refused a fragment; the one in its place has not been asked"
)
BEFORE_REBUILT: Final = declare(
    "repair.before-fragment", "a rebuilt fragment is about to be written; the index still says it is missing"
)

WRITES_PER_NODE: Final = 16
REPAIR_PATIENCE: Final = 60.0
NO_SPACE_SECONDS: Final = 30.0
SMALLEST_ROOM: Final = 64 << 10
"""For commits, on a node whose fragment takes the last of its room."""


@dataclass(slots=True, eq=False)
class PackWrite:
    """A pack on its way to the nodes. `good` and `failed` grow while fragments arrive, and the nodes of
    `pack` change while stand-ins are found."""

    pack: Pack
    fragments: list[list[Buffer]]
    good: set[int] = field(default_factory=set)
    failed: dict[int, DriveError] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    ended: anyio.Event = field(default_factory=anyio.Event)
    progress: anyio.Event = field(default_factory=anyio.Event)

    def missing(self) -> int:
        """The bits of the fragments that are not durable, or not yet."""
        return sum(1 << index for index in range(len(self.fragments)) if index not in self.good)


class PackStore:
    """Called by many tasks at once. `nodes` are by name; reads see changes of the mapping at once."""

    def __init__(
        self,
        nodes: Mapping[str, Node],
        codec: PackCodec,
        cluster: ClusterMap,
        report_wrong: ReportWrong,
        hedge_after: float = 0.5,
        environment: Environment = THIS_MACHINE,
    ) -> None:
        self.nodes: Final = nodes
        self.codec: Final = codec
        self._profile = codec.code.profile
        self._cluster = cluster
        self._report_wrong = report_wrong
        self._failpoints = environment.failpoints
        self._cpu = Threads(2)
        self._writes: Counter[str] = Counter()
        self._being_written: Counter[bytes] = Counter()
        self._under_way: set[PackWrite] = set()
        self._no_space_at: dict[str, float] = {}
        """when a node last refused a fragment for want of space, and took none since"""
        self.reader = PackReader(nodes, codec, self._cpu, report_wrong, hedge_after)

    @property
    def cpu(self) -> Threads:
        """Bounds the threads that hash, encode and decode."""
        return self._cpu

    def placement(self, pack_id: bytes) -> list[str]:
        """On which node each fragment belongs by the present cluster map."""
        return place(self._cluster, pack_id, self._profile.total)

    def have_cluster(self, cluster: ClusterMap) -> None:
        """Place packs by this map from now on. Writes that are under way keep the places that they have."""
        self._cluster = cluster

    async def wait_for_writes(self) -> None:
        """Return when every write that is under way now has ended, well or not. A node that hangs delays this
        as long as its patience."""
        for write in list(self._under_way):
            await write.ended.wait()

    def is_being_written(self, pack_id: bytes) -> bool:
        """Whether writes of the pack's fragments are still under way."""
        return self._being_written[pack_id] > 0

    def has_refused_space(self, name: str) -> bool:
        """Whether the node had no space for a fragment a short while ago, whatever it says (a quota)."""
        return anyio.current_time() - self._no_space_at.get(name, -math.inf) < NO_SPACE_SECONDS

    async def has_room(self, size: int) -> bool:
        """Whether as many nodes as a pack of that size needs have room for a fragment. For those who can
        wait: to fail in the middle would leave fragments behind, where there is no room for them."""
        spaces = []
        for node in self.nodes.values():
            with suppress(DriveError):
                spaces.append(await node.space())
        fragment = self.codec.stored_size(max(size, 1)) // self._profile.total + SMALLEST_ROOM
        sharing = Counter(space.filesystem for space in spaces if space.filesystem)
        return (
            sum(space.free >= fragment * max(sharing[space.filesystem], 1) for space in spaces)
            >= self._profile.write_quorum
        )

    async def write(self, nursery: Group, pack_id: bytes, data: bytes) -> PackWrite:
        """Store a pack; returns at write quorum while the rest goes on in `nursery`. The same id must
        come with the same data; safe to repeat. Errors as of `wait_for_quorum`."""
        write = await self.begin(nursery, pack_id, data)
        await self.wait_for_quorum(write)
        return write

    async def begin(self, nursery: Group, pack_id: bytes, data: bytes) -> PackWrite:
        """As `write`, but returns when the fragments are on their way."""
        write = await self._cpu.finish(partial(self._encode, pack_id, data))
        self._being_written[pack_id] += 1
        self._under_way.add(write)
        for index in range(self._profile.total):
            nursery.start_soon(self._write_fragment, write, index)
        return write

    async def wait_for_quorum(self, write: PackWrite) -> None:
        """Return when so many fragments are durable; for one task. When that is out of reach: `NoSpaceError`
        or `ReadOnlyError` if that is what all failed nodes say, else `UnavailableError` naming them."""
        profile = self._profile
        while len(write.good) < profile.write_quorum:
            if len(write.failed) > profile.total - profile.write_quorum:
                raise _quorum_error(write, profile.write_quorum)
            await write.progress.wait()
            write.progress = anyio.Event()

    async def repair(self, pack: Pack) -> int:
        """Look at every fragment, rebuild those that are absent or wrong; returns the bits that are still
        missing. `UnavailableError` when fewer than k are good: nothing was changed, and `report_wrong` was
        told of those that are bad. Idempotent."""
        found = await self.reader.fragments.inspect(pack, REPAIR_PATIENCE)
        wrong = sorted(found.wrong())
        if len(found.good) < self._profile.k:
            for index in wrong:
                self._report_wrong(pack, index)
        self.reader.fragments.require_enough(pack, found)
        rebuild = partial(self.codec.rebuilt, pack, found.good, wrong)
        rebuilt = await self._cpu.finish(rebuild)
        away = [i for i in range(self._profile.total) if i not in found.good and i not in wrong]
        missing = sum(1 << index for index in away if pack.missing >> index & 1)
        for index, parts in rebuilt.items():
            if not await self._put_rebuilt(pack, index, parts):
                missing |= 1 << index
        return missing

    def _encode(self, pack_id: bytes, data: bytes) -> PackWrite:
        size = len(data)
        pack = Pack(pack_id, size, self.codec.stored_size(size), tuple(self.placement(pack_id)))
        return PackWrite(pack, self.codec.fragments(pack, data))

    async def _write_fragment(self, write: PackWrite, index: int) -> None:
        error = await self._attempt(write, index, BEFORE_FRAGMENT)
        while error is not None and self._find_stand_in(write, index):
            error = await self._attempt(write, index, BEFORE_STAND_IN)
        if error is None:
            write.good.add(index)
        else:
            write.failed[index] = error
        write.fragments[index] = []
        write.progress.set()
        if len(write.good) + len(write.failed) == len(write.fragments):
            self._being_written[write.pack.id] -= 1
            self._under_way.discard(write)
            write.ended.set()

    async def _attempt(self, write: PackWrite, index: int, step: str) -> DriveError | None:
        """Write the fragment to the node that it belongs on now; what is wrong, if it cannot be written."""
        name = write.pack.nodes[index]
        try:
            self._failpoints.reached(step)
            await self._put(write.pack, index, write.fragments[index])
            self._no_space_at.pop(name, None)
        except NoSpaceError as error:
            self._no_space_at[name] = anyio.current_time()
            return error
        except DriveError as error:
            return error
        except OSError as error:
            return TransientError(f"{write.pack.nodes[index]}: {error.strerror}")
        return None

    def _find_stand_in(self, write: PackWrite, index: int) -> bool:
        """Give the fragment to another node; False if none is left."""
        pack = write.pack
        write.refused.add(pack.nodes[index])
        others = (*pack.nodes[:index], *pack.nodes[index + 1 :])
        for name in stand_ins(self._cluster, pack.id, others):
            if name not in write.refused:
                nodes = (*pack.nodes[:index], name, *pack.nodes[index + 1 :])
                write.pack = replace(pack, nodes=nodes)
                return True
        return False

    async def _put(self, pack: Pack, index: int, parts: Sequence[Buffer]) -> None:
        node = self.reader.fragments.node(pack, index)
        if self._writes[node.name] >= WRITES_PER_NODE:
            raise TransientError(f"{node.name}: {WRITES_PER_NODE} writes are waiting for it already")
        self._writes[node.name] += 1
        try:
            await node.put(fragment_key(pack.id, index), parts)
        finally:
            self._writes[node.name] -= 1

    async def _put_rebuilt(self, pack: Pack, index: int, parts: Sequence[Buffer]) -> bool:
        try:
            self._failpoints.reached(BEFORE_REBUILT)
            await self.reader.fragments.node(pack, index).put(fragment_key(pack.id, index), parts)
        except (DriveError, OSError):
            return False
        return True


def require_placeable(cluster: ClusterMap, nodes: Mapping[str, Node]) -> None:
    """`UsageError` if the cluster map names a node that is not there to be asked."""
    unknown = [node.name for node in cluster.nodes if node.name not in nodes]
    if unknown:
        raise UsageError(f"the cluster map names {', '.join(unknown)}, and no such node was given")


def _quorum_error(write: PackWrite, quorum: int) -> DriveError:
    errors = {write.pack.nodes[index]: error for index, error in write.failed.items()}
    names = sorted(errors)
    reasons = "; ".join(named(name, errors[name]) for name in names)
    text = (
        f"cannot store a pack: {quorum} of {len(write.fragments)} fragments must be durable and these "
        f"nodes fail ({reasons}); the blocks are kept and storing is tried again"
    )
    for kind in (NoSpaceError, ReadOnlyError):
        if all(isinstance(error, kind) for error in write.failed.values()):
            return kind(text)
    return UnavailableError(text, names)
