"""The blocks of all drives on the hub's nodes: gathered into packs, stored at write quorum, read.

A block is acknowledged when its pack is durable at write quorum and in the database, so the process may die
at any time: what was not acknowledged the device gives again. A pack holds blocks of one drive and carries
its id, so that nodes alone say which blocks a drive has.

Invariants:
1. What waits for its pack is bounded: who puts more waits (`_MOST_WAITING` bytes).
2. A pack is closed at `TARGET` bytes, or `_LINGER` seconds after its first block.
3. A block that is there, or on its way in this process, is not stored once more: quotas count blocks, and a
   pack goes only with the last of its own.
asyncio's thread; tasks belong to the group given.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

import anyio

from backend.buffer import Buffer
from backend.coding import ClusterMap, ErasureCode
from backend.commits import decode_commit
from backend.errors import (
    CorruptError,
    DriveError,
    FormatError,
    NoSpaceError,
    NotFoundError,
    TransientError,
    UnavailableError,
)
from backend.failpoints import declare
from backend.hub.block_table import BlockTable, Place
from backend.hub.token_end import TokenClock
from backend.nodes import Node
from backend.packs import (
    MAX_BLOCKS,
    PACK_ID_SIZE,
    SMALL,
    WINDOW,
    Pack,
    PackCodec,
    PackEntry,
    PackStore,
    PackWrite,
    check_block,
    fragment_key,
)
from backend.system import THIS_MACHINE, Environment, Group, plain_hash
from backend.upstream import RESERVED_SECONDS, BlockId, BlockPart, Commit, SealedBlock

TARGET: Final = 8 << 20
"""Bytes of blocks of a pack."""
_LINGER: Final = 0.02
_MOST_WAITING: Final = 64 << 20
_STORES: Final = 16
"""Drives whose packs are in memory as they were read: those that were used last."""

DELETING: Final = declare(
    "hub-pack.deleting", "a fragment of a pack that nothing is read from is about to go; others may be gone"
)

log = logging.getLogger(__name__)


Note = Callable[[Pack, Sequence[PackEntry]], Awaitable[None]]
"""Enters a durable pack and its index in the database."""


@dataclass(frozen=True, slots=True)
class DriveNumber:
    """A drive: its row's key, and its id."""

    number: int
    uuid: bytes


def commit_in_segment(block: bytes, data: Buffer) -> Commit | None:
    """The commit, if a log segment's pack would list these bytes by that name. No device may give such a
    block: a restore would take it for a commit of the log. Sealed bytes are no commit by their first ones."""
    try:
        commit = decode_commit(data)
    except (CorruptError, FormatError):
        return None
    return commit if plain_hash(data) == block else None


@dataclass(slots=True)
class _OpenPack:
    """Blocks that will be one pack. `closed`: no more come. `done`: storing has ended, and `is_stored` says
    how; `error` why not, if that is known."""

    drive: DriveNumber
    blocks: dict[BlockId, SealedBlock] = field(default_factory=dict)
    size: int = 0
    closed: anyio.Event = field(default_factory=anyio.Event)
    done: anyio.Event = field(default_factory=anyio.Event)
    is_stored: bool = False
    error: DriveError | None = None


