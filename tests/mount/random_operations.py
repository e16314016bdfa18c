"""Random operations on the files of a mount and, each at once, on twins of them on the local disk.

What the tools fsx and fsstress look for: a byte that changes when writes, maps, truncation, renaming and
opening again meet each other, caches and the sealing behind them. The local file system is the reference:
every result and every errno must be the same on both sides, and so must all contents, whenever looked at.
A seed gives the same operations again; a difference is reported with the last of them.
"""

from __future__ import annotations

import mmap
import os
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.contents import Parts
from tests.mount import file_calls
from tests.mount.file_calls import DIRECT_UNIT
from tests.mount.reading import ORDERS, Order, read_open

MOUNTED, LOCAL = 0, 1
LONGEST: Final = 70_000
"""bytes of one write, or a quarter of the largest file"""
TOLD: Final = 60
"""operations that a difference is reported with"""
MOST_OPEN: Final = 12
LATEST: Final = 15_032_385_534 * 10**9
"""the last second that ext4 and the mount keep"""

Name = str
Call = Callable[[int], object]


@dataclass(eq=False, slots=True)
class Opened:
    """One open file on both sides; `maps` are shared mappings of it, empty while it is not mapped."""

    descriptors: tuple[int, ...]
    flags: int
    maps: list[mmap.mmap] = field(default_factory=list)

    def unmap(self) -> None:
        while self.maps:
            self.maps.pop().close()

    def close(self) -> None:
        self.unmap()
        for descriptor in self.descriptors:
            os.close(descriptor)


@dataclass(frozen=True, slots=True)
class Shape:
    """What a machine works on: so many names in so many folders, files of at most `largest` bytes."""

    names: int
    folders: int
    largest: int


ONE_FILE: Final = Shape(names=2, folders=0, largest=256 << 10)
ONE_LARGE_FILE: Final = Shape(names=2, folders=0, largest=24 << 20)
MANY_FILES: Final = Shape(names=12, folders=4, largest=128 << 10)
SHAPES: Final = (ONE_FILE, MANY_FILES, ONE_LARGE_FILE)


