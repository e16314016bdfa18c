"""Single bytes flipped anywhere on a drive's nodes: reads are right or refused, fsck finds each and heals it.

A small drive is made once, without FUSE. Each flip is made on it alone: everything is read with an empty
cache, `fsck.drivefs -n --data` must find it and change nothing, `-y` must heal it, and a second run find
nothing.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backend.errors import DriveError
from backend.health import ScrubStatus
from cache.drive import Drive
from tests.contents import Kind, content
from tests.drives import QUIET, make_file
from tests.small_drive import CLEAN, CORRECTED, LEFT, SmallDrive, copy_of, flip, make_small_drive, no_ballast
from tools import drive_opening

pytestmark = pytest.mark.logs_warnings


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> SmallDrive:
    """A drive on which nothing is wrong; not to be changed."""
    return make_small_drive(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def damaged(whole: SmallDrive, tmp_path: Path) -> SmallDrive:
    """A copy, to be damaged."""
    return copy_of(whole, tmp_path)


def check_reads(drive: SmallDrive) -> None:
    """Right, or refused; never wrong."""
    try:
        found = drive.read()
    except (DriveError, OSError):
        return
    assert found == drive.content


def random_flips(drive: SmallDrive, count: int, seed: int) -> Iterator[tuple[Path, int, int]]:
    """Files in turn, so that every kind is hit; places and bits at random."""
    source = random.Random(seed)
    files = drive.files()
    kinds: dict[str, list[Path]] = {}
    for path in files:
        kinds.setdefault(path.relative_to(drive.drive).parts[1], []).append(path)
    for number in range(count):
        kind = sorted(kinds)[number % len(kinds)]
        path = source.choice(kinds[kind])
        yield path, source.randrange(path.stat().st_size), source.randrange(8)


def suffer(drive: SmallDrive, flips: Iterator[tuple[Path, int, int]]) -> None:
    """Each flip alone: see the module."""
    for path, offset, bit in flips:
        what = f"{path.relative_to(drive.drive)} byte {offset} bit {bit}"
        before = path.read_bytes()
        flip(path, offset, bit)
        check_reads(drive)
        assert drive.fsck("-n", "--data") == LEFT, what
        assert drive.fsck("-y", "--data") == CORRECTED, what
        assert path.read_bytes() == before, what


def test_nothing_is_wrong_with_a_drive_that_is_whole(damaged: SmallDrive) -> None:
    before = {path: path.read_bytes() for path in damaged.files()}
    assert damaged.fsck("-n", "--data") == CLEAN
    assert damaged.fsck("-y", "--data") == CLEAN
    assert {path: path.read_bytes() for path in damaged.files()} == before
    assert damaged.read() == damaged.content


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.soak)])
def test_each_flipped_byte_is_found_and_healed(damaged: SmallDrive, seed: int) -> None:
    suffer(damaged, random_flips(damaged, 15, seed))
    assert damaged.fsck("-n", "--data") == CLEAN
    assert damaged.read() == damaged.content


SEALED = ("namespace.db", "namespace.db.seal", "blocks.db", "blocks.db.seal")


def cache_flips(drive: SmallDrive, count: int, seed: int) -> Iterator[tuple[Path, int, int]]:
    """The files of cache and state in turn; places and bits at random."""
    source = random.Random(seed)
    found = [*drive.cache.rglob("*"), *drive.state.rglob("*")]
    files = sorted(path for path in found if path.is_file() and path.stat().st_size)
    for number in range(count):
        path = files[number % len(files)]
        yield path, source.randrange(path.stat().st_size), source.randrange(8)


def suffer_in_the_cache(damaged: SmallDrive, flips: Iterator[tuple[Path, int, int]]) -> None:
    """Each flip alone, in a cache that was closed: the databases are sealed, so every one is found and
    mended. All that the journal says is published: none of its bytes is needed, and none does harm."""
    whole = damaged.folder / "whole"
    for place in (damaged.cache, damaged.state):
        shutil.copytree(place, whole / place.name)
    for path, offset, bit in flips:
        what = f"{path.relative_to(damaged.folder)} byte {offset} bit {bit}"
        flip(path, offset, bit)
        if path.name in SEALED:
            assert damaged.fsck("-n", "--data") == LEFT, what
        assert damaged.read_here() == damaged.content, what
        restore(whole, damaged)
        flip(path, offset, bit)
        assert damaged.fsck("-y", "--data") == (CORRECTED if path.name in SEALED else CLEAN), what
        assert damaged.fsck("-n", "--data") == CLEAN, what
        assert damaged.read_here() == damaged.content, what
        restore(whole, damaged)


def restore(whole: Path, damaged: SmallDrive) -> None:
    damaged.forget()
    for place in (damaged.cache, damaged.state):
        shutil.copytree(whole / place.name, place)


def test_each_flipped_byte_of_the_cache_is_found_and_healed(damaged: SmallDrive) -> None:
    suffer_in_the_cache(damaged, cache_flips(damaged, 6, 1))


FLIPS = int(os.environ.get("FLIPS", "1000"))
PARTS = 10


@pytest.mark.soak
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("part", range(PARTS))
def test_a_thousand_flipped_bytes(damaged: SmallDrive, part: int) -> None:
    """Three of four on the nodes."""
    seed = int(os.environ.get("FLIP_SEED", random.randrange(1 << 30)))
    print(f"FLIP_SEED={seed} FLIPS={FLIPS}")
    suffer(damaged, random_flips(damaged, FLIPS // PARTS * 3 // 4, seed + part))
    assert damaged.fsck("-n", "--data") == CLEAN
    assert damaged.read() == damaged.content
    suffer_in_the_cache(damaged, cache_flips(damaged, FLIPS // PARTS // 4, seed + part))


@pytest.mark.parametrize("seed", range(2))
def test_many_flips_on_two_nodes_are_healed_at_once(damaged: SmallDrive, seed: int) -> None:
    source = random.Random(seed)
    nodes = source.sample(range(6), 2)
    for path in damaged.files():
        if int(path.relative_to(damaged.drive).parts[0][4:]) in nodes:
            flip(path, source.randrange(path.stat().st_size), source.randrange(8))
    check_reads(damaged)
    assert damaged.fsck("-n", "--data") == LEFT
    assert damaged.fsck("-y", "--data") == CORRECTED
    assert damaged.fsck("-n", "--data") == CLEAN
    assert damaged.read() == damaged.content


def test_two_nodes_whose_data_is_gone(damaged: SmallDrive) -> None:
    for number in (1, 4):
        for name in ("packs", "commits", "roots"):
            shutil.rmtree(damaged.drive / f"node{number}" / name, ignore_errors=True)
    assert damaged.fsck("-n") == LEFT
    assert damaged.fsck("-y") == CORRECTED
    assert damaged.fsck("-n", "--data") == CLEAN
    assert damaged.read() == damaged.content


@asynccontextmanager
async def _running(made: SmallDrive) -> AsyncIterator[Drive]:
    async with (
        drive_opening.opened_drive(made.unlocked(), made.own(), QUIET) as drive,
        trio.open_nursery() as nursery,
    ):
        await nursery.start(drive.run)
        yield drive
        nursery.cancel_scope.cancel()


async def _store(made: SmallDrive, *files: Kind) -> None:
    """A commit for each file."""
    async with _running(made) as drive:
        for number, kind in enumerate(files):
            await make_file(drive, b"later%d" % number, content(kind, 30_000, number))
            await drive.sync()


async def _open_until_there(made: SmallDrive, wanted: set[Path]) -> None:
    """With nothing changed, read or scrubbed."""
    async with _running(made):
        with trio.fail_after(60):
            while wanted - {*made.files()}:
                await trio.sleep(0.05)


def test_two_nodes_that_are_put_back_to_an_older_state_get_what_they_lack(
    damaged: SmallDrive, tmp_path: Path
) -> None:
    """On the machine that wrote it, by mounting."""
    put_back = [damaged.drive / "node1", damaged.drive / "node4"]
    for node in put_back:
        shutil.copytree(node, tmp_path / "older" / node.name, ignore=no_ballast)
    trio.run(partial(_store, damaged, "text", "random", "json", "half-compressible"))
    wanted = {*damaged.files()}
    for node in put_back:
        shutil.rmtree(node)
        shutil.copytree(tmp_path / "older" / node.name, node)
    lacking = {path.relative_to(damaged.drive).parts[1] for path in wanted - {*damaged.files()}}
    assert lacking == {"packs", "commits"}
    trio.run(partial(_open_until_there, damaged, wanted))
    assert damaged.fsck("-n", "--data") == CLEAN


async def _scrub(made: SmallDrive) -> ScrubStatus:
    """What a scrub says. Returns when another one finds nothing."""
    async with _running(made) as drive:
        assert drive.health is not None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(drive.health.run)
            status = await drive.health.scrub(wait=True)
            with trio.fail_after(60):
                while (await drive.health.scrub(wait=True)).copies_wrong:
                    continue
            nursery.cancel_scope.cancel()
        return status


def test_flips_in_copies_of_commits_and_roots_are_mended_by_a_scrub(damaged: SmallDrive) -> None:
    """Of commits that a mount knows already, and so does not read when it begins."""
    flipped = 0
    files = damaged.files()
    newest = max(path.name for path in files if path.parent.name == "commits")
    for path in files:
        node, kind = path.relative_to(damaged.drive).parts[:2]
        if node in ("node1", "node4") and kind in ("commits", "roots") and path.name != newest:
            flip(path, path.stat().st_size // 2, 3)
            flipped += 1
    assert flipped > 2
    assert trio.run(partial(_scrub, damaged)).copies_wrong == flipped
    assert damaged.fsck("-n", "--data") == CLEAN


def test_what_cannot_be_rebuilt_is_listed_and_stays(
    damaged: SmallDrive, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three fragments of every pack are wrong: nothing is deleted, the list says which files, twice the
    same. (Two of them may be parity: then a block in the good data fragments is read all the same.)"""
    for number in (0, 2, 5):
        for path in (damaged.drive / f"node{number}").glob("packs/*/*"):
            flip(path, path.stat().st_size // 2, 0)
    before = {path: path.read_bytes() for path in damaged.files() if "packs" in path.parts}
    assert damaged.fsck("-n", "--data") & LEFT
    first = capsys.readouterr().out
    assert re.search(r"^lost: /d\d/file: 30000 bytes", first, re.MULTILINE)
    assert damaged.fsck("-y", "--data") & LEFT
    assert {path: path.read_bytes() for path in before} == before
    lists = list(damaged.state.glob("*/lost/files-*.json"))
    assert len(lists) == 1
    capsys.readouterr()
    assert damaged.fsck("-y", "--data") == LEFT
    assert list(damaged.state.glob("*/lost/files-*.json")) == lists


@settings(deadline=None, max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    numbers=st.permutations(range(6)),
    away=st.integers(1, 2),
    wrong=st.integers(2, 3),
    how=st.sampled_from(["folder", "file", "gone"]),
    data=st.booleans(),
)
def test_nothing_is_called_lost_while_nodes_are_away(
    whole: SmallDrive,
    capsys: pytest.CaptureFixture[str],
    numbers: list[int],
    away: int,
    wrong: int,
    how: str,
    data: bool,
) -> None:
    """Neither packs nor files; with the nodes back it is mended, or lost if too much is wrong."""
    options = ["--data"] if data else []
    with tempfile.TemporaryDirectory() as folder:
        made = copy_of(whole, Path(folder))
        for number in numbers[away : away + wrong]:
            for path in (made.drive / f"node{number}").glob("packs/*/*"):
                path.write_bytes(bytes(path.stat().st_size))
        for number in numbers[:away]:
            node = (made.drive / f"node{number}").rename(made.folder / f"away{number}")
            if how != "gone":
                node = made.drive / f"node{number}"
                node.mkdir() if how == "folder" else node.touch()
        capsys.readouterr()
        for mode in ("-n", "-y"):
            assert made.fsck(mode, *options) & LEFT
            said = capsys.readouterr().out.replace(f"{made.state}", "").replace("if it is lost for good", "")
            assert not re.search(r"^lost:|\d lost|(are|is) lost", said, re.MULTILINE), said
            if away + wrong > 2:
                assert re.search(r"^left: .*cannot be read", said, re.MULTILINE), said
        for number in numbers[:away]:
            place = made.drive / f"node{number}"
            if how == "folder":
                place.rmdir()
            elif how == "file":
                place.unlink()
            (made.folder / f"away{number}").rename(place)
        ended = made.fsck("-y", "--data")
        assert ended == CORRECTED if wrong == 2 else ended & LEFT
        assert bool(re.search("^lost: ", capsys.readouterr().out, re.MULTILINE)) == (wrong == 3)


def test_a_snapshot_is_not_given_up_while_the_log_is_broken(damaged: SmallDrive) -> None:
    """Neither can replace the other: both stay as they are, for a person to look at."""
    for path in damaged.drive.glob("node*/commits/0000000000000001"):
        flip(path, 60, 1)
    for number in (0, 2, 5):
        for path in (damaged.drive / f"node{number}").glob("packs/*/*"):
            flip(path, 90, 0)
    before = {path: path.read_bytes() for path in damaged.files() if "lost" not in path.parts}
    assert damaged.fsck("-y", "--data") == LEFT
    assert {path: path.read_bytes() for path in before} == before


def test_a_damaged_snapshot_is_made_anew(damaged: SmallDrive) -> None:
    for path in damaged.drive.glob("node*/roots/*"):
        flip(path, 40, 3)
    check_reads(damaged)
    assert damaged.fsck("-n") == LEFT
    assert damaged.fsck("-y") == CORRECTED
    assert damaged.fsck("-n", "--data") == CLEAN
    assert len(list(damaged.drive.glob("node*/roots/snapshot"))) == 3
    assert damaged.read() == damaged.content


@pytest.mark.parametrize("file", ["namespace.db", "blocks.db"])
def test_a_damaged_database_in_the_cache_is_made_anew(damaged: SmallDrive, file: str) -> None:
    (path,) = damaged.folder.glob(f"[cs]*/*/{file}")
    data = bytearray(path.read_bytes())
    data[4096:12288] = bytes(8192)
    path.write_bytes(data)
    assert damaged.fsck("-n") == LEFT
    assert path.read_bytes() == data
    assert damaged.fsck("-y") == CORRECTED
    assert damaged.fsck("-n") == CLEAN


def test_the_drive_file_is_lost(damaged: SmallDrive) -> None:
    (damaged.drive / "drive.toml").unlink()
    assert damaged.fsck("-n") == LEFT
    assert damaged.fsck("-y") == CORRECTED
    assert damaged.fsck("-n") == CLEAN
    assert damaged.read() == damaged.content


def test_a_commit_of_which_every_copy_is_damaged_is_told_and_stays(
    damaged: SmallDrive, capsys: pytest.CaptureFixture[str]
) -> None:
    """The log is not cut off, and this machine's namespace, which knows more, is left alone."""
    copies = list(damaged.drive.glob("node*/commits/0000000000000002"))
    assert len(copies) == 3
    for path in copies:
        flip(path, 100, 1)
    kept = [*copies, *damaged.drive.glob("node*/roots/*"), *damaged.state.glob("*/namespace.db")]
    before = {path: path.read_bytes() for path in kept}
    assert damaged.fsck("-n") == LEFT
    assert "commit 2" in capsys.readouterr().out
    assert damaged.fsck("-y") == LEFT
    assert damaged.fsck("-y") == LEFT
    assert {path: path.read_bytes() for path in before} == before
