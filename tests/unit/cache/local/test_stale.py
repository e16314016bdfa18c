"""What was set aside because the drive had gone on: said, listed, shown, and brought back byte for byte."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
import trio

from cache.drive import Drive
from cache.namespace.operations import ROOT_INODE
from tests.contents import KINDS, content
from tests.drives import QUIET, make_file
from tests.small_drive import SmallDrive, make_empty_drive
from tools import drive_opening
from tools.errors import ToolError
from tools.host.places import Folders

pytestmark = pytest.mark.logs_warnings
STORED = content("log", 700_000, 1)


@pytest.fixture
def made(tmp_path: Path) -> SmallDrive:
    return make_empty_drive(tmp_path)


async def use(made: SmallDrive, own: Folders, work: object, *, store: bool) -> list[str]:
    """Open the drive, work on it, and let it go; what the person was told."""
    assert callable(work)
    async with (
        drive_opening.opened_drive(made.unlocked(), own, QUIET) as opened,
        trio.open_nursery() as nursery,
    ):
        await nursery.start(opened.run)
        await work(opened)
        if store:
            await opened.sync()
        nursery.cancel_scope.cancel()
    return list(opened.notices)


async def nothing(_: Drive) -> None:
    await trio.lowlevel.checkpoint()


async def elsewhere(drive: Drive) -> None:
    await make_file(drive, b"theirs", b"published by another machine")


def leave_behind(made: SmallDrive, seed: int) -> dict[str, bytes]:
    """Changes of every kind that the drive goes on without; the files that are in none but the old state."""
    chance, expected = random.Random(seed), dict[str, bytes]()

    async def store(drive: Drive) -> None:
        await make_file(drive, b"stored", STORED)
        await make_file(drive, b"to be removed", b"x")
        await make_file(drive, b"as it is", b"unchanged")

    async def change(drive: Drive) -> None:
        folder = await drive.make_node(ROOT_INODE, b"folder \xff", 0o40750, 0, 0, 0)
        for kind in KINDS:
            data = content(kind, chance.choice((0, 100, 5_000, 300_000)), seed)
            await make_file(drive, kind.encode(), data, folder.inode)
            expected[os.fsdecode(b"folder \xff/" + kind.encode())] = data
        inode, at = drive.lookup(ROOT_INODE, b"stored").inode, chance.randrange(len(STORED))
        middle = content("random", 5_000, seed)
        await drive.write(inode, at, middle)
        await drive.rename(ROOT_INODE, b"stored", folder.inode, b"was stored")
        whole = STORED[:at] + middle + STORED[at + len(middle) :]
        expected[os.fsdecode(b"folder \xff/was stored")] = whole
        await drive.unlink(ROOT_INODE, b"to be removed")

    trio.run(lambda: use(made, made.own(), store, store=True))
    trio.run(lambda: use(made, made.own(), change, store=False))
    other = made.folder / "other machine"
    trio.run(lambda: use(made, Folders(other / "cache", other / "state"), elsewhere, store=True))
    return expected


def state(made: SmallDrive) -> list[str | Path]:
    return ["--state-dir", made.state]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("seed", range(4))
def test_what_was_set_aside_is_said_and_comes_back(
    made: SmallDrive, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = leave_behind(made, seed)
    (told,) = trio.run(lambda: use(made, made.own(), nothing, store=False))
    (kept,) = (made.own().state / "stale").iterdir()
    assert str(kept) in told
    assert "drivefs stale" in told
    before = files(kept)
    capsys.readouterr()
    assert made.drivefs("stale", "list", made.drive, *state(made)) == 0
    assert kept.name in capsys.readouterr().out
    assert made.drivefs("stale", "show", made.drive, *state(made)) == 0
    shown = capsys.readouterr().out
    assert all(name.rpartition("/")[2] in shown for name in expected)
    assert "1 names were removed" in shown
    assert "as it is" not in shown
    to = made.folder / "back"
    where = [*state(made), "--key-file", made.folder / "key", "--to"]
    assert made.drivefs("stale", "restore", made.drive, kept.name, *where, to) == 0
    assert files(to) == expected
    some = made.folder / "some"
    chosen = os.fsdecode(b"folder \xff/was stored")
    assert made.drivefs("stale", "restore", made.drive, kept.name, chosen, *where, some) == 0
    assert files(some) == {chosen: expected[chosen]}
    assert made.drivefs("stale", "restore", made.drive, kept.name, *where, to) == 1, "nothing is overwritten"
    assert files(to) == expected
    assert files(kept) == before, "looking changes nothing"
    assert trio.run(lambda: use(made, made.own(), nothing, store=False)) == [], "it is said once"


def test_a_file_whose_nodes_are_away_is_named(made: SmallDrive, capsys: pytest.CaptureFixture[str]) -> None:
    """What is in the journal comes back all the same."""
    expected = leave_behind(made, 7)
    trio.run(lambda: use(made, made.own(), nothing, store=False))
    (kept,) = (made.own().state / "stale").iterdir()
    for number in range(3):
        (made.drive / f"node{number}").rename(made.drive / f"away{number}")
    where = [*state(made), "--key-file", made.folder / "key", "--to", made.folder / "back"]
    assert made.drivefs("stale", "restore", made.drive, kept.name, *where) == 1
    assert "was stored" in capsys.readouterr().err
    partly = os.fsdecode(b"folder \xff/was stored")
    assert files(made.folder / "back") == {name: data for name, data in expected.items() if name != partly}


def test_what_is_not_there_is_said(made: SmallDrive, capsys: pytest.CaptureFixture[str]) -> None:
    assert made.drivefs("stale", "list", made.drive, *state(made)) == 0
    assert "nothing was set aside" in capsys.readouterr().err
    with pytest.raises(ToolError, match="nothing was set aside"):
        made.drivefs("stale", "show", made.drive, *state(made))
    kept = made.own().state / "stale" / "20260101T000000Z"
    (kept / "journal").mkdir(parents=True)
    with pytest.raises(ToolError, match="there is 20260101T000000Z"):
        made.drivefs("stale", "show", made.drive, "another", *state(made))
