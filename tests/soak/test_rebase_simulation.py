"""The walks of tests/sync at random, for as long as one likes: they go on where the last run ended.

SEEDS: how many seeds (default 100,000), each of two and of three devices. REBASE_STATE: a file that remembers
how many were done and how often they met each row; without it every run begins with seed 0. A seed that
breaks a promise ends the run and is named; the next run comes to it again.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import pytest

from cache.rebase import Row
from tests.sync.random_walks import prepared, walk

pytestmark = [pytest.mark.soak, pytest.mark.timeout(24 * 3600)]

SEEDS: Final = int(os.environ.get("SEEDS", "100000"))
BATCH: Final = 64
LEAST_HITS: Final = 1000
"""Of each row, in so many seeds:"""
ENOUGH: Final = 100_000


class Progress:
    """What was done so far, in a file if one is named."""

    def __init__(self, path: str | None) -> None:
        self._path = Path(path) if path else None
        self.seeds = 0
        self.hits: Counter[Row] = Counter()
        if self._path is not None and self._path.exists():
            stored = json.loads(self._path.read_text())
            self.seeds = stored["seeds"]
            self.hits = Counter({Row[name]: number for name, number in stored["hits"].items()})

    def add(self, outcomes: list[Counter[Row]]) -> None:
        """Count a batch of seeds, and write it down."""
        for outcome in outcomes:
            self.hits += outcome
        self.seeds += len(outcomes)
        if self._path is not None:
            table = {"seeds": self.seeds, "hits": {row.name: number for row, number in self.hits.items()}}
            self._path.write_text(json.dumps(table, indent=1) + "\n")


def walked(base: Path, seed: int) -> Counter[Row]:
    """The rows that the walks of a seed met."""
    hits: Counter[Row] = Counter()
    for count in (2, 3):
        with TemporaryDirectory(dir=base.parent) as folder:
            try:
                walk(Path(folder), base, seed, count, hits)
            except Exception as error:
                raise AssertionError(f"seed {seed} of {count} devices") from error
    return hits


def test_seeds_without_end(tmp_path: Path) -> None:
    progress = Progress(os.environ.get("REBASE_STATE"))
    end, base = progress.seeds + SEEDS, prepared(tmp_path)
    with ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
        while progress.seeds < end:
            batch = range(progress.seeds, min(progress.seeds + BATCH, end))
            progress.add(list(pool.map(partial(walked, base), batch)))
    print(f"{progress.seeds} seeds, the hits of each row:")
    for row in Row:
        print(f"{progress.hits[row]:>10} {row.value}")
    short = [row.value for row in Row if progress.hits[row] < LEAST_HITS]
    assert not short or progress.seeds < ENOUGH, short
