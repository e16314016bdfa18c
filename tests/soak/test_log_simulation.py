"""The simulator of the log and the lease, for as long as one likes: it goes on where the last run ended.

SEEDS: how many seeds (default 2000). SIMULATION_STATE: a file that remembers how many were done and what they
met; without it every run begins with seed 0. A seed that breaks a promise ends the run and is named; the next
run comes to it again.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from tests.simulation.run import Outcome, simulate
from tests.simulation.world import FAULTS

pytestmark = [pytest.mark.soak, pytest.mark.timeout(24 * 3600), pytest.mark.logs_warnings]

SEEDS = int(os.environ.get("SEEDS", "2000"))
BATCH = 64


class Progress:
    """What was done so far, in a file if one is named."""

    def __init__(self, path: str | None) -> None:
        self._path = Path(path) if path else None
        self.seeds = self.takeovers = self.acknowledged = 0
        self.met: Counter[str] = Counter()
        if self._path is not None and self._path.exists():
            stored = json.loads(self._path.read_text())
            self.seeds, self.takeovers = stored["seeds"], stored["takeovers"]
            self.acknowledged, self.met = stored["acknowledged"], Counter(stored["met"])

    def add(self, outcomes: list[Outcome]) -> None:
        """Count a batch of seeds, and write it down."""
        for outcome in outcomes:
            self.takeovers += outcome.takeovers
            self.acknowledged += outcome.acknowledged
            self.met += outcome.met
        self.seeds += len(outcomes)
        if self._path is not None:
            table = {
                "seeds": self.seeds,
                "takeovers": self.takeovers,
                "acknowledged": self.acknowledged,
                "met": dict(self.met),
            }
            self._path.write_text(json.dumps(table, indent=1) + "\n")


def test_seeds_without_end() -> None:
    progress = Progress(os.environ.get("SIMULATION_STATE"))
    began, before = time.monotonic(), progress.takeovers
    end = progress.seeds + SEEDS
    with ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
        while progress.seeds < end:
            batch = range(progress.seeds, min(progress.seeds + BATCH, end))
            progress.add(list(pool.map(simulate, batch)))
    minutes = (time.monotonic() - began) / 60
    print(
        f"{progress.seeds} seeds, {progress.takeovers} take-overs, {progress.acknowledged} commits told, "
        f"{(progress.takeovers - before) / minutes:.0f} take-overs a minute"
    )
    for kind in FAULTS:
        print(f"{progress.met[kind]:>10} {kind}")
        assert progress.met[kind]
