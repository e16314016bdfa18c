"""What `tools.compose` puts together, where no other test would notice that it is not."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from backend.blocks.block_store import PackedBlockStore
from backend.blocks.index_reconciliation import ReconcileReport
from backend.commits import lease_record
from backend.commits.lease import Lease
from backend.commits.lease_votes import KEY
from tests.drives import QUIET
from tests.small_drive import make_empty_drive
from tools import compose

PATIENCE = 30.0


async def test_the_lease_is_renewed_while_the_index_is_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slow nodes, or an index made anew, take longer than it lasts: a mount elsewhere would take it then."""
    small = make_empty_drive(tmp_path)
    record, reconcile = small.drive / "node0" / KEY, PackedBlockStore.reconcile

    def renewals() -> int:
        return lease_record.decode(record.read_bytes()).renewals

    async def slow(store: PackedBlockStore, *arguments: Any) -> ReconcileReport:
        with trio.fail_after(PATIENCE):
            before = renewals()
            while renewals() < before + 2:
                await trio.sleep(0.01)
        return await reconcile(store, *arguments)

    monkeypatch.setattr(PackedBlockStore, "reconcile", slow)
    monkeypatch.setattr(compose, "Lease", partial(Lease, seconds=2.0))
    async with compose.opened_drive(small.unlocked(), small.own(), QUIET):
        assert renewals() >= 2
