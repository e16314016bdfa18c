"""`python -m bench.two_folders A B [--files N] [--mib N] [--rounds N]`: how soon changes in A are in B.

A and B are two mounts of one drive, or the folders of two clients of a sync program. All work is done in a
new folder below both. Every figure ends when B reads back the right bytes, not when a name appears. Seconds,
as seen by one clock.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Final

LIMIT: Final = 300.0
FOLDERS: Final = 40


def until(condition: Callable[[], bool]) -> float:
    """Seconds until it holds; `TimeoutError` after `LIMIT`."""
    began = time.perf_counter()
    while not _holds(condition):
        if time.perf_counter() - began > LIMIT:
            raise TimeoutError("B never showed it")
        time.sleep(0.002)
    return time.perf_counter() - began


def _holds(condition: Callable[[], bool]) -> bool:
    try:
        return condition()
    except OSError:  # it is not there yet, or not any more
        return False


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _row(name: str, seconds: float) -> None:
    print(f"{name:48s} {seconds:9.3f} s", flush=True)


class Measures:
    """Of two folders that are not there yet, one below A and one below B."""

    def __init__(self, a: Path, b: Path, random: Random) -> None:
        self._a, self._b, self._random = a, b, random
        a.mkdir()
        _row("a new folder is there", until(b.is_dir))

    def small_changes(self, rounds: int) -> None:
        """Each of the four, median and worst."""
        taken: dict[str, list[float]] = {"created": [], "changed": [], "renamed": [], "removed": []}
        for number in range(rounds):
            for kind, size in (("created", 4096), ("changed", 5000)):
                data = self._random.randbytes(size)
                (self._a / f"s{number}").write_bytes(data)
                taken[kind].append(until(partial(self._shows, f"s{number}", data)))
            (self._a / f"s{number}").rename(self._a / f"r{number}")
            taken["renamed"].append(until(partial(self._shows, f"r{number}", data)))
            (self._a / f"r{number}").unlink()
            taken["removed"].append(until(partial(self._lacks, f"r{number}")))
        for kind, times in taken.items():
            _row(f"a small file {kind}: median", statistics.median(times))
            _row(f"a small file {kind}: worst", max(times))

    def _shows(self, name: str, data: bytes) -> bool:
        return (self._b / name).read_bytes() == data

    def _lacks(self, name: str) -> bool:
        return not (self._b / name).exists()

    def many_files(self, count: int) -> None:
        """Of 100 to 20,000 random bytes each."""
        began, left = time.perf_counter(), {}
        for number in range(count):
            data = self._random.randbytes(self._random.randint(100, 20_000))
            path = Path("many", f"d{number % FOLDERS}", f"f{number}")
            (self._a / path).parent.mkdir(parents=True, exist_ok=True)
            (self._a / path).write_bytes(data)
            left[path] = hashlib.sha256(data).hexdigest()
        names = [*left]

        def are_equal() -> bool:
            for path in [*left]:
                if _digest(self._b / path) != left[path]:
                    return False
                del left[path]
            return True

        until(are_equal)
        _row(f"{count} small files written and equal", time.perf_counter() - began)
        (self._a / "many").rename(self._a / "moved")
        moved = [self._b / "moved" / path.relative_to("many") for path in names]
        taken = until(lambda: self._lacks("many") and all(path.exists() for path in moved))
        _row(f"a folder of {count} files renamed", taken)

    def large_file(self, mib: int) -> None:
        """Random bytes; then some in its middle are changed."""
        data = b"".join(self._random.randbytes(1 << 20) for _ in range(mib))
        began = time.perf_counter()
        (self._a / "large").write_bytes(data)
        self._until_equal(hashlib.sha256(data).hexdigest(), len(data))
        _row(f"{mib} MiB written and equal", time.perf_counter() - began)
        with (self._a / "large").open("r+b") as file:
            file.seek(len(data) // 2)
            file.write(b"changed in the middle")
        want, began = _digest(self._a / "large"), time.perf_counter()
        self._until_equal(want, len(data))
        _row("21 bytes changed in its middle, equal", time.perf_counter() - began)

    def _until_equal(self, want: str, size: int) -> None:
        there = self._b / "large"
        until(lambda: there.stat().st_size == size and _digest(there) == want)

    def both_ways(self, count: int = 100) -> None:
        """Files made on each side at once."""
        began = time.perf_counter()
        for number in range(count):
            (self._a / f"from-a{number}").write_bytes(b"a" * 1000)
            (self._b / f"from-b{number}").write_bytes(b"b" * 1000)
        crossed = [self._b / f"from-a{number}" for number in range(count)]
        crossed += [self._a / f"from-b{number}" for number in range(count)]
        until(lambda: all(path.exists() for path in crossed))
        _row(f"{count} files made on each at once, all on both", time.perf_counter() - began)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Time how changes in A reach B.")
    parser.add_argument("a", type=Path)
    parser.add_argument("b", type=Path)
    for name, default in (("files", 2000), ("mib", 256), ("rounds", 10)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    name = f"measured-{os.getpid()}"
    measures = Measures(options.a / name, options.b / name, Random(11))
    measures.small_changes(options.rounds)
    measures.many_files(options.files)
    measures.large_file(options.mib)
    measures.both_ways()


if __name__ == "__main__":
    main()
