"""Whole drives that several programs use on several devices at once (`tests.sync.concurrent_walks`)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.sync.concurrent_walks import walk


@pytest.mark.logs_warnings
@pytest.mark.parametrize("seed", range(6))
async def test_what_programs_do_at_once_is_on_all_devices(tmp_path: Path, seed: int) -> None:
    met = await walk(tmp_path, seed, 2 + seed % 2)
    assert {"ended", "killed", "killed at a failpoint"} & met.keys()
    assert {"edit", "make_kept", "read_kept", "rename"} <= met.keys()
