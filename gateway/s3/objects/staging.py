"""Receiving bytes: into a file without a name, which nobody sees before all of it is there and was found
right.

Invariants:
1. The file gets its name behind its bytes in the journal. After a power cut the journal ends before the first
   write whose bytes are not all there (`cache.journal.scan`), so no name outlives its bytes, and one wait for
   the disk is enough for both.
2. Memory holds one piece of a body.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from cache.drive import Drive
from cache.errors import NoEntryError, StaleError
from cache.namespace import MAX_SIZE
from gateway.s3.objects.errors import S3Error
from gateway.s3.objects.names import FILE_MODE

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

PIECE: Final = 1 << 20
"""So many bytes are written at once."""
_IN_THREAD: Final = 128 << 10
"""From here on the MD5 is computed in a thread."""


@dataclass(slots=True)
class Received:
    """The file without a name, and the hex MD5 of its bytes."""

    inode: int
    size: int
    md5: str


class Staging:
    """See the module."""

    def __init__(self, drive: Drive) -> None:
        self._drive = drive
        self.active = 0
        """bodies that are being received or placed"""

    @asynccontextmanager
    async def file(self, bucket: int) -> AsyncIterator[int]:
        """A file without a name, with the owner of the bucket's folder. It goes, unless it got one.
        `NoSuchBucket` if the folder has been removed."""
        try:
            above = self._drive.live_row(bucket)
            inode = await self._drive.make_nameless(bucket, FILE_MODE, above.uid, above.gid)
        except (StaleError, NoEntryError):
            raise S3Error("NoSuchBucket", "the bucket was removed meanwhile") from None
        self.active += 1
        try:
            yield inode
        finally:
            self.active -= 1
            self._drive.release(inode)

    async def receive(
        self, inode: int, body: AsyncIterator[bytes | memoryview], size: int | None
    ) -> Received:
        """Write all of `body`, which must have `size` bytes (None: any). `IncompleteBody`."""
        received = Received(inode, 0, "")
        digest, pieces = hashlib.md5(usedforsecurity=False), Pieces()
        async for part in body:
            for piece in pieces.add(part):
                await self._write(received, digest, piece, size)
        if rest := pieces.rest():
            await self._write(received, digest, rest, size)
        if size is not None and received.size != size:
            raise S3Error("IncompleteBody", f"the body has {received.size} bytes, and {size} were said")
        await self._drive.settle(inode)
        received.md5 = digest.hexdigest()
        return received

    async def _write(self, received: Received, digest: Hash, piece: bytes, size: int | None) -> None:
        if received.size + len(piece) > (MAX_SIZE if size is None else size):
            raise S3Error("IncompleteBody", f"the body has more than the {size} bytes that were said")
        if len(piece) >= _IN_THREAD:
            await trio.to_thread.run_sync(digest.update, piece)
        else:
            digest.update(piece)
        await self._drive.write(received.inode, received.size, piece)
        received.size += len(piece)


class Pieces:
    """Cuts what comes in parts of any size into pieces of `PIECE`."""

    def __init__(self) -> None:
        self._waiting = bytearray()

    def add(self, part: bytes | memoryview) -> Iterator[bytes]:
        """The pieces that are whole with it."""
        self._waiting += part
        while len(self._waiting) >= PIECE:
            piece = bytes(self._waiting[:PIECE])
            del self._waiting[:PIECE]
            yield piece

    def rest(self) -> bytes:
        """All that is left."""
        return bytes(self._waiting)
