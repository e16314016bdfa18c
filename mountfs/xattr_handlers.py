"""Requests about extended attributes (xattr(7)), POSIX ACLs and the path of the control socket among them."""

from __future__ import annotations

import os
from typing import Final

import pyfuse3
from pyfuse3 import RequestContext

from cache.attributes import AttributeChange
from cache.errors import NoAttributeError, NotPermittedError, NotSupportedError
from cache.presence import sentence
from cache.tree import LISTS
from mountfs.answered import answered
from mountfs.conversions import caller_of
from mountfs.handler_base import HandlerBase
from mountfs.node_drive import NodeDrive
from mountfs.privileges import CAPABILITY, without_privileges

CONTROL_ATTRIBUTE: Final = b"user.drivefs.control"
"""Unlisted, on the root only: the path of the control socket."""

EDITING_ATTRIBUTE: Final = b"user.drivefs.editing"
"""Unlisted: a line for each device that has the file open for writing, or is uploading it."""

SELINUX_ATTRIBUTE: Final = b"security.selinux"
"""ls -l asks for it of each file, unless it is told that there are none here."""
_HAS_SELINUX: Final = os.path.exists("/sys/fs/selinux")


class XattrHandlers(HandlerBase):
    """See the module."""

    @answered
    async def getxattr(self, inode: int, name: bytes, ctx: RequestContext) -> bytes:
        self._check_class(name)
        if name == CONTROL_ATTRIBUTE and inode == pyfuse3.ROOT_INODE:
            return self._control_path
        if name == EDITING_ATTRIBUTE:
            return self._editing(inode)
        if name == CAPABILITY and inode < self._past:
            await self._take_privileges(inode, ctx)
        try:
            return (self._drive if inode < self._past else self._view).get_xattr(inode, name)
        except NoAttributeError:
            if name == SELINUX_ATTRIBUTE and not _HAS_SELINUX:
                raise NotSupportedError("there are no labels without SELinux") from None
            raise

    def _editing(self, inode: int) -> bytes:
        others = self._drive.doing_elsewhere(inode) if isinstance(self._drive, NodeDrive) else []
        if not others:
            raise NoAttributeError("no other device does anything with it, as far as is known here")
        return "\n".join(map(sentence, others)).encode()

    async def _take_privileges(self, inode: int, ctx: RequestContext) -> None:
        """Those of a file that the caller is about to write to, if he may not keep them."""
        mode = self._drive.attributes(inode).mode
        if self._writers.is_about_to_take(inode, mode, ctx):
            await self._drive.set_attributes(inode, AttributeChange(mode=without_privileges(mode)))
            pyfuse3.invalidate_inode(inode, attr_only=True)  # no answer that follows tells the mode

    @answered
    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: RequestContext) -> None:
        self._check_changeable(inode, name)
        if name in LISTS:
            keeps = self._keeps_set_group_id(inode, ctx)
            await self._drive.set_xattr(inode, name, value, keeps_set_group_id=keeps)
        else:
            await self._drive.set_xattr(inode, name, value)

    def _keeps_set_group_id(self, inode: int, ctx: RequestContext) -> bool:
        """Whether the caller may give the bit to a file of that group, as with chmod(2)."""
        group = self._drive.attributes(inode).gid
        return ctx.uid == 0 or group == ctx.gid or group in caller_of(ctx).groups()

    @answered
    async def listxattr(self, inode: int, ctx: RequestContext) -> list[bytes]:
        names = (self._drive if inode < self._past else self._view).xattr_names(inode)
        shown = self._attribute_classes if ctx.uid == 0 else self._attribute_classes_of_users
        return [name for name in names if name.startswith(shown)]

    @answered
    async def removexattr(self, inode: int, name: bytes, ctx: RequestContext) -> None:
        self._check_changeable(inode, name)
        await self._drive.remove_xattr(inode, name)

    def _check_class(self, name: bytes) -> None:
        if not name.startswith(self._attribute_classes):
            raise NotSupportedError("no such class of extended attributes")

    def _check_changeable(self, inode: int, name: bytes) -> None:
        self._check_live(inode)
        self._check_class(name)
        if name == CONTROL_ATTRIBUTE and inode == pyfuse3.ROOT_INODE:
            raise NotPermittedError("the mount itself says where its control socket is")
        if name == EDITING_ATTRIBUTE:
            raise NotPermittedError("the mount itself says what other devices do")
