"""Snapshots in the store: the namespace's database as blocks, and the sealed root that names them.

A root (docs/format/snapshot.md) says of which commit the snapshot is, how long the database is, the
hash of it, and its blocks in order; and all key epochs, so that who has nothing but the drive key can open
it. Roots are only hints: the commit log is the truth, so a missing or damaged root costs time (the log is
replayed from further back), nothing else.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgpack
import trio

from backend.commits import MAX_EPOCH
from backend.errors import CorruptError, FormatError
from backend.failpoints import declare
from backend.keys import FIRST_EPOCH, KeyRing
from backend.system import THIS_MACHINE, Environment, at_rest, keyed_hash, open_sealed, seal
from backend.upstream import BlockId, BlockStore, Head, Roots, SealedBlock
from cache.blocks import BlockCache, BlockCodec, Chunker

log = logging.getLogger(__name__)

ROOT_NAME: Final = "snapshot"
VERSION: Final = 3
MAX_BLOCKS: Final = 1 << 20
_WINDOW: Final = 16 << 20

STORED = declare("snapshot.stored", "a snapshot's blocks are stored; the root still names the one before")


@dataclass(frozen=True, slots=True)
class SnapshotRoot:
    """Where a snapshot is."""

    head: Head
    size: int
    hash: bytes
    blocks: tuple[bytes, ...]


class SnapshotStore:
    """Puts and gets snapshots. The newest epoch of `ring` seals their roots, and `ring` learns the epochs of
    those that are read; `hash_key` keys the hash of their databases."""

    def __init__(
        self,
        store: BlockStore,
        roots: Roots,
        codec: BlockCodec,
        chunker: Chunker,
        ring: KeyRing,
        hash_key: bytes,
        environment: Environment = THIS_MACHINE,
    ) -> None:
        self._store = store
        self._roots = roots
        self._codec = codec
        self._chunker = chunker
        self._binding = b"drivefs snapshot root\0" + ring.drive_id
        self._ring = ring
        self._hash_key = hash_key
        self._environment = environment

    async def put(self, path: Path, head: Head) -> None:
        """Store the database file `path` as the snapshot of `head`. Safe to repeat."""
        blocks: list[bytes] = []
        position, size = 0, path.stat().st_size
        while position < size:
            position, cut = await trio.to_thread.run_sync(self._cut, path, position, size)
            blocks += [block for block, _ in cut]
            missing = await self._store.missing([block for block, _ in cut])
            new = [item for item in dict(cut).items() if item[0] in missing]
            await self._store.put_blocks(await trio.to_thread.run_sync(self._seal, new))
        await self._store.flush()
        self._environment.failpoints.reached(STORED)
        digest = await trio.to_thread.run_sync(self._hash, path)
        root = SnapshotRoot(head, size, digest, tuple(blocks))
        await self._roots.put_root(ROOT_NAME, self.seal_root(root))

    def _cut(self, path: Path, position: int, size: int) -> tuple[int, list[tuple[BlockId, bytes]]]:
        with path.open("rb") as file:
            file.seek(position)
            data = file.read(_WINDOW)
        last = position + len(data) >= size
        cut = [(start, end) for start, end in self._chunker.cut(data, last=last)]
        pieces = [data[start:end] for start, end in cut]
        return position + cut[-1][1], [(self._codec.block_id(piece), piece) for piece in pieces]

    def _seal(self, blocks: Iterable[tuple[BlockId, bytes]]) -> list[SealedBlock]:
        return [self._codec.seal(block, plaintext) for block, plaintext in blocks]

    def _hash(self, path: Path) -> bytes:
        return keyed_hash(self._hash_key, path.read_bytes())

    def seal_root(self, root: SnapshotRoot) -> bytes:
        """The bytes of the root, by which a snapshot is found where its blocks are."""
        keys = self._ring.newest
        epochs = self._ring.up_to(keys.number)
        body = [root.head.number, root.head.hash, root.size, root.hash, list(root.blocks)]
        sealed = seal(keys.root, msgpack.packb(body), self._bound(epochs))
        packed: bytes = msgpack.packb([VERSION, epochs, sealed])
        return packed

    def _bound(self, epochs: list[bytes]) -> bytes:
        return self._binding + bytes(msgpack.packb([VERSION, epochs]))

    def _open_root(self, data: bytes) -> SnapshotRoot:
        epochs, sealed = _parts_of_root(data)
        keys = self._ring.opened(len(epochs), epochs[-1])
        number, commit_hash, size, digest, blocks = msgpack.unpackb(
            open_sealed(keys.root, sealed, self._bound(epochs))
        )
        if len(blocks) > MAX_BLOCKS:
            raise FormatError(f"a snapshot root with {len(blocks)} blocks is over the limit")
        for epoch, wrapped in enumerate(epochs, FIRST_EPOCH):
            self._ring.learn(epoch, wrapped)
        return SnapshotRoot(Head(number, commit_hash), size, digest, tuple(blocks))

    async def newest(self) -> SnapshotRoot | None:
        """The newest root that authenticates, or None."""
        roots = []
        for data in await self._roots.get_root(ROOT_NAME):
            try:
                roots.append(self._open_root(data))
            except (CorruptError, FormatError) as error:
                log.warning("a copy of the snapshot root is left out: %s", error)
        return max(roots, key=lambda root: root.head.number, default=None)

    async def get(self, root: SnapshotRoot, path: Path, blocks: BlockCache) -> None:
        """Write the snapshot's database to `path`. `CorruptError` if it is not what was put. A log of SQLite
        that an interrupted attempt left beside `path` goes: it would pass for one of this database."""
        at_rest.remove_database(str(path), self._environment.disk)
        descriptor = self._environment.disk.open(str(path), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            position = 0
            for block in root.blocks:
                plaintext = await blocks.get(block)
                position += await trio.to_thread.run_sync(
                    self._environment.disk.write, descriptor, [plaintext], position
                )
        finally:
            os.close(descriptor)
        if position != root.size or await trio.to_thread.run_sync(self._hash, path) != root.hash:
            raise CorruptError(f"the snapshot of commit {root.head.number} is not what was stored")


def _parts_of_root(data: bytes) -> tuple[list[bytes], bytes]:
    """The wrapped keys of all key epochs, and what is sealed under the last. `FormatError`: another version;
    `CorruptError`: it is none."""
    try:
        version, *rest = msgpack.unpackb(data, max_array_len=MAX_EPOCH)
        if version != VERSION:
            raise FormatError(f"snapshot root version {version!r} is unknown")
        epochs, sealed = rest
        if not epochs or any(type(each) is not bytes for each in (sealed, *epochs)):
            raise ValueError
    except (ValueError, TypeError, msgpack.UnpackException):
        raise CorruptError("it is no root of a snapshot") from None
    return epochs, sealed
