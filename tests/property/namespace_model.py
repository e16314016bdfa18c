"""A naive namespace: plain dictionaries, and a full copy of everything at each commit.

It versions nothing and knows no SQL; what `cache.namespace.namespace` says of any commit is compared with the
copy. File content is kept byte by byte. Invalid operations raise `Invalid` before any change.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from stat import S_ISDIR, S_ISREG
from typing import Any

from cache.namespace.operations import (
    Create,
    Delete,
    Link,
    Operation,
    RemoveXattr,
    Rename,
    RenameLeavingWhiteout,
    SetAttributes,
    SetExtents,
    SetXattr,
    Unlink,
)


class Invalid(Exception):
    """The operation does not fit the state."""


def require(condition: bool) -> None:
    if not condition:
        raise Invalid


@dataclass
class Node:
    mode: int
    uid: int
    gid: int
    rdev: int
    size: int
    mtime_ns: int
    ctime_ns: int
    btime_ns: int
    target: bytes
    nlink: int
    parent: int
    cookie: int
    content: int = 0
    data: dict[int, tuple[bytes, int]] = field(default_factory=dict)
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    names: dict[bytes, tuple[int, int]] = field(default_factory=dict)


def root() -> Node:
    return Node(0o40755, 0, 0, 0, 0, 0, 0, 0, b"", 2, 1, 16)


@dataclass
class State:
    nodes: dict[int, Node] = field(default_factory=lambda: {1: root()})

    def directory(self, inode: int) -> Node:
        node = self.nodes.get(inode)
        if node is None or not S_ISDIR(node.mode) or not node.nlink:
            raise Invalid
        return node

    def node(self, inode: int) -> Node:
        if inode not in self.nodes:
            raise Invalid
        return self.nodes[inode]

    def links(self) -> None:
        """Recount the directories: what `size` and `nlink` mean, said once more."""
        for node in self.nodes.values():
            if S_ISDIR(node.mode):
                node.size = len(node.names)
                below = sum(S_ISDIR(self.nodes[inode].mode) for inode, _ in node.names.values())
                node.nlink = 2 + below if node.nlink else 0

    def is_below(self, inode: int, ancestor: int) -> bool:
        while inode != 1:
            if inode == ancestor:
                return True
            inode = self.nodes[inode].parent
        return False


class Model:
    """The open commit's state, and the copies of all earlier ones."""

    def __init__(self) -> None:
        self.commit = 1
        self.live = State()
        self.copies: dict[int, State] = {0: State()}

    def begin_commit(self, number: int) -> None:
        for passed in range(self.commit, number):
            self.copies[passed] = copy.deepcopy(self.live)
        self.commit = number

    def undo(self, commit: int) -> None:
        if commit < self.commit:
            self.live = copy.deepcopy(self.copies[commit])
        self.copies = {number: state for number, state in self.copies.items() if number <= commit}
        self.commit = commit + 1
        self.copies[commit] = copy.deepcopy(self.live)

    def state_at(self, commit: int) -> State:
        return self.live if commit >= self.commit else self.copies[commit]

    def apply(self, operation: Operation, commit: int) -> None:
        if isinstance(operation, SetExtents):
            self._set_extents(operation, commit)
            return
        changed = copy.deepcopy(self.live)
        APPLY[type(operation)](changed, operation)
        changed.links()
        self.live = changed

    def _set_extents(self, operation: SetExtents, commit: int) -> None:
        states = [self.copies[number] for number in range(commit, self.commit)] + [self.live]
        for state in states:
            node = state.node(operation.inode)
            require(S_ISREG(node.mode) and node.content <= commit)
        require(self.live.node(operation.inode).content == operation.replaces)
        for state in states:
            node = state.nodes[operation.inode]
            node.content = commit
            for start, end in operation.cleared:
                for position in range(start, end):
                    node.data.pop(position, None)
            for offset, length, block, block_offset in operation.extents:
                for step in range(length):
                    node.data[offset + step] = (block, block_offset + step)


def add_name(state: State, parent: int, name: bytes, inode: int, time_ns: int) -> None:
    directory = state.nodes[parent]
    directory.names[name] = (inode, directory.cookie)
    directory.cookie += 1
    directory.mtime_ns = directory.ctime_ns = time_ns
    if S_ISDIR(state.nodes[inode].mode):
        state.nodes[inode].parent = parent


def remove_name(state: State, parent: int, name: bytes, time_ns: int) -> None:
    directory = state.nodes[parent]
    del directory.names[name]
    directory.mtime_ns = directory.ctime_ns = time_ns


def drop_link(node: Node, time_ns: int) -> None:
    require(not node.names)
    node.nlink = 0 if S_ISDIR(node.mode) else node.nlink - 1
    node.ctime_ns = time_ns


