"""Cache and state are removed, swapped and put back in any combination while nothing is mounted."""

from __future__ import annotations

import logging
import random
import shutil
from pathlib import Path

import pytest
import trio

from cache.namespace.operations import ROOT_INODE
from tests.contents import KINDS, content
from tests.drives import QUIET, make_file, tree
from tests.small_drive import SmallDrive, make_empty_drive
from tools import drive_opening
from tools.errors import ToolError
from tools.host.places import Folders

pytestmark = pytest.mark.logs_warnings
Tree = dict[bytes, tuple[object, ...]]


@pytest.fixture
def made(tmp_path: Path) -> SmallDrive:
    return make_empty_drive(tmp_path)


def use(made: SmallDrive, own: Folders, new: dict[bytes, bytes], *, store: bool) -> Tree:
    """Open, make files, let go; what is there then."""

    async def work() -> Tree:
        async with (
            drive_opening.opened_drive(made.unlocked(), own, QUIET) as opened,
            trio.open_nursery() as nursery,
        ):
            await nursery.start(opened.run)
            for name, data in new.items():
                await make_file(opened, name, data)
            if store:
                await opened.sync()
            found = await tree(opened, ROOT_INODE)
            nursery.cancel_scope.cancel()
        return found

    return trio.run(work)


def some(seed: int) -> dict[bytes, bytes]:
    """A file of each kind."""
    numbered = enumerate(KINDS)
    return {f"{seed} {kind}".encode(): content(kind, 20_000 * number, seed) for number, kind in numbered}


@pytest.mark.parametrize("lost", ["state", "journal", "journal and note", "all but the namespace", "both"])
@pytest.mark.parametrize("stored", [True, False])
def test_a_state_that_is_gone_is_missed(made: SmallDrive, lost: str, stored: bool) -> None:
    """If something was only there: the mount fails once and says so, and the next goes on."""
    own = made.own()
    before = use(made, own, some(1), store=True)
    after = use(made, own, some(2), store=stored)
    if lost in ("state", "both"):
        shutil.rmtree(own.state)
    if lost == "both":
        shutil.rmtree(own.cache)
    if "journal" in lost or "all but" in lost:
        shutil.rmtree(own.state / "journal")
    if "note" in lost or "all but" in lost:
        (own.state / "pair.json").unlink()
    if not stored and lost != "both":
        with pytest.raises(ToolError, match=r"journal in .* is gone.*mount again"):
            use(made, own, {}, store=True)
    assert use(made, own, {}, store=True) == (after if stored else before)
    assert made.fsck("-n", "--data") == 0


@pytest.mark.parametrize("seed", range(6))
def test_any_part_of_the_cache_may_be_lost_or_old(made: SmallDrive, seed: int) -> None:
    """Files of the cache removed, or put back from a copy of any age: all is read, nothing is missing."""
    chance, own = random.Random(seed), made.own()
    copies = []
    for number in range(4):
        expected = use(made, own, some(number), store=True)
        copies.append(shutil.copytree(own.cache, made.folder / f"copy {number}"))
        for path in [path for path in own.cache.iterdir() if chance.random() < 0.4]:
            path.unlink()
        for path in chance.choice(copies).iterdir():
            if chance.random() < 0.4:
                shutil.copyfile(path, own.cache / path.name)
        assert use(made, own, {}, store=True) == expected
    assert made.fsck("-y", "--data") in (0, 1)
    assert made.fsck("-n", "--data") == 0


def test_an_index_that_another_state_has_used_is_made_anew(
    made: SmallDrive, caplog: pytest.LogCaptureFixture
) -> None:
    """One cache, two states in turn; and an older index under a newer state."""
    caplog.set_level(logging.INFO)
    own = made.own()
    other = Folders(own.cache, made.folder / "another state")

    def is_made_anew(folders: Folders, new: dict[bytes, bytes]) -> bool:
        caplog.clear()
        use(made, folders, new, store=True)
        return "is made anew from the packs" in caplog.text

    assert not is_made_anew(own, some(0))
    shutil.copytree(own.cache, made.folder / "old")
    for number, folders in enumerate((other, own, other, own)):
        assert is_made_anew(folders, some(number + 1)), number
    assert not is_made_anew(own, {}), "without need"
    for path in (made.folder / "old").iterdir():
        shutil.copyfile(path, own.cache / path.name)
    assert is_made_anew(own, {})
    assert len(use(made, own, {}, store=True)) == 5 * len(KINDS)
