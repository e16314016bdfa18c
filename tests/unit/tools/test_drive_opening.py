"""What opening a drive promises, where no other test would notice that it does not."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from backend.blocks.block_store import PackedBlockStore
from backend.blocks.index_reconciliation import ReconcileReport
from backend.commits import lease_record
from backend.commits.lease_votes import KEY
from backend.errors import TransientError
from backend.nodes.node import Node
from cache.journal import SUFFIX, Trimming
from cache.local import JOURNAL, NAMESPACE_FILE, locked
from cache.namespace import ROOT_INODE
from tests.drives import QUIET, make_file
from tests.faulty_node import Fault, FaultyNode
from tests.small_drive import flip, make_empty_drive
from tools import compose, drive_opening, second_mount
from tools.drive_nodes import open_nodes
from tools.host import mounts
from tools.host.mounts import Mount

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
    monkeypatch.setattr(compose, "lease_seconds", lambda *_: 2.0)
    async with drive_opening.opened_drive(small.unlocked(), small.own(), QUIET):
        assert renewals() >= 2


@pytest.mark.logs_warnings
async def test_an_opening_that_fails_says_what_it_has_moved_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No later one finds it: neither a namespace that was damaged, nor a journal that was."""
    small = make_empty_drive(tmp_path)
    own, told = small.own(), list[str]()
    async with drive_opening.opened_drive(small.unlocked(), own, QUIET) as drive:
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
            async with drive_opening.opened_drive(small.unlocked(), own, QUIET, waiting=told.append):
                raise AssertionError("not reached")
    assert [str(path) in line for path, line in zip((namespace, segment), told, strict=True)] == [True, True]
    async with drive_opening.opened_drive(small.unlocked(), own, QUIET) as drive:
        assert drive.notices == ()


@pytest.mark.parametrize("read_only", [False, True])
async def test_the_log_does_not_wait_for_whom_the_lease_has_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_only: bool
) -> None:
    small, answers = make_empty_drive(tmp_path), trio.Event()

    def one_hangs(*arguments: Any) -> dict[str, Node]:
        nodes = open_nodes(*arguments)
        nodes["node0"] = hanging = FaultyNode(nodes["node0"])
        hanging.faults = [Fault(pattern="^(lease|commits/.*|roots/.*)$", until=answers)]
        return {**nodes}

    monkeypatch.setattr(drive_opening, "open_nodes", one_hangs)
    monkeypatch.setattr(compose, "LEASE_PATIENCE", 0.5)
    monkeypatch.setattr(compose, "OBJECT_PATIENCE", 1000.0)
    monkeypatch.setattr(compose, "lease_seconds", lambda *_: 3.0)
    with trio.fail_after(PATIENCE):
        async with drive_opening.opened_drive(
            small.unlocked(), small.own(), replace(QUIET, read_only=read_only)
        ):
            answers.set()


@pytest.mark.logs_warnings
async def test_a_state_that_is_set_aside_for_a_journal_that_is_damaged_is_told_with_that(
    tmp_path: Path,
) -> None:
    """The log stands on what the journal lost: whoever looks into it will not find all."""
    small = make_empty_drive(tmp_path)
    own = small.own()
    async with drive_opening.opened_drive(small.unlocked(), own, QUIET) as drive:
        await make_file(drive, b"published", b"content")
        await drive.publisher.publish(everything=True)
        await make_file(drive, b"unpublished", b"content")
    (segment,) = (own.state / JOURNAL).glob("*" + SUFFIX)
    flip(segment, 0, 1)
    async with drive_opening.opened_drive(small.unlocked(), own, QUIET) as drive:
        (line,) = drive.notices
        assert "set aside" in line
        assert f"{segment} has no header" in line
        assert [entry.name for entry in drive.entries(ROOT_INODE, 0, 9)] == [b"published"]


async def test_a_mount_that_ends_is_waited_for_beside_one_of_the_past(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: the place of the past passed for one where the drive is mounted still."""
    small = make_empty_drive(tmp_path)
    past = Mount("/nowhere", mounts.FILE_SYSTEM_TYPE, str(small.unlocked().folder))
    monkeypatch.setattr(mounts, "drives", lambda: [past])
    monkeypatch.setattr(second_mount, "shows_the_present", lambda mount: mount is not past)
    own = small.own()
    own.state.mkdir(parents=True)
    lock = locked(own.state)
    told: list[str] = []

    def waiting(line: str) -> None:
        told.append(line)
        os.close(lock)

    async with drive_opening.opened_drive(small.unlocked(), own, QUIET, waiting=waiting):
        pass
    assert "still ends" in told[0]
