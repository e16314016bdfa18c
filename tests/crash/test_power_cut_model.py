"""A drive beside a dictionary, through kills, power cuts, failed steps and recoveries that are interrupted.

Files are made, written large and small, cut off, renamed, deleted while they are open; some of that happens
just before or just after the journal is synced for a commit. After a kill the drive is exactly what the
dictionary is; after a power cut it is what the dictionary was at some moment, not before the last fsync or
published cut (I6, I7); and nothing that the log has is ever taken for somebody else's.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from stat import S_IFREG
from typing import Any, Final

import pytest

from backend.errors import TransientError
from backend.system import Environment
from cache.attributes import AttributeChange
from cache.drive import Drive
from cache.journal.journal import Journal
from cache.journal.scan import PendingCommit
from cache.namespace.namespace import Namespace
from cache.namespace.operations import ROOT_INODE
from tests.contents import KINDS
from tests.contents import content as made_of
from tests.crash.lossy_durable import LossyDurable
from tests.crash.lossy_sqlite import all_lossy, cut_all
from tests.drives import QUIET, content_of, opened
from tests.memory_upstream import MemoryUpstream

pytestmark = pytest.mark.logs_warnings
OPTIONS: Final = replace(QUIET, journal_size=1 << 20, large_write=1000)
State = dict[bytes, bytes]
STEPS: Final = ("ledger.extents", "ledger.cut", "sealer.sealed", "journal.records-synced")
RECOVERY: Final[tuple[tuple[type, str], ...]] = (
    (Namespace, "save"),
    (Namespace, "checkpoint"),
    (Journal, "drop_before"),
    (Journal, "begin_segment"),
)
LIVES: Final = 5
FAILED: Final = (0, 29, 61, 64, 133, 137, 154, 195, 202, 223, 253, 256, 262, 275, 287, 310, 321, 365)
"""Seeds that found a deletion after a cut taken for certain, or a recovery that was interrupted."""


class Interrupted(OSError):
    """A recovery was."""


class World:
    """The drive's folder and upstream, and what has been done: `history[-1]` is the dictionary as it is now,
    `durable` the index of the oldest state that a power cut may leave."""

    def __init__(self, folder: Path, chance: random.Random) -> None:
        self.folder = folder
        self.chance = chance
        self.upstream = MemoryUpstream()
        self.now: State = {}
        self.history: list[State] = [{}]
        self.durable = 0
        self.made = 0
        self.open: list[int] = []

    def happened(self) -> None:
        self.history.append(dict(self.now))

    async def check(self, drive: Drive, *, exactly: bool) -> None:
        entries = drive.entries(ROOT_INODE, 0, 100_000)
        found = {entry.name: await content_of(drive, entry.name) for entry in entries}
        if exactly:
            assert found == self.now
            return
        assert found in self.history[self.durable :], (
            f"durable is state {self.durable} of {len(self.history)}"
        )
        self.now, self.history, self.durable = found, [dict(found)], 0

    # What can be done

    async def do(self, drive: Drive) -> None:
        chance, names = self.chance.random(), sorted(self.now)
        if chance < 0.3 or not names:
            await self.make(drive)
        elif chance < 0.5:
            await self.write(drive, self.chance.choice(names))
        elif chance < 0.58:
            await self.truncate(drive, self.chance.choice(names))
        elif chance < 0.72:
            name = self.chance.choice(names)
            del self.now[name]
            await drive.unlink(ROOT_INODE, name)
            self.happened()
        elif chance < 0.8 and len(names) > 1:
            await self.rename(drive, *self.chance.sample(names, 2))
        elif chance < 0.92 and self.open:
            inode = self.open.pop(self.chance.randrange(len(self.open)))
            await drive.settle(inode)
            drive.release(inode)
        elif chance < 0.96:
            drive.ledger.save()
        else:
            moment = len(self.history) - 1
            await drive.fsync(ROOT_INODE)
            self.durable = max(self.durable, moment)

    async def make(self, drive: Drive) -> None:
        name, self.made = b"%04d" % self.made, self.made + 1
        inode = (await drive.make_node(ROOT_INODE, name, S_IFREG | 0o644, 0, 0, 0)).inode
        self.now[name] = b""
        self.happened()
        if self.chance.random() < 0.5:
            drive.hold(inode)
            self.open.append(inode)
        await self.write(drive, name, closed=inode not in self.open)

    async def write(self, drive: Drive, name: bytes, *, closed: bool | None = None) -> None:
        inode = drive.lookup(ROOT_INODE, name).inode
        offset = self.chance.choice([0, 0, 4000])
        seed, times = self.chance.randbytes(10), self.chance.choice([1, 90, 150, 500, 4000, 14_000])
        data = made_of(KINDS[seed[0] % len(KINDS)], 10 * times, seed.hex())
        await drive.write(inode, offset, data)
        before = self.now[name].ljust(offset, b"\0")
        self.now[name] = before[:offset] + data + before[offset + len(data) :]
        self.happened()
        if self.chance.random() < 0.5 if closed is None else closed:
            await drive.settle(inode)

    async def truncate(self, drive: Drive, name: bytes) -> None:
        size = self.chance.choice([0, 10, 2000, 50_000])
        await drive.set_attributes(drive.lookup(ROOT_INODE, name).inode, AttributeChange(size=size))
        self.now[name] = self.now[name][:size].ljust(size, b"\0")
        self.happened()

    async def rename(self, drive: Drive, old: bytes, new: bytes) -> None:
        self.now[new] = self.now.pop(old)
        await drive.rename(ROOT_INODE, old, ROOT_INODE, new)
        self.happened()

    # Publishing, and what goes on beside it

    async def publish(self, drive: Drive) -> None:
        self.upstream.fail_after_append = self.chance.random() < 0.3
        failpoints = drive.ledger.environment.failpoints
        if self.chance.random() < 0.15:
            failpoints.arm(self.chance.choice(STEPS), "eio", self.chance.choice([1, 1, 2]))
        cuts: list[int] = []
        with pytest.MonkeyPatch.context() as patch, suppress(OSError, TransientError):
            patch.setattr(drive.ledger, "sync_pending", self._busy(drive, drive.ledger.sync_pending))
            patch.setattr(drive.ledger, "cut", self._noting(drive.ledger.cut, cuts))
            await drive.publisher.publish(everything=self.chance.random() < 0.2)
            self.durable = max([self.durable, *cuts])
        failpoints.disarm_all()
        self.upstream.fail_after_append = False

    def _busy(self, drive: Drive, sync_pending: Callable[[], Any]) -> Callable[[], Any]:
        async def busy() -> None:
            await self._few(drive)
            await sync_pending()
            await self._few(drive)

        return busy

    async def _few(self, drive: Drive) -> None:
        for _ in range(self.chance.choice([0, 0, 1, 2, 3])):
            if not drive.publisher.pressure.blocks_writers:
                await self.do(drive)

    def _noting(
        self, cut: Callable[[list[int]], PendingCommit | None], cuts: list[int]
    ) -> Callable[[list[int]], PendingCommit | None]:
        def noting(inodes: list[int]) -> PendingCommit | None:
            made = cut(inodes)
            if made is not None:
                cuts.append(len(self.history) - 1)
            return made

        return noting

    # Lives

    async def live(self, device: Environment, *, exactly: bool, power: LossyDurable | None) -> None:
        """`exactly`: the life before was ended by a kill. `power`: it goes at the end of this one."""
        self.open = []
        async with opened(self.folder, self.upstream, OPTIONS, crash=True, environment=device) as drive:
            await self.check(drive, exactly=exactly)
            for _ in range(self.chance.randint(0, 40)):
                if self.chance.random() < 0.2 or drive.publisher.pressure.blocks_writers:
                    await self.publish(drive)
                else:
                    await self.do(drive)
            if power is not None:
                power.stop()
        self.upstream.lose_unflushed()

    async def recover_in_part(self, device: Environment) -> None:
        """An opening that fails before or after one of its steps."""
        owner, name = self.chance.choice(RECOVERY)
        step, done = getattr(owner, name), self.chance.random() < 0.5

        def interrupted(*arguments: Any) -> None:
            if done:
                step(*arguments)
            raise Interrupted

        with pytest.MonkeyPatch.context() as patch, suppress(Interrupted):
            patch.setattr(owner, name, interrupted)
            async with opened(self.folder, self.upstream, OPTIONS, crash=True, environment=device):
                pass

    async def until_the_power_goes(self, disk: LossyDurable, device: Environment) -> None:
        """Lives, each but the last ended by a kill."""
        killed, power_goes = False, False
        while not power_goes:
            if self.chance.random() < 0.3:
                await self.recover_in_part(device)
            power_goes = self.chance.random() < 0.6
            await self.live(device, exactly=killed, power=disk if power_goes else None)
            killed = True


@pytest.mark.parametrize("seed", FAILED)
async def test_what_is_left_is_a_moment_of_what_was(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    world = World(tmp_path / "cache", chance)
    for _ in range(LIVES):
        disk = LossyDurable(chance, tmp_path / "kept")
        with all_lossy(disk) as device:
            await world.until_the_power_goes(disk, device)
        cut_all(disk, world.folder)
    async with opened(world.folder, world.upstream, OPTIONS) as drive:
        await world.check(drive, exactly=False)
        await drive.sync()
    shutil.rmtree(world.folder)
    async with opened(world.folder, world.upstream, OPTIONS) as drive:
        await world.check(drive, exactly=True)


@pytest.mark.soak
@pytest.mark.timeout(3600)
async def test_many_of_them(tmp_path: Path) -> None:
    for seed in range(1000, 1600):
        print(f"seed {seed}")
        await test_what_is_left_is_a_moment_of_what_was(tmp_path / str(seed), seed)
