"""Several devices that do anything converge, and lose nothing: a thousand seeds. More: tests/soak."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Final

import pytest

from tests.sync.random_walks import prepared, walk

SEEDS: Final = 50
"""In each test."""
BATCHES: Final = 10


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("batch", range(BATCHES))
def test_devices_that_do_anything_converge_and_lose_nothing(tmp_path: Path, count: int, batch: int) -> None:
    base = prepared(tmp_path)
    for seed in range(batch * SEEDS, (batch + 1) * SEEDS):
        try:
            walk(tmp_path, base, seed, count, Counter())
        except Exception as error:
            raise AssertionError(f"seed {seed} of {count} devices") from error
