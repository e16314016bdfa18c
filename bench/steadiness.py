"""Whether a mount stays as fast as it was: with many files in it, and while it seals a large one.

    python -m bench.steadiness FOLDER [--entries N] [--mib M] [--settle COMMAND]

FOLDER is an empty folder of any mounted file system (so ext4 and others can stand beside it). Prints the
rate of single metadata calls with nothing else there and after N more files were made (folders of 10,000),
then the latency of such calls while M MiB of random data are written and, until COMMAND returns, stored.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

MIB = 1 << 20
SAMPLE = 2000
FOLDER_SIZE = 10_000


def calls(folder: Path) -> dict[str, Callable[[int], None]]:
    """One metadata call each, by name, in the order in which they have to be made for a number."""

    def create(number: int) -> None:
        os.close(os.open(folder / f"f{number}", os.O_CREAT | os.O_EXCL | os.O_WRONLY))

    def stat(number: int) -> None:
        os.stat(folder / f"f{number}")

    def missing(number: int) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.stat(folder / f"m{number}")

    return {
        "create": create,
        "stat": stat,
        "missing": missing,
        "rename": lambda number: os.rename(folder / f"f{number}", folder / f"r{number}"),
        "unlink": lambda number: os.unlink(folder / f"r{number}"),
    }


def rates(folder: Path) -> dict[str, float]:
    """Calls a second of each kind, `SAMPLE` of them in a new folder."""
    folder.mkdir()
    found = {}
    for name, call in calls(folder).items():
        start = time.perf_counter()
        for number in range(SAMPLE):
            call(number)
        found[name] = SAMPLE / (time.perf_counter() - start)
    folder.rmdir()
    return found


def fill(folder: Path, entries: int) -> None:
    """Make that many empty files."""
    for first in range(0, entries, FOLDER_SIZE):
        part = folder / f"{first:09d}"
        part.mkdir(parents=True)
        start = time.perf_counter()
        count = min(FOLDER_SIZE, entries - first)
        for number in range(count):
            os.close(os.open(part / str(number), os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        if first % (10 * FOLDER_SIZE) == 0:
            rate = count / (time.perf_counter() - start)
            print(f"  {first:>9,} files there: create {rate:,.0f}/s", flush=True)


class Latencies(threading.Thread):
    """Makes one call of each kind in turn until it is stopped, and notes how long each took."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.seconds: dict[str, list[float]] = {}
        self.stopping = threading.Event()

    def run(self) -> None:
        self.folder.mkdir()
        number = 0
        while not self.stopping.is_set():
            for name, call in calls(self.folder).items():
                start = time.perf_counter()
                call(number)
                self.seconds.setdefault(name, []).append(time.perf_counter() - start)
            number += 1
            self.stopping.wait(0.002)
        self.folder.rmdir()

    def report(self) -> None:
        """Median, 99th percentile and the longest, in milliseconds."""
        for name, seconds in self.seconds.items():
            seconds.sort()
            median, high = seconds[len(seconds) // 2], seconds[len(seconds) * 99 // 100]
            print(
                f"  {name:8s} p50 {median * 1e3:7.2f} ms   p99 {high * 1e3:7.2f} ms   "
                f"most {seconds[-1] * 1e3:7.2f} ms   of {len(seconds)}",
                flush=True,
            )


def write(path: Path, mib: int) -> None:
    """That much random data, synced."""
    with open(path, "wb") as file:
        for _ in range(mib):
            file.write(os.urandom(MIB))
        file.flush()
        os.fsync(file.fileno())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.steadiness")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--settle", default="true", help="a command that returns when all is stored")
    chosen = parser.parse_args()
    few = rates(chosen.folder / "few")
    fill(chosen.folder / "fill", chosen.entries)
    subprocess.run(shlex.split(chosen.settle), check=True)
    many = rates(chosen.folder / "many")
    for name, rate in few.items():
        print(f"{name:8s} {rate:10,.0f}/s alone {many[name]:10,.0f}/s with {chosen.entries:,} files")
    latencies = Latencies(chosen.folder / "latencies")
    latencies.start()
    write(chosen.folder / "large", chosen.mib)
    subprocess.run(shlex.split(chosen.settle), check=True)
    latencies.stopping.set()
    latencies.join()
    print(f"while {chosen.mib} MiB were written and stored:")
    latencies.report()
    shutil.rmtree(chosen.folder / "fill")
    os.unlink(chosen.folder / "large")


if __name__ == "__main__":
    main()
