"""Where the time of one create, one stat, one write of 1 MiB and one cold read of 4 KiB goes.

    python -m bench.breakdown [FOLDER]

A drive with real nodes (4+2) is made in a new folder in FOLDER (default: the present one); the handlers of a
mount are called as pyfuse3 calls them, without the kernel. Prints microseconds for each call: the handler,
and in it the parts that are watched (each part with what it calls; those in threads run beside each other).
What the kernel, pyfuse3 and the loop add is what a null file system takes (`python -m bench.nullfs`). Before
the cold reads the fragments leave the page cache.
"""

from __future__ import annotations

import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, cast

import pyfuse3
import trio

from backend.keys.key_slots import Secret
from backend.nodes.directory import DirectoryNode
from backend.packs.pack_store import PackStore
from backend.system.durable import Durable
from cache.blocks.block_cache import BlockCache
from cache.blocks.content import Content
from cache.blocks.sealer import Sealer
from cache.drive import Drive
from cache.journal import journal, ledger
from cache.journal.bulk import BulkFiles
from cache.journal.journal import Journal
from cache.namespace.namespace import Namespace
from cache.opening import DriveOptions
from cache.publish.cut_rule import Intervals
from cache.services import VersionsView
from cache.tree.inodes import Inodes
from mountfs import attribute_handlers, handler_base
from mountfs.request_handlers import RequestHandlers
from tools import compose, drive_opening
from tools.host.places import Folders
from tools.mkfs import mkfs

MIB: Final = 1 << 20
CALLS: Final = 5000
LARGE: Final = 64
OPTIONS: Final = DriveOptions(intervals=Intervals(commit=3600, version=3600), cache_size=1)
CALLER: Final = cast(pyfuse3.RequestContext, SimpleNamespace(uid=0, gid=0, pid=os.getpid(), umask=0o022))

Part = tuple[Any, str, str]
"""Who has the function, its name, and what it is called in the table."""
CREATE: Final[tuple[Part, ...]] = (
    (ledger, "encode", "encode the operation"),
    (Journal, "append", "journal it (page cache)"),
    (Namespace, "apply", "reducer and its rows"),
    (handler_base, "entry_reply", "the answer's attributes"),
)
STAT: Final[tuple[Part, ...]] = (
    (Inodes, "attributes_of", "attributes of the inode"),
    (attribute_handlers, "entry_reply", "the answer's attributes"),
)
WRITE: Final[tuple[Part, ...]] = (
    (journal, "bulk_checksum", "checksum"),
    (BulkFiles, "append", "journal the bytes (page cache)"),
    (Journal, "append", "journal the record"),
)
STORE: Final[tuple[Part, ...]] = (
    (Sealer, "_cut_runs", "thread: read the journal, cut, name"),
    (Sealer, "_seal_blocks", "thread: compress, encrypt"),
    (PackStore, "_encode", "thread: erasure code, checksums"),
    (Durable, "write_file", "threads: six fragments, with fsync"),
)
READ: Final[tuple[Part, ...]] = (
    (Content, "_plan", "extents of the range"),
    (BlockCache, "_fetch_part", "a block's segment"),
    (DirectoryNode, "get_soon", "of it: the node's answer, with the disk"),
    (BlockCache, "_open_segments", "of it: decrypt, check"),
)


class Watch:
    """Nanoseconds by part. Parts that run in several threads at once are all counted."""

    def __init__(self) -> None:
        self.spent: Counter[str] = Counter()

    @contextmanager
    def on(self, parts: tuple[Part, ...]) -> Iterator[None]:
        """Watch these functions for as long as it lasts."""
        with ExitStack() as stack:
            for owner, name, label in parts:
                before = getattr(owner, name)
                setattr(owner, name, self._watched(before, label))
                stack.callback(setattr, owner, name, before)
            yield

    def _watched(self, function: Callable[..., Any], label: str) -> Callable[..., Any]:
        async def awaited(result: Awaitable[Any], start: int) -> Any:
            try:
                return await result
            finally:
                self.spent[label] += time.perf_counter_ns() - start

        def watched(*arguments: Any, **named: Any) -> Any:
            start = time.perf_counter_ns()
            result = function(*arguments, **named)
            if hasattr(result, "__await__"):
                return awaited(result, start)
            self.spent[label] += time.perf_counter_ns() - start
            return result

        return watched


async def measure(
    name: str, parts: tuple[Part, ...], count: int, work: Callable[[], Awaitable[object]]
) -> None:
    """Do `work`, which is `count` calls, and print where the time went."""
    watch = Watch()
    with watch.on(parts):
        start = time.perf_counter_ns()
        await work()
        whole = time.perf_counter_ns() - start
    print(f"{name:44s} {whole / count / 1000:10,.1f} us")
    for _, _, label in parts:
        print(f"    {label:40s} {watch.spent[label] / count / 1000:10,.1f}")


async def names(mount: RequestHandlers) -> None:
    """Creates and stats."""
    made: list[int] = []

    async def create() -> None:
        for number in range(CALLS):
            _, entry = await mount.create(pyfuse3.ROOT_INODE, b"%d" % number, 0o644, os.O_WRONLY, CALLER)
            made.append(entry.st_ino)

    async def stat() -> None:
        for inode in made:
            await mount.getattr(inode, CALLER)

    await measure("create", CREATE, CALLS, create)
    await measure("stat (request)", STAT, CALLS, stat)


async def content(mount: RequestHandlers, drive: Drive, folder: Path) -> None:
    """Writes of 1 MiB, storing them, and reading them cold."""
    _, entry = await mount.create(pyfuse3.ROOT_INODE, b"large", 0o644, os.O_WRONLY, CALLER)
    inode, data = entry.st_ino, [os.urandom(MIB) for _ in range(LARGE)]

    async def write() -> None:
        for number, part in enumerate(data):
            await mount.write(inode, number * MIB, part)

    async def read() -> None:
        places = random.Random(1).sample(range(LARGE * MIB // 4096), 1000)
        for place in places:
            await mount.read(inode, place * 4096, 4096)

    await measure("write 1 MiB (no sealing beside it)", WRITE, LARGE, write)
    await measure("store it (1 MiB of a file of 64)", STORE, LARGE, drive.sync)
    for path in folder.glob("drive/node*/packs/*/*"):
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    await measure("read 4 KiB at random, cold", READ, 1000, read)


async def run(folder: Path) -> None:
    """Make the drive, open it, measure."""
    key = folder / "key"
    key.write_bytes(os.urandom(32))
    key.chmod(0o600)
    with redirect_stdout(sys.stderr):
        mkfs(["--key-file", str(key), str(folder / "drive")])
    file = compose.load_drive(str(folder / "drive"))
    unlocked = compose.unlock(str(folder / "drive"), file, [Secret.key_file(key.read_bytes())])
    async with (
        drive_opening.opened_drive(unlocked, Folders(folder / "cache", folder / "state"), OPTIONS) as drive,
        trio.open_nursery() as nursery,
    ):
        await nursery.start(drive.run)
        mount = RequestHandlers(drive, b"", access_times=False, view=VersionsView(drive))
        await names(mount)
        await content(mount, drive, folder)
        nursery.cancel_scope.cancel()


def main() -> None:
    """The command."""
    folder = Path(tempfile.mkdtemp(prefix="drivefs-breakdown-", dir=sys.argv[1] if sys.argv[1:] else "."))
    try:
        trio.run(run, folder)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
