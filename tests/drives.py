"""Opening drives in tests: on a memory upstream, without FUSE, and letting go of them as a crash does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from stat import S_IFREG, S_ISDIR, S_ISREG

import trio

from backend.keys import DriveKeys
from backend.system import THIS_MACHINE, Environment
from backend.upstream import Upstream
from cache.attributes import Attributes
from cache.drive import NOTHING_SPECIAL, Circumstances, Drive
from cache.local.local_state import LocalState
from cache.namespace.operations import ROOT_INODE
from cache.opening import DriveOptions, open_drive
from cache.publish.cut_rule import Intervals

DRIVE_ID = bytes(range(16))
KEYS = DriveKeys(bytes(range(32)), DRIVE_ID)
QUIET = DriveOptions(
    intervals=Intervals(commit=3600, version=3600, shared=3600), large_write=1000, journal_size=128 << 20
)
"""Nothing is published by itself, so that a test decides when; small tests have large writes too. The journal
has segments of 16 MiB: a drive writes zeros to one when it opens, and reads it when it opens again, which of
64 MiB takes longer than most tests."""


@asynccontextmanager
async def opened(
    folder: Path,
    upstream: Upstream,
    options: DriveOptions = QUIET,
    *,
    crash: bool | Callable[[], bool] = False,
    read_only: bool = False,
    environment: Environment = THIS_MACHINE,
    circumstances: Circumstances = NOTHING_SPECIAL,
) -> AsyncIterator[Drive]:
    """A running drive. With `crash` (if it is to be called: at the end), what a SIGKILL would lose is lost at
    the end."""
    local = LocalState(folder, environment)
    try:
        options = replace(options, read_only=read_only)
        drive = await open_drive(local, upstream, DRIVE_ID, KEYS, options, circumstances)
        async with trio.open_nursery() as nursery:
            await nursery.start(drive.run)
            yield drive
            nursery.cancel_scope.cancel()
        if not (crash() if callable(crash) else crash):
            await drive.close()
    finally:
        local.close()


async def make_file(
    drive: Drive, name: bytes, data: bytes = b"", parent: int = ROOT_INODE, mode: int = 0o644
) -> Attributes:
    """A new regular file that was written and closed."""
    made = await drive.make_node(parent, name, S_IFREG | mode, 0, 0, 0)
    if data:
        await drive.write(made.inode, 0, data)
        await drive.settle(made.inode)
    return drive.attributes(made.inode)


async def content(drive: Drive, inode: int) -> bytes:
    """All bytes of a file."""
    return bytes(await drive.read(inode, 0, drive.size(inode)))


async def content_of(drive: Drive, name: bytes, parent: int = ROOT_INODE) -> bytes:
    """All bytes of the file of that name."""
    return await content(drive, drive.lookup(parent, name).inode)


async def tree(
    drive: Drive, directory: int = ROOT_INODE, path: bytes = b""
) -> dict[bytes, tuple[object, ...]]:
    """Everything below a directory by path: attributes, extended attributes, content."""
    found: dict[bytes, tuple[object, ...]] = {}
    for entry in drive.entries(directory, 0, 1_000_000):
        here, item = path + b"/" + entry.name, entry.attributes
        xattrs = {name: drive.get_xattr(item.inode, name) for name in drive.xattr_names(item.inode)}
        data = await content(drive, item.inode) if S_ISREG(item.mode) else b""
        numbers = (item.inode, item.mode, item.nlink, item.uid, item.gid, item.rdev)
        found[here] = (*numbers, item.size, item.mtime_ns, xattrs, data)
        if S_ISDIR(item.mode):
            found |= await tree(drive, item.inode, here)
    return found
