"""A process that uses a drive and has its nodes changed meanwhile, to be killed in the middle."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import trio

from backend.errors import DriveError
from backend.failpoints import OF_PROCESS
from backend.health import NodesWanted, PlaceWanted
from cache.drive import Drive
from cache.namespace.operations import ROOT_INODE
from cache.publish import Intervals
from tests.contents import KINDS, content
from tests.drives import QUIET, make_file
from tests.small_drive import SmallDrive
from tools import drive_opening

BUSY = replace(QUIET, intervals=Intervals(commit=0.05, version=3600))
SIZE = 20_000


def wanted(made: SmallDrive, verb: str) -> NodesWanted:
    """A seventh node comes; the first one goes; the second one, whose disk is new, is made anew in its place
    or (`exchange`) in another."""
    match verb:
        case "add":
            return NodesWanted(verb="add", places=(PlaceWanted(str(made.drive / "node6")),))
        case "remove":
            return NodesWanted(verb="remove", names=("node0",))
        case "replace":
            return NodesWanted(verb="replace", names=("node1",))
        case "exchange":
            places = (PlaceWanted(str(made.drive / "new1")),)
            return NodesWanted(verb="replace", names=("node1",), places=places)
    return NodesWanted(verb=verb)


def lose_a_disk(made: SmallDrive, verb: str) -> None:
    """What is to be replaced is gone."""
    if verb in ("replace", "exchange"):
        shutil.rmtree(made.drive / "node1", ignore_errors=True)


@asynccontextmanager
async def in_use(made: SmallDrive) -> AsyncIterator[Drive]:
    """The drive, published often."""
    opening = drive_opening.opened_drive(made.unlocked(), made.own(), BUSY)
    async with opening as opened, trio.open_nursery() as nursery:
        await nursery.start(opened.run)
        yield opened
        nursery.cancel_scope.cancel()


async def change(drive: Drive, what: NodesWanted) -> str:
    """Make the change; what went wrong, if anything."""
    assert drive.node_changes is not None
    drive.node_changes.begin(what)
    ended = await drive.node_changes.ended()
    assert ended is not None
    return ended.problem


def data_of(number: int) -> bytes:
    """The content of a file that is written meanwhile: of each kind in turn."""
    return content(KINDS[number % len(KINDS)], SIZE, number)


async def _write(drive: Drive, acknowledged: Path) -> None:
    """One file after the other; each is noted when it is stored."""
    for number in range(1_000_000):
        made = await make_file(drive, b"busy%d" % number, data_of(number))
        await drive.settle(made.inode)
        await drive.sync()
        with acknowledged.open("a") as file:
            file.write(f"{number}\n")


async def _live(made: SmallDrive, verb: str) -> None:
    async with in_use(made) as drive, trio.open_nursery() as nursery:
        nursery.start_soon(_write, drive, made.folder / "acknowledged")
        problem = await change(drive, wanted(made, verb))
        nursery.cancel_scope.cancel()
    if problem:
        raise DriveError(problem)


def main(folder: str, verb: str) -> None:
    """The process: the drive in `folder`, a verb of `wanted`, and failpoints as the environment says."""
    OF_PROCESS.arm_from_environment()
    made = SmallDrive(Path(folder), {})
    lose_a_disk(made, verb)
    trio.run(_live, made, verb)


async def require_acknowledged(drive: Drive, folder: Path) -> int:
    """All that was noted as stored is there, byte for byte: how many files."""
    noted = folder / "acknowledged"
    numbers = [int(line) for line in noted.read_text().split()] if noted.exists() else []
    for number in numbers:
        row = drive.lookup(ROOT_INODE, b"busy%d" % number)
        assert await drive.read(row.inode, 0, SIZE + 1) == data_of(number)
    return len(numbers)
