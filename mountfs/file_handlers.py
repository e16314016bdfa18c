"""Requests about the content of files: open, read, write, close, fsync.

The handle of a file is its inode number, and whether it is open for writing: the drive keeps nothing per
descriptor, the kernel all of it.
"""

from __future__ import annotations

import os
import stat
from typing import Final

from pyfuse3 import EntryAttributes, FileInfo, RequestContext

from cache.attributes import Attributes
from cache.errors import ReadOnlyFileSystemError
from cache.history import READ
from mountfs.answered import answered
from mountfs.conversions import caller_of
from mountfs.handler_base import HandlerBase
from mountfs.large_writes import LARGE
from mountfs.privileges import truncation

_WRITER: Final = 1 << 62
"""In the handle of a descriptor that can write; no inode that lives has it
(`cache.namespace.operations.MAX_INODE`)."""


class FileHandlers(HandlerBase):
    """See the module."""

    @answered
    async def open(self, inode: int, flags: int, ctx: RequestContext) -> FileInfo:
        if inode >= self._past:
            if flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC:
                raise ReadOnlyFileSystemError("the past cannot be changed")
            self._view.check(inode, caller_of(ctx), READ)
            self._view.hold(self._view.find(inode))
            return FileInfo(fh=inode, keep_cache=True)
        if self._coherent_opens:
            await self._drive.reach_head(told=True)
        if not flags & (os.O_ACCMODE | os.O_TRUNC):
            self._drive.hold(inode)
            self.callers.opened(inode, ctx.pid)
            return FileInfo(fh=inode, keep_cache=True)
        before = self._drive.attributes(inode)
        self._drive.hold(inode)
        if flags & os.O_TRUNC:
            try:
                await self._drive.set_attributes(inode, truncation(before.mode, self._drive.now(), ctx))
            except BaseException:
                self._drive.release(inode)
                raise
        return self._opened(before, flags, ctx)

    def _opened(self, before: Attributes, flags: int, ctx: RequestContext) -> FileInfo:
        """A file that had these attributes is open, and held for that."""
        inode = before.inode
        self.callers.opened(inode, ctx.pid)
        if flags & os.O_ACCMODE == os.O_RDONLY:
            return FileInfo(fh=inode, keep_cache=True)
        self._writers.opened(inode)
        self._times.opened(before)
        return FileInfo(fh=inode | _WRITER, keep_cache=True)

    @answered
    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        self._check_new(parent_inode, name)
        regular = stat.S_IFREG | stat.S_IMODE(mode)
        attributes = await self._make_node(parent_inode, name, regular, 0, ctx)
        self._drive.hold(attributes.inode)
        return self._opened(attributes, flags, ctx), self._held(attributes)

    @answered
    async def read(  # type: ignore[override]  # pyfuse3 takes any buffer, its stubs do not say so
        self, fh: int, off: int, size: int
    ) -> bytes | memoryview:
        if fh >= self._past:
            self.callers.used(fh)
            return await self._view.read(fh, off, size)
        inode = fh & ~_WRITER
        self.callers.used(inode)
        self._touch(inode)
        return await self._drive.read(inode, off, size)

    @answered
    async def write(self, fh: int, off: int, buf: bytes) -> int:
        inode = fh & ~_WRITER
        self.callers.used(inode)
        if len(buf) < LARGE:
            await self._drive.write(inode, off, buf)
        else:
            async with self.large_writes.in_turn(inode):
                await self._drive.write(inode, off, buf)
        return len(buf)

    @answered
    async def flush(self, fh: int) -> None:
        """Nothing: at close(2) the kernel has written its cache back, and waited for the answers. But if the
        mount is gone by then, it drops unsent pages without an error (fuse_flush, Linux 6.18). FLUSH fails
        then, and makes close(2) say so. Unanswered once, it would not be sent again."""
        self.callers.used(fh if fh >= self._past else fh & ~_WRITER)

    @answered
    async def release(self, fh: int) -> None:
        if fh >= self._past:
            self.callers.used(fh)
            self._view.release(fh)
            return
        inode = fh & ~_WRITER
        self.callers.closed(inode)
        try:
            if fh & _WRITER:
                await self._drive.moving()
            if fh & _WRITER and self._writers.closed(inode):
                self._drive.set_times(inode, *self._times.closed(inode))
            await self._drive.settle(inode)
        finally:
            self._drive.release(inode)

    @answered
    async def fsync(self, fh: int, datasync: bool) -> None:
        if fh < self._past:
            inode = fh & ~_WRITER
            await self._drive.fsync(inode, alone=self.callers.is_alone(inode))
