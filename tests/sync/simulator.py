"""Devices without journal, threads and network on one log: namespaces that write, rebase and follow.

A content here is one block, named by what it says. A device acknowledges at once all that it does; the
simulator checks that none of it is lost.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from shutil import copyfile
from stat import S_IFDIR, S_IFREG

from cache import rebase
from cache.namespace import Namespace
from cache.namespace.check import breaches
from cache.namespace.operations import (
    ROOT_INODE,
    AddDevice,
    Create,
    Delete,
    Link,
    NewEpoch,
    Operation,
    Pin,
    RemoveXattr,
    Rename,
    RenameLeavingWhiteout,
    SetAttributes,
    SetExtents,
    SetXattr,
    Unlink,
)
from cache.rebase import Row, published_versions, take_up

TABLES = ("inode", "dentry", "xattr", "extent", "pin")
FIRST_CLONE = 100
"""More than the number of any device that is no copy; to it comes the length of the log."""
FIRST_TIME = 1_700_000_000 * 10**9
Log = list[tuple[Operation, ...]]


def hash_of(number: int) -> bytes:
    """Of the commit of that number: there is one log only."""
    return hashlib.sha256(b"%d" % number).digest()


class Device:
    """One of the devices, on the namespace at `path`."""

    def __init__(self, path: Path, number: int, hits: Counter[Row] | None = None) -> None:
        self.namespace = Namespace(str(path), device=number, cached_rows=256)
        self.number = number
        self.unpublished: list[Operation] = []
        self.hits: Counter[Row] = Counter() if hits is None else hits
        self.opened: list[int] = []
        self.times = itertools.count(FIRST_TIME + number, 1000)
        self.published: list[tuple[int, Device]] = []
        """the numbers of the commits that were made as this device, by this one and by copies of its state"""

    def clone(self, path: Path) -> Device:
        """A copy of this device's state, to be kept at `path`. Each of the two takes itself for this device,
        until it finds a commit of the other."""
        self.namespace.save(self.namespace.journal_position() + 1)
        for suffix in ("", "-wal"):
            copyfile(self.namespace.path + suffix, f"{path}{suffix}")
        clone = type(self)(path, self.number, self.hits)
        clone.unpublished, clone.opened = self.unpublished[:], self.opened[:]
        clone.times, clone.published = itertools.count(self.now(), 1000), self.published
        return clone

    def reset(self, commit: int) -> None:
        """As of an earlier commit, on a log that has none after it."""
        self.namespace.undo(commit)
        self.unpublished.clear()
        self.published = [each for each in self.published if each[0] <= commit]

    def close(self) -> None:
        self.namespace.close()

    # What programs do

    def now(self) -> int:
        return next(self.times)

    def do(self, *operations: Operation) -> None:
        for operation in operations:
            self.namespace.apply(operation)
            self.unpublished.append(operation)

    def find(self, path: str) -> int:
        """The inode of a path, 0 if there is none."""
        inode = ROOT_INODE
        for name in filter(None, path.split("/")):
            entry = self.namespace.entry(inode, name.encode())
            if entry is None:
                return 0
            inode = entry.inode
        return inode

    def at(self, path: str) -> tuple[int, bytes]:
        folder, _, name = path.rpartition("/")
        return self.find(folder), name.encode()

    def create(self, path: str, mode: int = S_IFREG | 0o644, target: bytes = b"") -> int:
        inode = self.namespace.allocate_inode()
        self.do(Create(*self.at(path), inode, mode, 0, 0, 0, target, self.now()))
        return inode

    def mkdir(self, path: str) -> int:
        return self.create(path, S_IFDIR | 0o755)

    def write(self, path: str, content: str) -> None:
        """The whole content of a file, which is made if need be."""
        self.write_inode(self.find(path) or self.create(path), content)

    def write_inode(self, inode: int, content: str, offset: int = 0) -> None:
        row = self.namespace.inode(inode)
        assert row is not None
        block, end, now = block_of(content), offset + len(content), self.now()
        longest = max(row.size, end)
        size, cleared = (longest, ((offset, end),)) if offset else (end, ((0, longest),))
        self.do(SetAttributes(inode, size=size, mtime_ns=now, ctime_ns=now))
        self.do(SetExtents(inode, row.content_commit, cleared, ((offset, len(content), block, 0),)))

    def unlink(self, path: str) -> None:
        """The name goes, and the inode if it was the last name."""
        inode = self.find(path)
        self.do(Unlink(*self.at(path), inode, self.now()))
        self._end(inode)

    def unlink_open(self, path: str) -> None:
        """The name goes, and the inode stays until `close_files`."""
        inode = self.find(path)
        self.do(Unlink(*self.at(path), inode, self.now()))
        self.opened.append(inode)

    def close_files(self) -> None:
        """Nobody has a file open any more."""
        for inode in self.opened:
            self._end(inode)
        self.opened.clear()

    def _end(self, inode: int) -> None:
        row = self.namespace.inode(inode)
        if row is not None and not row.nlink:
            self.do(Delete(inode))

    def remove_tree(self, path: str) -> None:
        for entry in self.namespace.entries(self.find(path), 0, 1000):
            below = f"{path}/{entry.name.decode()}"
            if self.is_folder(entry.inode):
                self.remove_tree(below)
            else:
                self.unlink(below)
        self.unlink(path)

    def is_folder(self, inode: int) -> bool:
        row = self.namespace.inode(inode)
        return row is not None and row.is_directory

    def rename(self, old: str, new: str) -> None:
        inode, replaced = self.find(old), self.find(new)
        self.do(Rename(*self.at(old), *self.at(new), inode, replaced, False, self.now()))
        self._end(replaced)

    def exchange(self, old: str, new: str) -> None:
        self.do(Rename(*self.at(old), *self.at(new), self.find(old), self.find(new), True, self.now()))

    def whiteout(self, old: str, new: str) -> None:
        number = self.namespace.allocate_inode()
        keys, inode = (*self.at(old), *self.at(new)), self.find(old)
        self.do(RenameLeavingWhiteout(*keys, inode, self.find(new), number, 0, 0, self.now()))

    def link(self, old: str, new: str) -> None:
        self.do(Link(self.find(old), *self.at(new), self.now()))

    def save(self, path: str, content: str) -> None:
        """As editors do: a new file takes the old one's name."""
        self.write(f"{path}~", content)
        self.rename(f"{path}~", path)

    def chmod(self, path: str, mode: int) -> None:
        self.do(SetAttributes(self.find(path), mode=mode, ctime_ns=self.now()))

    def chown(self, path: str, uid: int) -> None:
        self.do(SetAttributes(self.find(path), uid=uid, ctime_ns=self.now()))

    def touch(self, path: str) -> None:
        self.do(SetAttributes(self.find(path), mtime_ns=self.now(), ctime_ns=self.now()))

    def set_xattr(self, path: str, name: bytes, value: bytes) -> None:
        self.do(SetXattr(self.find(path), name, value, self.now()))

    def remove_xattr(self, path: str, name: bytes) -> None:
        self.do(RemoveXattr(self.find(path), name, self.now()))

    def new_epoch(self) -> None:
        """A key epoch, unless one of this device is not published yet; the keys are names here."""
        epochs, head = self.namespace.epochs, self.namespace.head().number
        newest = epochs.newest()
        if newest == epochs.as_of(head):
            number = 1 if newest is None else newest.number + 1
            wrapped = b"%d of %d at %d" % (number, self.number, self.now())
            before = b"" if newest is None else newest.wrapped
            self.do(NewEpoch(number, wrapped.ljust(60, b"\0"), before))

    # What the drive does

    def sync(self, log: Log, *, publish: bool = True) -> None:
        """Follow the log, rebase what is unpublished, and publish that."""
        if self._is_copied():
            self._go_on_as_another(log)
        lacking = len(log) - self.namespace.head().number
        if lacking and self.unpublished:
            self.go_over(log)
        elif lacking:
            self._follow(log)
        while publish and self.unpublished:
            log.append(tuple(self.unpublished))
            self.unpublished.clear()
            self.published.append((len(log), self))
            self._record(len(log))
            self._keep_versions()

    def _is_copied(self) -> bool:
        """Whether a copy of its state has written as this device since the head."""
        head = self.namespace.head().number
        return any(number > head and maker is not self for number, maker in self.published)

    def _go_on_as_another(self, log: Log) -> None:
        number = FIRST_CLONE + len(log)
        log.append((AddDevice(number, hash_of(number), b"dev%d" % number),))
        if self.unpublished:
            became = self.go_over(log, number).changed.became
            self.opened = [became.get(inode, inode) for inode in self.opened]
        else:
            self._follow(log)
            self.namespace.become(number)
        self.number, self.published = number, []

    def _keep_versions(self) -> None:
        if versions := published_versions(self.namespace):
            head = self.namespace.head().number
            self.do(Pin(b"version %d" % head, head), *map(Delete, versions))

    def go_over(self, log: Log, becomes: int | None = None) -> rebase.Resolved:
        before = self.live_blocks()
        facts = rebase.Device((), lambda _: False, b"dev%d" % self.number, becomes)
        resolved = take_up(self.namespace, lambda: self._follow(log), facts)
        self.unpublished.clear()
        self.do(*resolved.operations)
        self.hits.update({decision.row for decision in resolved.decisions})
        lost = before - self.all_blocks()
        assert not lost, f"device {self.number} lost {lost}"
        return resolved

    def _follow(self, log: Log) -> None:
        for number in range(self.namespace.head().number + 1, len(log) + 1):
            self.namespace.begin_commit(number)
            for operation in log[number - 1]:
                self.namespace.apply(operation)
            self._record(number)

    def _record(self, number: int) -> None:
        self.namespace.record_commit(number, hash_of(number), FIRST_TIME + number)
        self.namespace.begin_commit(number + 1)

    # What there is

    def live_blocks(self) -> set[bytes]:
        """Those of files that have a name."""
        sql = "SELECT block FROM extent JOIN inode USING (inode) WHERE nlink > 0"
        return {block for (block,) in self.namespace.synced_connection().execute(sql)}

    def all_blocks(self) -> set[bytes]:
        """Those of now and of the past."""
        sql = "SELECT block FROM extent UNION SELECT block FROM past_extent"
        return {block for (block,) in self.namespace.synced_connection().execute(sql)}

    def tree(self, folder: int = ROOT_INODE, above: str = "") -> dict[str, str]:
        """All paths, each with a file's content, a link's target, or "/" of a folder."""
        found: dict[str, str] = {}
        for entry in self.namespace.entries(folder, 0, 1000):
            path, row = f"{above}{entry.name.decode()}", self.namespace.inode(entry.inode)
            assert row is not None
            if row.is_directory:
                found[path] = "/"
                found |= self.tree(entry.inode, f"{path}/")
            else:
                found[path] = row.target.decode() or self.text(entry.inode)
        return dict(sorted(found.items()))

    def text(self, inode: int) -> str:
        extents = self.namespace.extents(inode, 0, 1 << 40)
        return "+".join(extent.block.rstrip(b"\0").decode() for extent in extents)

    def rows(self) -> dict[str, list[tuple[object, ...]]]:
        """Every row that all replicas have alike."""
        connection = self.namespace.synced_connection()
        found: dict[str, list[tuple[object, ...]]] = {}
        for table in (*TABLES, *(f"past_{name}" for name in TABLES), "commits", "key_epoch"):
            found[table] = sorted(tuple(row) for row in connection.execute(f"SELECT * FROM {table}"))
        found["inode"] = [row[:8] + row[9:] for row in found["inode"]]
        return found


