"""Receiving bytes: into a file without a name, which nobody sees before all of it is there and was found
right.

Invariants:
1. The file gets its name behind its bytes in the journal. After a power cut the journal ends before the first
   write whose bytes are not all there (`cache.journal.scan`), so no name outlives its bytes, and one wait for
   the disk is enough for both.
2. Memory holds two pieces of a body.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import trio

from backend.errors import sole
from cache.drive import Drive
from cache.errors import NoEntryError, StaleError
from cache.namespace import MAX_SIZE
from gateway.s3.objects.errors import S3Error
from gateway.s3.objects.names import FILE_MODE

PIECE: Final = 1 << 20
"""So many bytes are written at once."""
_IN_THREAD: Final = 128 << 10
"""The MD5 of a piece of this size or more is computed in a thread, while the next one is received."""


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
        if size is not None and size < _IN_THREAD:
            await self._receive(received, body, size, Md5())
        else:
            await self._receive_beside(received, body, size)
        if size is not None and received.size != size:
            raise S3Error("IncompleteBody", f"the body has {received.size} bytes, and {size} were said")
        await self._drive.settle(inode)
        return received

    async def _receive_beside(
        self, received: Received, body: AsyncIterator[bytes | memoryview], size: int | None
    ) -> None:
        """The same, of a body that may be large."""
        try:
            async with trio.open_nursery() as nursery:
                await self._receive(received, body, size, Md5(nursery))
        except BaseExceptionGroup as group:
            raise sole(group) from None

    async def _receive(
        self, received: Received, body: AsyncIterator[bytes | memoryview], size: int | None, digest: Md5
    ) -> None:
        pieces = Pieces()
        async for part in body:
            for piece in pieces.add(part):
                await self._write(received, digest, piece, size)
        if rest := pieces.rest():
            await self._write(received, digest, rest, size)
        received.md5 = await digest.hex()

    async def _write(self, received: Received, digest: Md5, piece: bytes, size: int | None) -> None:
        if received.size + len(piece) > (MAX_SIZE if size is None else size):
            raise S3Error("IncompleteBody", f"the body has more than the {size} bytes that were said")
        await digest.update(piece)
        await self._drive.write(received.inode, received.size, piece)
        received.size += len(piece)


class Md5:
    """The MD5 of pieces in their order. With a nursery, a large one is computed in a thread, and its caller
    goes on; it may not change then."""

    def __init__(self, nursery: trio.Nursery | None = None) -> None:
        self._digest = hashlib.md5(usedforsecurity=False)
        self._nursery = nursery
        self._is_free: trio.Event | None = None
        """set when the piece that a thread has is done"""

    async def update(self, piece: bytes) -> None:
        """Return when those before it are done."""
        await self._wait()
        if self._nursery is None or len(piece) < _IN_THREAD:
            self._digest.update(piece)
            return
        self._is_free = trio.Event()
        self._nursery.start_soon(self._compute, piece, self._is_free)

    async def _compute(self, piece: bytes, is_done: trio.Event) -> None:
        await trio.to_thread.run_sync(self._digest.update, piece)
        is_done.set()

    async def _wait(self) -> None:
        if self._is_free is not None and not self._is_free.is_set():
            await self._is_free.wait()

    async def hex(self) -> str:
        """Of all of them."""
        await self._wait()
        return self._digest.hexdigest()


class Pieces:
    """Cuts what comes in parts of any size into pieces of `PIECE`."""

    def __init__(self) -> None:
        self._waiting = bytearray()

    def add(self, part: bytes | memoryview) -> Iterator[bytes]:
        """The pieces that are whole with it."""
        self._waiting += part
        while len(self._waiting) >= PIECE:
            with memoryview(self._waiting) as waiting:
                piece = bytes(waiting[:PIECE])
            del self._waiting[:PIECE]
            yield piece

    def rest(self) -> bytes:
        """All that is left."""
        return bytes(self._waiting)
