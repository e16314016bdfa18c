"""A small whole drive in a folder, made and filled without FUSE, to be damaged by tests; and its tools in
process."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from stat import S_IFDIR

import trio

from backend.commits import lease_record, this_process
from backend.keys.key_slots import Secret
from backend.nodes import OWN_FILES, ballast
from cache.drive import Drive
from cache.namespace.operations import ROOT_INODE
from cache.opening import DriveOptions
from tests.contents import Kind
from tests.contents import content as made_of
from tests.drives import QUIET, make_file, tree
from tools import compose, drive_opening
from tools.drivefs import drivefs
from tools.fsck import fsck
from tools.host.places import Folders
from tools.mkfs import mkfs

CLEAN, CORRECTED, LEFT = 0, 1, 4
CONTENTS: tuple[tuple[Kind, Kind, Kind], ...] = (
    ("random", "text", "log"),
    ("half-compressible", "random", "json"),
    ("json", "log", "half-compressible"),
    ("text", "half-compressible", "random"),
)
"""of the folder's file, of the file beside it, and of what is written into that"""
FILLING = replace(QUIET, journal_size=1 << 20)
"""The state is copied for each test, and a segment of the journal is most of it."""
UNCHECKED = ("lease", *OWN_FILES)
"""What is rewritten whenever the drive is opened, or holds nothing."""


@dataclass
class SmallDrive:
    """A drive in a folder, and what is in it."""

    folder: Path
    content: dict[bytes, tuple[object, ...]] = field(repr=False)

    @property
    def drive(self) -> Path:
        return self.folder / "drive"

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def own(self) -> Folders:
        """What this machine has of the drive."""
        id_text = self.unlocked().id_text
        return Folders(self.cache / id_text, self.state / id_text)

    def where(self) -> list[str]:
        """For the tools: the key, and this machine's folders."""
        key, cache, state = (str(path) for path in (self.folder / "key", self.cache, self.state))
        return ["--key-file", key, "--cache-dir", cache, "--state-dir", state]

    def forget(self) -> None:
        """As on a machine that has never seen the drive."""
        for folder in (self.cache, self.state):
            shutil.rmtree(folder, ignore_errors=True)

    def fsck(self, *options: str) -> int:
        return fsck([*options, *self.where(), str(self.drive)])

    @property
    def secret(self) -> list[str]:
        """The option that opens it, for tools without this machine's folders."""
        return ["--key-file", str(self.folder / "key")]

    def unlocked(self) -> compose.UnlockedDrive:
        file = compose.load_drive(str(self.drive))
        return compose.unlock(str(self.drive), file, [Secret.key_file((self.folder / "key").read_bytes())])

    def files(self) -> list[Path]:
        """Every file of every node."""
        found = [path for path in self.drive.glob("node*/**/*") if path.is_file()]
        return sorted(path for path in found if path.name not in UNCHECKED)

    def read(self) -> dict[bytes, tuple[object, ...]]:
        """All there is, read on a machine that has never seen the drive."""
        return self.read_with(Secret.key_file((self.folder / "key").read_bytes()))

    def read_with(self, secret: Secret) -> dict[bytes, tuple[object, ...]]:
        """The same, opened by another secret."""
        other = self.folder / "other machine"
        shutil.rmtree(other, ignore_errors=True)
        unlocked = compose.unlock(str(self.drive), compose.load_drive(str(self.drive)), [secret])
        try:
            return trio.run(_read, unlocked, Folders(other / "cache", other / "state"))
        finally:
            shutil.rmtree(other, ignore_errors=True)

    def read_here(self) -> dict[bytes, tuple[object, ...]]:
        """All there is, read with what this machine has."""
        return trio.run(_read, self.unlocked(), self.own())

    def drivefs(self, *arguments: str | Path) -> int:
        """The command `drivefs`."""
        return drivefs([str(argument) for argument in arguments])


async def _read(drive: compose.UnlockedDrive, own: Folders) -> dict[bytes, tuple[object, ...]]:
    options = DriveOptions(read_only=True)
    async with drive_opening.opened_drive(drive, own, options) as opened, trio.open_nursery() as nursery:
        await nursery.start(opened.run)
        found = await tree(opened)
        nursery.cancel_scope.cancel()
    return found


async def _fill(drive: compose.UnlockedDrive, own: Folders) -> dict[bytes, tuple[object, ...]]:
    async with drive_opening.opened_drive(drive, own, FILLING) as opened, trio.open_nursery() as nursery:
        await nursery.start(opened.run)
        for number in range(3):
            await _change(opened, number)
            await opened.sync()
        await opened.snapshots.make()
        await _change(opened, 3)
        await opened.sync()
        found = await tree(opened)
        nursery.cancel_scope.cancel()
    return found


async def _change(drive: Drive, number: int) -> None:
    kinds = CONTENTS[number % len(CONTENTS)]
    folder = await drive.make_node(ROOT_INODE, b"d%d" % number, S_IFDIR | 0o755, 0, 0, 0)
    await drive.set_xattr(folder.inode, b"user.number", b"%d" % number)
    await make_file(drive, b"file", made_of(kinds[0], 30_000, number), folder.inode)
    made = await make_file(drive, b"f%d" % number, made_of(kinds[1], 5_000, number))
    await drive.write(made.inode, 2_000, made_of(kinds[2], 9_000, number))
    await drive.settle(made.inode)
    if number:
        await drive.rename(ROOT_INODE, b"f%d" % number, ROOT_INODE, b"f0")


def make_empty_drive(folder: Path, *nodes: str) -> SmallDrive:
    """A new drive, its nodes being at these URLs if any are given."""
    key = folder / "key"
    key.write_bytes(os.urandom(32))
    key.chmod(0o600)
    named = [argument for url in nodes for argument in ("--node", url)]
    mkfs(["-q", "--key-file", str(key), *named, str(folder / "drive")])
    return SmallDrive(folder, {})


def make_small_drive(folder: Path) -> SmallDrive:
    """A drive on which nothing is wrong."""
    made = make_empty_drive(folder)
    made.content = trio.run(_fill, made.unlocked(), made.own())
    return made


no_ballast = shutil.ignore_patterns(ballast.FILE_NAME)
"""It takes longer to copy than all else, and is made again by who writes."""


def copy_of(whole: SmallDrive, folder: Path) -> SmallDrive:
    """A copy in another folder, to be damaged."""
    (folder / "key").write_bytes((whole.folder / "key").read_bytes())
    (folder / "key").chmod(0o600)
    copy = SmallDrive(folder, whole.content)
    for name in ("drive", "cache", "state"):
        shutil.copytree(whole.folder / name, folder / name, ignore=no_ballast)
    return copy


def flip(path: Path, offset: int, bit: int) -> None:
    """Turn one bit of a file over."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 1 << bit
    path.write_bytes(data)


def held_lease(*, held: bool = True) -> bytes:
    """The bytes of a lease record of this process, for a drive that does not check their seal."""
    record = lease_record.LeaseRecord(
        drive="0" * 32,
        epoch=1,
        held=held,
        renewals=0,
        token="t",
        nonce="",
        map=1,
        claim=lease_record.NO_CLAIM,
        seconds=30.0,
        until_ns=0,
        holder=this_process(),
    )
    return lease_record.encode(record, bytes(32))
