"""A bucket of a million objects: what a listing of 1,000 takes on the way there, and the memory.

    python -m bench.s3_million FOLDER [--objects N] [--writers N]

FOLDER is empty, or one that this began with: then it goes on where that ended. The objects are put through
the object layer, without HTTP; all are in one folder, but for a thousand in folders of their own, which a
listing with a delimiter rolls up. At each power of ten from 1,000 on, and at the end, a row says what a
listing takes at its begin, in the middle, behind about the last but a thousand, and rolled up: the medians of
five, in milliseconds of the processor; and the memory of the process.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import trio

from backend.system import THIS_MACHINE
from cache.opening import DriveOptions
from gateway.s3.objects import Checksums, Metadata, ObjectLayer, S3Error, open_objects
from tools import compose, drive_opening
from tools.host import places
from tools.host.places import Folders
from tools.secret_source import SecretSource

BUCKET: Final = "million"
ROLLED_UP: Final = 1000


def key_of(number: int) -> bytes:
    """Of the object with that number: they are made in the order of their keys."""
    return b"rolled/%04d/object" % number if number < ROLLED_UP else b"data/%09d" % _shuffled(number)


def _shuffled(number: int) -> int:
    """A bijection of the numbers below 10**9, so that keys come in no order."""
    return number * 387_420_489 % 10**9


async def body_of(number: int) -> AsyncIterator[bytes]:
    """Its bytes, which no other has."""
    yield b"object %d" % number


async def put(layer: ObjectLayer, number: int) -> None:
    """Store one object."""
    await layer.put(BUCKET, key_of(number), body_of(number), None, Metadata(), lambda md5: Checksums())


async def fill(layer: ObjectLayer, numbers: range, writers: int) -> None:
    """Put them, so many at a time."""
    left: Iterator[int] = iter(numbers)

    async def write() -> None:
        for number in left:
            await put(layer, number)

    async with trio.open_nursery() as nursery:
        for _ in range(writers):
            nursery.start_soon(write)


def is_there(layer: ObjectLayer, number: int) -> bool:
    """Whether this object was put."""
    try:
        layer.head(BUCKET, key_of(number))
    except S3Error:
        return False
    return True


def first_missing(layer: ObjectLayer, most: int) -> int:
    """The number to go on with: some before it are there already, all before those are."""
    low, high = 0, most
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if is_there(layer, middle) else (low, middle)
    return low


async def listing_ms(layer: ObjectLayer, prefix: bytes, delimiter: bytes, after: bytes) -> float:
    """The median of five listings of 1,000; what the event loop's thread took."""
    found = []
    for _ in range(5):
        began = time.thread_time()
        await layer.list_objects(BUCKET, prefix=prefix, delimiter=delimiter, after=after)
        found.append((time.thread_time() - began) * 1000)
    return statistics.median(found)


def memory_mib() -> int:
    """What is resident now (proc(5))."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") >> 20


async def report(layer: ObjectLayer, count: int) -> None:
    """One row."""
    places_in = {
        "begin": b"",
        "middle": b"data/5",
        "end": b"data/%09d" % (10**9 - 10**12 // max(count, 1000)),
    }
    found = [await listing_ms(layer, b"data/", b"", after) for after in places_in.values()]
    found.append(await listing_ms(layer, b"rolled/", b"/", b""))
    print(f"{count:9,}" + "".join(f"{each:10.1f}" for each in found) + f"{memory_mib():10,}", flush=True)


async def run(where: Path, objects: int, writers: int) -> None:
    """Fill, and say how it is on the way."""
    source = SecretSource.chosen({}, None, str(where / "key"), None)
    drive = str(where / "drive")
    unlocked = compose.unlock(drive, compose.load_drive(drive), source.secrets())
    own = Folders(where / "cache", where / "state")
    for folder in (own.cache, own.state):
        places.make_private_folder(str(folder), THIS_MACHINE.disk)
    print("  objects     begin    middle       end rolled up  MiB", flush=True)
    async with (
        drive_opening.opened_drive(unlocked, own, DriveOptions()) as opened,
        trio.open_nursery() as tasks,
    ):
        await tasks.start(opened.run)
        layer = await open_objects(opened)
        if BUCKET not in {each.name for each in layer.buckets()}:
            await layer.create_bucket(BUCKET)
        at = max(0, first_missing(layer, objects) - writers)
        for goal in [each for each in (1000, 10_000, 100_000, 1_000_000) if at < each < objects] + [objects]:
            await fill(layer, range(at, goal), writers)
            at = goal
            await report(layer, goal)
        began = time.perf_counter()
        await opened.sync()
        print(f"stored in {time.perf_counter() - began:.0f} s, {memory_mib():,} MiB", flush=True)
        await report(layer, objects)
        tasks.cancel_scope.cancel()


def make_drive(where: Path) -> None:
    """A drive of six folders."""
    key = where / "key"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(32))
    nodes = [part for number in range(6) for part in ("--node", str(where / f"node{number}"))]
    command = [
        "-c",
        "from tools.mkfs import main; main()",
        "-q",
        "--key-file",
        str(key),
        str(where / "drive"),
    ]
    subprocess.run([sys.executable, *command, *nodes], check=True)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--objects", type=int, default=1_000_000)
    parser.add_argument("--writers", type=int, default=64)
    options = parser.parse_args()
    if not (options.folder / "drive").exists():
        make_drive(options.folder)
    trio.run(run, options.folder, options.objects, options.writers)


if __name__ == "__main__":
    main()