class HubBlocks:
    """See the module. `nodes` by name; `key` is the hub's pack key."""

    def __init__(
        self,
        table: BlockTable,
        nodes: Mapping[str, Node],
        cluster: ClusterMap,
        code: ErasureCode,
        key: bytes,
        group: Group,
        environment: Environment = THIS_MACHINE,
    ) -> None:
        self._table = table
        self.nodes: Final = nodes
        self._cluster = cluster
        self.code: Final = code
        self._key = key
        self._group = group
        self._environment = environment
        self._clock = TokenClock(environment)
        self._stores: dict[int, PackStore] = {}
        self._open: dict[int, _OpenPack] = {}
        self._coming: dict[tuple[int, BlockId], _OpenPack] = {}
        self._waiting = 0
        self._room = anyio.Event()

    async def put(self, drive: DriveNumber, blocks: Sequence[SealedBlock]) -> None:
        """Return when all of them are stored at write quorum. `ValueError`: one is none;
        `UnavailableError`, `NoSpaceError`, `TransientError`: it is not known of any that it is stored."""
        packs = []
        for block in blocks:
            check_block(block)
            if commit_in_segment(block.id, block.data) is not None:
                raise ValueError("a block is named like a commit of a log segment, which only the hub makes")
            while self._waiting and self._waiting + len(block.data) > _MOST_WAITING:
                await self._room.wait()
            packs.append(self._take(drive, block))
        for pack in packs:
            await pack.done.wait()
            if not pack.is_stored:
                raise (pack.error or TransientError("a pack was not stored")).with_traceback(None)

    async def read(self, drive: DriveNumber, block: BlockId, offset: int, length: int) -> BlockPart:
        """As `BlockStore.get_block_part`."""
        place = await self._place(drive, block)
        first = min(offset, place.length)
        length = min(length, place.length - first)
        reader = self.store(drive).reader
        data: Buffer = (
            b"" if not length else await reader.read_range(place.pack, place.offset + first, length)
        )
        return BlockPart(data, place.length)

    async def read_near(self, drive: DriveNumber, block: BlockId) -> list[SealedBlock]:
        """The block, and after it those that were stored next, if it is small: of all `WINDOW` bytes at most.
        Empty: it is not small. Errors as of `read`."""
        place = await self._place(drive, block)
        if place.length > SMALL:
            return []
        entries = [PackEntry(block, place.offset, place.length), *await self._table.next_to(place, WINDOW)]
        end = entries[-1].offset + entries[-1].length
        data = await self.store(drive).reader.read_range(place.pack, place.offset, end - place.offset)
        view = memoryview(data)
        starts = [entry.offset - place.offset for entry in entries]
        parts = [view[at : at + each.length] for at, each in zip(starts, entries, strict=True)]
        return [SealedBlock(each.block, part) for each, part in zip(entries, parts, strict=True)]

    async def read_again(self, drive: DriveNumber, block: BlockId) -> bytes:
        """As `BlockStore.get_block_again`."""
        place = await self._place(drive, block)
        reader = self.store(drive).reader
        reader.forget(place.pack.id)
        whole = await reader.read_whole(place.pack)
        return whole[place.offset : place.offset + place.length]

    async def _place(self, drive: DriveNumber, block: BlockId) -> Place:
        place = await self._table.find(drive.number, block)
        if place is None:
            raise NotFoundError(f"block {block.hex()[:16]} is not stored")
        return place

    def _take(self, drive: DriveNumber, block: SealedBlock) -> _OpenPack:
        coming = self._coming.get((drive.number, block.id))
        if coming is not None:
            return coming
        pack = self._open.get(drive.number)
        if pack is None:
            pack = self._open[drive.number] = _OpenPack(drive)
            self._group.start_soon(self._gather, pack)
        pack.blocks[block.id] = block
        pack.size += len(block.data)
        self._waiting += len(block.data)
        self._coming[drive.number, block.id] = pack
        if pack.size >= TARGET or len(pack.blocks) >= MAX_BLOCKS:
            self._close(pack)
        return pack

    def _close(self, pack: _OpenPack) -> None:
        if self._open.get(pack.drive.number) is pack:
            del self._open[pack.drive.number]
        pack.closed.set()

    async def _gather(self, pack: _OpenPack) -> None:
        with anyio.move_on_after(_LINGER):
            await pack.closed.wait()
        self._close(pack)
        try:
            await self._store(pack)
            pack.is_stored = True
        except DriveError as error:
            log.warning("a pack of drive %d cannot be stored: %s", pack.drive.number, error)
            pack.error = error
        except Exception:  # others' packs go on
            log.exception("a pack of drive %d cannot be stored", pack.drive.number)
        finally:
            for block in pack.blocks:
                del self._coming[pack.drive.number, block]
            self._waiting -= pack.size
            self._room.set()
            self._room = anyio.Event()
            pack.done.set()

    async def _store(self, pack: _OpenPack) -> None:
        """The blocks that are not there yet go to the nodes."""
        number = pack.drive.number
        kept = await self._table.keep(number, [*pack.blocks])
        blocks = [each for each in pack.blocks.values() if each.id not in kept]
        if blocks:
            await self.write(pack.drive, blocks, partial(self._table.add, number))

    async def write(self, drive: DriveNumber, blocks: Sequence[SealedBlock], note: Note) -> None:
        """Store a pack of the drive at write quorum, and have `note` enter it in the database. Errors as of
        `PackStore.write`, and those of `note`: then the pack is on the nodes only, and nobody knows it.
        Before `NoSpaceError` its fragments are deleted again, where their nodes answer."""
        store = self.store(drive)
        pack_id = self._environment.random_bytes(PACK_ID_SIZE)
        data, entries = await store.cpu.finish(lambda: store.codec.encode(pack_id, blocks))
        write = await store.begin(self._group, pack_id, data)
        try:
            await store.wait_for_quorum(write)
        except NoSpaceError:
            await self._take_back(write)
            raise
        noted = replace(write.pack, missing=write.missing())
        await note(noted, entries)
        if noted.missing:
            self._group.start_soon(self._settle, write)

    async def _take_back(self, write: PackWrite) -> None:
        """Delete the fragments of a pack that nobody will enter: devices try again and again, and would fill
        the nodes that have room. A fragment whose node does not answer stays, as that of a stray pack."""
        await write.ended.wait()
        for index in write.good:
            name = write.pack.nodes[index]
            try:
                await self.nodes[name].delete(fragment_key(write.pack.id, index))
            except DriveError as error:
                log.warning("%s: a fragment of pack %s stays for now: %s", name, write.pack.id.hex(), error)

    async def _settle(self, write: PackWrite) -> None:
        """Note where the last fragments of a stored pack lie, or that they failed. What is noted stands if
        that cannot be: they count as missing."""
        await write.ended.wait()
        try:
            await self._table.settle(replace(write.pack, missing=write.missing()))
        except DriveError as error:
            log.warning("pack %s: %s", write.pack.id.hex(), error)

    async def collect(self, grace: float = RESERVED_SECONDS) -> int:
        """Delete the blocks that no commit has named for so many seconds, packs that nothing is read from
        any more, and what is left of drives and accounts that were deleted; how many blocks. A pack with a
        fragment on a node that does not answer waits for the next call. Safe to repeat and to cancel, by
        several processes at once. `TransientError`: the database does not answer, all else waits too."""
        deleted = 0
        while count := await self._table.delete_due(grace):
            deleted += count
        await self._table.forget_logs()
        await self._delete_empty_packs(grace)
        await self._table.remove_departed(self._clock.now())
        return deleted

    async def _delete_empty_packs(self, grace: float) -> None:
        """A node that does not answer is asked once."""
        last, away = b"", set[str]()
        while packs := await self._table.empty_packs(last, grace):
            for pack in packs:
                if away.isdisjoint(pack.nodes) and await self._delete_fragments(pack, away):
                    await self._table.remove_pack(pack)
            last = packs[-1].id

    async def _delete_fragments(self, pack: Pack, away: set[str]) -> bool:
        """Whether all are gone; else the node that keeps one is among `away`."""
        for index, name in enumerate(pack.nodes):
            try:
                self._environment.failpoints.reached(DELETING)
                if name not in self.nodes:
                    raise UnavailableError(f"{name}: not among the hub's nodes", [name])
                await self.nodes[name].delete(fragment_key(pack.id, index))
            except DriveError as error:
                log.warning("packs that nobody needs stay for now: %s", error)
                away.add(name)
                return False
        return True

    def store(self, drive: DriveNumber) -> PackStore:
        """The drive's packs, for those who read or mend them whole."""
        store = self._stores.pop(drive.number, None)
        if store is None:
            codec = PackCodec(self.code, drive.uuid, self._key)
            store = PackStore(
                self.nodes, codec, self._cluster, self._note_wrong, environment=self._environment
            )
        self._stores[drive.number] = store
        if len(self._stores) > _STORES:
            del self._stores[next(iter(self._stores))]
        return store

    def _note_wrong(self, pack: Pack, fragment: int) -> None:
        log.warning(
            "%s: fragment %d of pack %s is missing or wrong", pack.nodes[fragment], fragment, pack.id.hex()
        )
