"""A drive that keeps everything in dictionaries: what `mountfs` is tried on without a store.

It has `Drive`'s calls and answers, and none of its promises. `read_delay` makes reads really wait.
"""

from __future__ import annotations

import os
import stat
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import islice

import trio

from cache.attributes import AttributeChange, Attributes, Entry, FileSystemStatistics
from cache.errors import (
    DirectoryError,
    ExistsError,
    InputOutputError,
    InvalidArgumentError,
    NoAttributeError,
    NoEntryError,
    NotDirectoryError,
    NotEmptyError,
    StaleError,
)
from cache.messages import DriveStatus
from cache.slow_waits import SlowWaits
from cache.sync import Broadcast
from tests.statuses import mount_status

FAIL_BACKGROUND = b"user.test.fail"
"""Setting this extended attribute makes `run` raise: how a test reaches a drive in another process."""


@dataclass(slots=True)
class _Node:
    attributes: Attributes
    parent: int = 0
    content: bytearray = field(default_factory=bytearray)
    target: bytes = b""
    names: dict[bytes, int] = field(default_factory=dict)
    cookies: dict[bytes, int] = field(default_factory=dict)
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    held: int = 0


class MemoryDrive:
    """`Drive` without a store, hence without a journal to lose. `broken` names inodes whose reads raise;
    `synced` counts calls of `sync`."""

    is_only_here = False
    is_shared = False
    lost_journal = ""

    def __init__(self) -> None:
        self._nodes: dict[int, _Node] = {}
        self._next = 1
        self._cookie = 16
        self.read_delay = 0.0
        self.broken: dict[int, Exception] = {}
        self.synced = 0
        self.asked: Counter[str] = Counter()
        """how often for which extended attribute"""
        self.background_fails = trio.Event()
        self.changes = Broadcast()
        self.slow_waits = SlowWaits()
        root = self._new(stat.S_IFDIR | 0o755, 0, os.geteuid(), os.getegid())
        self._nodes[root].parent = root

    def _new(self, mode: int, rdev: int, uid: int, gid: int) -> int:
        inode, self._next = self._next, self._next + 1
        now = time.time_ns()
        links = 2 if stat.S_ISDIR(mode) else 1
        self._nodes[inode] = _Node(Attributes(inode, mode, links, uid, gid, rdev, 0, 0, now, now, now))
        return inode

    def _node(self, inode: int) -> _Node:
        try:
            return self._nodes[inode]
        except KeyError:
            raise StaleError(f"inode {inode}") from None

    def _directory(self, inode: int) -> _Node:
        node = self._node(inode)
        if not stat.S_ISDIR(node.attributes.mode):
            raise NotDirectoryError(f"inode {inode}")
        return node

    def held(self, inode: int) -> int:
        """How often `inode` is held; 0 also for one that is gone."""
        return self._nodes[inode].held if inode in self._nodes else 0

    def inodes(self) -> list[int]:
        return list(self._nodes)

    def lookup(self, parent: int, name: bytes) -> Attributes:
        directory = self._directory(parent)
        if name == b".":
            return directory.attributes
        if name == b"..":
            return self._node(directory.parent).attributes
        try:
            return self._nodes[directory.names[name]].attributes
        except KeyError:
            raise NoEntryError(os.fsdecode(name)) from None

    def attributes(self, inode: int) -> Attributes:
        return self._node(inode).attributes

    async def set_attributes(self, inode: int, change: AttributeChange) -> Attributes:
        node = self._node(inode)
        attributes = node.attributes
        for name in ("mode", "uid", "gid", "size", "atime_ns", "mtime_ns", "ctime_ns"):
            value = getattr(change, name)
            if value is not None:
                setattr(attributes, name, value)
        if change.size is not None:
            del node.content[change.size :]
            node.content.extend(bytes(change.size - len(node.content)))
            attributes.mtime_ns = change.mtime_ns or time.time_ns()
        attributes.ctime_ns = change.ctime_ns or time.time_ns()
        return attributes

    def touch(self, inode: int) -> None:
        attributes = self._node(inode).attributes
        if attributes.atime_ns <= max(attributes.mtime_ns, attributes.ctime_ns):
            attributes.atime_ns = time.time_ns()

    def read_link(self, inode: int) -> bytes:
        return self._node(inode).target

    async def make_node(
        self, parent: int, name: bytes, mode: int, rdev: int, uid: int, gid: int, umask: int | None = None
    ) -> Attributes:
        mode &= ~(umask or 0)
        directory = self._directory(parent)
        if name in directory.names:
            raise ExistsError(os.fsdecode(name))
        if directory.attributes.mode & stat.S_ISGID:
            gid = directory.attributes.gid
            mode |= stat.S_ISGID if stat.S_ISDIR(mode) else 0
        inode = self._new(mode, rdev, uid, gid)
        if stat.S_ISDIR(mode):
            directory.attributes.nlink += 1
        self._nodes[inode].parent = parent
        self._enter(directory, name, inode)
        return self._nodes[inode].attributes

    def _enter(self, directory: _Node, name: bytes, inode: int) -> None:
        if name not in directory.names:
            directory.cookies[name] = self._cookie
            self._cookie += 1
        directory.names[name] = inode
        self._changed(directory)

    @staticmethod
    def _changed(directory: _Node) -> None:
        directory.attributes.mtime_ns = directory.attributes.ctime_ns = time.time_ns()

    async def symlink(self, parent: int, name: bytes, target: bytes, uid: int, gid: int) -> Attributes:
        attributes = await self.make_node(parent, name, stat.S_IFLNK | 0o777, 0, uid, gid)
        self._nodes[attributes.inode].target = target
        attributes.size = len(target)
        return attributes

    async def link(self, inode: int, parent: int, name: bytes) -> Attributes:
        directory, node = self._directory(parent), self._node(inode)
        if name in directory.names:
            raise ExistsError(os.fsdecode(name))
        self._enter(directory, name, inode)
        node.attributes.nlink += 1
        return node.attributes

    async def unlink(self, parent: int, name: bytes) -> None:
        inode = self.lookup(parent, name).inode
        if stat.S_ISDIR(self._nodes[inode].attributes.mode):
            raise DirectoryError(os.fsdecode(name))
        self._leave(self._nodes[parent], name)
        self._unlinked(inode)

    def _leave(self, directory: _Node, name: bytes) -> None:
        del directory.names[name], directory.cookies[name]
        self._changed(directory)

    def _unlinked(self, inode: int) -> None:
        node = self._nodes[inode]
        node.attributes.nlink -= 2 if stat.S_ISDIR(node.attributes.mode) else 1
        node.attributes.ctime_ns = time.time_ns()
        self._drop_if_unused(inode)

    def _drop_if_unused(self, inode: int) -> None:
        node = self._nodes[inode]
        if node.attributes.nlink <= 0 and node.held <= 0:
            del self._nodes[inode]

    async def remove_directory(self, parent: int, name: bytes) -> None:
        inode = self.lookup(parent, name).inode
        if self._directory(inode).names:
            raise NotEmptyError(os.fsdecode(name))
        self._leave(self._nodes[parent], name)
        self._nodes[parent].attributes.nlink -= 1
        self._unlinked(inode)

    async def rename(
        self,
        parent: int,
        name: bytes,
        new_parent: int,
        new_name: bytes,
        *,
        no_replace: bool,
        exchange: bool,
        whiteout: tuple[int, int] | None,
    ) -> None:
        if whiteout is not None:
            raise InvalidArgumentError("this drive has no whiteouts")
        inode = self.lookup(parent, name).inode
        old, new = self._nodes[parent], self._directory(new_parent)
        replaced = new.names.get(new_name)
        if replaced is None and exchange:
            raise NoEntryError(os.fsdecode(new_name))
        if replaced is not None and no_replace:
            raise ExistsError(os.fsdecode(new_name))
        if replaced == inode:
            return
        if exchange and replaced is not None:
            self._enter(old, name, replaced)
        elif replaced is not None:
            await self._replace(new_parent, new_name, inode, replaced)
        if not exchange:
            self._leave(old, name)
        self._enter(new, new_name, inode)
        self._nodes[inode].parent = new_parent

    async def _replace(self, parent: int, name: bytes, inode: int, replaced: int) -> None:
        if stat.S_ISDIR(self._nodes[replaced].attributes.mode):
            self._directory(inode)
            await self.remove_directory(parent, name)
        else:
            await self.unlink(parent, name)

    def hold(self, inode: int, count: int = 1) -> None:
        self._node(inode).held += count

    def release(self, inode: int, count: int = 1) -> None:
        node = self._node(inode)
        if node.held < count:
            raise InputOutputError(f"inode {inode} is held {node.held} times, released {count} times")
        node.held -= count
        self._drop_if_unused(inode)

    async def read(self, inode: int, offset: int, size: int) -> bytes | memoryview:
        if inode in self.broken:
            raise self.broken[inode]
        if self.read_delay:
            await trio.sleep(self.read_delay)
        return bytes(self._node(inode).content[offset : offset + size])

    async def write(self, inode: int, offset: int, data: bytes) -> None:
        node = self._node(inode)
        node.content.extend(bytes(max(0, offset - len(node.content))))
        node.content[offset : offset + len(data)] = data
        node.attributes.size = len(node.content)
        node.attributes.blocks = (node.attributes.size + 511) // 512
        node.attributes.mtime_ns = node.attributes.ctime_ns = time.time_ns()

    def now(self) -> int:
        return time.time_ns()

    def kernel_times(self, inode: int, mtime_ns: int, ctime_ns: int) -> Attributes | None:
        self.set_times(inode, mtime_ns, ctime_ns)
        return self._node(inode).attributes

    def set_times(self, inode: int, mtime_ns: int, ctime_ns: int) -> None:
        attributes = self._node(inode).attributes
        attributes.mtime_ns, attributes.ctime_ns = mtime_ns, ctime_ns

    async def moving(self) -> None:
        """Nothing moves: there are no others."""

    async def settle(self, inode: int) -> None:
        self._node(inode)

    async def fsync(self, inode: int, *, alone: bool = False) -> None:
        self._node(inode)

    def entries(self, directory: int, after_cookie: int, limit: int) -> list[Entry]:
        node = self._directory(directory)
        later = ((name, cookie) for name, cookie in node.cookies.items() if cookie > after_cookie)
        return [
            Entry(name, cookie, self._nodes[node.names[name]].attributes)
            for name, cookie in islice(later, limit)
        ]

    def next_cookie(self, directory: int) -> int:
        self._directory(directory)
        return self._cookie

    def get_xattr(self, inode: int, name: bytes) -> bytes:
        self.asked[os.fsdecode(name)] += 1
        try:
            return self._node(inode).xattrs[name]
        except KeyError:
            raise NoAttributeError(os.fsdecode(name)) from None

    async def set_xattr(self, inode: int, name: bytes, value: bytes) -> None:
        if name == FAIL_BACKGROUND:
            self.background_fails.set()
            return
        self._node(inode).xattrs[name] = value

    def xattr_names(self, inode: int) -> list[bytes]:
        return list(self._node(inode).xattrs)

    async def remove_xattr(self, inode: int, name: bytes) -> None:
        self.get_xattr(inode, name)
        del self._node(inode).xattrs[name]

    def statistics(self) -> FileSystemStatistics:
        count = len(self._nodes)
        return FileSystemStatistics(4096, 1 << 30, 1 << 29, 1 << 29, 1 << 32, (1 << 32) - count, 255)

    async def sync(self) -> None:
        self.synced += 1

    async def redundancy(self) -> str:
        return ""

    async def status(self) -> DriveStatus:
        return mount_status(files=len(self._nodes), published=True)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        await self.background_fails.wait()
        raise RuntimeError("the background failed")
