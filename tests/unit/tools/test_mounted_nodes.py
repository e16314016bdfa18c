"""tools.mounted_nodes: the nodes of a drive in use come and go, and programs read and write meanwhile."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from backend.cluster import check_nodes
from backend.health import NodeChange, NodesWanted, PlaceWanted
from cache.drive import Drive
from cache.opening import DriveOptions
from cache.publish import Intervals
from tests.contents import KINDS, content
from tests.drives import QUIET, make_file, tree
from tests.small_drive import CLEAN, SmallDrive, copy_of, make_small_drive
from tools import compose, drive_opening

BUSY = DriveOptions(intervals=Intervals(commit=0.05, version=3600), large_write=1000)
SIZE = 60_000

pytestmark = pytest.mark.logs_warnings


@pytest.fixture(scope="module")
def six(tmp_path_factory: pytest.TempPathFactory) -> SmallDrive:
    return make_small_drive(tmp_path_factory.mktemp("six"))


@pytest.fixture
def made(six: SmallDrive, tmp_path: Path) -> SmallDrive:
    return copy_of(six, tmp_path)


@asynccontextmanager
async def mounted(made: SmallDrive, options: DriveOptions = QUIET) -> AsyncIterator[Drive]:
    """The drive, in use."""
    opening = drive_opening.opened_drive(made.unlocked(), made.own(), options)
    async with opening as opened, trio.open_nursery() as nursery:
        await nursery.start(opened.run)
        yield opened
        nursery.cancel_scope.cancel()


async def change(drive: Drive, verb: str, **wanted: Any) -> NodeChange:
    """The change, at its end."""
    assert drive.node_changes is not None
    drive.node_changes.begin(NodesWanted(verb=verb, **wanted))
    ended = await drive.node_changes.ended()
    assert ended is not None
    assert not ended.running
    return ended


async def changed(drive: Drive, verb: str, **wanted: Any) -> None:
    """The same, of one that succeeds."""
    ended = await change(drive, verb, **wanted)
    assert ended.problem == ""


def places(made: SmallDrive, *names: str) -> tuple[PlaceWanted, ...]:
    return tuple(PlaceWanted(str(made.drive / name)) for name in names)


class Programs:
    """They write files of all kinds, one after the other, and read back what they and others wrote."""

    def __init__(self, drive: Drive) -> None:
        self._drive = drive
        self.written: dict[int, bytes] = {}
        self.reads = 0

    async def write(self) -> None:
        for number in range(1_000_000):
            data = content(KINDS[number % len(KINDS)], SIZE, number)
            made = await make_file(self._drive, b"busy%d" % number, data)
            await self._drive.settle(made.inode)
            self.written[made.inode] = data
            await trio.sleep(0.01)

    async def read(self) -> None:
        while True:
            for inode, data in list(self.written.items()):
                assert await self._drive.read(inode, 0, SIZE) == data
                self.reads += 1
                await trio.sleep(0)
            await trio.sleep(0.001)


@asynccontextmanager
async def busy(drive: Drive) -> AsyncIterator[Programs]:
    """Programs run meanwhile; what they wrote is stored and right at the end."""
    programs = Programs(drive)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(programs.write)
        nursery.start_soon(programs.read)
        yield programs
        nursery.cancel_scope.cancel()
    assert programs.reads
    await drive.sync()
    for inode, data in programs.written.items():
        assert await drive.read(inode, 0, SIZE) == data


async def keep(made: SmallDrive, drive: Drive) -> None:
    """What is in the drive now is what is to be read later."""
    await drive.sync()
    made.content = await tree(drive)


def test_nodes_come_and_go_under_programs(made: SmallDrive) -> None:
    async def run() -> None:
        async with mounted(made, BUSY) as drive:
            async with busy(drive):
                await changed(drive, "add", places=places(made, "node6"))
                await changed(drive, "rebalance")
                await changed(drive, "remove", names=("node0",))
                shutil.rmtree(made.drive / "node1")
                await changed(drive, "replace", names=("node1",), places=places(made, "new1"))
            await keep(made, drive)
            status = await drive.status()
            assert status.store is not None
            assert [node.name for node in status.store.nodes] == [f"node{number}" for number in range(1, 7)]
            assert {node.state for node in status.store.nodes} == {"ok"}

    trio.run(run)
    file = compose.load_drive(str(made.drive))
    assert [entry.name for entry in file.nodes] == [f"node{number}" for number in range(1, 7)]
    assert sum(entry.votes for entry in file.nodes) == 5
    assert not check_nodes.survey(str(made.drive)).wrong
    assert made.fsck("-f") == CLEAN
    assert made.read() == made.content
