"""The nodes that the kernel knows, where others change the drive under it.

The kernel keeps size, times and pages of a file by its node number, and goes on with them whatever we say
(its write-back cache, fs/fuse/inode.c): new content under an old number would be mixed with old pages. So a
node never gets another content than by requests of the kernel. Its number is the inode's, until others
replace the content or delete the inode. Then the old node shows what it showed (`Look`), or goes on as the
conflict copy of what this device had made of it; and the inode gets a new number, an alias, unless the
kernel has forgotten the old one by the time that it asks again.

Event-loop thread only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import count

import trio

from cache.errors import StaleError
from cache.namespace import DOOR_INODES
from cache.sync import Replaced

Key = tuple[int, bytes]
"""A name: the directory's node, and the name in it."""


@dataclass(eq=False, slots=True)
class Look:
    """A file as of a commit. It cannot be changed: who writes to it makes a copy first, under `copying`."""

    inode: int
    commit: int
    copying: trio.Lock = field(default_factory=trio.Lock)


@dataclass(frozen=True, slots=True)
class Holding:
    """The calls by which inodes and commits are kept as long as a node needs them, and let go of."""

    hold: Callable[[int], None]
    release: Callable[[int], None]
    retain: Callable[[int], None]
    let_go: Callable[[int], None]


class KernelNodes:
    """See the module."""

    def __init__(self, holding: Holding) -> None:
        self._holding = holding
        self._held: dict[int, int] = {}
        """how often the kernel holds a node; the root need not be here"""
        self._shows: dict[int, int | Look] = {}
        """by node, where it is not the inode of its own number"""
        self._nodes: dict[int, int] = {}
        """by inode, the node that shows it, where that is another number"""
        self._names: dict[int, set[Key]] = {}
        """by node, the names by which the kernel knows a file"""
        self._left: dict[int, set[Key]] = {}
        """by inode, names of nodes that do not show it any more, which the kernel is still to be told of"""
        self._aliases = count(DOOR_INODES)

    def shown(self, node: int) -> int | Look:
        """The inode that the node shows, or what it was."""
        return self._shows.get(node, node) if self._shows else node

    def inode(self, node: int) -> int:
        """The inode that the node shows. `StaleError`: another has its place, and the kernel is to look its
        name up again."""
        shown = self.shown(node)
        if isinstance(shown, Look):
            raise StaleError(f"inode {shown.inode} was replaced")
        return shown

    def node(self, inode: int) -> int:
        """The node that shows the inode from now on, a new one if there is none."""
        if not self._shows:
            return inode
        node = self._nodes.get(inode)
        if node is None:
            node = inode
            if inode in self._shows:
                node = next(self._aliases)
                self._shows[node] = inode
                self._nodes[inode] = node
        return node

    def known(self, inode: int) -> int | None:
        """The node by which the kernel knows the inode, if it does."""
        node = self._nodes.get(inode, inode)
        return node if node in self._held and self._shows.get(node, node) == inode else None

    # What the kernel knows

    def hold(self, node: int, times: int = 1) -> None:
        """The kernel has got, or opened, the node so often more."""
        before = self._held.get(node, 0)
        self._held[node] = before + times
        if not before:
            self._keep(self.shown(node))

    def release(self, node: int, times: int = 1) -> None:
        """The opposite. A number that is not held any more shows its own inode again."""
        left = self._held.get(node, 0) - times
        if left > 0:
            self._held[node] = left
            return
        self._held.pop(node, None)
        self._names.pop(node, None)
        shown = self._shows.pop(node, node)
        if not isinstance(shown, Look) and self._nodes.get(shown) == node:
            del self._nodes[shown]
        self._drop(shown)

    def named(self, node: int, key: Key) -> None:
        """The kernel learns a name of a file."""
        self._names.setdefault(node, set()).add(key)

    def unnamed(self, node: int, key: Key) -> None:
        """The kernel knows the file by that name no more. The last one stays: a copy would be named so."""
        names = self._names.get(node, set())
        if len(names) > 1:
            names.discard(key)

    def names(self, node: int) -> Iterable[Key]:
        """The names by which the kernel may know the file that the node shows."""
        return self._names.get(node, ())

    def left_names(self, inode: int) -> Iterable[Key]:
        """The names that the kernel may still take for the inode as it was. Told once."""
        return self._left.pop(inode, ())

    def _keep(self, shown: int | Look) -> None:
        if isinstance(shown, Look):
            self._holding.retain(shown.commit)
        else:
            self._holding.hold(shown)

    def _drop(self, shown: int | Look) -> None:
        if isinstance(shown, Look):
            self._holding.let_go(shown.commit)
        else:
            self._holding.release(shown)

    # What others replace

    def replace(self, replaced: Replaced) -> None:
        """Others have changed the drive. Before the kernel asks for anything."""
        for inode in sorted(replaced.inodes | replaced.became.keys()):
            node = self.known(inode)
            if node is None:
                continue
            to = replaced.became.get(inode)
            self.show(node, to or Look(inode, 0 if to == 0 else replaced.base))

    def show(self, node: int, to: int | Look) -> None:
        """From now on the node, which the kernel knows, shows something else than it showed."""
        was = self.shown(node)
        self._keep(to)
        if not isinstance(was, Look):
            if self._nodes.get(was) == node:
                del self._nodes[was]
            if node in self._names:
                self._left.setdefault(was, set()).update(self._names[node])
        self._shows[node] = to
        if not isinstance(to, Look) and self.known(to) is None and to not in self._shows:
            self._nodes[to] = node
        self._drop(was)
