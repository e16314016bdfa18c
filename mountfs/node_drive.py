"""A drive that others change too, as the request handlers of a mount see it: by kernel nodes, not inodes.

It has the calls of `Drive` that handlers make, with the same contracts. What a node shows is said by
`mountfs.kernel_nodes`. The answers name nodes, and so do the changes that the kernel is told of (`told`).

Event-loop thread only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from stat import S_ISDIR

from cache.attributes import AttributeChange, Attributes, Entry
from cache.drive import Drive
from cache.errors import NoEntryError, StaleError
from cache.history import attributes_of
from cache.journal import Need
from cache.namespace import ROOT_INODE
from cache.presence import Present, Writing
from cache.services import copy_for_writer
from cache.sync import AttributesChanged, Change, Listener, Missed, NameChanged, Replaced
from mountfs.kernel_nodes import Holding, KernelNodes, Key, Look
from mountfs.open_folders import OpenFolders


class NodeDrive:
    """See the module. `before` and `after`: it is an onlooker of the drive's broadcast."""

    def __init__(self, drive: Drive) -> None:
        self._drive = drive
        retention = drive.retention
        self._nodes = KernelNodes(Holding(drive.hold, drive.release, retention.hold, retention.let_go))
        self._late: set[int] = set()
        """nodes of files whose attributes others changed, and that may be open: the kernel keeps the times of
        such a file until it is closed"""
        self._folders = OpenFolders()
        self.now, self.moving, self.statistics = drive.now, drive.moving, drive.statistics
        self._room = drive.intake.room

    # Others' commits

    def watching(
        self, folders: OpenFolders, tell: Listener, written: Callable[[], Iterable[int]] = tuple
    ) -> Listener:
        """Begin to look on, for the handlers whose open folders these are, and who have the nodes `written`
        open for writing. A listener by which the kernel is told, by `tell`."""
        self._folders = folders
        if self._drive.presence is not None:
            self._drive.presence.writing = lambda: self._writing(written())
        self._drive.changes.onlookers.append(self)

        async def listen(changes: Sequence[Change]) -> None:
            await tell(self.told(changes))

        return listen

    def _writing(self, nodes: Iterable[int]) -> Iterator[Writing]:
        for node in nodes:
            shown = self._nodes.shown(node)
            if isinstance(shown, Look):
                continue
            for parent, name in self._nodes.names(node):
                folder = self._nodes.shown(parent)
                if not isinstance(folder, Look):
                    yield Writing(shown, folder, name)
                    break

    def before(self) -> None:
        for folder in self._folders.listed_by_cookies():
            shown = self._nodes.shown(folder.inode)
            if not isinstance(shown, Look):  # others removed it: there is nothing to go on with
                folder.rest = self._drive.names(shown, folder.at, folder.end)

    def after(self, replaced: Replaced) -> None:
        self._nodes.replace(replaced)

    def told(self, changes: Sequence[Change]) -> list[Change]:
        """The changes, as the kernel is to be told of them."""
        return list(dict.fromkeys(each for change in changes for each in self._told(change)))

    def _told(self, change: Change) -> Iterator[Change]:
        if isinstance(change, Missed):
            yield change
            return
        if isinstance(change, NameChanged):
            yield from self._named_now(change.parent, change.name)
            return
        yield from (NameChanged(*key) for key in self._nodes.left_names(change.inode))
        node = change.inode if change.inode == ROOT_INODE else self._nodes.known(change.inode)
        if node is None:
            return
        yield AttributesChanged(node)
        names = [NameChanged(*key) for key in self._nodes.names(node)]
        if names:
            self._late.add(node)
        yield from names

    def _named_now(self, parent: int, name: bytes) -> Iterator[Change]:
        node = parent if parent == ROOT_INODE else self._nodes.known(parent)
        if node is not None:
            yield NameChanged(node, name)

    async def reach_head(self, *, told: bool) -> None:
        """As the drive's."""
        await self._drive.reach_head(told=told)

    # Attributes

    def _shown(self, node: int, attributes: Attributes) -> Attributes:
        """The attributes of what the node shows."""
        attributes.inode = node
        return attributes

    def attributes(self, node: int) -> Attributes:
        shown = self._nodes.shown(node)
        if isinstance(shown, Look):
            return self._shown(node, attributes_of(self._drive.past.row(shown.inode, shown.commit)))
        return self._shown(node, self._drive.attributes(shown))

    async def set_attributes(self, node: int, change: AttributeChange) -> Attributes:
        while True:
            inode = self._nodes.inode(node) if change.size is None else await self._writable(node)
            await self._room(Need.FREE)
            if self._nodes.shown(node) == inode:
                return self._shown(node, self._drive.accept_attributes(inode, change))

    def kernel_times(self, node: int, mtime_ns: int, ctime_ns: int) -> Attributes | None:
        """As the drive's. Those of a file that others replaced go with it."""
        shown = self._nodes.shown(node)
        if isinstance(shown, Look):
            return replace(self.attributes(node), mtime_ns=mtime_ns, ctime_ns=ctime_ns)
        stated = self._drive.kernel_times(shown, mtime_ns, ctime_ns)
        return None if stated is None else self._shown(node, stated)

    def set_times(self, node: int, mtime_ns: int, ctime_ns: int) -> None:
        """As the drive's. What the kernel was told before others changed the attributes does not stand."""
        shown = self._nodes.shown(node)
        if not isinstance(shown, Look) and node not in self._late:
            self._drive.set_times(shown, mtime_ns, ctime_ns)

    def touch(self, node: int) -> None:
        shown = self._nodes.shown(node)
        if not isinstance(shown, Look):
            self._drive.touch(shown)

    def doing_elsewhere(self, node: int) -> list[Present]:
        """The activities of other devices with the file that the node shows."""
        shown, presence = self._nodes.shown(node), self._drive.presence
        others = [] if presence is None else presence.now()
        return [present for present in others if present.inode == shown]

    def get_xattr(self, node: int, name: bytes) -> bytes:
        shown = self._nodes.shown(node)
        if isinstance(shown, Look):
            return self._drive.past.get_xattr(shown.inode, name, shown.commit)
        return self._drive.get_xattr(shown, name)

    def xattr_names(self, node: int) -> list[bytes]:
        shown = self._nodes.shown(node)
        if isinstance(shown, Look):
            return self._drive.past.xattr_names(shown.inode, shown.commit)
        return self._drive.xattr_names(shown)

    async def set_xattr(
        self, node: int, name: bytes, value: bytes, *, keeps_set_group_id: bool = True
    ) -> None:
        await self._room(Need.CHANGE, len(value))
        inode = self._nodes.inode(node)
        self._drive.accept_xattr(inode, name, value, keeps_set_group_id=keeps_set_group_id)

    async def remove_xattr(self, node: int, name: bytes) -> None:
        await self._room(Need.FREE)
        self._drive.accept_xattr_removal(self._nodes.inode(node), name)

    # Contents

    async def read(self, node: int, offset: int, size: int) -> bytes | memoryview:
        while True:
            shown = self._nodes.shown(node)
            if isinstance(shown, Look):
                return await self._drive.past.read(shown.inode, shown.commit, offset, size)
            try:
                data = await self._drive.read(shown, offset, size)
            except StaleError:
                if self._nodes.shown(node) == shown:
                    raise
                continue
            if self._nodes.shown(node) == shown:
                return data

    async def write(self, node: int, offset: int, data: bytes) -> None:
        while True:
            inode = await self._writable(node)
            await self._drive.room_to_write(inode, offset, len(data))
            if self._nodes.shown(node) == inode:
                self._drive.accept_write(inode, offset, data)
                return

    async def _writable(self, node: int) -> int:
        """The inode that takes the node's writes: of a file that others replaced, a copy."""
        shown = self._nodes.shown(node)
        if isinstance(shown, Look):
            async with shown.copying:
                if self._nodes.shown(node) is shown:
                    await self._copy(node, shown)
        return self._nodes.inode(node)

    async def _copy(self, node: int, look: Look) -> None:
        """Let the node show a copy of what it showed. Nobody learns of the copy by another number: the kernel
        would have it twice, each with pages of its own."""
        names = sorted(self._nodes.names(node))
        if not names:
            raise StaleError(f"inode {look.inode} was replaced, and has no name")
        parent, name = names[0]
        while True:
            folder = self._nodes.shown(parent)
            number = folder.inode if isinstance(folder, Look) else folder
            try:
                await copy_for_writer(
                    self._drive,
                    look.inode,
                    look.commit,
                    number,
                    name,
                    lambda made: self._nodes.show(node, made),
                )
                return
            except StaleError:
                if self._nodes.shown(parent) == folder:
                    raise

    async def settle(self, node: int) -> None:
        shown = self._nodes.shown(node)
        if not isinstance(shown, Look):
            await self._drive.settle(shown)
            if node in self._late:
                self._drive.changes.announce([AttributesChanged(shown)])

    async def fsync(self, node: int, *, alone: bool = False) -> None:
        shown = self._nodes.shown(node)
        if not isinstance(shown, Look):
            await self._drive.fsync(shown, alone=alone)

    # Names
    #
    # What a number means is asked in the turn of the change, after all waits: it may be another inode after a
    # rebase.

    def hold(self, node: int) -> None:
        """As the drive's, at a look-up or an opening. `StaleError`: others replaced what the node shows; the
        kernel looks the name up again then."""
        self._nodes.inode(node)
        self._nodes.hold(node)

    def release(self, node: int, times: int = 1) -> None:
        self._nodes.release(node, times)
        if self._late and self._nodes.known(node) is None:
            self._late.discard(node)

    def _named(self, parent: int, name: bytes, attributes: Attributes) -> Attributes:
        """The attributes of an inode that the kernel learns with a name, by its node."""
        node = self._nodes.node(attributes.inode)
        if not S_ISDIR(attributes.mode):
            self._nodes.named(node, (parent, name))
        return self._shown(node, attributes)

    def lookup(self, parent: int, name: bytes) -> Attributes:
        attributes = self._drive.lookup(self._nodes.inode(parent), name)
        return self._named(parent, name, attributes)

    def entries(self, directory: int, after_cookie: int, limit: int) -> list[Entry]:
        found = self._drive.entries(self._nodes.inode(directory), after_cookie, limit)
        for entry in found:
            self._named(directory, entry.name, entry.attributes)
        return found

    def next_cookie(self, directory: int) -> int:
        return self._drive.next_cookie(self._nodes.inode(directory))

    def read_link(self, node: int) -> bytes:
        shown = self._nodes.shown(node)
        if isinstance(shown, Look):
            return self._drive.past.read_link(shown.inode, shown.commit)
        return self._drive.read_link(shown)

    async def make_node(
        self, parent: int, name: bytes, mode: int, rdev: int, uid: int, gid: int, umask: int | None = None
    ) -> Attributes:
        await self._room(Need.CHANGE)
        made = self._drive.accept_node(self._nodes.inode(parent), name, mode, rdev, uid, gid, umask)
        return self._named(parent, name, made)

    async def symlink(self, parent: int, name: bytes, target: bytes, uid: int, gid: int) -> Attributes:
        await self._room(Need.CHANGE, len(target))
        made = self._drive.accept_symlink(self._nodes.inode(parent), name, target, uid, gid)
        return self._named(parent, name, made)

    async def link(self, node: int, parent: int, name: bytes) -> Attributes:
        await self._room(Need.CHANGE)
        linked = self._drive.accept_link(self._nodes.inode(node), self._nodes.inode(parent), name)
        return self._named(parent, name, linked)

    async def unlink(self, parent: int, name: bytes) -> None:
        await self._room(Need.FREE)
        before = self._nodes_of((parent, name))
        self._drive.accept_unlink(self._nodes.inode(parent), name)
        self._moved(before)

    async def remove_directory(self, parent: int, name: bytes) -> None:
        await self._room(Need.FREE)
        self._drive.accept_removal(self._nodes.inode(parent), name)

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
        await self._room(Need.FREE)
        before = self._nodes_of((parent, name), (new_parent, new_name))
        self._drive.accept_rename(
            self._nodes.inode(parent),
            name,
            self._nodes.inode(new_parent),
            new_name,
            no_replace=no_replace,
            exchange=exchange,
            whiteout=whiteout,
        )
        self._moved(before)

    def _moved(self, before: Mapping[Key, int]) -> None:
        """The kernel moves and forgets by itself the names that it changes: those that these nodes had."""
        now = self._nodes_of(*before)
        for key, node in before.items():
            if now[key] != node:
                self._nodes.unnamed(node, key)

    def _nodes_of(self, *names: Key) -> dict[Key, int]:
        """The nodes that have the names, which the kernel knows; 0: none has."""
        return {(parent, name): self._node_of(parent, name) for parent, name in names}

    def _node_of(self, parent: int, name: bytes) -> int:
        try:
            return self.lookup(parent, name).inode
        except NoEntryError:
            return 0
