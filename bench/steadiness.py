"""Whether a mount stays as fast as it was: with many files in it, and while it seals a large one.

    python -m bench.steadiness FOLDER [--entries N] [--repeated G] [--load SECONDS] [--mib M]
                               [--settle COMMAND]

FOLDER is an empty folder of any mounted file system (so ext4 and others can stand beside it). Prints the
rate of single metadata calls with nothing else there, and again after each of these, if asked for: N more
files were made (folders of 10,000); a file of G GiB, of the same 64 MiB again and again; SECONDS of work on
some thousand files (made, written into at random, read, renamed, removed). Then the latency of such calls
while M MiB of random data are copied in and, until COMMAND returns, stored. COMMAND comes before rates too.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

from tests.contents import Parts

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


def repeat(path: Path, gib: int) -> None:
    """A file of that size with little in it that is new."""
    part = os.urandom(64 * MIB)
    start = time.perf_counter()
    with open(path, "wb", buffering=0) as file:
        for number in range(gib * 1024 // 64):
            written = 0
            while written < len(part):
                written += file.write(part[written:])
            if (number + 1) % 160 == 0:
                done = (number + 1) * 64
                print(f"  {done // 1024} GiB: {done / (time.perf_counter() - start):,.0f} MiB/s", flush=True)
        os.fsync(file.fileno())


def load(folder: Path, seconds: float) -> None:
    """Work on files for so long."""
    folder.mkdir()
    parts = Parts(2_000_000, 1)
    end, random, done = time.monotonic() + seconds, Random(1), 0
    files: list[Path] = []
    while time.monotonic() < end:
        done += 1
        chosen = random.choice(files) if files else folder
        what = random.random()
        if what < 0.3 or len(files) < 100:
            files.append(folder / f"{done}")
            files[-1].write_bytes(parts.part(random.choice([100, 5_000, 50_000, 2_000_000]), random))
        elif what < 0.6:
            with open(chosen, "r+b") as file:
                file.seek(random.randrange(max(chosen.stat().st_size, 1)))
                file.write(parts.part(4096, random))
        elif what < 0.7:
            chosen.read_bytes()
        elif what < 0.8:
            files.remove(chosen)
            files.append(chosen.rename(folder / f"{done}"))
        elif what < 0.8 + 0.2 * len(files) / 4000:
            files.remove(chosen)
            chosen.unlink()
    print(f"  {done:,} changes in {seconds:,.0f} s, {len(files):,} files left", flush=True)


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


@contextlib.contextmanager
def random_data(mib: int) -> Iterator[Path]:
    """A file of that much, made before anything is measured: to make it takes a processor."""
    with tempfile.NamedTemporaryFile(prefix="drivefs-steadiness-") as file:
        for _ in range(mib):
            file.write(os.urandom(MIB))
        file.flush()
        yield Path(file.name)


def copy(source: Path, path: Path) -> None:
    """Copied and synced, by a process of its own, which does not hold up the one that measures."""
    words = ["dd", f"if={source}", f"of={path}", "bs=1M", "conv=fsync", "status=none"]
    subprocess.run(words, check=True)


def compare(folder: Path, places: dict[str, Callable[[Path], None]], settle: list[str]) -> None:
    """The rates with nothing there, and after each of these has filled the place of its own."""
    found = {"alone": rates(folder / "rates")}
    for number, (name, fill_place) in enumerate(places.items()):
        fill_place(folder / f"place{number}")
        subprocess.run(settle, check=True)
        found[name] = rates(folder / "rates")
    for call in found["alone"]:
        print(f"{call:8s} " + ", ".join(f"{rate[call]:,.0f}/s {name}" for name, rate in found.items()))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.steadiness")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--repeated", type=int, default=0, metavar="GIB")
    parser.add_argument("--load", type=float, default=0, metavar="SECONDS")
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--settle", default="true", help="a command that returns when all is stored")
    chosen = parser.parse_args()
    places: dict[str, Callable[[Path], None]] = {}
    if chosen.entries:
        places[f"{chosen.entries:,} files"] = lambda path: fill(path, chosen.entries)
    if chosen.repeated:
        places[f"{chosen.repeated} GiB more"] = lambda path: repeat(path, chosen.repeated)
    if chosen.load:
        places[f"{chosen.load:,.0f} s of load"] = lambda path: load(path, chosen.load)
    compare(chosen.folder, places, shlex.split(chosen.settle))
    with random_data(chosen.mib) as source:
        latencies = Latencies(chosen.folder / "latencies")
        latencies.start()
        copy(source, chosen.folder / "large")
        subprocess.run(shlex.split(chosen.settle), check=True)
        latencies.stopping.set()
        latencies.join()
    print(f"while {chosen.mib} MiB were written and stored:")
    latencies.report()
    for path in chosen.folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


if __name__ == "__main__":
    main()
