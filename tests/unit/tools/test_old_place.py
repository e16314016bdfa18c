"""Journal and namespace that an earlier version kept in the cache folder: moved once, and nothing is lost."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from backend.errors import LeaseHeldError
from backend.system.durable import Durable
from cache.local.local_state import LOCK_FILE, locked
from tests.contents import content
from tests.drives import QUIET, content_of, make_file
from tests.small_drive import SmallDrive, copy_of, make_empty_drive
from tools import drive_opening
from tools.old_place import bring_over

pytestmark = pytest.mark.logs_warnings
TEXT = content("text", 200_000, 1)

DISK = Durable()


@pytest.fixture
def made(tmp_path: Path) -> SmallDrive:
    """A drive whose state lies where it was of old, with something that is nowhere else."""
    made = make_empty_drive(tmp_path)
    own = made.own()

    async def change() -> None:
        async with drive_opening.opened_drive(made.unlocked(), own, QUIET) as opened:
            await make_file(opened, b"unpublished", TEXT)

    trio.run(change)
    for path in [*own.state.iterdir()]:
        path.rename(own.cache / path.name)
    own.state.rmdir()
    return made


def read(made: SmallDrive) -> bytes:
    async def look() -> bytes:
        async with drive_opening.opened_drive(made.unlocked(), made.own(), QUIET) as opened:
            return await content_of(opened, b"unpublished")

    return trio.run(look)


class OtherDisk(Durable):
    """State and cache are on two disks, and the power goes at the step `limit`."""

    def __init__(self, cache: Path, limit: float = float("inf")) -> None:
        self._cache = str(cache)
        self._steps: Iterator[int] = itertools.count()
        self._limit = limit

    def _step(self) -> None:
        if next(self._steps) >= self._limit:
            raise OSError(errno.EIO, "cut off")

    def rename(self, old: str, new: str, *, folder: int | None = None) -> None:
        self._step()
        if old.startswith(self._cache):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        super().rename(old, new, folder=folder)

    def sync(self, descriptor: int) -> None:
        self._step()
        super().sync(descriptor)


def test_it_moves_once(made: SmallDrive) -> None:
    own = made.own()
    (said,) = bring_over(own, DISK)
    assert str(own.state) in said
    assert not {"journal", "namespace.db", LOCK_FILE} & {path.name for path in own.cache.iterdir()}
    assert bring_over(own, DISK) == []
    assert read(made) == TEXT


def test_onto_another_disk_cut_off_at_each_step(made: SmallDrive, tmp_path: Path) -> None:
    for limit in itertools.count():
        folder = tmp_path / str(limit)
        folder.mkdir()
        each = copy_of(made, folder)
        own = each.own()
        try:
            bring_over(own, OtherDisk(own.cache, limit))
            whole = True
        except OSError as error:
            whole = error.errno != errno.EIO
        assert read(each) == TEXT, f"cut off at step {limit}"
        if whole:
            break
    assert limit > 5


def test_what_cannot_take_its_place_is_kept_aside(made: SmallDrive) -> None:
    """The state folder has a journal: an earlier version was used once more after the move."""
    own = made.own()
    kept = (own.cache / "journal").rename(own.cache.parent / "kept")
    shutil.copytree(kept, own.cache / "journal")
    bring_over(own, DISK)
    shutil.copytree(kept, own.cache / "journal")
    (said,) = bring_over(own, DISK)
    (aside,) = own.state.glob("stale/*-from-cache/journal")
    assert str(aside) in said
    assert {path.name for path in aside.iterdir()} == {path.name for path in kept.iterdir()}
    assert read(made) == TEXT


def test_what_was_set_aside_comes_along(made: SmallDrive) -> None:
    own = made.own()
    old = own.cache.with_name(f"{own.cache.name}.stale-20260101T000000Z")
    old.mkdir()
    (old / "journal").mkdir()
    assert len(bring_over(own, DISK)) == 2
    assert (own.state / "stale" / "20260101T000000Z" / "journal").is_dir()


def test_a_process_of_an_earlier_version_is_not_robbed(made: SmallDrive) -> None:
    own = made.own()
    descriptor = locked(own.cache)
    try:
        with pytest.raises(LeaseHeldError):
            bring_over(own, DISK)
        assert (own.cache / "journal").is_dir()
    finally:
        os.close(descriptor)
    assert read(made) == TEXT
