"""The view of the past that a mount shows: `.versions` in every directory, or a whole mount as of one commit.

What there is (D: any live directory; only times are listed, the rest is found by name). Modes are those of
then, write bits too: the door refuses what would change any of it (`mountfs.handler_base`).

    D/.versions/               never listed in D; lists the times at which D's tree changed
    D/.versions/TIME/          D as it was (`cache.past_names` says what a TIME may be)
    D/.versions/latest         a symbolic link to the newest time
    D/.versions/by-name/       lists every name that a file ever had in D
    D/.versions/by-name/FILE/  lists the distinct contents of that path, as TIME.EXT

Invariants:
1. Inode numbers have bit 63 set and come from a hash of what the inode is (directory, name of the time,
   commit, inode), so they are the same in every mount, and distinct: two that collide among those that the
   kernel knows are told apart by hashing again. A time that is named otherwise than in the listing (`2h`) is
   a folder of its own: the kernel allows a folder one place only.
2. The table holds exactly what the kernel holds (`hold`, `release`).
3. The kernel may remember nothing. A name that goes with the clock (`2h`) changes its meaning. A name that
   the drive comes to have appears. For every other name the kernel has to ask who may look at it now
   (`check`). It has to ask for attributes before it answers that something can be written
   (`mountfs.access_calls`).
4. The past is nosuid: a set-ID bit or a capability that was revoked since means nothing there.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from itertools import count
from stat import S_IFDIR, S_IFLNK, S_ISGID, S_ISUID
from typing import Final

from cache.attributes import Attributes, Entry
from cache.defaults import VERSIONS_NAME
from cache.drive import Drive
from cache.errors import (
    DirectoryError,
    InvalidArgumentError,
    NoAttributeError,
    NoEntryError,
    NotDirectoryError,
    StaleError,
)
from cache.history import PAST_BIT, Caller, Place, attributes_of, past_points
from cache.namespace import ACCESS, FIRST_COOKIE, ROOT_INODE, InodeRow
from cache.past_names import format_time, version_name

LATEST: Final = b"latest"
BY_NAME: Final = b"by-name"

_DEFAULT_NAME: Final = VERSIONS_NAME.encode()

ALWAYS: Final = 86_400.0
NEVER: Final = 0.0

_PAGE: Final = 256
_READABLE: Final = 0o555
_SET_ID: Final = S_ISUID | S_ISGID
_CAPABILITY: Final = b"security.capability"
_KEY: Final = struct.Struct("<BQQQI")


@dataclass(frozen=True, slots=True)
class _Node:
    """What an inode of the view is. `kind` is one of those below; `name`: of a file's list of versions, or of
    the time if it is not named as in the listing."""

    kind: int
    directory: int
    name: bytes = b""
    commit: int = 0
    inode: int = 0
    place: Place = field(default=Place(), compare=False)
    """where it was found, in the live tree"""


_VERSIONS: Final = 1
_LATEST: Final = 2
_BY_NAME: Final = 3
_FILE: Final = 4
_PAST: Final = 5
_CONTENT: Final = 6
_LISTS: Final = (_VERSIONS, _BY_NAME, _FILE)


@dataclass(frozen=True, slots=True)
class Found:
    """An inode of the view, and for how many seconds its name and its attributes may be remembered."""

    node: _Node
    attributes: Attributes
    name_seconds: float = NEVER
    attribute_seconds: float = NEVER


@dataclass(slots=True)
class _Listing:
    """An open folder. `items`: what a list had when it was opened; by-name's are fetched as they are read."""

    node: _Node
    items: list[tuple[bytes, int, int]] = field(default_factory=list)
    """(name, commit, inode)"""
    read_to: bytes = b""
    whole: bool = True