class RandomOperations:
    """Works in the empty folders `tops`: one on the mount, one on the local disk. One thread."""

    orders: tuple[Order, ...] = ORDERS
    """Those in which whole files are read."""

    def __init__(self, tops: Sequence[Path], shape: Shape, seed: int) -> None:
        self._tops = [str(top) for top in tops]
        self._shape = shape
        self._seed = seed
        self._random = random.Random(seed)
        self._parts = Parts(max(LONGEST, shape.largest // 4), seed)
        self._opened: list[Opened] = []
        self._told: deque[str] = deque(maxlen=TOLD)
        self._done = 0
        folders = ["", *(f"folder {number}/" for number in range(shape.folders))]
        self._names = [f"{folder}{number}" for folder in folders for number in range(shape.names)]
        self._folders = [*folders[1:], *(f"{folder}below/" for folder in folders[1:])]
        self._operations, self._weights = zip(*self._table(), strict=True)

    def _table(self) -> list[tuple[Callable[[], None], int]]:
        many = self._shape.folders > 0
        table = [
            (self.write, 12), (self.read, 10), (self.truncate, 5), (self.map_write, 10),
            (self.map_read, 6), (self.unmap, 1), (self.zero, 2), (self.copy_range, 3),
            (self.write_direct, 2), (self.read_direct, 2), (self.append, 3), (self.send, 1),
            (self.fsync, 2), (self.compare_cold, 4), (self.open, 6), (self.close, 5),
            (self.compare, 2), (self.read_in_order, 2), (self.truncate_by_name, 1), (self.set_times, 1),
            (self.rename, 8 if many else 1), (self.link, 4 if many else 1),
            (self.unlink, 5 if many else 1), (self.exchange, 2 if many else 1),
        ]  # fmt: skip
        if many:
            table += [(self.make_folder, 3), (self.remove_folder, 2), (self.rename_folder, 2)]
            table += [(self.symbolic_link, 2), (self.mode, 2), (self.attribute, 3), (self.list_folder, 3)]
        return table

    # Doing and comparing

    def run(self, operations: int) -> None:
        """So many operations, then everything is compared."""
        for _ in range(operations):
            self._done += 1
            self._random.choices(self._operations, self._weights)[0]()
        self.compare_all()

    def close_all(self) -> None:
        """Close every file: the mount may be taken away then. Closing is an operation like any other."""
        while self._opened:
            self._opened.pop().close()

    def compare_all(self) -> None:
        """Everything that can be seen under the folders."""
        for opened in self._opened:
            self._compare(opened)
        order, seed = self._random.choice(self.orders), self._done
        self._same(f"compare all, {order}", lambda side: file_calls.tree(self._tops[side], order, seed))

    def _same(self, told: str, call: Call) -> object:
        """Do the same on both sides; what came of it, which must be the same too."""
        self._told.append(f"{self._done}: {told}")
        found = [file_calls.outcome(call, side) for side in range(len(self._tops))]
        if wrong := self._wrong(found):
            lines = "\n".join(self._told)
            raise AssertionError(f"seed {self._seed}, {self._shape}\n{lines}\n{wrong}")
        return found[MOUNTED]

    def _wrong(self, found: list[object]) -> str:
        """What is wrong with the outcomes of one call on every side; empty if nothing is."""
        same = found[MOUNTED] == found[LOCAL]
        return "" if same else file_calls.difference(found[MOUNTED], found[LOCAL])

    def _path(self, side: int, name: Name) -> str:
        return f"{self._tops[side]}/{name}"

    def _name(self) -> Name:
        return self._random.choice(self._names)

    def _some_open(self) -> Opened:
        if not self._opened:
            self.open()
        return self._random.choice(self._opened) if self._opened else self._surely_open()

    def _surely_open(self) -> Opened:
        """A file that is open, whatever became of names and modes."""
        name = f"new {self._seed} {self._done}"
        self._open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        self._same(f"unlink {name}", lambda side: os.unlink(self._path(side, name)))
        return self._opened[-1]

    def _offset(self) -> int:
        """Anywhere, but often at the edges of pages and of requests."""
        largest = self._shape.largest
        near = self._random.choice([0, 4096, 65_536, 131_072, 1 << 20]) * self._random.randint(0, 4)
        edge = max(0, near + self._random.randint(-2, 2))
        return min(self._random.choice([edge, self._random.randrange(largest)]), largest - 1)

    def _length(self, offset: int) -> int:
        longest = self._random.choice([1, 10, 5000, LONGEST, self._shape.largest // 4])
        return min(self._random.randint(1, longest), self._shape.largest - offset)

    def _data(self, length: int) -> bytes:
        return self._parts.part(length, self._random)

    def _size(self, opened: Opened) -> int:
        found = self._same("size", lambda side: os.fstat(opened.descriptors[side]).st_size)
        assert isinstance(found, int)
        return found

    # Contents

    def write(self) -> None:
        opened, offset = self._some_open(), self._offset()
        data = self._data(self._length(offset))
        self._same(
            f"write {len(data)} at {offset} of {opened.descriptors}",
            lambda side: file_calls.write_all(opened.descriptors[side], data, offset),
        )

    def append(self) -> None:
        opened = self._some_open()
        size = self._size(opened)
        data = self._data(self._length(min(size, self._shape.largest - 1)))
        self._same(
            f"append {len(data)} to {opened.descriptors}",
            lambda side: file_calls.append(opened.descriptors[side], data),
        )

    def read(self) -> None:
        opened, offset = self._some_open(), self._offset()
        length = self._length(offset)
        self._same(
            f"read {length} at {offset} of {opened.descriptors}",
            lambda side: os.pread(opened.descriptors[side], length, offset),
        )

    def truncate(self) -> None:
        opened, size = self._some_open(), self._offset()
        self._same(
            f"truncate {opened.descriptors} to {size}",
            lambda side: os.ftruncate(opened.descriptors[side], size),
        )

    def truncate_by_name(self) -> None:
        name, size = self._name(), self._offset()
        self._same(f"truncate {name} to {size}", lambda side: os.truncate(self._path(side, name), size))

    def zero(self) -> None:
        """As punching a hole would: the mount has no `fallocate`, so zeros are written, within the file."""
        opened, offset = self._some_open(), self._offset()
        length = min(self._length(offset), self._size(opened) - offset)
        if length > 0:
            self._same(
                f"zero {length} at {offset} of {opened.descriptors}",
                lambda side: file_calls.write_all(opened.descriptors[side], bytes(length), offset),
            )

    def copy_range(self) -> None:
        source, target = self._some_open(), self._some_open()
        start, offset = self._offset(), self._offset()
        length = self._length(max(start, offset))
        self._same(
            f"copy {length} from {start} of {source.descriptors} to {offset} of {target.descriptors}",
            lambda side: file_calls.copy_range(
                source.descriptors[side], target.descriptors[side], start, offset, length
            ),
        )

    def send(self) -> None:
        source, target, start = self._some_open(), self._some_open(), self._offset()
        length = self._length(start)
        if source.descriptors == target.descriptors or self._size(target) + length > self._shape.largest:
            return
        self._same(
            f"send {length} from {start} of {source.descriptors} to the end of {target.descriptors}",
            lambda side: file_calls.send(source.descriptors[side], target.descriptors[side], start, length),
        )

    # O_DIRECT passes by the page cache, which must not keep what was there before, nor hide what it has.

    def write_direct(self) -> None:
        name, offset, length = self._name(), *self._direct_range()
        data = self._data(length)
        self._same(
            f"direct write of {length} at {offset} of {name}",
            lambda side: file_calls.write_direct(self._path(side, name), offset, data),
        )

    def read_direct(self) -> None:
        name, offset, length = self._name(), *self._direct_range()
        self._same(
            f"direct read of {length} at {offset} of {name}",
            lambda side: file_calls.read_direct(self._path(side, name), offset, length),
        )

    def _direct_range(self) -> tuple[int, int]:
        offset = self._offset() // DIRECT_UNIT * DIRECT_UNIT
        return offset, max(DIRECT_UNIT, self._length(offset) // DIRECT_UNIT * DIRECT_UNIT)

    # Memory

    def _mapped(self) -> tuple[Opened, int]:
        """An open file with a mapping, and how many bytes of it may be touched."""
        opened = self._some_open()
        size = self._size(opened)
        if not opened.maps and size > 0 and opened.flags & os.O_ACCMODE == os.O_RDWR:
            self._told.append(f"{self._done}: map {size} of {opened.descriptors}")
            opened.maps = [mmap.mmap(descriptor, size) for descriptor in opened.descriptors]
        return opened, min(size, len(opened.maps[0])) if opened.maps else 0

    def map_write(self) -> None:
        opened, size = self._mapped()
        if size == 0:
            return
        start = min(self._offset(), size - 1)
        data = self._data(min(self._length(start), size - start))
        flush = self._random.random() < 0.1

        def change(side: int) -> None:
            opened.maps[side][start : start + len(data)] = data
            if flush:
                opened.maps[side].flush()

        self._same(f"map write {len(data)} at {start} of {opened.descriptors}, flushed: {flush}", change)

    def map_read(self) -> None:
        opened, size = self._mapped()
        if size:
            start = min(self._offset(), size - 1)
            end = min(start + self._length(start), size)
            self._same(
                f"map read {start} to {end} of {opened.descriptors}",
                lambda side: opened.maps[side][start:end],
            )

    def unmap(self) -> None:
        opened = self._some_open()
        self._told.append(f"{self._done}: unmap {opened.descriptors}")
        opened.unmap()

    # Open files

    def open(self) -> None:
        choice = self._random.choice
        flags = choice([os.O_RDWR, os.O_RDWR, os.O_RDWR, os.O_RDONLY, os.O_WRONLY])
        flags |= choice([os.O_CREAT, os.O_CREAT, 0, os.O_CREAT | os.O_EXCL])
        flags |= choice([0, 0, 0, 0, os.O_APPEND, os.O_DSYNC, os.O_TRUNC])
        self._open(self._name(), flags)

    def _open(self, name: Name, flags: int) -> None:
        if len(self._opened) >= MOST_OPEN:
            self.close()
        made: list[int] = []
        self._same(
            f"open {name} with {flags:#o}",
            lambda side: made.append(os.open(self._path(side, name), flags | os.O_CLOEXEC, 0o644)),
        )
        if made:
            self._opened.append(Opened(tuple(made), flags))
            self._told.append(f"{self._done}: opened as {self._opened[-1].descriptors}")

    def close(self) -> None:
        if self._opened:
            opened = self._opened.pop(self._random.randrange(len(self._opened)))
            self._told.append(f"{self._done}: close {opened.descriptors}")
            opened.close()

    def fsync(self) -> None:
        opened, call = self._some_open(), self._random.choice([os.fsync, os.fdatasync])
        self._same(f"{call.__name__} {opened.descriptors}", lambda side: call(opened.descriptors[side]))

    def compare_cold(self) -> None:
        """The kernel forgets what it had of the file, and asks the mount again."""
        opened = self._some_open()
        self._told.append(f"{self._done}: drop pages of {opened.descriptors}")
        os.fsync(opened.descriptors[MOUNTED])
        os.posix_fadvise(opened.descriptors[MOUNTED], 0, 0, os.POSIX_FADV_DONTNEED)
        self._compare(opened)

    def compare(self) -> None:
        self._compare(self._some_open())

    def read_in_order(self) -> None:
        """All of it, in one of the orders in which programs read; the kernel forgot what it had."""
        opened, order, seed = self._some_open(), self._random.choice(self.orders), self._done
        for descriptor in opened.descriptors:
            os.fsync(descriptor)
        self._same(
            f"read {opened.descriptors} {order}",
            lambda side: read_open(opened.descriptors[side], order, seed),
        )

    def _compare(self, opened: Opened) -> None:
        self._same(
            f"compare {opened.descriptors}", lambda side: file_calls.open_file(opened.descriptors[side])
        )

    # Names

    def rename(self) -> None:
        old, new = self._name(), self._name()
        self._same(
            f"rename {old} to {new}", lambda side: os.rename(self._path(side, old), self._path(side, new))
        )

    def exchange(self) -> None:
        old, new = self._name(), self._name()
        self._same(
            f"exchange {old} and {new}",
            lambda side: file_calls.exchange(self._path(side, old), self._path(side, new)),
        )

    def link(self) -> None:
        old, new = self._name(), self._name()
        self._same(
            f"link {old} as {new}",
            lambda side: os.link(self._path(side, old), self._path(side, new), follow_symlinks=False),
        )

    def unlink(self) -> None:
        name = self._name()
        self._same(f"unlink {name}", lambda side: os.unlink(self._path(side, name)))

    def symbolic_link(self) -> None:
        target, name = self._name().rpartition("/")[2], self._name()
        self._same(f"link {name} to {target}", lambda side: os.symlink(target, self._path(side, name)))

    def make_folder(self) -> None:
        name = self._random.choice(self._folders)
        self._same(f"mkdir {name}", lambda side: os.mkdir(self._path(side, name)))

    def remove_folder(self) -> None:
        name = self._random.choice(self._folders)
        self._same(f"rmdir {name}", lambda side: os.rmdir(self._path(side, name)))

    def rename_folder(self) -> None:
        old, new = self._random.choices(self._folders, k=2)
        self._same(
            f"rename {old} to {new}", lambda side: os.rename(self._path(side, old), self._path(side, new))
        )

    def list_folder(self) -> None:
        name = self._random.choice(self._folders)
        self._same(f"list {name}", lambda side: sorted(os.listdir(self._path(side, name))))

    # Attributes

    def set_times(self) -> None:
        name, times = self._name(), (self._random.randrange(LATEST), self._random.randrange(LATEST))
        self._same(
            f"times of {name}: {times}", lambda side: file_calls.set_times(self._path(side, name), times)
        )

    def mode(self) -> None:
        name, mode = self._name(), self._random.choice([0o600, 0o644, 0o755, 0o2711])
        self._same(f"chmod {mode:o} {name}", lambda side: os.chmod(self._path(side, name), mode))

    def attribute(self) -> None:
        name, key = self._name(), f"user.{self._random.randrange(3)}"
        value = self._data(self._random.randint(1, 100))
        flags = self._random.choice([0, os.XATTR_CREATE, os.XATTR_REPLACE])
        if self._random.random() < 0.3:
            self._same(f"remove {key} of {name}", lambda side: os.removexattr(self._path(side, name), key))
        else:
            self._same(
                f"set {key} of {name}", lambda side: os.setxattr(self._path(side, name), key, value, flags)
            )