def block_of(content: str) -> bytes:
    return content.encode().ljust(32, b"\0")


def settle(devices: Sequence[Device], log: Log) -> None:
    """All publish, and follow; once more makes no commit. Checks what must hold then."""
    for device in devices:
        device.sync(log)
    for device in devices:
        device.sync(log)
    length = len(log)
    for device in devices:
        device.sync(log)
    assert len(log) == length, "settling again makes a commit"


def check_replicas(devices: Sequence[Device], replay: Device, log: Log) -> None:
    """Every replica's rows are those of one that only ever followed, and these are sound."""
    replay.sync(log)
    check_epochs(log)
    expected = replay.rows()
    for device in devices:
        assert device.rows() == expected, f"device {device.number} differs"
    assert replay.namespace.orphans() == []


def check_epochs(log: Log) -> None:
    """Key epochs are in the order of their numbers, one commit begins one at most, and each opens the one
    before it."""
    begun = [[each for each in commit if isinstance(each, NewEpoch)] for commit in log]
    assert max(map(len, begun), default=0) <= 1
    epochs = [each for each, *_ in filter(None, begun)]
    assert [each.number for each in epochs] == [*range(1, len(epochs) + 1)]
    assert [each.before for each in epochs[1:]] == [each.wrapped for each in epochs[:-1]]


def check_sound(device: Device, position: int) -> None:
    """All rules of a published namespace hold. `position`: grows with each call."""
    device.namespace.save(position)
    found = [*breaches(device.namespace.synced_connection(), published=True)]
    assert found == []
