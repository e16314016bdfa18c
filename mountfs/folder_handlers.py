"""Requests about open folders. A handle means where its listing ends (`mountfs.open_folders`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pyfuse3
from pyfuse3 import ReaddirToken, RequestContext

from cache.attributes import Entry
from cache.errors import NoEntryError
from cache.history import READ
from mountfs.answered import answered
from mountfs.conversions import caller_of, entry_reply, past_reply
from mountfs.handler_base import HandlerBase
from mountfs.open_folders import NOT_LISTED, OpenFolder

_FIRST_COOKIE: Final = 16
_READDIR_BATCH: Final = 64


class FolderHandlers(HandlerBase):
    """See the module."""

    @answered
    async def opendir(self, inode: int, ctx: RequestContext) -> int:
        if inode >= self._past:
            self._view.check(inode, caller_of(ctx), READ)
            return await self._view.open_directory(inode)
        if self._coherent_opens:
            await self._drive.reach_head(told=True)
        handle = self.folders.open(inode, self._drive.next_cookie(inode))
        self._drive.hold(inode)
        self.callers.opened(inode, ctx.pid)
        return handle

    @answered
    async def releasedir(self, fh: int) -> None:
        if fh >= self._past:
            self.callers.used(fh)
            self._view.close_directory(fh)
        else:
            inode = self.folders.close(fh)
            self.callers.closed(inode)
            self._drive.release(inode)

    @answered
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        if fh < self._past:
            inode = self.folders[fh].inode
            self.callers.used(inode)
            await self._drive.fsync(inode)

    @answered
    async def readdir(self, fh: int, start_id: int, token: ReaddirToken) -> None:
        if fh >= self._past:
            self.callers.used(fh)
            self._read_past(fh, start_id, token)
            return
        folder = self.folders[fh]
        inode = folder.inode
        self.callers.used(inode)
        if not start_id:
            folder.begin(self._drive.next_cookie(inode))
        folder.at = start_id
        if start_id < 1 and not self._reply_dots(inode, b".", 1, token):
            return
        if start_id < 2 and not self._reply_dots(inode, b"..", 2, token):
            return
        self._touch(inode)
        if self._list(folder, start_id if start_id >= _FIRST_COOKIE else 0, token):
            folder.at = NOT_LISTED

    def _list(self, folder: OpenFolder, after: int, token: ReaddirToken) -> bool:
        """Reply with what comes after a cookie, as much as there is room for; whether there was nothing."""
        begun = after
        for entry in self._entries(folder, after):
            if not pyfuse3.readdir_reply(token, entry.name, entry_reply(entry.attributes), entry.cookie):
                return False
            self._drive.hold(entry.attributes.inode)
            after = entry.cookie
        return after == begun

    def _entries(self, folder: OpenFolder, after: int) -> Iterator[Entry]:
        """The entries of the listing after a cookie."""
        if folder.rest is not None:
            for name, cookie in folder.rest_after(after):
                yield from self._entry(folder.inode, name, cookie)
            return
        while entries := self._drive.entries(folder.inode, after, _READDIR_BATCH):
            for entry in entries:
                if entry.cookie >= folder.end:
                    return
                yield entry
            if len(entries) < _READDIR_BATCH:
                return
            after = entries[-1].cookie

    def _entry(self, folder: int, name: bytes, cookie: int) -> list[Entry]:
        """The inode that has the name now, if one does."""
        try:
            return [Entry(name, cookie, self._drive.lookup(folder, name))]
        except NoEntryError:
            return []

    def _reply_dots(self, directory: int, name: bytes, cookie: int, token: ReaddirToken) -> bool:
        attributes = self._drive.lookup(directory, name)
        return pyfuse3.readdir_reply(token, name, entry_reply(attributes), cookie)

    def _read_past(self, handle: int, start_id: int, token: ReaddirToken) -> None:
        for cookie, name in ((1, b"."), (2, b"..")):
            if start_id < cookie:
                reply = entry_reply(self._view.above(handle, name))
                if not pyfuse3.readdir_reply(token, name, reply, cookie):
                    return
        after = start_id if start_id >= _FIRST_COOKIE else 0
        while entries := self._view.entries(handle, after, _READDIR_BATCH):
            for entry, found in entries:
                if not pyfuse3.readdir_reply(token, entry.name, past_reply(found), entry.cookie):
                    return
                self._view.hold(found)
                after = entry.cookie