def create(state: State, o: Create) -> None:
    directory = state.directory(o.parent)
    require(o.name not in directory.names and o.inode not in state.nodes)
    is_directory = S_ISDIR(o.mode)
    state.nodes[o.inode] = Node(
        o.mode,
        o.uid,
        o.gid,
        o.rdev,
        len(o.target),
        o.time_ns,
        o.time_ns,
        o.time_ns,
        o.target,
        2 if is_directory else 1,
        0,
        16 if is_directory else 0,
    )
    add_name(state, o.parent, o.name, o.inode, o.time_ns)


def link(state: State, o: Link) -> None:
    require(o.name not in state.directory(o.parent).names)
    node = state.node(o.inode)
    require(not S_ISDIR(node.mode))
    node.nlink += 1
    node.ctime_ns = o.time_ns
    add_name(state, o.parent, o.name, o.inode, o.time_ns)


def unlink(state: State, o: Unlink) -> None:
    require(state.directory(o.parent).names.get(o.name, (0, 0))[0] == o.inode)
    drop_link(state.node(o.inode), o.time_ns)
    remove_name(state, o.parent, o.name, o.time_ns)


def rename(state: State, o: Rename) -> None:
    source, target = state.directory(o.parent).names, state.directory(o.new_parent).names
    require(source.get(o.name, (0, 0))[0] == o.inode)
    require(target.get(o.new_name, (0, 0))[0] == o.replaced)
    require(not (S_ISDIR(state.node(o.inode).mode) and state.is_below(o.new_parent, o.inode)))
    state.node(o.inode).ctime_ns = o.time_ns
    if o.exchange:
        exchange(state, o)
        return
    if o.replaced:
        replaced = state.node(o.replaced)
        require(o.replaced != o.inode and S_ISDIR(replaced.mode) == S_ISDIR(state.node(o.inode).mode))
        drop_link(replaced, o.time_ns)
        remove_name(state, o.new_parent, o.new_name, o.time_ns)
    remove_name(state, o.parent, o.name, o.time_ns)
    add_name(state, o.new_parent, o.new_name, o.inode, o.time_ns)


def rename_leaving_whiteout(state: State, o: RenameLeavingWhiteout) -> None:
    require(o.whiteout not in state.nodes)
    rename(state, Rename(o.parent, o.name, o.new_parent, o.new_name, o.inode, o.replaced, False, o.time_ns))
    create(state, Create(o.parent, o.name, o.whiteout, 0o020000, o.uid, o.gid, 0, b"", o.time_ns))


def exchange(state: State, o: Rename) -> None:
    source, target = state.nodes[o.parent], state.nodes[o.new_parent]
    other = state.node(o.replaced)
    require(not (S_ISDIR(other.mode) and state.is_below(o.parent, o.replaced)))
    source.names[o.name] = (o.replaced, source.names[o.name][1])
    target.names[o.new_name] = (o.inode, target.names[o.new_name][1])
    other.ctime_ns = o.time_ns
    for directory in (source, target):
        directory.mtime_ns = directory.ctime_ns = o.time_ns
    for inode, parent in ((o.inode, o.new_parent), (o.replaced, o.parent)):
        if S_ISDIR(state.nodes[inode].mode):
            state.nodes[inode].parent = parent


def set_attributes(state: State, o: SetAttributes) -> None:
    node = state.node(o.inode)
    require(o.size is None or S_ISREG(node.mode))
    for name in ("uid", "gid", "size", "mtime_ns", "ctime_ns"):
        value = getattr(o, name)
        if value is not None:
            setattr(node, name, value)
    if o.mode is not None:
        node.mode = node.mode & 0o170000 | o.mode & 0o7777


def set_xattr(state: State, o: SetXattr) -> None:
    node = state.node(o.inode)
    node.xattrs[o.name] = o.value
    node.ctime_ns = o.time_ns


def remove_xattr(state: State, o: RemoveXattr) -> None:
    node = state.node(o.inode)
    require(o.name in node.xattrs)
    del node.xattrs[o.name]
    node.ctime_ns = o.time_ns


def delete(state: State, o: Delete) -> None:
    require(state.node(o.inode).nlink == 0)
    del state.nodes[o.inode]


APPLY: dict[type[Any], Callable[[State, Any], None]] = {
    Create: create,
    Link: link,
    Unlink: unlink,
    Rename: rename,
    RenameLeavingWhiteout: rename_leaving_whiteout,
    SetAttributes: set_attributes,
    SetXattr: set_xattr,
    RemoveXattr: remove_xattr,
    Delete: delete,
}
