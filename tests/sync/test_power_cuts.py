"""Power cuts of a device while others publish: what fsync returned for is there, also after a rebase.

The worker of `tests/crash/test_power_cut.py` makes numbered files, another device makes its own and changes a
file that both write; now and then the worker's device goes over to what was published.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from cache.drive import Drive
from cache.namespace.operations import ROOT_INODE
from tests.crash.lossy_durable import LossyDurable
from tests.crash.lossy_sqlite import all_lossy, cut_all
from tests.crash.test_power_cut import Worker, name, payload
from tests.drives import content_of, make_file, tree
from tests.memory_hub import MemoryHub
from tests.sync.drives import Hub


class SharedWorker(Worker):
    """The worker is device 2; device 1 never loses anything."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        super().__init__(folder / "2", chance)
        self.upstream = hub = MemoryHub()
        self.hub = Hub(folder, hub)
        self.published = 0
        """files of the other device"""

    async def life(self) -> None:
        disk = LossyDurable(self.chance, self.folder.with_name("kept"))
        with all_lossy(disk) as environment:
            async with self.hub.device(2, crash=True, environment=environment) as drive:
                await self.check(drive)
                for _ in range(self.chance.randint(0, 40)):
                    await (self.others() if self.chance.random() < 0.2 else self.step(drive))
                    if self.chance.random() < 0.1:
                        await drive.publisher.follow()
                disk.stop()
        self.upstream.lose_unflushed()
        cut_all(disk, self.folder)

    async def others(self) -> None:
        """The other device publishes a file."""
        async with self.hub.device(1) as drive:
            await make_file(drive, b"there%d" % self.published, payload(self.published))
            await drive.sync()
        self.published += 1

    async def check(self, drive: Drive) -> None:
        there = {entry.name for entry in drive.entries(ROOT_INODE, 0, 100_000)}
        ours = sorted(each for each in there if each.isdigit())
        assert ours == [name(number) for number in range(len(ours))]
        assert self.durable_count <= len(ours) <= self.count
        for number in range(len(ours)):
            found = await content_of(drive, name(number))
            whole = number < self.durable_count or number < len(ours) - 1
            assert found == payload(number) if whole else found in (b"", payload(number))
        if ours and not drive.lookup(ROOT_INODE, ours[-1]).size:
            await drive.unlink(ROOT_INODE, ours.pop())  # cut between its creation and its content
        await drive.publisher.follow()
        for number in range(self.published):
            assert await content_of(drive, b"there%d" % number) == payload(number)
        self.count = self.durable_count = self.cut_count = len(ours)
        await drive.sync()


@pytest.mark.logs_warnings
@pytest.mark.parametrize("seed", range(12))
async def test_what_was_synced_outlives_a_power_cut_among_others(tmp_path: Path, seed: int) -> None:
    worker = SharedWorker(tmp_path, random.Random(seed))
    for _ in range(4):
        await worker.life()
    async with worker.hub.device(2) as drive:
        await worker.check(drive)
        async with worker.hub.device(3) as another:
            assert await tree(another) == await tree(drive)
