"""Kernel requests to drive calls: decode, call, encode, and nothing else.

A handler gets what pyfuse3 took from the kernel, makes one call of `Drive`, and turns the answer into
pyfuse3's reply objects. Rules that hold for all of them:
- Every entry that the kernel accepts (lookup, create, mknod, mkdir, symlink, link, and readdir's entries
  but for `.` and `..`) holds its inode once; `forget` releases. An open file or folder holds it once too.
- A file handle is the inode number, and whether it is open for writing: the drive keeps nothing per
  descriptor, the kernel all of it. A folder's handle means where its listing ends (`mountfs.open_folders`).
- Whatever a handler raises becomes an errno (`mountfs.errno_table`); nothing ends the mount.
- Answers are cached by the kernel for `CACHE_SECONDS`: names, attributes and the absence of names.
  What else changes the drive tells the kernel by invalidation.
- What belongs to the past (`mountfs.versions`) is told by its inode number, and cannot be changed.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Callable, Collection, Coroutine, Sequence
from functools import update_wrapper
from typing import Any, Concatenate, Final, NoReturn, ParamSpec, TypeVar

import pyfuse3
from pyfuse3 import (
    EntryAttributes,
    FileInfo,
    FUSEError,
    ReaddirToken,
    RequestContext,
    SetattrFields,
    StatvfsData,
)

from cache.attributes import AttributeChange, Attributes
from cache.drive import Drive
from cache.errors import NoAttributeError, NoEntryError
from cache.history import READ, SEARCH, Caller
from cache.tree import LISTS
from mountfs.access_calls import asks_to_write
from mountfs.errno_table import errno_of, is_expected, is_known
from mountfs.kernel_times import KernelTimes
from mountfs.large_writes import LARGE, LargeWrites
from mountfs.open_folders import OpenFolder, OpenFolders
from mountfs.privileges import CAPABILITY, Writers, may_reduce, reduced, truncation, without_privileges
from mountfs.versions import Found, VersionsView

CACHE_SECONDS: Final = 86_400.0
CONTROL_ATTRIBUTE: Final = b"user.drivefs.control"
"""Unlisted, on the root only: the path of the control socket."""

SELINUX_ATTRIBUTE: Final = b"security.selinux"
"""ls -l asks for it of each file, unless it is told that there are none here."""
_HAS_SELINUX: Final = os.path.exists("/sys/fs/selinux")
_WRITER: Final = 1 << 62
"""In the handle of a descriptor that can write; no inode that lives has it
(`cache.namespace.operations.MAX_INODE`)."""
_ATTRIBUTE_CLASSES: Final = (b"user.", b"trusted.", b"security.")
_RENAME_WHITEOUT: Final = 4
"""rename(2); pyfuse3 hands it on and has no name for it."""
_RENAME_FLAGS: Final = (
    *(0, pyfuse3.RENAME_NOREPLACE, pyfuse3.RENAME_EXCHANGE),
    *(_RENAME_WHITEOUT, _RENAME_WHITEOUT | pyfuse3.RENAME_NOREPLACE),
)
_FIRST_COOKIE: Final = 16
_READDIR_BATCH: Final = 64

_NOTHING: Final = AttributeChange()

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")


def _answered(
    handler: Callable[Concatenate[DriveOperations, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[DriveOperations, P], Coroutine[Any, Any, R]]:
    """`handler` with every exception turned into the `FUSEError` that pyfuse3 wants."""

    async def answered(self: DriveOperations, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await handler(self, *args, **kwargs)
        except FUSEError:
            raise
        except Exception as error:
            _refuse(handler.__name__, args, error)

    update_wrapper(answered, handler)
    return answered


def _refuse(call: str, arguments: tuple[object, ...], error: Exception) -> NoReturn:
    if not is_expected(error):
        # The first argument is the inode (or the parent) in every request.
        known = is_known(error)
        nodes = ", ".join(getattr(error, "nodes", ()))
        log.error(
            "%s of inode %s failed: %s%s",
            call,
            arguments[0] if arguments else "-",
            error if known else repr(error),
            f" (nodes: {nodes})" if nodes else "",
            exc_info=None if known else error,
        )
    raise FUSEError(errno_of(error)) from None


def entry_reply(attributes: Attributes) -> EntryAttributes:
    """`attributes` as pyfuse3 wants them, cached by the kernel for `CACHE_SECONDS`."""
    reply = EntryAttributes()
    reply.st_ino = attributes.inode
    reply.entry_timeout = CACHE_SECONDS
    reply.attr_timeout = CACHE_SECONDS
    reply.st_mode = attributes.mode
    reply.st_nlink = attributes.nlink
    reply.st_uid = attributes.uid
    reply.st_gid = attributes.gid
    reply.st_rdev = attributes.rdev
    reply.st_size = attributes.size
    reply.st_blocks = attributes.blocks
    reply.st_atime_ns = attributes.atime_ns
    reply.st_mtime_ns = attributes.mtime_ns
    reply.st_ctime_ns = attributes.ctime_ns
    return reply


def _past_reply(found: Found) -> EntryAttributes:
    reply = entry_reply(found.attributes)
    reply.entry_timeout = found.name_seconds
    reply.attr_timeout = found.attribute_seconds
    return reply


def _absent_reply() -> EntryAttributes:
    """Inode 0: the name does not exist, and the kernel may remember that."""
    reply = EntryAttributes()
    reply.st_ino = 0
    reply.entry_timeout = CACHE_SECONDS
    return reply


def attribute_change(wanted: EntryAttributes, fields: SetattrFields) -> AttributeChange:
    """What the kernel asks to set. `UTIME_NOW` was resolved by pyfuse3."""
    return AttributeChange(
        mode=wanted.st_mode if fields.update_mode else None,
        uid=wanted.st_uid if fields.update_uid else None,
        gid=wanted.st_gid if fields.update_gid else None,
        size=wanted.st_size if fields.update_size else None,
        atime_ns=wanted.st_atime_ns if fields.update_atime else None,
        mtime_ns=wanted.st_mtime_ns if fields.update_mtime else None,
        ctime_ns=wanted.st_ctime_ns if fields.update_ctime else None,
    )


def _caller(ctx: RequestContext) -> Caller:
    """Who asks; one who has ended is in no group."""

    def groups() -> Collection[int]:
        try:
            return pyfuse3.get_sup_groups(ctx.pid)
        except OSError:
            return ()

    return Caller(ctx.uid, ctx.gid, groups)


class DriveOperations(pyfuse3.Operations):
    """The request handlers of one mount. `access_times`: keep them (relatime). `access_lists`: the kernel
    enforces POSIX ACLs and leaves the umask to us; without, they are refused, for to keep one that nobody
    obeys would lie. What is not here (access, flush, poll) is answered ENOSYS once, and the kernel does it
    alone: `default_permissions` is always on, and close(2) writes back in any case."""

    supports_dot_lookup = False
    enable_writeback_cache = True

    def __init__(
        self,
        drive: Drive,
        control_path: bytes,
        *,
        access_times: bool,
        access_lists: bool = False,
        view: VersionsView | None = None,
    ) -> None:
        super().__init__()
        self.enable_acl = access_lists
        self._attribute_classes = (*_ATTRIBUTE_CLASSES, *(LISTS if access_lists else ()))
        self._attribute_classes_of_users = tuple(set(self._attribute_classes) - {b"trusted."})
        self._drive = drive
        self._view = view or VersionsView(drive)
        self._past = self._view.first
        self._versions_name = self._view.name
        self._control_path = control_path
        self._access_times = access_times
        self._writers = Writers()
        self._times = KernelTimes()
        self._folders = OpenFolders()
        self.large_writes = LargeWrites()

    # pyfuse3 takes `(inode, count)` pairs for one forget and for many.
    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        for inode, count in inode_list:
            try:
                (self._drive if inode < self._past else self._view).release(inode, count)
            except Exception:
                # Nobody waits for an answer; the inode stays until the next mount clears orphans.
                log.exception("forget of inode %d failed", inode)

    @_answered
    async def lookup(self, parent_inode: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        if parent_inode >= self._past:
            self._view.check(parent_inode, _caller(ctx), SEARCH)
            return self._held_past(await self._view.lookup(parent_inode, name))
        if name == self._versions_name:
            return self._held_past(self._view.enter(parent_inode))
        try:
            attributes = self._drive.lookup(parent_inode, name)
        except NoEntryError:
            return _absent_reply()
        return self._held(attributes)

    def _held(self, attributes: Attributes) -> EntryAttributes:
        self._drive.hold(attributes.inode)
        return entry_reply(attributes)

    def _held_past(self, found: Found) -> EntryAttributes:
        self._view.hold(found)
        return _past_reply(found)

    def _check_live(self, inode: int) -> None:
        """EROFS for what belongs to the past."""
        if inode >= self._past:
            raise FUSEError(errno.EROFS)

    def _check_new(self, parent: int, name: bytes) -> None:
        """The name may be made there, as far as the past is concerned."""
        self._check_live(parent)
        if name == self._versions_name:
            raise FUSEError(errno.EEXIST)

    def _check_old(self, parent: int, name: bytes) -> None:
        """The name may be taken away there."""
        self._check_live(parent)
        if name == self._versions_name:
            raise FUSEError(errno.EROFS)

    @_answered
    async def getattr(self, inode: int, ctx: RequestContext) -> EntryAttributes:
        if inode >= self._past:
            if asks_to_write(ctx.pid):
                raise FUSEError(errno.EROFS)
            return _past_reply(self._view.find(inode))
        return entry_reply(self._drive.attributes(inode))

    @_answered
    async def setattr(
        self, inode: int, attr: EntryAttributes, fields: SetattrFields, fh: int | None, ctx: RequestContext
    ) -> EntryAttributes:
        self._check_live(inode)
        await self.large_writes.wait_for(inode)
        change = attribute_change(attr, fields)
        if change == _NOTHING:  # chown(path, -1, -1) of what is no regular file
            change = AttributeChange(ctime_ns=self._drive.now())
        if may_reduce(change):
            change = reduced(change, self._drive.attributes(inode).mode, ctx)
        attributes = await self._drive.set_attributes(inode, change)
        self._times.told(change, attributes)
        return entry_reply(attributes)

    @_answered
    async def readlink(self, inode: int, ctx: RequestContext) -> bytes:
        if inode >= self._past:
            return await self._view.read_link(inode)
        target = self._drive.read_link(inode)
        self._touch(inode)
        return target

    def _touch(self, inode: int) -> None:
        if self._access_times:
            self._drive.touch(inode)

    @_answered
    async def mknod(
        self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        self._check_new(parent_inode, name)
        return self._held(await self._make_node(parent_inode, name, mode, rdev, ctx))

    @_answered
    async def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: RequestContext) -> EntryAttributes:
        self._check_new(parent_inode, name)
        return self._held(await self._make_node(parent_inode, name, mode, 0, ctx))

    async def _make_node(
        self, parent: int, name: bytes, mode: int, rdev: int, ctx: RequestContext
    ) -> Attributes:
        """Without POSIX ACLs the kernel has applied the umask, and nothing is inherited."""
        umask = ctx.umask if self.enable_acl else None
        return await self._drive.make_node(parent, name, mode, rdev, ctx.uid, ctx.gid, umask)

    @_answered
    async def symlink(
        self, parent_inode: int, name: bytes, target: bytes, ctx: RequestContext
    ) -> EntryAttributes:
        self._check_new(parent_inode, name)
        return self._held(await self._drive.symlink(parent_inode, name, target, ctx.uid, ctx.gid))

    @_answered
    async def link(
        self, inode: int, new_parent_inode: int, new_name: bytes, ctx: RequestContext
    ) -> EntryAttributes:
        self._check_live(inode)
        self._check_new(new_parent_inode, new_name)
        return self._held(await self._drive.link(inode, new_parent_inode, new_name))

    @_answered
    async def unlink(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        self._check_old(parent_inode, name)
        await self._drive.unlink(parent_inode, name)

    @_answered
    async def rmdir(self, parent_inode: int, name: bytes, ctx: RequestContext) -> None:
        self._check_old(parent_inode, name)
        await self._drive.remove_directory(parent_inode, name)

    @_answered
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
            raise FUSEError(errno.EINVAL)
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

    @_answered
    async def open(self, inode: int, flags: int, ctx: RequestContext) -> FileInfo:
        if inode >= self._past:
            if flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC:
                raise FUSEError(errno.EROFS)
            self._view.check(inode, _caller(ctx), READ)
            self._view.hold(self._view.find(inode))
            return FileInfo(fh=inode, keep_cache=True)
        if not flags & (os.O_ACCMODE | os.O_TRUNC):
            self._drive.hold(inode)
            return FileInfo(fh=inode, keep_cache=True)
        before = self._drive.attributes(inode)
        if flags & os.O_TRUNC:
            await self._drive.set_attributes(inode, truncation(before.mode, self._drive.now(), ctx))
        return self._opened(before, flags)

    def _opened(self, before: Attributes, flags: int) -> FileInfo:
        """A file that had these attributes is open."""
        inode = before.inode
        self._drive.hold(inode)
        if flags & os.O_ACCMODE == os.O_RDONLY:
            return FileInfo(fh=inode, keep_cache=True)
        self._writers.opened(inode)
        self._times.opened(before)
        return FileInfo(fh=inode | _WRITER, keep_cache=True)

    @_answered
    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        self._check_new(parent_inode, name)
        regular = stat.S_IFREG | stat.S_IMODE(mode)
        attributes = await self._make_node(parent_inode, name, regular, 0, ctx)
        return self._opened(attributes, flags), self._held(attributes)

    @_answered
    async def read(  # type: ignore[override]  # pyfuse3 takes any buffer, its stubs do not say so
        self, fh: int, off: int, size: int
    ) -> bytes | memoryview:
        if fh >= self._past:
            return await self._view.read(fh, off, size)
        inode = fh & ~_WRITER
        self._touch(inode)
        return await self._drive.read(inode, off, size)

    @_answered
    async def write(self, fh: int, off: int, buf: bytes) -> int:
        inode = fh & ~_WRITER
        if len(buf) < LARGE:
            await self._drive.write(inode, off, buf)
        else:
            async with self.large_writes.in_turn(inode):
                await self._drive.write(inode, off, buf)
        return len(buf)

    @_answered
    async def release(self, fh: int) -> None:
        if fh >= self._past:
            self._view.release(fh)
            return
        inode = fh & ~_WRITER
        try:
            if fh & _WRITER and self._writers.closed(inode):
                self._drive.set_times(inode, *self._times.closed(inode))
            await self._drive.flush(inode)
        finally:
            self._drive.release(inode)

    @_answered
    async def fsync(self, fh: int, datasync: bool) -> None:
        if fh < self._past:
            await self._drive.fsync(fh & ~_WRITER)

    @_answered
    async def opendir(self, inode: int, ctx: RequestContext) -> int:
        if inode >= self._past:
            self._view.check(inode, _caller(ctx), READ)
            return await self._view.open_directory(inode)
        handle = self._folders.open(inode, self._drive.next_cookie(inode))
        self._drive.hold(inode)
        return handle

    @_answered
    async def releasedir(self, fh: int) -> None:
        if fh >= self._past:
            self._view.close_directory(fh)
        else:
            self._drive.release(self._folders.close(fh))

    @_answered
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        if fh < self._past:
            await self._drive.fsync(self._folders[fh].inode)

    @_answered
    async def readdir(self, fh: int, start_id: int, token: ReaddirToken) -> None:
        if fh >= self._past:
            self._read_past(fh, start_id, token)
            return
        folder = self._folders[fh]
        inode = folder.inode
        if not start_id:
            folder.end = self._drive.next_cookie(inode)
        if start_id < 1 and not self._reply_dots(inode, b".", 1, token):
            return
        if start_id < 2 and not self._reply_dots(inode, b"..", 2, token):
            return
        self._touch(inode)
        self._list(folder, start_id if start_id >= _FIRST_COOKIE else 0, token)

    def _list(self, folder: OpenFolder, after: int, token: ReaddirToken) -> None:
        while entries := self._drive.entries(folder.inode, after, _READDIR_BATCH):
            for entry in entries:
                if entry.cookie >= folder.end:
                    return
                if not pyfuse3.readdir_reply(token, entry.name, entry_reply(entry.attributes), entry.cookie):
                    return
                self._drive.hold(entry.attributes.inode)
            if len(entries) < _READDIR_BATCH:
                return
            after = entries[-1].cookie

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
                if not pyfuse3.readdir_reply(token, entry.name, _past_reply(found), entry.cookie):
                    return
                self._view.hold(found)
                after = entry.cookie

    @_answered
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

    @_answered
    async def getxattr(self, inode: int, name: bytes, ctx: RequestContext) -> bytes:
        self._check_class(name)
        if name == CONTROL_ATTRIBUTE and inode == pyfuse3.ROOT_INODE:
            return self._control_path
        if name == CAPABILITY and inode < self._past:
            await self._take_privileges(inode, ctx)
        try:
            return (self._drive if inode < self._past else self._view).get_xattr(inode, name)
        except NoAttributeError:
            if name == SELINUX_ATTRIBUTE and not _HAS_SELINUX:
                raise FUSEError(errno.EOPNOTSUPP) from None
            raise

    async def _take_privileges(self, inode: int, ctx: RequestContext) -> None:
        """Those of a file that the caller is about to write to, if he may not keep them."""
        mode = self._drive.attributes(inode).mode
        if self._writers.is_about_to_take(inode, mode, ctx):
            await self._drive.set_attributes(inode, AttributeChange(mode=without_privileges(mode)))
            pyfuse3.invalidate_inode(inode, attr_only=True)  # no answer that follows tells the mode

    @_answered
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
        return ctx.uid == 0 or group == ctx.gid or group in _caller(ctx).groups()

    @_answered
    async def listxattr(self, inode: int, ctx: RequestContext) -> list[bytes]:
        names = (self._drive if inode < self._past else self._view).xattr_names(inode)
        shown = self._attribute_classes if ctx.uid == 0 else self._attribute_classes_of_users
        return [name for name in names if name.startswith(shown)]

    @_answered
    async def removexattr(self, inode: int, name: bytes, ctx: RequestContext) -> None:
        self._check_changeable(inode, name)
        await self._drive.remove_xattr(inode, name)

    def _check_class(self, name: bytes) -> None:
        if not name.startswith(self._attribute_classes):
            raise FUSEError(errno.EOPNOTSUPP)

    def _check_changeable(self, inode: int, name: bytes) -> None:
        self._check_live(inode)
        self._check_class(name)
        if name == CONTROL_ATTRIBUTE and inode == pyfuse3.ROOT_INODE:
            raise FUSEError(errno.EPERM)
