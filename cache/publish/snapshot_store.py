"""Snapshots in the store: the namespace's database as blocks, and the sealed root that names them.

A root (docs/format/snapshot.md) says of which commit the snapshot is, how long the database is, the
hash of it, and its blocks in order. Roots are only hints: the commit log is the truth, so a missing
or damaged root costs time (the log is replayed from further back), nothing else.
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

from backend.errors import CorruptError, FormatError
from backend.failpoints import declare
from backend.system import THIS_MACHINE, Environment, at_rest, keyed_hash, open_sealed, seal
from backend.upstream import BlockId, BlockStore, Head, Roots, SealedBlock
from cache.blocks import BlockCache, BlockCodec, Chunker

log = logging.getLogger(__name__)

ROOT_NAME: Final = "snapshot"
VERSION: Final = 2
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
    """Puts and gets snapshots. `root_key` seals their roots, `hash_key` keys the hash of their databases."""

    def __init__(
        self,
        store: BlockStore,
        roots: Roots,
        codec: BlockCodec,
        chunker: Chunker,
        drive_id: bytes,
        root_key: bytes,
        hash_key: bytes,
        environment: Environment = THIS_MACHINE,
    ) -> None:
        self._store = store
        self._roots = roots
        self._codec = codec
        self._chunker = chunker
        self._binding = b"drivefs snapshot root\0" + drive_id
        self._root_key = root_key
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
        await self._roots.put_root(ROOT_NAME, self._seal_root(root))

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

    def _seal_root(self, root: SnapshotRoot) -> bytes:
        body = [VERSION, root.head.number, root.head.hash, root.size, root.hash, list(root.blocks)]
        return seal(self._root_key, msgpack.packb(body), self._binding)

    def _open_root(self, data: bytes) -> SnapshotRoot:
        version, number, commit_hash, size, digest, blocks = msgpack.unpackb(
            open_sealed(self._root_key, data, self._binding)
        )
        if version != VERSION or len(blocks) > MAX_BLOCKS:
            raise FormatError(f"snapshot root version {version} with {len(blocks)} blocks is unknown")
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
