"""The interface between a drive's client side and its store, in four roles: log, blocks, roots, housekeeping.

In-process today (`backend.local.local_upstream`), HTTPS to a hub later: nothing above may know which.
Only ciphertext, block ids (keyed hashes) and the commits' envelopes pass here.

Errors: `TransientError` (retry), `UnavailableError` (too few nodes), `NotFoundError`,
`CorruptError`, `ConflictError` (the head moved), `ReadOnlyError`, `NoSpaceError`, `FencedError`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, NewType, Protocol

from backend.buffer import Buffer

BlockId = NewType("BlockId", bytes)
"""32 bytes: keyed BLAKE3 of the block's plaintext."""

BLOCK_ID_SIZE = 32
COMMIT_HASH_SIZE = 32
UNKNOWN_TOTAL: Final = 1 << 50
"""The capacity, in bytes, of a node that takes whatever is paid for: to reckon with, room enough."""
RESERVED_SECONDS: Final = 30 * 86_400.0
"""So long a session that is one of several finds what it was told was there."""
PRESENCE_SECONDS: Final = 60.0
"""So long a presence is shown, unless it is shown again."""
MAX_PRESENCES: Final = 32
"""That a device shows of one drive."""
NO_COMMIT = bytes(COMMIT_HASH_SIZE)
"""The 'previous hash' of commit 1, and the hash of an empty log's head."""


@dataclass(frozen=True, slots=True)
class SealedBlock:
    """A block as it is stored: `data` is self-contained ciphertext (see docs/format/block.md)."""

    id: BlockId
    data: Buffer


class SealedPresence(NamedTuple):
    """What a device says of what it does (docs/format/presence.md): a keyed hash, and the rest, sealed."""

    key: bytes
    body: bytes


class BlockPart(NamedTuple):
    """Part of a sealed block, and the size of the whole."""

    data: Buffer
    size: int


@dataclass(frozen=True, slots=True)
class Head:
    """The newest commit: its number (0: the log is empty) and its hash."""

    number: int
    hash: bytes


UNSIGNED: Final = bytes(64)


class KeyEpoch(NamedTuple):
    """A key epoch as it is public (docs/format/key_epoch.md): its number from 1, its key sealed under the
    drive's, and the key of the epoch before sealed under its own, which the first has not."""

    number: int
    wrapped: bytes
    before: bytes


@dataclass(frozen=True, slots=True)
class Commit:
    """One entry of the commit log: the envelope that a server without keys needs, `payload`, the sealed
    operations, and the signature of its device. The hash of a commit is BLAKE3 of its whole encoding."""

    number: int
    previous: bytes
    device: int
    epoch: int
    time_ns: int
    added: tuple[BlockId, ...]
    dropped: tuple[BlockId, ...]
    payload: bytes
    sequence: int = 0
    """of the device's commits, from 1"""
    key_epoch: int = 1
    """under which the payload is sealed"""
    authority: bytes = b""
    """the key epoch that begins with the commit, if one does (docs/format/key_epoch.md)"""
    signature: bytes = UNSIGNED
    """by the device; without it every follower refuses the commit"""


@dataclass(frozen=True, slots=True)
class NodeStatus:
    name: str
    zone: str
    state: str  # "ok", or one line that says what is wrong
    total: int = 0
    free: int = 0
    filesystem: str = ""
    full: bool = False
    """nothing but its reserve is left: new data has less redundancy, unless another node stands in"""
    allocates_ahead: bool = True
    """as of `Space`"""

    @property
    def is_space_known(self) -> bool:
        """Whether the node has said it: an object store has no end that it knows of."""
        return self.total < UNKNOWN_TOTAL


