"""Programs that use the devices of a drive at once, each at random, and what they may expect of it.

Programs of one device are tasks that call the doors of its mount, without a kernel. Each rests between its
calls, and in the middle of what takes several: then others go on.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from stat import S_IFDIR, S_IFREG, S_ISDIR, S_ISREG
from typing import Final

import trio

from backend.errors import TransientError
from cache.attributes import AttributeChange, Entry
from cache.drive import Drive
from cache.errors import FileSystemError
from cache.namespace import DentryRow
from cache.namespace.operations import ROOT_INODE
from cache.services.clone import Clone
from cache.sync import Change
from mountfs.node_drive import NodeDrive
from mountfs.open_folders import OpenFolders
from tests import contents
from tests.memory_hub import Line
from tests.sync.drives import Hub
from tests.sync.test_blocks_among_devices import NOTHING

STEPS: Final = 25
"""Of each program, in each life of its device."""
NAMES: Final = (b"a", b"b", b"c", b"c-wal")
KEPT: Final = b"kept-"
"""So the names of files begin that only the program writes that made them."""
IS_KEPT: Final = re.compile(rb"kept-[0-9.]+!")
"""Their names; others that begin so are of saves that were cut off, or of conflicts."""
KEPT_SIZE: Final = 3000
PINS: Final = (b"p", b"q")
LONGEST: Final = 0.02
"""Seconds that a program rests."""
ALL: Final = 1 << 20


class Kept:
    """What must not be lost: the contents of the files that are kept."""

    def __init__(self) -> None:
        self._ever: dict[bytes, set[bytes]] = {}
        self._now: dict[bytes, set[bytes]] = {}
        self._lasting: set[bytes] = set()

    def begin(self, name: bytes, data: bytes) -> None:
        """The file may have this content from now on."""
        self._ever.setdefault(name, {b""}).add(data)
        self._now.setdefault(name, set()).add(data)

    def end(self, name: bytes, data: bytes) -> None:
        """It has."""
        self._now[name] = {data}
        self._lasting.add(name)

    def check_one(self, name: bytes, data: bytes) -> None:
        """A device may read this."""
        assert data in self._ever[name], f"{name!r} was never {data[:60]!r} ({len(data)} bytes)"

    def check_all(self, found: dict[bytes, tuple[object, ...]]) -> None:
        """All is in the tree."""
        there = {row[-1] for row in found.values()}
        for name in self._lasting:
            assert self._now[name] & there, f"{name!r} is lost"


@dataclass
class World:
    """All that the devices share."""

    hub: Hub
    seed: int
    kept: Kept = field(default_factory=Kept)
    met: Counter[str] = field(default_factory=Counter)
    """how often what was done, or refused"""


async def ignore(changes: Sequence[Change]) -> None:
    """There is no kernel."""


class Life:
    """A device from a mount to its end."""

    def __init__(self, world: World, device: int, drive: Drive, line: Line) -> None:
        self.world = world
        self.device = device
        self.drive = drive
        self.line = line
        self.nodes = NodeDrive(drive)
        self.nodes.watching(OpenFolders(), ignore)
        self._written: set[int] = set()

    @contextmanager
    def writing(self, node: int) -> Iterator[bool]:
        """Whether nobody else here writes to the node, who then may."""
        if node in self._written:
            yield False
            return
        self._written.add(node)
        try:
            yield True
        finally:
            self._written.discard(node)


class Program:
    """One of those that use a device at once."""

    def __init__(self, life: Life, number: int, random: Random) -> None:
        self._life = life
        self._world = life.world
        self._drive = life.drive
        self._nodes = life.nodes
        self._random = random
        self._prefix = KEPT + b"%d.%d." % (life.device, number)

    async def run(self) -> None:
        for _ in range(STEPS):
            await self._rest()
            await self.attempt(self._random.choice(self._steps()))

    async def attempt(self, step: Callable[[], Awaitable[None]]) -> None:
        """What cannot be done now is left."""
        name = step.__name__.strip("_")
        try:
            await step()
            self._world.met[name] += 1
        except (FileSystemError, TransientError) as error:
            self._world.met[f"{name}: {type(error).__name__}"] += 1

    async def _rest(self) -> None:
        await trio.sleep(self._random.random() ** 3 * LONGEST)

    def _steps(self) -> list[Callable[[], Awaitable[None]]]:
        names = [self._mkdir, self._unlink, self._rmdir, self._rename, self._rename, self._rename, self._link]
        kept = [self._make_kept, self._rewrite_kept, self._save_kept, self._read_kept, self._read_kept]
        files = [self._create, self._edit, self._edit, self._edit, self._attributes, self._fsync]
        past = [self._pin, self._collect, self._read_past, self._clone]
        return [*names, *kept, *files, *past, self._publish, self._sync, self._follow, self._reach]

    # Where

    def _entries(self, folder: int) -> list[Entry]:
        return self._nodes.entries(folder, 0, 1000)

    def _pick(self) -> tuple[int, bytes, int]:
        """A name that is there: folder, name, node; node 0 in an empty one."""
        folder = ROOT_INODE
        while entries := self._entries(folder):
            chosen = self._random.choice(entries)
            if not S_ISDIR(chosen.attributes.mode) or self._random.random() < 0.4:
                return folder, chosen.name, chosen.attributes.inode
            folder = chosen.attributes.inode
        return folder, b"a", 0

    def _folder(self) -> int:
        folder, _, node = self._pick()
        return node if node and S_ISDIR(self._nodes.attributes(node).mode) else folder

    def _name(self) -> bytes:
        return self._random.choice(NAMES)

    def _some_kept(self, prefix: bytes = KEPT) -> tuple[int, bytes, int] | None:
        """One of the kept files that are there and begin so: folder, name, node."""
        found: list[tuple[int, bytes, int]] = []
        waiting = [ROOT_INODE]
        while waiting:
            folder = waiting.pop()
            for entry in self._entries(folder):
                if S_ISDIR(entry.attributes.mode):
                    waiting.append(entry.attributes.inode)
                elif entry.name.startswith(prefix) and IS_KEPT.fullmatch(entry.name):
                    found.append((folder, entry.name, entry.attributes.inode))
        return self._random.choice(found) if found else None

    def _loose(self) -> tuple[int, bytes, int] | None:
        """A regular file that is not kept, by chance."""
        folder, name, node = self._pick()
        is_file = node and S_ISREG(self._nodes.attributes(node).mode)
        return (folder, name, node) if is_file and name in NAMES else None

    @contextmanager
    def _held(self, *nodes: int) -> Iterator[None]:
        for node in nodes:
            self._nodes.hold(node)
        try:
            yield
        finally:
            for node in nodes:
                self._nodes.release(node)

    def _bytes(self, size: int) -> bytes:
        """Other ones than ever before, but for a tenth."""
        seed = self._random.randrange(1 << 30) if self._random.random() < 0.9 else 0
        return contents.content(self._random.choice(contents.KINDS), size, seed)

    # Names

    async def _mkdir(self) -> None:
        with self._held(folder := self._folder()):
            await self._nodes.make_node(folder, self._name(), S_IFDIR | 0o755, 0, 0, 0)

    async def _unlink(self) -> None:
        if found := self._loose():
            with self._held(found[0]):
                await self._nodes.unlink(*found[:2])

    async def _rmdir(self) -> None:
        folder, name, _ = self._pick()
        with self._held(folder):
            await self._nodes.remove_directory(folder, name)

    async def _rename(self) -> None:
        folder, name, _ = self._pick()
        to, new = self._folder(), name if name.startswith(KEPT) else self._name()
        is_kept = name.startswith(KEPT)
        exchange = not is_kept and self._random.random() < 0.1
        with self._held(folder, to):
            await self._nodes.rename(
                folder, name, to, new, no_replace=is_kept, exchange=exchange, whiteout=None
            )

    async def _link(self) -> None:
        if found := self._loose():
            with self._held(found[2], to := self._folder()):
                await self._nodes.link(found[2], to, self._name())

    # Files that are kept

    async def _make(self, folder: int, name: bytes, data: bytes) -> None:
        made = await self._nodes.make_node(folder, name, S_IFREG | 0o644, 0, 0, 0)
        with self._held(made.inode), self._life.writing(made.inode):
            await self._rest()
            await self._nodes.write(made.inode, 0, data)
            await self._nodes.settle(made.inode)

    def _text(self) -> bytes:
        return self._bytes(KEPT_SIZE - 20) + b"%020d" % self._random.randrange(10**20)

    async def _make_kept(self) -> None:
        name, data = self._prefix + b"%d!" % self._random.randrange(1 << 30), self._text()
        with self._held(folder := self._folder()):
            self._world.kept.begin(name, data)
            await self._make(folder, name, data)
            self._world.kept.end(name, data)

    async def _rewrite_kept(self) -> None:
        if found := self._some_kept(self._prefix):
            with self._held(found[2]):
                data = self._text()
                self._world.kept.begin(found[1], data)
                await self._rest()
                await self._nodes.write(found[2], 0, data)
                self._world.kept.end(found[1], data)
                await self._nodes.settle(found[2])

    async def _save_kept(self) -> None:
        """As editors do."""
        if found := self._some_kept(self._prefix):
            folder, name, _ = found
            beside, data = name + b"%d~" % self._random.randrange(1 << 30), self._text()
            with self._held(folder):
                self._world.kept.begin(name, data)
                await self._make(folder, beside, data)
                await self._nodes.rename(
                    folder, beside, folder, name, no_replace=False, exchange=False, whiteout=None
                )

    async def _read_kept(self) -> None:
        if found := self._some_kept():
            with self._held(found[2]):
                await self._rest()
                data = await self._nodes.read(found[2], 0, ALL)
                self._world.kept.check_one(found[1], bytes(data))

    # Other files

    async def _create(self) -> None:
        with self._held(folder := self._folder()):
            await self._make(folder, self._name(), self._bytes(self._random.choice([10, 3_000, 40_000])))

    async def _edit(self) -> None:
        """An open file has what it had when it was opened, and what was written here; never a mix."""
        found = self._loose()
        if found is None:
            return
        node = found[2]
        with self._life.writing(node) as is_mine:
            if is_mine:
                with self._held(node):
                    await self._write_on(node)

    async def _write_on(self, node: int) -> None:
        shown = bytes(await self._nodes.read(node, 0, ALL))
        for _ in range(self._random.randrange(4)):
            await self._rest()
            assert bytes(await self._nodes.read(node, 0, ALL)) == shown
            shown = await self._change(node, shown)
        assert bytes(await self._nodes.read(node, 0, ALL)) == shown
        await self._nodes.settle(node)

    async def _change(self, node: int, shown: bytes) -> bytes:
        """What the file shows after a change."""
        if self._random.random() < 0.2:
            size = self._random.choice([0, 7, 5_000])
            await self._nodes.set_attributes(node, AttributeChange(size=size))
            return shown[:size].ljust(size, b"\0")
        offset, data = self._random.choice([0, 5, 20_000]), self._bytes(self._random.choice([10, 3_000]))
        await self._nodes.write(node, offset, data)
        return shown[:offset].ljust(offset, b"\0") + data + shown[offset + len(data) :]

    async def _attributes(self) -> None:
        _, _, node = self._pick()
        if node:
            with self._held(node):
                await self._nodes.set_attributes(
                    node, AttributeChange(mode=self._random.choice([0o600, 0o755]))
                )
                await self._nodes.set_xattr(node, b"user.a", b"%d" % self._random.randrange(1000))

    async def _fsync(self) -> None:
        await self._nodes.fsync(ROOT_INODE)

    # The past

    async def _pin(self) -> None:
        """One of the pins goes, or names a point."""
        name, retention = self._random.choice(PINS), self._drive.retention
        await self._drive.moving()
        if name in retention.pins():
            retention.unpin(name)
        else:
            retention.pin(name, self._point())

    async def _collect(self) -> None:
        """Forget the past, and release what nobody needs."""
        await self._drive.moving()
        self._drive.retention.set_policy(NOTHING)
        await self._drive.retention.collect(grace=0, trust_clock=True)

    def _point(self) -> int:
        return self._random.choice(self._drive.points()).number

    async def _read_past(self) -> None:
        commit, retention = self._point(), self._drive.retention
        retention.hold(commit)
        try:
            for row in self._drive.past.entries(ROOT_INODE, commit, 0, 1000):
                await self._rest()
                await self._read_as_of(row, commit)
        finally:
            retention.let_go(commit)

    async def _read_as_of(self, row: DentryRow, commit: int) -> None:
        past = self._drive.past
        if past.row(row.inode, commit).is_regular:
            data = bytes(await past.read(row.inode, commit, 0, ALL))
            if IS_KEPT.fullmatch(row.name):
                self._world.kept.check_one(row.name, data)

    async def _clone(self) -> None:
        """A file of the root, as it was published, once more."""
        past, commit = self._drive.past, self._drive.past.head
        entries = [entry for entry in past.entries(ROOT_INODE, commit, 0, 1000) if entry.name in NAMES]
        files = [entry.inode for entry in entries if past.row(entry.inode, commit).is_regular]
        if files:
            clone = Clone(self._drive, commit, self._random.choice(files), ROOT_INODE, self._name())
            await clone.perform(replace=False)

    # The log

    async def _publish(self) -> None:
        await self._drive.publisher.publish(everything=self._random.random() < 0.5)

    async def _sync(self) -> None:
        await self._drive.sync()

    async def _follow(self) -> None:
        await self._drive.publisher.follow()

    async def _reach(self) -> None:
        await self._drive.reach_head(told=True)
