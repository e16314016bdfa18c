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
from backend.errors import TransientError
from cache.journal import SUFFIX, Trimming
from cache.local import JOURNAL, NAMESPACE_FILE
from tests.drives import QUIET, make_file
from tests.small_drive import flip, make_empty_drive
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


@pytest.mark.logs_warnings
async def test_an_opening_that_fails_says_what_it_has_moved_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No later one finds it: neither a namespace that was damaged, nor a journal that was."""
    small = make_empty_drive(tmp_path)
    own, told = small.own(), list[str]()
    async with compose.opened_drive(small.unlocked(), own, QUIET) as drive:
        await make_file(drive, b"unpublished", b"content")
        drive.ledger.begin_open_commit()
        await make_file(drive, b"lost", b"content")
    (namespace,) = own.state.glob(NAMESPACE_FILE)
    flip(namespace, 5000, 1)
    segment = max((own.state / JOURNAL).glob("*" + SUFFIX))
    flip(segment, 0, 1)

    async def fail(*_: object) -> None:
        raise TransientError("the nodes are away")

    with monkeypatch.context() as patched:
        patched.setattr(Trimming, "trim", fail)
        with pytest.raises(TransientError):
            async with compose.opened_drive(small.unlocked(), own, QUIET, waiting=told.append):
                raise AssertionError("not reached")
    assert [str(path) in line for path, line in zip((namespace, segment), told, strict=True)] == [True, True]
    async with compose.opened_drive(small.unlocked(), own, QUIET) as drive:
        assert drive.notices == ()
