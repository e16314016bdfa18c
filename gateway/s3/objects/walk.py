"""Walking a bucket's folder in the order of its keys, beginning anywhere.

The names of a folder are in the order of bytes (`Drive.entries_by_name`). So are the keys, with three
exceptions. The keys below the folder `a` begin with `a/`, which comes after `a!`: they are held back until
then. Reserved names stand for other segments: they are few, and are read before the others. Names that are no
UTF-8 are read before the others too, in folders that say they have had one.

A walk that begins at some key looks at one page of names in each folder on the way there, whatever they hold.
What is changed meanwhile is seen or not; what stays is seen once. Event-loop thread, synchronous.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Final, NamedTuple

from cache.drive import Drive
from cache.namespace import InodeRow
from cache.tree import FOREIGN, is_text
from gateway.s3 import key_paths
from gateway.s3.objects.names import Names

VERSION_NAME: Final = b".s3~v"
"""So begin the names of versions, which are no key's."""
_FIRST_PAGE, _LARGEST_PAGE = 8, 1024
"""Names that are read at once: few at first, as of many a folder only the first is wanted."""
_SPECIAL: Final = (key_paths.PREFIX, key_paths.PREFIX + b"\xff")
_LAST: Final = b"\xff" * (key_paths.MAX_NAME + 1)
_PAST_VIEW: Final = b".versions"


class Entry(NamedTuple):
    """An object that was met: its file, or its folder if `is_folder` (a marker without a body; among
    versions, the folder with the versions of the key)."""

    key: bytes
    inode: int
    is_folder: bool


class _Item(NamedTuple):
    """Something that a folder holds: `sort` is where it belongs among the others. `segment` is its name's."""

    sort: bytes
    number: int
    inode: int
    is_below: bool
    run: tuple[bytes, ...]


@dataclass(slots=True)
class _Folder:
    """A folder on the way. `base`: the keys in it begin so. `start`: those below are left out. `run`: as of
    `gateway.s3.key_paths.run_after`."""

    inode: int
    base: bytes
    start: bytes
    run: tuple[bytes, ...]
    items: list[_Item] = field(default_factory=list)
    made: int = 0

    @property
    def is_top(self) -> bool:
        return not self.base

    def add(self, segment: bytes, inode: int, run: tuple[bytes, ...], *, is_folder: bool) -> None:
        """A name: the object that has it, and what is below it."""
        if segment >= self.start:
            self._push(_Item(segment, self.made, inode, False, run))
        below = segment + b"/"
        if is_folder and (below >= self.start or self.start.startswith(below)):
            self._push(_Item(below, self.made, inode, True, run))

    def _push(self, item: _Item) -> None:
        self.made += 1
        heappush(self.items, item)