class VersionsView:
    """See the module. `name` is that of the hidden directory, None for none; with `as_of` the root of the
    mount is the drive's root as of that commit, and there is nothing else."""

    def __init__(self, drive: Drive, name: bytes | None = _DEFAULT_NAME, as_of: int | None = None) -> None:
        self._drive = drive
        self.name = name if as_of is None else None
        self.first = PAST_BIT if as_of is None else 0
        """inode numbers from here on are the view's"""
        self._root = None if as_of is None else _Node(_PAST, ROOT_INODE, b"", as_of, ROOT_INODE)
        self._nodes: dict[int, _Node] = {}
        self._held: dict[int, int] = {}
        self._listings: dict[int, _Listing] = {}
        self._handles = count(PAST_BIT)

    # Numbers

    def _number(self, node: _Node) -> int:
        if node == self._root:
            return ROOT_INODE
        salt = 0
        while True:
            key = _KEY.pack(node.kind, node.directory, node.commit, node.inode, salt) + node.name
            number = PAST_BIT | int.from_bytes(blake2b(key, digest_size=8).digest(), "little")
            if self._nodes.get(number, node) == node:
                return number
            salt += 1

    def _node(self, number: int) -> _Node:
        if number == ROOT_INODE and self._root is not None:
            return self._root
        node = self._nodes.get(number)
        if node is None:
            raise StaleError(f"inode {number} is not known")
        return node

    def hold(self, found: Found) -> None:
        """The kernel knows the inode once more."""
        number = found.attributes.inode
        self._nodes[number] = found.node
        self._held[number] = self._held.get(number, 0) + 1

    def release(self, number: int, times: int = 1) -> None:
        """The opposite, as often."""
        left = self._held.get(number, 0) - times
        if left > 0:
            self._held[number] = left
        else:
            self._held.pop(number, None)
            self._nodes.pop(number, None)

    # Looking

    def enter(self, directory: int) -> Found:
        """The hidden directory of a live one."""
        return self._found(_Node(_VERSIONS, directory))

    def find(self, number: int) -> Found:
        """The node that the kernel knows by this number. `StaleError`."""
        return self._found(self._node(number))

    def _found(self, node: _Node) -> Found:
        if node.kind in (_PAST, _CONTENT):
            return self._of_row(node, self._drive.past.row(node.inode, node.commit))
        live = self._drive.attributes(node.directory)
        type_ = S_IFLNK | 0o777 if node.kind == _LATEST else S_IFDIR | live.mode & _READABLE
        changed = max(live.ctime_ns, self._drive.past.time_of(self._drive.past.head))
        times = {"atime_ns": changed, "mtime_ns": changed, "ctime_ns": changed}
        own = replace(live, inode=self._number(node), mode=type_, nlink=2, size=0, blocks=0, **times)
        return Found(node, own)

    def _of_row(self, node: _Node, row: InodeRow) -> Found:
        attributes = attributes_of(row)
        attributes.inode = self._number(node)
        if self._root is not None:  # the mount says who may look, and whether it is nosuid
            return Found(node, attributes, ALWAYS, ALWAYS)
        if not row.is_directory:
            attributes.mode &= ~_SET_ID
        return Found(node, attributes)

    def check(self, number: int, caller: Caller, wanted: int) -> None:
        """`AccessDeniedError` if the present forbids to look at the inode so (`cache.history.past_access`);
        in a mount as of a time it does not."""
        node = self._node(number)
        if self._root is None and node.kind in (_PAST, _CONTENT):
            self._drive.past.access.check(node.inode, node.commit, node.place, caller, wanted)

    async def lookup(self, parent: int, name: bytes) -> Found:
        """An entry of a directory of the view. `NoEntryError`, `NotDirectoryError`."""
        node = self._node(parent)
        if name == b".":
            return self._found(node)
        if node.kind == _PAST:
            return self._look_into_past(node, name)
        if node.kind == _VERSIONS:
            return await self._look_into_versions(node, name)
        if node.kind == _BY_NAME:
            if not self._drive.past.versions(node.directory, name):
                raise NoEntryError("no file ever had this name here")
            return self._found(_Node(_FILE, node.directory, name))
        if node.kind == _FILE:
            return self._look_into_file(node, name)
        raise NotDirectoryError("not a directory")

    def _look_into_past(self, node: _Node, name: bytes) -> Found:
        row = self._drive.past.lookup(node.inode, name, node.commit)
        return self._of_row(replace(node, inode=row.inode, place=Place(node.inode, name)), row)

    async def _look_into_versions(self, node: _Node, name: bytes) -> Found:
        if name == BY_NAME:
            return self._found(_Node(_BY_NAME, node.directory))
        if name == LATEST:
            await self._newest(node.directory)
            return self._found(_Node(_LATEST, node.directory))
        commit = self._drive.past.resolve(os.fsdecode(name))
        if commit is None:
            raise NoEntryError("no time that this drive has a state of")
        is_listed = name == self._drive.past.name_of(commit).encode()
        past = _Node(_PAST, node.directory, b"" if is_listed else name, commit, node.directory)
        row = self._drive.past.history.inode_at(node.directory, commit)
        if row is None:
            raise NoEntryError("this directory was not there then")
        return self._of_row(past, row)

    def _look_into_file(self, node: _Node, name: bytes) -> Found:
        for item in self._versions(node):
            if item[0] == name:
                return self._listed(node, *item)
        raise NoEntryError("no version of this name")

    async def _newest(self, directory: int) -> bytes:
        points = await self._drive.past.points(directory)
        if not points:
            raise NoEntryError("nothing of this directory is published yet")
        return format_time(points[0].time_ns, points[0].ordinal).encode()

    async def read_link(self, number: int) -> bytes:
        """A symbolic link's target; `latest` has the newest time's name."""
        node = self._node(number)
        if node.kind == _LATEST:
            return await self._newest(node.directory)
        if node.kind in _LISTS:
            raise InvalidArgumentError("not a symbolic link")
        return self._drive.past.read_link(node.inode, node.commit)

    async def read(self, number: int, offset: int, size: int) -> bytes | memoryview:
        """Bytes of a past file."""
        node = self._node(number)
        if node.kind not in (_PAST, _CONTENT):
            raise DirectoryError("is a directory")
        return await self._drive.past.read(node.inode, node.commit, offset, size)

    def get_xattr(self, number: int, name: bytes) -> bytes:
        """The value then. `NoAttributeError`. Who may list a folder's past is who may list the folder: by its
        mode and its access list of now."""
        node = self._node(number)
        if name == ACCESS and node.kind in _LISTS:
            return self._drive.get_xattr(node.directory, name)
        if node.kind not in (_PAST, _CONTENT) or (name == _CAPABILITY and self._root is None):
            raise NoAttributeError("no such extended attribute")
        return self._drive.past.get_xattr(node.inode, name, node.commit)

    def xattr_names(self, number: int) -> list[bytes]:
        """All names then."""
        node = self._node(number)
        if node.kind not in (_PAST, _CONTENT):
            return []
        names = self._drive.past.xattr_names(node.inode, node.commit)
        return [name for name in names if name != _CAPABILITY or self._root is not None]

    # Listing

    async def open_directory(self, number: int) -> int:
        """A handle for `entries`."""
        node = self._node(number)
        listing = _Listing(node)
        if node.kind == _VERSIONS:
            points = await self._drive.past.points(node.directory)
            names = (format_time(point.time_ns, point.ordinal).encode() for point in points)
            listing.items = [
                (name, point.commit, node.directory) for name, point in zip(names, points, strict=True)
            ]
        elif node.kind == _FILE:
            listing.items = self._versions(node)
        listing.whole = node.kind != _BY_NAME
        handle = next(self._handles)
        self._listings[handle] = listing
        return handle

    def close_directory(self, handle: int) -> None:
        """The handle is not used any more."""
        self._listings.pop(handle, None)

    def _versions(self, node: _Node) -> list[tuple[bytes, int, int]]:
        versions = self._drive.past.versions(node.directory, node.name)[-past_points.MOST_LISTED :]
        return [(version_name(item.name, node.name), item.commit, item.version.inode) for item in versions]

    def above(self, handle: int, name: bytes) -> Attributes:
        """The attributes of `.` and `..` of an open directory."""
        node = self._listings[handle].node
        if name == b"." or node == self._root:
            return self._found(node).attributes
        if node.kind == _VERSIONS:
            return self._drive.attributes(node.directory)
        if node.kind == _PAST and node.inode != node.directory:
            parent = self._drive.past.row(node.inode, node.commit).parent
            return self._found(replace(node, inode=parent)).attributes
        if node.kind == _FILE:
            return self._found(_Node(_BY_NAME, node.directory)).attributes
        return self.enter(node.directory).attributes

    def entries(self, handle: int, after_cookie: int, limit: int) -> list[tuple[Entry, Found]]:
        """Up to `limit` entries with greater cookies, without `.` and `..`; empty at the end."""
        listing = self._listings[handle]
        node = listing.node
        if node.kind == _PAST:
            return self._past_entries(node, after_cookie, limit)
        start = max(after_cookie - FIRST_COOKIE + 1, 0)
        if not listing.whole:
            self._read_names(listing, start + limit)
        found = []
        for cookie, item in enumerate(listing.items[start : start + limit], FIRST_COOKIE + start):
            listed = self._listed(node, *item)
            found.append((Entry(item[0], cookie, listed.attributes), listed))
        return found

    def _past_entries(self, node: _Node, after_cookie: int, limit: int) -> list[tuple[Entry, Found]]:
        past, found = self._drive.past, []
        for entry in past.entries(node.inode, node.commit, after_cookie, limit):
            inner = replace(node, inode=entry.inode, place=Place(node.inode, entry.name))
            listed = self._of_row(inner, past.row(entry.inode, node.commit))
            found.append((Entry(entry.name, entry.cookie, listed.attributes), listed))
        return found

    def _listed(self, node: _Node, name: bytes, commit: int, inode: int) -> Found:
        """An item of one of the lists."""
        if node.kind == _BY_NAME:
            return self._found(_Node(_FILE, node.directory, name))
        if node.kind == _FILE:
            place = Place(node.directory, node.name)
            inner = _Node(_CONTENT, node.directory, node.name, commit, inode, place)
        else:
            inner = _Node(_PAST, node.directory, b"", commit, inode)
        return self._of_row(inner, self._drive.past.row(inode, commit))

    def _read_names(self, listing: _Listing, wanted: int) -> None:
        past, directory = self._drive.past, listing.node.directory
        while len(listing.items) < wanted and not listing.whole:
            names = past.names(directory, listing.read_to, _PAGE)
            listing.items += [(name, 0, 0) for name in names if past.versions(directory, name)]
            listing.whole = len(names) < _PAGE
            listing.read_to = names[-1] if names else listing.read_to
