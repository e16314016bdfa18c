"""Power cuts: what fsync returned for is there, and the namespace is a prefix of what was accepted.

A worker makes numbered files one after another; each holds its number. After a cut at a chance moment,
the files that are there must be 0..n for some n (I7), n at least that of the last fsync (I6), and the
drive must go on: publish, and be the same from an empty cache.
"""

from __future__ import annotations

import random
import shutil
from dataclasses import replace
from pathlib import Path
from stat import S_IFREG

import pytest

from backend.errors import TransientError
from cache.drive import Drive
from cache.namespace.operations import ROOT_INODE
from tests.contents import KINDS
from tests.contents import content as made_of
from tests.crash.lossy_durable import LossyDurable
from tests.crash.lossy_sqlite import all_lossy, cut_all
from tests.drives import QUIET, content_of, make_file, opened
from tests.memory_upstream import MemoryUpstream

OPTIONS = replace(QUIET, journal_size=1 << 20)


def payload(number: int) -> bytes:
    """What file `number` holds, of any kind: some span several sectors."""
    return f"file {number}.".encode() + made_of(KINDS[number % len(KINDS)], number % 7 * 800, number)


def name(number: int) -> bytes:
    return b"%05d" % number


class Worker:
    """What was done, over all crashes."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self.folder = folder
        self.chance = chance
        self.upstream = MemoryUpstream()
        self.count = 0
        self.durable_count = 0
        self.cut_count = 0
        """files that the pending commit has, or knows of: some stay open, and it does not take them"""

    async def life(self) -> None:
        """Work, then lose power."""
        disk = LossyDurable(self.chance, self.folder.with_name("kept"))
        with all_lossy(disk) as device:
            async with opened(self.folder, self.upstream, OPTIONS, crash=True, environment=device) as drive:
                await self.check(drive)
                for _ in range(self.chance.randint(0, 60)):
                    await self.step(drive)
                disk.stop()
        self.upstream.lose_unflushed()
        cut_all(disk, self.folder)

    async def step(self, drive: Drive) -> None:
        chance = self.chance.random()
        if chance < 0.6:
            await self.make(drive, stays_open=chance < 0.15)
        elif chance < 0.7:
            drive.ledger.save()
        elif chance < 0.9:
            await self.publish(drive)
        else:
            await self.publish_unheard(drive)

    async def make(self, drive: Drive, stays_open: bool) -> None:
        made = await drive.make_node(ROOT_INODE, name(self.count), S_IFREG | 0o644, 0, 0, 0)
        await drive.write(made.inode, 0, payload(self.count))
        if not stays_open:
            await drive.settle(made.inode)
        self.count += 1
        if self.chance.random() < 0.15:
            await drive.fsync(made.inode)
            self.durable_count = self.count

    async def publish(self, drive: Drive) -> None:
        if drive.ledger.pending is None:
            self.cut_count = self.count
        await drive.publisher.publish(everything=False)
        self.durable_count = max(self.durable_count, self.cut_count)

    async def publish_unheard(self, drive: Drive) -> None:
        number = len(self.upstream.commits)
        self.upstream.fail_after_append = True
        try:
            await self.publish(drive)
        except TransientError:
            assert len(self.upstream.commits) == number + 1
            self.durable_count = max(self.durable_count, self.cut_count)
        self.upstream.fail_after_append = False

    async def check(self, drive: Drive) -> None:
        names = [entry.name for entry in drive.entries(ROOT_INODE, 0, 100_000)]
        assert names == [name(number) for number in range(len(names))]
        assert self.durable_count <= len(names) <= self.count
        for number in range(len(names)):
            found = await content_of(drive, name(number))
            whole = number < self.durable_count or number < len(names) - 1
            assert found == payload(number) if whole else found in (b"", payload(number))
        if names and drive.lookup(ROOT_INODE, names[-1]).size == 0:
            await drive.unlink(ROOT_INODE, names.pop())  # cut between its creation and its content
            await drive.fsync(ROOT_INODE)
        self.count = len(names)
        self.durable_count = min(self.durable_count, self.count)
        self.cut_count = min(self.cut_count, self.count)


@pytest.mark.logs_warnings
@pytest.mark.parametrize("seed", range(12))
async def test_what_fsync_returned_for_survives_and_the_rest_is_a_prefix(tmp_path: Path, seed: int) -> None:
    worker = Worker(tmp_path / "cache", random.Random(seed))
    for _ in range(5):
        await worker.life()
    async with opened(worker.folder, worker.upstream, OPTIONS) as drive:
        await worker.check(drive)
        await drive.sync()
        worker.durable_count = worker.count
    shutil.rmtree(worker.folder)
    async with opened(worker.folder, worker.upstream, OPTIONS) as drive:
        await worker.check(drive)


@pytest.mark.soak
@pytest.mark.logs_warnings
@pytest.mark.timeout(3600)
async def test_many_power_cuts(tmp_path: Path) -> None:
    for seed in range(1000, 1400):
        await test_what_fsync_returned_for_survives_and_the_rest_is_a_prefix(tmp_path / str(seed), seed)


@pytest.mark.logs_warnings
async def test_the_lossy_disk_loses_something(tmp_path: Path) -> None:
    """Without fsync, a cut can lose the whole journal: the tests above can fail."""
    lost = 0
    for seed in range(30):
        disk, folder = LossyDurable(random.Random(seed), tmp_path / "kept"), tmp_path / str(seed)
        upstream = MemoryUpstream()
        with all_lossy(disk) as device:
            async with opened(folder, upstream, OPTIONS, crash=True, environment=device) as drive:
                await make_file(drive, b"unsynced", b"x" * 5000)
                disk.stop()
        cut_all(disk, folder)
        async with opened(folder, upstream, OPTIONS, crash=True) as drive:
            lost += not drive.entries(ROOT_INODE, 0, 10)
    assert 0 < lost < 30