@dataclass(frozen=True, slots=True)
class Capacity:
    """Bytes of data, before compression. With full redundancy: `total` on these nodes if they were empty,
    `free` now, `available` without touching the reserve. At write quorum: `storable` beside the reserve,
    `storable_in_need` into half of it. `limited_by`: nodes so much smaller than others that they limit it."""

    total: int
    free: int
    available: int
    storable: int
    storable_in_need: int
    limited_by: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreStatus:
    """Counts and bytes of what is stored. `stored_bytes` is with parity, as on the nodes."""

    blocks: int
    block_bytes: int
    packs: int
    stored_bytes: int
    pending_bytes: int
    packs_to_repair: int
    nodes: tuple[NodeStatus, ...] = field(default=())
    data_share: float = 1.0
    """data bytes per stored byte: k / (k + m)"""
    capacity: Capacity | None = None
    """None: unknown, and nothing is refused for want of it"""
    takers: int = 0
    """nodes that answer and are to take new data"""
    write_quorum: int = 0
    """with fewer takers than this nothing can be stored"""


@dataclass(frozen=True, slots=True)
class Shortfall:
    """The data that is stored with less redundancy than the profile promises: packs that lack fragments, have
    them on nodes that do not answer, or are suspected to; and these nodes. Not those that are beyond
    repair."""

    packs: int = 0
    nodes: tuple[str, ...] = ()


@dataclass(slots=True)
class CompactionReport:
    """The results of a compaction: dead blocks forgotten, packs deleted (rewritten ones too) and their bytes
    with parity, packs rewritten; doomed packs that wait for a node; fragments of unreadable packs deleted."""

    blocks: int = 0
    packs: int = 0
    stored_bytes: int = 0
    rewritten: int = 0
    waiting: int = 0
    debris: int = 0


class CommitLog(Protocol):
    """The order of all changes. Async; called by many tasks at once, but `append`, which has one caller."""

    async def head(self) -> Head:
        """The newest commit of the log."""

    async def append(self, commit: Commit, expected: Head) -> Head:
        """Append `commit` if the head is still `expected`; `ConflictError` if it has moved,
        `FencedError` if the lease is lost. Durable on m+1 nodes when it returns. Idempotent: a
        commit whose hash is already the head is a success. Where several sessions write: `BlocksMissingError`
        if a block of `added` is not stored; one that was released is so no more. What `dropped` names is
        released."""

    async def commits_after(self, number: int, limit: int = 256) -> list[tuple[Commit, bytes]]:
        """Up to `limit` commits after `number` in order, each with its hash; chain-checked."""

    async def wait_for_change(self, number: int) -> None:
        """Return when the head's number is greater than `number`."""


class BlockStore(Protocol):
    """The sealed blocks. Async; called by many tasks at once."""

    async def missing(self, ids: Iterable[BlockId]) -> set[BlockId]:
        """Those of `ids` that are neither stored nor on their way by `put_blocks`. A block that was
        released, or that cannot be read as far as is known, is missing. The others, and those that are put,
        are reserved for this session until a commit names them: nobody else has them deleted. Where several
        sessions write, a block is deleted no earlier than `RESERVED_SECONDS` after its release, and after the
        last answer about one that no commit has named."""

    async def put_blocks(self, blocks: Sequence[SealedBlock]) -> None:
        """Take blocks for storing. Returns when they are buffered (bounded memory: waits while
        the nodes are slower), not when they are durable: that is `flush`. A block that is
        already there is ignored."""

    async def flush(self) -> None:
        """Return when every block taken before is stored at write quorum. Raises what storing
        raised; the blocks stay buffered, so that calling again tries again."""

    async def get_block(self, block: BlockId) -> Buffer:
        """The sealed block whole. Does not authenticate it (no key here): a caller that finds it
        wrong calls `get_block_again`."""

    async def get_block_part(self, block: BlockId, offset: int, length: int) -> BlockPart:
        """The bytes [offset, offset+length) of the sealed block, fewer at its end, none behind it: a
        caller may take a block for longer than it is. Else as `get_block`."""

    async def get_block_again(self, block: BlockId) -> bytes:
        """As `get_block`, but distrusts what was read before: decodes the pack from fragments
        whose checksums hold, and queues the pack for repair. `CorruptError`/`UnavailableError`
        when fewer than k are good."""

    async def report_wrong(self, block: BlockId) -> bool:
        """The answer of `get_block_again` was not this block either: no write may rely on it until it is
        given anew. Whether another copy is there, so that it is worth while to ask again."""


