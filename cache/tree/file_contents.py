"""The contents of files: reading, writing, and sealing ahead when a program writes without end.

A call either raises and has changed nothing, or its change is journaled when it returns. The exception is a
write that is larger than a record of the journal: where it raises, its beginning may stay. Event-loop thread
only.
"""

from __future__ import annotations

import logging
from stat import S_ISREG
from typing import Final

import trio

from backend.errors import DriveError
from cache.blocks import AHEAD, Content, Sealer
from cache.errors import DirectoryError, FileSystemError, FileTooBigError, InvalidArgumentError
from cache.journal import Layer, Ledger, Need
from cache.namespace import MAX_SIZE
from cache.publish import SharedExclusiveLock
from cache.tree.content_claims import ContentClaims
from cache.tree.inodes import Inodes
from cache.tree.intake import Intake

LARGEST_RECORD: Final = 8 << 20
"""A larger write is journaled in several records."""

log = logging.getLogger(__name__)


class FileContents:
    """See the module. `run` seals ahead."""

    def __init__(
        self,
        ledger: Ledger,
        inodes: Inodes,
        intake: Intake,
        claims: ContentClaims,
        content: Content,
        sealer: Sealer,
        collection_lock: SharedExclusiveLock,
    ) -> None:
        self._ledger = ledger
        self._dirty = ledger.dirty
        self._inodes = inodes
        self._intake = intake
        self._claims = claims
        self._content = content
        self._sealer = sealer
        self._collection_lock = collection_lock
        self._sealing_ahead: dict[int, Layer] = {}
        self._seal_ahead = trio.Event()

    async def read(self, inode: int, offset: int, size: int) -> bytes | memoryview:
        """Up to `size` bytes; fewer only at the file's end. `DriveError` if they cannot be had."""
        row = self._inodes.row(inode)
        if not row.is_regular:  # the size of others counts no bytes of content
            raise DirectoryError("is a directory") if row.is_directory else InvalidArgumentError("no file")
        layer = self._dirty.top(inode)
        whole = row.size if layer is None else layer.size(row.size)
        end = min(offset + size, whole)
        if end <= offset:
            return b""
        return await self._content.read(inode, offset, end, whole)

    async def write(self, inode: int, offset: int, data: bytes | memoryview) -> None:
        """All of `data` at `offset`. Waits while the journal is full and the nodes are slower, and not for
        ever. `DriveFullError`: the nodes could not store it."""
        await self.room_to_write(inode, offset, len(data))
        self.accept_write(inode, offset, data)

    async def room_to_write(self, inode: int, offset: int, size: int) -> None:
        """The first part of `write`: return when there is room; errors as there."""
        await self._intake.room(self._need(inode, offset + size, size), size)

    def accept_write(self, inode: int, offset: int, data: bytes | memoryview) -> None:
        """The rest of it, in the turn in which there was room."""
        row = self._inodes.row(inode)
        if not S_ISREG(row.mode):
            raise InvalidArgumentError("not a regular file")
        if offset + len(data) > MAX_SIZE:
            raise FileTooBigError("a file is at most 2^63-1 bytes")
        if not data:
            return
        self._claims.end(inode)
        view = memoryview(data)
        for start in range(0, len(view), LARGEST_RECORD):
            part = view[start : start + LARGEST_RECORD]
            layer = self._ledger.write(inode, offset + start, part, self._intake.now())
        self._intake.wake()
        if layer.written_to - layer.sealed_to >= 2 * AHEAD and inode not in self._sealing_ahead:
            self._sealing_ahead[inode] = layer
            self._seal_ahead.set()

    def _need(self, inode: int, end: int, size: int) -> Need:
        """The room that a write asks for: where nothing but the reserve is left, to overwrite is less."""
        if self._ledger.room.allows(Need.GROW, size) or end > self._inodes.size(inode):
            return Need.GROW
        return Need.CHANGE

    async def settle(self, inode: int) -> None:
        """A descriptor of the file was closed: its content is ready for a commit."""
        if self._dirty.settle(inode):
            self._intake.wake()

    async def run(self) -> None:
        """Seal what is written faster than commits are made, until cancelled."""
        while True:
            await self._seal_ahead.wait()
            self._seal_ahead = trio.Event()
            while self._sealing_ahead:
                inode, layer = next(iter(self._sealing_ahead.items()))
                try:
                    async with self._collection_lock.shared():
                        await self._sealer.seal_ahead(inode, layer)
                except (DriveError, FileSystemError, OSError) as error:
                    log.info("sealing ahead has to wait: %s", error)
                    layer.sealed_to = layer.written_to
                del self._sealing_ahead[inode]
