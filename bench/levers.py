"""Whether a version answers small calls faster than another one, and than what only encrypts.

    python -m bench.levers FOLDER [--other CHECKOUT] [--rounds N] [--peers ext4,securefs,gocryptfs]
                           [--count N]

FOLDER is an empty folder on the disk to be measured, for root: each candidate gets a folder in it. CHECKOUT
is another version of this project, which runs on this interpreter. Peers that are not installed are left
out. The candidates take turns, in the other order each round; each row says their medians, and for every
other candidate the median of the quotients within a round of ours and its (for times: its and ours). The
last column is the processor time of our mount for a call. Times of stat are taken beside a process that
calls fsync all the time.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tools.control_client import ControlClient

PEERS = "ext4,securefs,gocryptfs"
ROOT = Path(__file__).parents[1]
BLOCK = os.urandom(4096)
STAT_SECONDS = 3.0
LATENCIES = ("stat p99 ms", "stat longest ms")


@dataclass(slots=True)
class Candidate:
    """A mounted file system. `process`: of the mount, to ask for its processor time; None if it is not."""

    name: str
    folder: Path
    process: int | None = None
    found: dict[str, list[float]] = field(default_factory=dict)
    processor: dict[str, list[float]] = field(default_factory=dict)

    def note(self, row: str, value: float) -> None:
        self.found.setdefault(row, []).append(value)

    def processor_seconds(self) -> float:
        """User and system time of the mount so far (proc(5))."""
        if self.process is None:
            return 0.0
        fields = Path(f"/proc/{self.process}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# Candidates


def _run(*command: str | Path, folder: Path | None = None) -> None:
    environment = os.environ | ({} if folder is None else {"PYTHONPATH": str(folder)})
    subprocess.run(
        list(map(str, command)), check=True, cwd=folder, env=environment, stdout=subprocess.DEVNULL
    )


def _tool(checkout: Path, name: str, *arguments: str | Path) -> None:
    program = f"from tools.{name} import main; main()"
    _run(sys.executable, "-c", program, *arguments, folder=checkout)


@contextmanager
def drive(name: str, checkout: Path, folder: Path) -> Iterator[Candidate]:
    """A new drive of that version."""
    mountpoint, key = folder / "mnt", folder / "key"
    mountpoint.mkdir(parents=True)
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(32))
    _tool(checkout, "mkfs", "-q", "--key-file", key, folder / "drive")
    options = f"key_file={key},cache_dir={folder / 'cache'},state_dir={folder / 'state'}"
    _tool(checkout, "mount", folder / "drive", mountpoint, "-o", options)
    try:
        yield Candidate(name, mountpoint, ControlClient.of_mount(str(mountpoint)).process_id())
    finally:
        _tool(checkout, "umount", mountpoint)


@contextmanager
def peer(name: str, folder: Path) -> Iterator[Candidate]:
    """A new folder of the disk itself, or behind a file system that encrypts."""
    mountpoint, store, secret = folder / "mnt", folder / "store", folder / "secret"
    mountpoint.mkdir(parents=True)
    if name == "ext4":
        yield Candidate(name, mountpoint)
        return
    store.mkdir()
    secret.write_text("secret\n")
    if name == "gocryptfs":
        _run("gocryptfs", "-q", "-init", "-passfile", secret, store)
        _run("gocryptfs", "-q", "-passfile", secret, store, mountpoint)
    else:
        _run("securefs", "create", "--pass", "secret", store)
        _run("securefs", "mount", "--background", "--pass", "secret", store, mountpoint)
    try:
        _wait_until_mounted(mountpoint)
        yield Candidate(name, mountpoint)
    finally:
        _run("umount", mountpoint)


def _wait_until_mounted(mountpoint: Path) -> None:
    deadline = time.monotonic() + 30
    while not os.path.ismount(mountpoint):
        if time.monotonic() > deadline:
            raise SystemExit(f"nothing is mounted on {mountpoint}")
        time.sleep(0.05)


# Work


def sqlite_commits(mode: str) -> Callable[[Path, int], float]:
    """Commits a second with `synchronous=full`."""

    def work(folder: Path, count: int) -> float:
        path = folder / "database"
        database = sqlite3.connect(path, isolation_level=None)
        database.execute(f"pragma journal_mode={mode}")
        database.execute("pragma synchronous=full")
        database.execute("create table t(a integer primary key, b blob)")
        start = time.perf_counter()
        for _ in range(count):
            database.execute("insert into t(b) values(?)", (BLOCK[:500],))
        rate = count / (time.perf_counter() - start)
        database.close()
        path.unlink()
        return rate

    return work


def write_and_fsync(folder: Path, count: int) -> float:
    """4 KiB written and synced, so often a second."""
    with open(folder / "file", "w+b", buffering=0) as file:
        start = time.perf_counter()
        for number in range(count):
            os.pwrite(file.fileno(), BLOCK, 4096 * (number % 256))
            os.fsync(file.fileno())
        rate = count / (time.perf_counter() - start)
    (folder / "file").unlink()
    return rate


def _create(path: Path) -> None:
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    os.write(descriptor, BLOCK)
    os.close(descriptor)


def names(candidate: Candidate, count: int) -> None:
    """Single calls on the files of a new folder, so many a second of each kind."""
    folder = candidate.folder / "names"
    folder.mkdir()
    calls: dict[str, Callable[[int], object]] = {
        "create 4 KiB": lambda number: _create(folder / f"f{number}"),
        "stat": lambda number: os.stat(folder / f"f{number}"),
        "rename": lambda number: os.rename(folder / f"f{number}", folder / f"r{number}"),
        "unlink": lambda number: os.unlink(folder / f"r{number}"),
    }
    for name, call in calls.items():
        measure(candidate, name, 2 * count, partial(_rate, call))
    folder.rmdir()


def _rate(call: Callable[[int], object], count: int) -> float:
    start = time.perf_counter()
    for number in range(count):
        call(number)
    return count / (time.perf_counter() - start)


def measure(candidate: Candidate, row: str, count: int, work: Callable[[int], float]) -> None:
    """Do the work, and note its rate and what it took of the mount's processor for a call."""
    before = candidate.processor_seconds()
    candidate.note(row, work(count))
    spent = candidate.processor_seconds() - before
    candidate.processor.setdefault(row, []).append(spent / count * 1e6)


