"""backend.cluster.cluster_change: when the copies of `drive.toml` are looked at, and what that is worth."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from backend.cluster import DriveFile, HeldDrive, Survey, check_nodes, drive_file, held
from backend.cluster.cluster_change import NotInUse
from backend.commits import Lease, this_process
from tests.small_drive import SmallDrive, make_empty_drive
from tools import drive_nodes

OTHERS = ("node0", "node1")
"""Fewer than a majority of the five voters."""


class Watched(NotInUse):
    """A use that knows whether it is kept waiting."""

    def __init__(self) -> None:
        self.waits = False

    @asynccontextmanager
    async def still(self) -> AsyncIterator[None]:
        self.waits = True
        yield
        self.waits = False


@pytest.fixture
def drive(tmp_path: Path) -> SmallDrive:
    return make_empty_drive(tmp_path)


@asynccontextmanager
async def held_drive(drive: SmallDrive) -> AsyncIterator[HeldDrive]:
    unlocked, folder = drive.unlocked(), str(drive.drive)
    file, key = unlocked.file, unlocked.keys.lease
    nodes = drive_nodes.open_nodes(folder, file)
    lease = Lease(nodes, file.id, key, this_process(), map_epoch=file.epoch)
    async with held(folder, file, nodes, lease) as found:
        yield found


def drained(file: DriveFile, name: str) -> DriveFile:
    """The next map, in which this node takes nothing."""
    nodes = tuple(replace(node, weight=0.0 if node.name == name else node.weight) for node in file.nodes)
    return replace(file, nodes=nodes, epoch=file.epoch + 1)


def test_nobody_is_kept_waiting_for_a_look_at_the_copies(
    drive: SmallDrive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that hangs is waited for at each look, for ten seconds or twenty."""
    use, looks, survey = Watched(), list[bool](), check_nodes.survey

    def noted(folder: str) -> Survey:
        looks.append(use.waits)
        return survey(folder)

    async def change() -> None:
        async with held_drive(drive) as found:
            monkeypatch.setattr(check_nodes, "survey", noted)
            new, failed = await replace(found, use=use).change(drained(found.file, "node2").nodes)
            assert not failed
            assert drive_file.load(str(drive.drive / "drive.toml")) == new

    trio.run(change)
    assert looks
    assert not any(looks)


def test_who_was_stopped_after_the_lease_was_confirmed_puts_nothing_over_a_later_copy(
    drive: SmallDrive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has the lease next may have begun to write a map by then: it was not seen under the lease."""
    places = [drive.drive / name / "drive.toml" for name in OTHERS]
    verify = Lease.verify

    async def change() -> None:
        async with held_drive(drive) as found:
            later = drive_file.encode(drained(found.file, "node5"))

            async def stopped_after(lease: Lease) -> None:
                await verify(lease)
                for place in places:
                    place.write_bytes(later)

            monkeypatch.setattr(Lease, "verify", stopped_after)
            failed = await found.put_in_force(drained(found.file, "node2"))
            assert [line.partition(":")[0] for line in failed] == [*OTHERS]
            assert all(place.read_bytes() == later for place in places)

    trio.run(change)
