"""`python -m bench.offline [--files N] [--changes N]`: a device that comes back after a long time offline.

A drive of N files is on a hub in memory. One device makes N changes without the hub, half of them to files
that others change, half new files. Another one, which waits for no fsync, publishes N commits meanwhile.
Then the first one follows, while it makes more files. Its journal is as large as by default: at its limit
each change would wait for seconds. Printed are how long the following takes, how long a call and a change of
the device wait at most, and the memory of the whole process, in which are both devices and the hub.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path
from stat import S_IFDIR
from typing import Final

import trio

from backend.system import Durable, Environment
from cache.attributes import AttributeChange
from cache.drive import Drive
from cache.namespace import ROOT_INODE
from tests.drives import QUIET, make_file
from tests.memory_hub import Line
from tests.sync.drives import Hub

IN_FOLDER: Final = 1000
PAUSE: Final = 0.001


class Hasty(Durable):
    """A disk that is not waited for."""

    def sync_data(self, descriptor: int) -> None:
        """At once."""


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(prog="python -m bench.offline")
    parser.add_argument("--files", type=int, default=50_000)
    parser.add_argument("--changes", type=int, default=10_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        trio.run(measure, Path(folder), options.files, options.changes)


async def measure(folder: Path, files: int, changes: int) -> None:
    """Print the figures."""
    hub, line = Hub(folder), Line()
    async with hub.device(1, environment=Environment(Hasty())) as there:
        await fill(there, files)
        async with hub.device(2, line=line, options=QUIET) as here:
            line.cut()
            await change_here(here, files, changes)
            await change_there(there, files, changes)
            print(f"{files} files, {changes} changes here, {changes} commits by others", flush=True)
            line.mend()
            here.contact.regain()
            await come_back(here)
            began = time.perf_counter()
            await here.sync()
            print(f"published in      {time.perf_counter() - began:8.2f} s", flush=True)
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"memory at most    {used:8.0f} MiB", flush=True)


async def come_back(drive: Drive) -> None:
    """Follow, while somebody asks for attributes all the time, and somebody makes files."""
    waits: list[float] = []
    changes: list[float] = []

    async def ask() -> None:
        while True:
            began = time.perf_counter()
            await trio.sleep(PAUSE)
            drive.attributes(ROOT_INODE)
            waits.append(time.perf_counter() - began - PAUSE)

    async def change() -> None:
        folder = (await drive.make_node(ROOT_INODE, b"late", S_IFDIR | 0o755, 0, 0, 0)).inode
        while True:
            began = time.perf_counter()
            await trio.sleep(PAUSE)
            await make_file(drive, b"l%d" % len(changes), b"late", folder)
            changes.append(time.perf_counter() - began - PAUSE)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        nursery.start_soon(change)
        began = time.perf_counter()
        await drive.publisher.follow()
        print(f"rebased in        {time.perf_counter() - began:8.2f} s", flush=True)
        nursery.cancel_scope.cancel()
    print(f"a call waited for {max(waits):8.2f} s at most", flush=True)
    print(f"a change waited   {max(changes):8.2f} s at most, of {len(changes)}", flush=True)


async def fill(drive: Drive, files: int) -> None:
    """Folders of files, published."""
    for start in range(0, files, IN_FOLDER):
        made = await drive.make_node(ROOT_INODE, b"d%d" % start, S_IFDIR | 0o755, 0, 0, 0)
        for number in range(start, min(start + IN_FOLDER, files)):
            await make_file(drive, b"f%d" % number, b"base %d" % number, made.inode)
        await drive.sync()


async def change_here(drive: Drive, files: int, changes: int) -> None:
    """Half of them to files that are there, half new ones."""
    for number in range(changes // 2):
        await rewrite(drive, number % files, b"here %d" % number)
    folder = (await drive.make_node(ROOT_INODE, b"new", S_IFDIR | 0o755, 0, 0, 0)).inode
    for number in range(changes // 2):
        await make_file(drive, b"n%d" % number, b"new %d" % number, folder)


async def change_there(drive: Drive, files: int, changes: int) -> None:
    """One file for each commit."""
    for number in range(changes):
        await rewrite(drive, number % files, b"there %d" % number)
        await drive.sync()


async def rewrite(drive: Drive, number: int, data: bytes) -> None:
    """The whole content of a file."""
    folder = drive.lookup(ROOT_INODE, b"d%d" % (number // IN_FOLDER * IN_FOLDER)).inode
    inode = drive.lookup(folder, b"f%d" % number).inode
    await drive.set_attributes(inode, AttributeChange(size=0))
    await drive.write(inode, 0, data)
    await drive.settle(inode)


if __name__ == "__main__":
    main()
