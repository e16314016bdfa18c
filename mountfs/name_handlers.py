"""Requests about names: looking them up, making, moving and removing them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

import pyfuse3
from pyfuse3 import EntryAttributes, RequestContext

from cache.attributes import Attributes
from cache.errors import InvalidArgumentError, NoEntryError
from cache.history import SEARCH
from mountfs.answered import answered
from mountfs.conversions import absent_reply, caller_of
from mountfs.handler_base import HandlerBase

_RENAME_WHITEOUT: Final = 4
"""rename(2); pyfuse3 hands it on and has no name for it."""
_RENAME_FLAGS: Final = (
    *(0, pyfuse3.RENAME_NOREPLACE, pyfuse3.RENAME_EXCHANGE),
    *(_RENAME_WHITEOUT, _RENAME_WHITEOUT | pyfuse3.RENAME_NOREPLACE),
)

log = logging.getLogger(__name__)


class NameHandlers(HandlerBase):
    """See the module."""

    # pyfuse3 takes `(inode, count)` pairs for one forget and for many.
    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        for inode, count in inode_list:
            try:
                (self._drive if inode < self._past else self._view).release(inode, count)
            except Exception:
                # Nobody waits for an answer; the inode stays until the next mount clears orphans.
                log.exception("forget of inode %d failed", inode)

    @answered
    async def lookup(self, parent_inode: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        if parent_inode >= self._past:
            self._view.check(parent_inode, caller_of(ctx), SEARCH)
            return self._held_past(await self._view.lookup(parent_inode, name))
        if name == self._versions_name:
            return self._held_past(self._view.enter(parent_inode))
        try:
            attributes = self._drive.lookup(parent_inode, name)
        except NoEntryError:
            if not self._coherent_opens:
                return absent_reply()
            attributes = await self._look_again(parent_inode, name)
        return self._held(attributes)

    async def _look_again(self, parent: int, name: bytes) -> Attributes:
        """Others may have just made it. The kernel holds the folder meanwhile and could not be told of
        anything there; nor does it remember that the name is not there: `NoEntryError`."""
        await self._drive.reach_head(told=False)
        return self._drive.lookup(parent, name)

    @answered
    async def readlink(self, inode: int, ctx: RequestContext) -> bytes:
        if inode >= self._past:
            return await self._view.read_link(inode)
        target = self._drive.read_link(inode)
        self._touch(inode)
        return target

    @answered
    async def mknod(
        self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        self._check_new(parent_inode, name)
        return self._held(await self._make_node(parent_inode, name, mode, rdev, ctx))

    @answered
    async def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: RequestContext) -> EntryAttributes:
        self._check_new(parent_inode, name)
        return self._held(await self._make_node(parent_inode, name, mode, 0, ctx))

    @answered
    async def symlink(
        self, parent_inode: int, name: bytes, target: bytes, ctx: RequestContext
    ) -> EntryAttributes:
        self._check_new(parent_inode, name)
        return self._held(await self._drive.symlink(parent_inode, name, target, ctx.uid, ctx.gid))

    @answered
    async def link(
        self, inode: int, new_parent_inode: int, new_name: bytes, ctx: RequestContext
    ) -> EntryAttributes:
        self._check_live(inode)
        self._check_new(new_parent_inode, new_name)
        return self._held(await self._drive.link(inode, new_parent_inode, new_name))

    @answered
    async def unlink(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        self._check_old(parent_inode, name)
        await self._drive.unlink(parent_inode, name)

    @answered
    async def rmdir(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        self._check_old(parent_inode, name)
        await self._drive.remove_directory(parent_inode, name)

    @answered
    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: RequestContext,
    ) -> None:
        if flags not in _RENAME_FLAGS:
            raise InvalidArgumentError("unknown flags")
        self._check_old(parent_inode_old, name_old)
        self._check_new(parent_inode_new, name_new)
        await self._drive.rename(
            parent_inode_old,
            name_old,
            parent_inode_new,
            name_new,
            no_replace=bool(flags & pyfuse3.RENAME_NOREPLACE),
            exchange=bool(flags & pyfuse3.RENAME_EXCHANGE),
            whiteout=(ctx.uid, ctx.gid) if flags & _RENAME_WHITEOUT else None,
        )
