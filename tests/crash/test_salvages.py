"""A journal with a bad sector, and an opening that ends while it keeps the rest of it aside: the next finds
the same, says the same, and goes on."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import pytest

from backend.failpoints import OF_PROCESS
from cache.journal.salvage import COPY_SUFFIX, LOST
from cache.namespace.operations import ROOT_INODE
from tests.contents import content
from tests.crash.lossy_durable import LossyDurable
from tests.crash.lossy_sqlite import all_lossy, cut_all
from tests.crash.test_failpoints_in_process import SALVAGES
from tests.drives import content_of, make_file, opened
from tests.memory_upstream import MemoryUpstream
from tests.sync.drives import SMALL
from tests.unreadable import Unreadable

pytestmark = pytest.mark.logs_warnings
READABLE = 20
"""So many files come before the sector, and one that may be cut off."""


def payload(number: int) -> bytes:
    return content("text", 900, number)


@dataclass
class Scene:
    """The drive of a process that was killed, on a disk that has a bad sector since."""

    folder: Path
    upstream: MemoryUpstream
    unreadable: Unreadable

    async def check(self) -> None:
        """See the module."""
        journal = self.folder / "journal"
        async with opened(self.folder, self.upstream, SMALL) as drive:
            (loss,) = drive.notices
            assert str(journal / LOST) in loss
            names = [entry.name for entry in drive.entries(ROOT_INODE, 0, 100)]
            assert names == [b"%02d" % number for number in range(len(names))]
            assert READABLE - 5 < len(names) <= READABLE
            for number, name in enumerate(names[:-1]):
                assert await content_of(drive, name) == payload(number)
            await make_file(drive, b"later", b"content")
            assert any(path.stat().st_size > 30_000 for path in (journal / LOST).iterdir())
            assert not list(journal.glob(f"*{COPY_SUFFIX}"))
            await drive.sync()
        async with opened(self.folder.with_name("there"), self.upstream) as drive:
            assert [entry.name for entry in drive.entries(ROOT_INODE, 0, 100)] == [*names, b"later"]


@pytest.fixture
async def scene(tmp_path: Path) -> Scene:
    upstream, unreadable = MemoryUpstream(), Unreadable(tmp_path / "here")
    async with opened(tmp_path / "here", upstream, SMALL, crash=True) as drive:
        for number in range(2 * READABLE):
            if number == READABLE:
                unreadable.break_at(drive.ledger.journal.end)
            made = await make_file(drive, b"%02d" % number, payload(number))
        await drive.fsync(made.inode)
    upstream.lose_unflushed()
    return Scene(tmp_path / "here", upstream, unreadable)


@pytest.mark.parametrize("action", ["eio", "enospc"])
@pytest.mark.parametrize("name", sorted(SALVAGES))
async def test_an_opening_that_ends_there(scene: Scene, name: str, action: str) -> None:
    """A kill leaves the same."""
    with scene.unreadable.installed():
        for _ in range(2):
            OF_PROCESS.arm(name, action)
            with pytest.raises(OSError, match=name):
                async with opened(scene.folder, scene.upstream, SMALL):
                    raise AssertionError("not reached")
            OF_PROCESS.disarm_all()
        await scene.check()


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("name", sorted(SALVAGES))
async def test_power_that_is_cut_there(scene: Scene, tmp_path: Path, name: str, seed: int) -> None:
    disk = LossyDurable(random.Random(seed), tmp_path / "kept")

    def cut() -> None:
        disk.stop()
        raise OSError("the power is cut")

    with scene.unreadable.installed():
        with all_lossy(disk) as device:
            device.failpoints.arm(name, cut)
            with pytest.raises(OSError, match="the power is cut"):
                async with opened(scene.folder, scene.upstream, SMALL, environment=device):
                    raise AssertionError("not reached")
        cut_all(disk, scene.folder)
        await scene.check()