def stat_beside_fsyncs(candidate: Candidate) -> None:
    """How long a request takes, in milliseconds: names that are missing are asked of the mount."""
    program = (
        "import os, sys\n"
        "file = os.open(sys.argv[1], os.O_CREAT | os.O_RDWR)\n"
        "print(flush=True)\n"
        "while True: os.pwrite(file, bytes(4096), 0); os.fsync(file)"
    )
    path, seconds = candidate.folder / "synced", []
    syncing = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE)
    try:
        assert syncing.stdout is not None
        syncing.stdout.readline()
        end = time.perf_counter() + STAT_SECONDS
        while (start := time.perf_counter()) < end:
            with suppress(FileNotFoundError):
                os.stat(candidate.folder / f"missing{start}")
            seconds.append(time.perf_counter() - start)
    finally:
        syncing.kill()
        syncing.wait()
    path.unlink()
    candidate.note(LATENCIES[0], sorted(seconds)[len(seconds) * 99 // 100] * 1000)
    candidate.note(LATENCIES[1], max(seconds) * 1000)


def work_on(candidate: Candidate, count: int) -> None:
    """One round."""
    folder = candidate.folder
    for row, work in {
        "SQLite rollback": sqlite_commits("delete"),
        "SQLite WAL": sqlite_commits("wal"),
        "write 4 KiB + fsync": write_and_fsync,
    }.items():
        measure(candidate, row, count, partial(work, folder))
    names(candidate, count)
    stat_beside_fsyncs(candidate)


# The table


def report(candidates: list[Candidate]) -> None:
    """Medians, quotients, processor time."""
    ours, others = candidates[0], candidates[1:]
    titles = [each.name for each in candidates] + [f"/ {each.name}" for each in others] + ["us of processor"]
    print(f"{'':22}" + "".join(f"{title:>16}" for title in titles))
    for row, values in ours.found.items():
        medians = [statistics.median(each.found[row]) for each in candidates]
        line = f"{row:22}" + "".join(f"{value:16,.1f}" for value in medians)
        for other in others:
            pairs = list(zip(values, other.found[row], strict=True))
            quotients = [b / a if row in LATENCIES else a / b for a, b in pairs]
            line += f"{statistics.median(quotients):16.2f}"
        if row in ours.processor:
            line += f"{statistics.median(ours.processor[row]):16.1f}"
        print(line)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--other", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--peers", default=PEERS)
    chosen = parser.parse_args()
    folder = chosen.folder.resolve()
    with ExitStack() as stack:
        candidates = [stack.enter_context(drive("this", ROOT, folder / "this"))]
        if chosen.other:
            other = chosen.other.resolve()
            candidates.append(stack.enter_context(drive("other", other, folder / "other")))
        peers = [name for name in chosen.peers.split(",") if name == "ext4" or shutil.which(name)]
        candidates += [stack.enter_context(peer(name, folder / name)) for name in peers]
        for number in range(chosen.rounds):
            for candidate in candidates[:: 1 if number % 2 else -1]:
                work_on(candidate, chosen.count)
        report(candidates)


if __name__ == "__main__":
    main()
