"""Requests about the attributes of inodes and of the file system: stat, chmod, chown, truncate, statfs."""

from __future__ import annotations

from typing import Final

from pyfuse3 import EntryAttributes, RequestContext, SetattrFields, StatvfsData

from cache.attributes import AttributeChange
from cache.errors import ReadOnlyFileSystemError
from mountfs.access_calls import asks_to_write
from mountfs.answered import answered
from mountfs.conversions import attribute_change, entry_reply, past_reply
from mountfs.handler_base import HandlerBase
from mountfs.kernel_times import only_times
from mountfs.privileges import may_reduce, reduced

_NOTHING: Final = AttributeChange()


class AttributeHandlers(HandlerBase):
    """See the module."""

    @answered
    async def getattr(self, inode: int, ctx: RequestContext) -> EntryAttributes:
        if inode >= self._past:
            if asks_to_write(ctx.pid):
                raise ReadOnlyFileSystemError("the past cannot be changed")
            return past_reply(self._view.find(inode))
        return entry_reply(self._drive.attributes(inode))

    @answered
    async def setattr(
        self, inode: int, attr: EntryAttributes, fields: SetattrFields, fh: int | None, ctx: RequestContext
    ) -> EntryAttributes:
        self._check_live(inode)
        if only_times(fields) and not self.large_writes.are_waiting(inode):
            stated = self._drive.kernel_times(inode, attr.st_mtime_ns, attr.st_ctime_ns)
            if stated is not None:
                self._times.told_both(stated)
                return entry_reply(stated)
        await self.large_writes.wait_for(inode)
        change = attribute_change(attr, fields)
        if change == _NOTHING:  # chown(path, -1, -1) of what is no regular file
            change = AttributeChange(ctime_ns=self._drive.now())
        if may_reduce(change):
            change = reduced(change, self._drive.attributes(inode).mode, ctx)
        attributes = await self._drive.set_attributes(inode, change)
        self._times.told(change, attributes)
        return entry_reply(attributes)

    @answered
    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        statistics = self._drive.statistics()
        reply = StatvfsData()
        reply.f_bsize = reply.f_frsize = statistics.block_size
        reply.f_blocks = statistics.blocks
        reply.f_bfree = statistics.free
        reply.f_bavail = statistics.available
        reply.f_files = statistics.inodes
        reply.f_ffree = reply.f_favail = statistics.free_inodes
        reply.f_namemax = statistics.name_max
        return reply
