"""fsck on a drive whose past was forgotten and whose space was given back: nothing of that is a fault."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import trio

from cache.namespace.operations import ROOT_INODE
from cache.retention.retention import Policy
from cache.services.health_calls import check_running
from tests.drives import QUIET, make_file
from tests.small_drive import CLEAN, SmallDrive, make_small_drive
from tools import drive_opening
from tools.host.places import Folders

pytestmark = pytest.mark.logs_warnings


async def live(made: SmallDrive) -> tuple[int, int]:
    """Some commits, most of them forgotten, their space collected: points forgotten, packs deleted."""
    async with (
        drive_opening.opened_drive(made.unlocked(), made.own(), QUIET) as opened,
        trio.open_nursery() as nursery,
    ):
        await nursery.start(opened.run)
        await make_file(opened, b"changing", b"first")
        for number in range(6):
            inode = opened.lookup(ROOT_INODE, b"changing").inode
            await opened.write(inode, 0, random.Random(number).randbytes(40_000))
            await opened.settle(inode)
            await opened.sync()
        opened.retention.set_policy(Policy(0, 0, 0, 0, 0))
        collected = await opened.retention.collect(grace=0.0, trust_clock=True)
        await opened.sync()
        nursery.cancel_scope.cancel()
    return collected.points, collected.compaction.packs


@pytest.mark.parametrize("with_cache", [True, False])
def test_a_past_that_was_forgotten_is_no_fault(tmp_path: Path, with_cache: bool) -> None:
    made = make_small_drive(tmp_path)
    points, packs = trio.run(live, made)
    assert points > 3
    assert packs > 0
    if not with_cache:
        made.forget()
    assert made.fsck("-n", "--data") == CLEAN
    assert made.fsck("-y", "--data") == CLEAN


async def looked_at_elsewhere(made: SmallDrive, own: Folders) -> tuple[list[str], int]:
    """What a check of a mount on a machine without a cache finds; and the bytes that history adds there."""
    async with (
        drive_opening.opened_drive(made.unlocked(), own, QUIET) as opened,
        trio.open_nursery() as nursery,
    ):
        await nursery.start(opened.run)
        assert next(opened.ledger.namespace.synced_connection().execute("SELECT count(*) FROM forgetting"))[0]
        found = await check_running(opened)
        (whole,) = await opened.space().usage(ROOT_INODE)
        nursery.cancel_scope.cancel()
    return found, whole.history.blocks


def test_a_running_drive_misses_nothing_of_it_before_retention_has_run(tmp_path: Path) -> None:
    """The rows of what was forgotten come back with the log, their blocks do not."""
    made = make_small_drive(tmp_path)
    trio.run(live, made)
    assert trio.run(looked_at_elsewhere, made, Folders(tmp_path / "new cache", tmp_path / "new state")) == (
        [],
        0,
    )
