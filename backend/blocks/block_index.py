"""The interface of the dedup index: the place of each block in a pack, the packs to repair, the blocks to
delete.

Code that stores and reads packs knows these protocols only. The index in this process is SQLite's
(`backend.blocks.sqlite_index`).

Invariants of every block index:
1. It holds nothing that the packs on the nodes do not say: it can be thrown away and rebuilt (I4).
2. It is never ahead of the nodes: a pack is added only after its fragments are durable. It may be behind:
   reconciliation at the next start finds the packs it forgot, and that a pack it knows is deleted.
3. Used on the event loop's thread: every operation is a few look-ups by key or one short transaction, all
   of it or nothing. What is about many of them is done in pages (`backend.blocks.index_pages`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from backend.packs import Pack, PackEntry
from backend.upstream import BlockId, Shortfall


@dataclass(frozen=True, slots=True)
class BlockLocation:
    """Where a block is read from."""

    pack: Pack
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class IndexStatistics:
    """Sums over packs. A block listed by two packs counts twice in `block_bytes`."""

    blocks: int = 0
    block_bytes: int = 0
    packs: int = 0
    stored_bytes: int = 0
    packs_to_repair: int = 0

    def __add__(self, other: IndexStatistics) -> IndexStatistics:
        return IndexStatistics(
            self.blocks + other.blocks,
            self.block_bytes + other.block_bytes,
            self.packs + other.packs,
            self.stored_bytes + other.stored_bytes,
            self.packs_to_repair + other.packs_to_repair,
        )


class PackTable(Protocol):
    """The packs, and which of them want repair. Errors as of `BlockIndex`. Packs are numbered as they are
    added, from 1; what takes `after` and `up_to` is about the numbers above the one, up to the other."""

    def get(self, pack_id: bytes) -> Pack | None:
        """The pack of that id."""

    def ids(self, after: bytes, limit: int) -> list[bytes]:
        """Up to `limit` ids of packs above `after` (b"": from the first), in order."""

    def after(self, pack_id: bytes, limit: int) -> list[Pack]:
        """Up to `limit` packs with ids above `pack_id` (b"": from the first), by id: to walk all of them
        while others come and go. Without those that are doomed."""

    def to_repair(self, limit: int, skip: int = 0) -> list[Pack]:
        """Up to `limit` packs that want repair, in the order in which they were added, after `skip`."""

    def newest_number(self) -> int:
        """Of the pack that was added last; 0: there is none."""

    def any_repairable(self, after: int, up_to: int, answering: Collection[str]) -> bool:
        """Whether a repair may succeed now: of a pack that wants one, nobody knows what it lacks, or one of
        the `answering` nodes lacks it. Without packs that are beyond parity: nothing relies on them."""

    def shortfall(self, after: int, up_to: int, answering: Collection[str]) -> Shortfall:
        """The packs that want repair, or have fragments on a node that is not one of the `answering`, however
        many nodes these are; and the nodes that lack something then. Without those that are beyond parity."""

    def want_repair(self, pack_id: bytes, missing: int = 0) -> None:
        """Queue the pack for repair; the fragments of the bits in `missing` are known to be bad."""

    def set_missing(self, pack_id: bytes, missing: int) -> None:
        """Note the finding of a repair or a late write: the pack wants repair only if bits are left."""

    def set_written(self, pack_id: bytes, nodes: Sequence[str], missing: int) -> None:
        """As `set_missing`, when the last fragments of a new pack lie on `nodes` or have failed."""

    def set_nodes(self, pack_id: bytes, nodes: Sequence[str]) -> None:
        """The pack's fragments were found to lie on these nodes."""

    def tag(self, pack_id: bytes, index: int) -> str:
        """The tag of a fragment (`backend.nodes.ObjectState`) as it was noted; empty: none was."""

    def note_tag(self, pack_id: bytes, index: int, tag: str) -> None:
        """The fragment's tag; nothing happens if the pack is gone."""

    def statistics(self, after: int, up_to: int) -> IndexStatistics:
        """Sums over the packs."""