class Walk:
    """Of a bucket's folder; with `of_versions`, of the folder with the versions of a bucket."""

    def __init__(self, drive: Drive, names: Names, *, of_versions: bool = False) -> None:
        self._drive = drive
        self._names = names
        self._namespace = drive.ledger.namespace
        self._of_versions = of_versions

    def keys(self, bucket: int, prefix: bytes, start: bytes) -> Iterator[Entry]:
        """The objects whose keys begin with `prefix` and are not below `start`, in the order of bytes."""
        for entry in self._walk(bucket, max(prefix, start)):
            if not entry.key.startswith(prefix):
                return
            if 0 < len(entry.key) <= key_paths.MAX_KEY:
                yield entry

    def _walk(self, bucket: int, start: bytes) -> Iterator[Entry]:
        """All that is met, but what is below prefixes that are too long for a key."""
        stack = [self._inside(_Folder(bucket, b"", start, ()))]
        while stack:
            met = next(stack[-1], None)
            if met is None:
                stack.pop()
            elif isinstance(met, Entry):
                yield met
            elif len(met.base) <= key_paths.MAX_KEY:
                stack.append(self._inside(met))

    def _inside(self, folder: _Folder) -> Iterator[Entry | _Folder]:
        """The objects and folders of a folder, in order."""
        row = self._namespace.inode(folder.inode)
        if row is None or not row.is_directory:
            return
        if not folder.is_top and not folder.start:
            yield from self._marker(folder, row)
        self._add_special(folder)
        for name, inode in self._ordinary(folder):
            yield from self._up_to(folder, name)
            child = self._namespace.inode(inode)
            if child is not None and (child.is_directory or child.is_regular):
                folder.add(name, inode, (), is_folder=child.is_directory)
        yield from self._up_to(folder, _LAST)

    def _up_to(self, folder: _Folder, sort: bytes) -> Iterator[Entry | _Folder]:
        """Those items that come before what begins at `sort`."""
        while folder.items and folder.items[0].sort < sort:
            item = heappop(folder.items)
            key = folder.base + item.sort
            if item.is_below:
                start = folder.start[len(item.sort) :] if folder.start.startswith(item.sort) else b""
                yield _Folder(item.inode, key, start, item.run)
            else:
                yield from self._object(key, item.inode)

    def _object(self, key: bytes, inode: int) -> Iterator[Entry]:
        row = self._namespace.inode(inode)
        if row is None:
            return
        if self._of_versions:
            first = self._namespace.entries_by_name(inode, VERSION_NAME, VERSION_NAME + b"\xff", 1)
            if row.is_directory and first:
                yield Entry(key, inode, True)
        elif row.is_regular:
            yield Entry(key, inode, False)
        elif row.is_directory and (body := self._names.body_of(inode)) is not None:
            yield Entry(key, body.inode, False)

    def _marker(self, folder: _Folder, row: InodeRow) -> Iterator[Entry]:
        if self._of_versions:
            return
        body = self._names.child(folder.inode, key_paths.EMPTY)
        if body is not None and (body.is_regular or self._has_body(body)):
            return  # it is met as the object of this name
        if self._names.is_marker(row):
            yield Entry(folder.base, folder.inode, True)

    def _has_body(self, row: InodeRow) -> bool:
        return row.is_directory and self._names.body_of(row.inode) is not None

    # Names that are no segments

    def _add_special(self, folder: _Folder) -> None:
        for row in self._namespace.entries_by_name(folder.inode, *_SPECIAL, -1):
            if not row.name.startswith(VERSION_NAME) or not self._of_versions:
                self._add_one(folder, row.name, row.inode)
        past = self._namespace.entry(folder.inode, _PAST_VIEW)
        if past is not None:
            self._add_one(folder, _PAST_VIEW, past.inode)
        if self._namespace.xattr(folder.inode, FOREIGN) is not None:
            for name, inode in self._pages(folder.inode, b""):
                if not is_text(name) and not name.startswith(key_paths.PREFIX):
                    self._add_one(folder, name, inode)

    def _add_one(self, folder: _Folder, name: bytes, inode: int) -> None:
        row = self._namespace.inode(inode)
        if row is None or not (row.is_directory or row.is_regular):
            return
        if key_paths.end_of_run(folder.run, name) is not None or (
            name == key_paths.SELF and not folder.is_top
        ):
            return  # it was met where its run began, or is met as the body of the folder's own name
        segment = key_paths.segment_of(name, folder.run, is_top=folder.is_top)
        run = key_paths.run_after(folder.run, name)
        folder.add(segment, inode, run, is_folder=row.is_directory)
        if len(run) == 1 and row.is_directory:
            self._add_ends(folder, inode, run)

    def _add_ends(self, folder: _Folder, inode: int, run: tuple[bytes, ...]) -> None:
        """The segments that are too long for a name and go on in this folder."""
        for row in self._namespace.entries_by_name(inode, *_SPECIAL, -1):
            child = self._namespace.inode(row.inode)
            segment = key_paths.end_of_run(run, row.name)
            if child is None:
                continue
            if segment is not None:
                if child.is_directory or child.is_regular:
                    folder.add(segment, row.inode, (), is_folder=child.is_directory)
            elif child.is_directory and len(longer := key_paths.run_after(run, row.name)) > len(run):
                self._add_ends(folder, row.inode, longer)

    # Names that are segments

    def _ordinary(self, folder: _Folder) -> Iterator[tuple[bytes, int]]:
        yield from self._above(folder)
        for name, inode in self._pages(folder.inode, folder.start):
            if _is_segment(name):
                yield name, inode

    def _above(self, folder: _Folder) -> Iterator[tuple[bytes, int]]:
        """The names before the start, below which there may be keys after it: beginnings of it."""
        first = folder.start.partition(b"/")[0]
        for length in range(1, len(first) + 1):
            follows = folder.start[length : length + 1]
            if follows and follows <= b"/":
                name = first[:length]
                entry = self._namespace.entry(folder.inode, name) if length <= key_paths.MAX_NAME else None
                if entry is not None and _is_segment(name):
                    yield name, entry.inode

    def _pages(self, directory: int, start: bytes) -> Iterator[tuple[bytes, int]]:
        size = _FIRST_PAGE
        while page := self._namespace.entries_by_name(directory, start, _LAST, size):
            for row in page:
                yield row.name, row.inode
            if len(page) < size:
                return
            start, size = page[-1].name + b"\0", min(4 * size, _LARGEST_PAGE)


def _is_segment(name: bytes) -> bool:
    """Whether the name is a segment as it is."""
    return not name.startswith(key_paths.PREFIX) and name != _PAST_VIEW and is_text(name)