class Roots(Protocol):
    """Small named objects that are replaced whole. Async; called by many tasks at once."""

    async def put_root(self, name: str, data: bytes) -> None:
        """Store a small named object (replacing) in m+1 copies. Durable when it returns."""

    async def get_root(self, name: str) -> list[bytes]:
        """All distinct stored versions of the root (copies may be stale or damaged: the caller
        authenticates and chooses). Empty if there is none."""


class Housekeeping(Protocol):
    """Looking after what is stored. Async; called by many tasks at once.

    Where one session writes at a time, it says what is needed by nobody, and has it deleted. Where several
    do, only the order of their commits can say so: the upstream releases what a commit drops
    (`CommitLog.append`), and deletes by itself. There `release` only answers; `revive` and `compact` do
    nothing."""

    async def stored_blocks(self, after: bytes, limit: int) -> list[BlockId]:
        """Up to `limit` stored blocks with ids above `after` (b"": from the first), by id; released ones that
        are not deleted yet too."""

    async def release(self, blocks: Sequence[BlockId]) -> list[BlockId]:
        """Exactly these of the stored blocks are needed by nobody; those of them that were not released
        before. They stay readable until `compact`, but are `missing` from now on. The caller makes sure that
        nothing refers to them, and that nobody relies on an earlier answer of `missing`. Idempotent."""

    async def revive(self, blocks: Sequence[BlockId]) -> None:
        """The log names these: what was noted here of their release, in whatever session, is void for those
        that can still be read. Idempotent."""

    async def sizes(self, blocks: Sequence[BlockId]) -> dict[BlockId, int]:
        """Sealed bytes of those that are stored."""

    async def compact(self, grace: float, bytes_per_second: float, *, debris: bool) -> CompactionReport:
        """Delete blocks that were released at least `grace` seconds ago and give their space back. Call
        `release` in the same session before. `debris`: every block that is needed is known to be
        stored, so remains of packs that cannot be read may go. Only when this session has appended a commit
        (`UsageError`): a commit that another process had on its way when it lost the lease, and that may name
        what goes, can then never be in the log any more. Safe to cancel and to repeat."""

    async def redundancy(self, patience: float) -> Shortfall:
        """Return when all that is stored has all its fragments on nodes that answer; or, with what is
        lacking, when the nodes that lack them do not answer, or nothing got better for `patience` seconds.
        Raises nothing for a node's failure; what is lacking is made good in the background."""

    async def status(self) -> StoreStatus:
        """For people: what is stored, what is pending, how the nodes are."""


class PresenceBoard(Protocol):
    """What the devices of a drive say of what they are doing now. It is advice and nothing else: it ends by
    itself, may be lost, and nobody waits for it. Async."""

    async def show(self, shown: Sequence[SealedPresence]) -> None:
        """At most `MAX_PRESENCES`, in the place of those that this device showed; to others for
        `PRESENCE_SECONDS`, unless this is called again."""

    async def of_others(self) -> list[SealedPresence]:
        """Those that other devices show now."""

    def listen(self, is_wanted: Callable[[], bool]) -> None:
        """From now on it is asked for news as long as `is_wanted` says so."""

    async def wait_for_news(self) -> None:
        """Return when others may show something else than they did at the last return. One task waits."""


class Upstream(Protocol):
    """One session: the four roles, and what the session itself knows."""

    @property
    def epoch(self) -> int:
        """The fencing epoch of this session's lease: it goes into each commit. 0 without a lease."""

    @property
    def log(self) -> CommitLog:
        """The order of all changes."""

    @property
    def blocks(self) -> BlockStore:
        """The sealed blocks."""

    @property
    def roots(self) -> Roots:
        """The named objects."""

    @property
    def housekeeping(self) -> Housekeeping:
        """Looking after what is stored."""

    @property
    def presence(self) -> PresenceBoard | None:
        """The presences of devices; None: no other device writes the drive."""

    async def confirm_writer(self) -> None:
        """`FencedError` if another session has taken over, as far as that can be known now; cheap while this
        one is known to hold. Without a lease it always holds."""

    async def close(self) -> None:
        """Let go of databases, threads and the lease. Pending blocks that were not flushed are
        lost here (the journal still has them). Idempotent."""