class DyingBlocks(Protocol):
    """Stored blocks that nothing refers to (dying), and packs that nothing is read from any more (doomed).
    Errors as of `BlockIndex`."""

    def mark(
        self, after: bytes, up_to: bytes | None, blocks: Sequence[BlockId], now_ns: int
    ) -> list[BlockId]:
        """Of the stored blocks with ids above `after`, up to `up_to` (None: all), exactly these are dying
        from now on, those that were already since then; the new ones among them. In one transaction."""

    def ids(self, after: bytes, limit: int) -> list[BlockId]:
        """Up to `limit` dying blocks with ids above `after`, in order."""

    def forget(self, until_ns: int, limit: int) -> int:
        """Forget up to `limit` blocks that have been dying since before `until_ns`: nothing is read from
        where they lie any more, unless somebody brings them back (`revive`). How many there were."""

    def revive(self, blocks: Sequence[BlockId]) -> None:
        """Somebody needs these: none of them is dying or forgotten any more, as far as its pack is there, nor
        is that doomed. Idempotent."""

    def doom(self, pack_ids: Sequence[bytes]) -> list[Pack]:
        """Nothing is read from these packs: their fragments may be deleted. Leaves alone, and leaves out, a
        pack that a repair may be writing: queued for it, and with enough fragments for it to succeed."""

    def doomed(self) -> list[Pack]:
        """The packs whose fragments are to be deleted."""

    def is_doomed(self, pack_id: bytes) -> bool:
        """Whether the pack is doomed, or not known (any more)."""

    def remove_pack(self, pack_id: bytes) -> None:
        """The doomed pack's fragments are gone."""


class BlockIndex(Protocol):
    """All methods may raise `NoSpaceError`, `CorruptError` (rebuild it) or `TransientError` (local I/O)."""

    @property
    def packs(self) -> PackTable:
        """The packs."""

    @property
    def dying(self) -> DyingBlocks:
        """Dying blocks and doomed packs."""

    def has(self, block: BlockId) -> bool:
        """Whether a write may rely on the block: it is stored and not dying, and no more fragments of its
        pack are known to be missing than parity makes up for. Not while something of the pack was found
        wrong and nobody has looked yet which fragments it is."""

    def locate(self, block: BlockId) -> BlockLocation | None:
        """The place to read the block from; None if it is not stored."""

    def add_pack(self, pack: Pack, entries: Sequence[PackEntry]) -> None:
        """In one transaction. A pack that is there already is left alone, and so is a block that another
        pack holds already, unless that one lacks more fragments. Missing fragments make the pack wanted
        for repair."""

    def add_restored(self, pack: Pack, entries: Sequence[PackEntry]) -> None:
        """As `add_pack`, of blocks that were given anew just now: those that were dying live, and all
        are read from this pack, however good another copy seems."""

    def move(self, pack: Pack, entries: Sequence[PackEntry], old: Sequence[bytes]) -> None:
        """In one transaction: `pack` is stored, and its blocks that were read from the packs `old` are read
        from it."""

    def other_places(self, block: BlockId) -> list[BlockLocation]:
        """The block's other places, those in packs that lack least first; also of one that was forgotten."""

    def read_from(self, block: BlockId, place: BlockLocation) -> None:
        """From now on the block is read from another of its places, whose pack is not to go."""

    def drop_place(self, block: BlockId) -> bool:
        """The block is not what it should be where it is read from. Whether it lies elsewhere too: then it is
        read from there, and this place is forgotten; else all stays as it is."""

    def blocks_of(self, pack_id: bytes) -> list[PackEntry]:
        """The blocks that are read from the pack, in its order. Walks the index: for checks only."""

    def locations(self, after: bytes, limit: int) -> list[tuple[BlockId, bytes, int, int]]:
        """Up to `limit` blocks with ids above `after`, by id: block, pack id, offset, length."""

    def ids_after(self, after: bytes, limit: int) -> list[BlockId]:
        """Up to `limit` blocks with ids above `after`, by id; dying ones too."""

    def length(self, block: BlockId) -> int | None:
        """Bytes of the sealed block; None if it is not stored."""

    def close(self) -> None:
        """Let go of it. Idempotent."""
