"""The metadata of history stays within twice the bytes of the rows that were changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.history_cost import measure


@pytest.mark.parametrize(("files", "edits"), [(500, 30), pytest.param(5000, 100, marks=pytest.mark.soak)])
def test_history_costs_at_most_twice_what_changed(tmp_path: Path, files: int, edits: int) -> None:
    cost = measure(tmp_path, files, edits)
    assert cost.rows > 60 * edits * 100  # each change keeps an inode's row at least
    assert cost.database < 2 * cost.rows
    assert cost.log < 2 * cost.rows
