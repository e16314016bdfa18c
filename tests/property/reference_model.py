"""A drive as plain dictionaries and byte arrays: what `Drive` is compared with.

It keeps no history, no journal, no blocks. Each call checks and changes by the rules of POSIX and
raises the same classes as `Drive`. Times are kept only where a caller set them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from stat import S_IFLNK, S_IFMT, S_ISDIR, S_ISGID, S_ISREG

from cache.errors import (
    DirectoryError,
    ExistsError,
    FileSystemError,
    InvalidArgumentError,
    NoAttributeError,
    NoEntryError,
    NotDirectoryError,
    NotEmptyError,
    NotPermittedError,
)


def refuse(condition: bool, error: type[FileSystemError]) -> None:
    if condition:
        raise error


@dataclass(eq=False)
class Node:
    """A file of any type. `inode` is the number that the drive gave it."""

    mode: int
    uid: int
    gid: int
    nlink: int
    inode: int = 0
    target: bytes = b""
    data: bytearray = field(default_factory=bytearray)
    names: dict[bytes, Node] = field(default_factory=dict)
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    parent: Node | None = None
    mtime_ns: int | None = None
    holds: int = 0

    @property
    def is_directory(self) -> bool:
        return S_ISDIR(self.mode)

    @property
    def is_regular(self) -> bool:
        return S_ISREG(self.mode)


class Model:
    """The tree from `root`; `nodes` holds also what has no name and is held."""

    def __init__(self, root: Node) -> None:
        self.root = root
        self.nodes: list[Node] = [root]

    def directories(self) -> list[Node]:
        return [node for node in self.nodes if node.is_directory]

    def files(self) -> list[Node]:
        return [node for node in self.nodes if not node.is_directory]

    def regular(self) -> list[Node]:
        return [node for node in self.nodes if node.is_regular]

    def _entry(self, parent: Node, name: bytes) -> Node:
        refuse(name not in parent.names, NoEntryError)
        return parent.names[name]

    def _new_name(self, parent: Node, name: bytes) -> None:
        refuse(name in parent.names, ExistsError)
        refuse(parent.nlink == 0, NoEntryError)

    def create(self, parent: Node, name: bytes, mode: int, uid: int, gid: int, target: bytes = b"") -> Node:
        self._new_name(parent, name)
        if parent.mode & S_ISGID:
            gid = parent.gid
            mode |= S_ISGID if S_ISDIR(mode) else 0
        node = Node(mode, uid, gid, 2 if S_ISDIR(mode) else 1, target=target)
        self.nodes.append(node)
        self._attach(parent, name, node)
        return node

    def _attach(self, parent: Node, name: bytes, node: Node) -> None:
        parent.names[name] = node
        parent.mtime_ns = None
        if node.is_directory:
            parent.nlink += 1
            node.parent = parent

    def _detach(self, parent: Node, name: bytes) -> None:
        node = parent.names.pop(name)
        parent.mtime_ns = None
        if node.is_directory:
            parent.nlink -= 1

    def _drop_name(self, parent: Node, name: bytes) -> None:
        node = parent.names[name]
        self._detach(parent, name)
        node.nlink -= node.nlink if node.is_directory else 1
        self._collect(node)

    def _collect(self, node: Node) -> None:
        if node.nlink == 0 and node.holds == 0 and node in self.nodes:
            self.nodes.remove(node)

    def link(self, node: Node, parent: Node, name: bytes) -> None:
        refuse(node.is_directory, NotPermittedError)
        self._new_name(parent, name)
        refuse(node.nlink == 0, NoEntryError)
        self._attach(parent, name, node)
        node.nlink += 1

    def unlink(self, parent: Node, name: bytes) -> None:
        refuse(self._entry(parent, name).is_directory, DirectoryError)
        self._drop_name(parent, name)

    def remove_directory(self, parent: Node, name: bytes) -> None:
        node = self._entry(parent, name)
        refuse(not node.is_directory, NotDirectoryError)
        refuse(bool(node.names), NotEmptyError)
        self._drop_name(parent, name)

    def rename(
        self, parent: Node, name: bytes, new_parent: Node, new_name: bytes, no_replace: bool, exchange: bool
    ) -> None:
        refuse(no_replace and exchange, InvalidArgumentError)
        node = self._entry(parent, name)
        refuse(new_parent.nlink == 0, NoEntryError)
        other = new_parent.names.get(new_name)
        refuse(other is None and exchange, NoEntryError)
        refuse(other is not None and no_replace, ExistsError)
        if other is not None and not exchange and other is not node:
            refuse(node.is_directory and not other.is_directory, NotDirectoryError)
            refuse(other.is_directory and not node.is_directory, DirectoryError)
            refuse(bool(other.names), NotEmptyError)
        refuse(node.is_directory and self._is_inside(new_parent, node), InvalidArgumentError)
        if exchange and other is not None:
            refuse(other.is_directory and self._is_inside(parent, other), InvalidArgumentError)
        if other is node:
            return
        self._move(parent, name, new_parent, new_name, exchange)

    def _move(self, parent: Node, name: bytes, new_parent: Node, new_name: bytes, exchange: bool) -> None:
        node, other = parent.names[name], new_parent.names.get(new_name)
        if exchange and other is not None:
            self._detach(new_parent, new_name)
            self._detach(parent, name)
            self._attach(parent, name, other)
        elif other is not None:
            self._drop_name(new_parent, new_name)
            self._detach(parent, name)
        else:
            self._detach(parent, name)
        self._attach(new_parent, new_name, node)

    def _is_inside(self, directory: Node, node: Node) -> bool:
        above: Node | None = directory
        while above is not None and above is not self.root:
            if above is node:
                return True
            above = above.parent
        return node is self.root

    def write(self, node: Node, offset: int, data: bytes) -> None:
        if len(node.data) < offset:
            node.data.extend(bytes(offset - len(node.data)))
        node.data[offset : offset + len(data)] = data
        node.mtime_ns = None

    def truncate(self, node: Node, size: int) -> None:
        refuse(node.is_directory, DirectoryError)
        refuse(not node.is_regular, InvalidArgumentError)
        if size != len(node.data):
            node.mtime_ns = None
        del node.data[size:]
        node.data.extend(bytes(size - len(node.data)))

    def set_mode(self, node: Node, mode: int) -> None:
        node.mode = S_IFMT(node.mode) | mode

    def read_link(self, node: Node) -> bytes:
        refuse(S_IFMT(node.mode) != S_IFLNK, InvalidArgumentError)
        return node.target

    def remove_xattr(self, node: Node, name: bytes) -> None:
        refuse(name not in node.xattrs, NoAttributeError)
        del node.xattrs[name]

    def release(self, node: Node) -> None:
        node.holds -= 1
        self._collect(node)

    def forget_holds(self) -> None:
        """The process ended."""
        for node in list(self.nodes):
            node.holds = 0
            self._collect(node)
