"""What looking at the past costs, by how many commits there are: python -m bench.history [COMMITS...]

A namespace of 1,000 files in 100 folders gets as many commits as asked for (each writes one file), a quiet
folder ten of them. Then each question is asked a thousand times (listings: ten), at random times.
"""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from stat import S_IFDIR, S_IFREG
from typing import Any, cast

import trio

from cache.history.past import PastTree
from cache.namespace.namespace import Namespace
from cache.namespace.operations import ROOT_INODE, Create, SetAttributes, SetExtents
from cache.past_names import SECOND, format_time

BEGIN = 1_700_000_000 * SECOND
QUIET = 10


class History:
    """The namespace, and which inodes are what."""

    def __init__(self, folder: Path, commits: int) -> None:
        self.namespace = Namespace(str(folder / "namespace.db"), device=1)
        self.commits = commits
        self.folders = [self._make(ROOT_INODE, b"d%d" % number, S_IFDIR) for number in range(100)]
        self.quiet = self._make(ROOT_INODE, b"quiet", S_IFDIR)
        self.files = [
            self._make(folder, b"f%d" % number, S_IFREG) for folder in self.folders for number in range(10)
        ]
        self.quiet_file = self._make(self.quiet, b"f", S_IFREG)
        for number in range(1, commits + 1):
            self._commit(number)
        self.namespace.save(1)
        self.namespace.checkpoint()

    def _make(self, parent: int, name: bytes, type_: int) -> int:
        inode = self.namespace.allocate_inode()
        self.namespace.apply(Create(parent, name, inode, type_ | 0o755, 0, 0, 0, b"", BEGIN))
        return inode

    def _commit(self, number: int) -> None:
        is_quiet = number % max(self.commits // QUIET, 1) == 0
        inode = self.quiet_file if is_quiet else random.choice(self.files)
        self.namespace.apply(SetAttributes(inode, size=number, mtime_ns=BEGIN + number * SECOND))
        block = random.randbytes(32)
        row = self.namespace.inode(inode)
        assert row is not None
        replaces = row.content_commit
        self.namespace.apply(SetExtents(inode, replaces, ((0, 1000),), ((0, 1000, block, 0),)))
        self.namespace.record_commit(number, random.randbytes(32), BEGIN + number * SECOND)
        self.namespace.begin_commit(number + 1)


async def measure(history: History) -> dict[str, float]:
    """Microseconds by question, the median."""
    past = past_of(history)
    at = [random.randint(1, history.commits) for _ in range(1000)]
    names = [format_time(BEGIN + number * SECOND) for number in at]
    busy, file = history.folders[7], history.files[73]
    found = {
        "resolve a time": timed(lambda number: past.resolve(names[number])),
        "look a name up as of it": timed(lambda number: past.lookup(busy, b"f3", at[number])),
        "list a folder of 10 as of it": timed(lambda number: past.entries(busy, at[number], 0, 64)),
        "find a file's blocks as of it": timed(lambda number: past.extents(file, at[number], 0, 1000)),
        "versions of a file in the quiet folder": timed(lambda _: past.versions(history.quiet, b"f")),
    }
    for name, directory in (("quiet", history.quiet), ("busy", busy), ("root", ROOT_INODE)):
        found[f"list .versions of the {name} folder"] = await timed_listing(history, directory)
    return found


def timed(ask: Callable[[int], object]) -> float:
    """The median time of a thousand calls."""
    times = []
    for number in range(1000):
        begin = time.perf_counter()
        ask(number)
        times.append(time.perf_counter() - begin)
    return statistics.median(times) * 1e6


def past_of(history: History) -> PastTree:
    """One that remembers nothing yet."""
    return PastTree(history.namespace, cast(Any, None), lambda: None)


async def timed_listing(history: History, directory: int) -> float:
    """The same of ten listings that nothing remembers."""
    times = []
    for _ in range(10):
        past = past_of(history)
        begin = time.perf_counter()
        await past.points(directory)
        times.append(time.perf_counter() - begin)
    return statistics.median(times) * 1e6


async def main(counts: list[int]) -> None:
    """One column for each count."""
    columns = []
    for count in counts:
        with tempfile.TemporaryDirectory() as folder:
            columns.append(await measure(History(Path(folder), count)))
    print("| microseconds |" + "".join(f" {count} commits |" for count in counts))
    print("|---|" + "---|" * len(counts))
    for name in columns[0]:
        print(f"| {name} |" + "".join(f" {column[name]:.0f} |" for column in columns))


if __name__ == "__main__":
    trio.run(main, [int(text) for text in sys.argv[1:]] or [10, 20_000, 100_000])
