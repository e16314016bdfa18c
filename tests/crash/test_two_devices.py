"""Two devices in one process, put together as mounts are: each has a disk, a power cut, failpoints and a
clock of its own, and loses nothing by what happens to the other (`backend.system.environment`).

Their disks are `LossyDurable`. The nodes are folders of a device's own disk, or of a server that both use,
one after the other.
"""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import pytest
import trio

from backend.commits import this_process
from backend.system import THIS_MACHINE, Environment
from cache.drive import Drive
from cache.errors import FileSystemError
from cache.namespace.operations import ROOT_INODE
from tests.contents import KINDS, content
from tests.crash.lossy_durable import LossyDurable
from tests.crash.lossy_sqlite import all_lossy, cut_all
from tests.drives import QUIET, content_of, make_file
from tests.small_drive import SmallDrive, make_empty_drive
from tools import compose, drive_opening

pytestmark = pytest.mark.logs_warnings
OPTIONS: Final = replace(QUIET, journal_size=1 << 20)
LIVES: Final = 2
NO_DATA: Final = {"lock", ".lock"}
"""Files that only hold flock(2): a name that comes or goes matters to nobody."""


@pytest.fixture(autouse=True)
def processes_of_before_are_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that comes back has another process: who held the lease does not live any more."""
    monkeypatch.setattr(compose, "this_process", lambda: replace(this_process(), started=0))


@dataclass
class Device:
    """A machine with a drive. `accepted`: the files that were written, `durable`: those of which it was said
    that they survive a power cut."""

    made: SmallDrive
    chance: random.Random
    accepted: dict[bytes, bytes] = field(default_factory=dict)
    durable: dict[bytes, bytes] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.made.folder

    def new_disk(self) -> LossyDurable:
        return LossyDurable(self.chance, self.folder.with_name(f"{self.folder.name} kept"))

    @asynccontextmanager
    async def mounted(self, environment: Environment = THIS_MACHINE) -> AsyncIterator[Drive]:
        opening = drive_opening.opened_drive(
            self.made.unlocked(), self.made.own(), OPTIONS, environment=environment
        )
        async with opening as drive, trio.open_nursery() as nursery:
            await nursery.start(drive.run)
            yield drive
            nursery.cancel_scope.cancel()

    async def step(self, drive: Drive) -> None:
        name, chance = b"%04d" % len(self.accepted), self.chance.random()
        data = content(self.chance.choice(KINDS), self.chance.choice([10, 3000, 70_000]), name.hex())
        made = await make_file(drive, name, data)
        self.accepted[name] = data
        if chance < 0.2:
            await drive.sync()
        elif chance < 0.5:
            await drive.fsync(made.inode)
        if chance < 0.5:
            self.durable = dict(self.accepted)

    async def found(self, drive: Drive) -> dict[bytes, bytes]:
        names = [entry.name for entry in drive.entries(ROOT_INODE, 0, 10_000)]
        return {name: await content_of(drive, name) for name in names}

    async def after_power_cut(self) -> int:
        """What was durable is there, and nothing but what was written; how many files are lost."""
        async with self.mounted() as drive:
            found = await self.found(drive)
        for name, data in self.durable.items():
            assert found[name] == data
        for name, data in found.items():
            assert data in (b"", self.accepted[name])
        lost = len(self.accepted) - sum(found.get(name) == data for name, data in self.accepted.items())
        self.accepted, self.durable = dict(found), found
        return lost


def device(folder: Path, seed: int) -> Device:
    folder.mkdir()
    return Device(make_empty_drive(folder), random.Random(seed))


def data_in(folder: Path) -> set[Path]:
    """Files and folders."""
    return {path for path in folder.rglob("*") if path.name not in NO_DATA and not path.name.endswith("-shm")}


async def one_loses_power(cut: Device, other: Device) -> None:
    """Both work; the power of one goes, and the other works on."""
    before = data_in(cut.folder) | data_in(other.folder)
    its_disk, other_disk = cut.new_disk(), other.new_disk()
    with all_lossy(its_disk) as its, all_lossy(other_disk) as others:
        async with other.mounted(others) as goes_on:
            async with cut.mounted(its) as drive:
                for _ in range(cut.chance.randint(3, 20)):
                    await cut.step(drive)
                    await other.step(goes_on)
                for disk, whose in ((its_disk, cut), (other_disk, other)):
                    written = data_in(whose.folder) - before
                    assert {path for path in written if not disk.knows(path)} == set(), "past the disk"
                its_disk.stop()
            for _ in range(3):
                await other.step(goes_on)
    cut_all(its_disk, cut.folder)


async def test_a_power_cut_is_of_one_device_only(tmp_path: Path) -> None:
    lost = 0
    for seed in range(4):
        (tmp_path / str(seed)).mkdir()
        cut, other = (device(tmp_path / str(seed) / name, seed) for name in ("cut", "other"))
        for _ in range(LIVES):
            await one_loses_power(cut, other)
            lost += await cut.after_power_cut()
            async with other.mounted() as drive:
                assert await other.found(drive) == other.accepted
    assert lost, "the disk forgets nothing: the test cannot fail"


@pytest.mark.parametrize("seed", range(4))
async def test_on_one_set_of_nodes_one_after_the_other(tmp_path: Path, seed: int) -> None:
    """The nodes are a server's, whose power stays. What the first device published, the second has; what it
    was told is durable, it has itself."""
    first = device(tmp_path / "drive", seed)
    second = Device(second_machine(first.made, tmp_path / "second"), random.Random(seed))
    disk = first.new_disk()
    with all_lossy(disk) as environment:
        async with first.mounted(environment) as drive:
            for _ in range(first.chance.randint(3, 20)):
                await first.step(drive)
            disk.stop()
    cut_all(disk, first.made.cache, first.made.state)
    await first.after_power_cut()
    async with first.mounted() as drive:
        await drive.sync()
    second.accepted = dict(first.accepted)
    async with second.mounted(Environment()) as drive:
        assert await second.found(drive) == first.accepted
        for _ in range(5):
            await second.step(drive)
        await drive.sync()
    async with first.mounted() as drive:
        assert await first.found(drive) == second.accepted


def second_machine(made: SmallDrive, folder: Path) -> SmallDrive:
    """The same drive with cache and state of another machine."""

    class Elsewhere(SmallDrive):
        @property
        def cache(self) -> Path:
            return folder / "cache"

        @property
        def state(self) -> Path:
            return folder / "state"

    return Elsewhere(made.folder, {})


async def test_failpoints_and_clocks_are_of_one_device_only(tmp_path: Path) -> None:
    here, there = (device(tmp_path / name, 0) for name in ("here", "there"))
    late = Environment(wall_clock=lambda: time.time_ns() + 10**18)
    async with here.mounted(Environment()) as drive, there.mounted(late) as other:
        late.failpoints.arm("journal.appended", "enospc")
        await make_file(drive, b"file", b"x")
        with pytest.raises(FileSystemError):
            await make_file(other, b"file", b"x")
        assert late.failpoints.hits["journal.appended"] == 1
        late.failpoints.disarm_all()
        await make_file(other, b"file", b"x")
        for each in (drive, other):
            await each.sync()
        assert other.points()[-1].time_ns - drive.points()[-1].time_ns > 10**18 - 60 * 10**9
