"""The concurrent walks of tests/sync, for as long as one likes: they go on where the last run ended.

SEEDS: how many seeds (default 2,000), each of two and of three devices. WALKS_STATE: a file that remembers
how many were done and how often they met what; without it every run begins with seed 0. A seed that breaks a
promise ends the run and is named; the next run comes to it again.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import pytest
import trio

from tests.sync.concurrent_walks import walk

pytestmark = [pytest.mark.soak, pytest.mark.logs_warnings, pytest.mark.timeout(24 * 3600)]

SEEDS: Final = int(os.environ.get("SEEDS", "2000"))
BATCH: Final = 16
MET: Final = (
    "ended",
    "killed",
    "killed at a failpoint",
    "refused",
    "edit",
    "collect",
    "pin",
    "clone",
    "read_past",
)
"""Each so often at least, in so many seeds:"""
LEAST_MET: Final = 100
ENOUGH: Final = 1000


class Progress:
    """What was done so far, in a file if one is named."""

    def __init__(self, path: str | None) -> None:
        self._path = Path(path) if path else None
        self.seeds = 0
        self.met: Counter[str] = Counter()
        if self._path is not None and self._path.exists():
            stored = json.loads(self._path.read_text())
            self.seeds, self.met = stored["seeds"], Counter(stored["met"])

    def add(self, outcomes: list[Counter[str]]) -> None:
        """Count a batch of seeds, and write it down."""
        for outcome in outcomes:
            self.met += outcome
        self.seeds += len(outcomes)
        if self._path is not None:
            table = {"seeds": self.seeds, "met": dict(sorted(self.met.items()))}
            self._path.write_text(json.dumps(table, indent=1) + "\n")


def walked(seed: int) -> Counter[str]:
    """What the walks of a seed met."""
    met: Counter[str] = Counter()
    for count in (2, 3):
        with TemporaryDirectory(prefix="drivefs-walk-") as folder:
            try:
                met += trio.run(walk, Path(folder), seed, count)
            except Exception as error:
                raise AssertionError(f"seed {seed} of {count} devices") from error
    return met


def test_seeds_without_end() -> None:
    progress = Progress(os.environ.get("WALKS_STATE"))
    end = progress.seeds + SEEDS
    with ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
        while progress.seeds < end:
            batch = range(progress.seeds, min(progress.seeds + BATCH, end))
            progress.add(list(pool.map(walked, batch)))
    print(f"{progress.seeds} seeds:")
    for what, number in sorted(progress.met.items()):
        print(f"{number:>10} {what}")
    short = [what for what in MET if progress.met[what] < LEAST_MET]
    assert not short or progress.seeds < ENOUGH, short
