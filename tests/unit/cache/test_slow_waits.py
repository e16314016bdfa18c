"""cache.slow_waits: who is abandoned is cut off where it waits, and nobody else is."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing

from backend.upstream import BlockId
from cache.errors import AbandonedError
from cache.slow_waits import LOOK_SECONDS, SlowWaits
from tests.contents import content
from tests.drives import make_file, opened
from tests.memory_upstream import MemoryUpstream

Task = trio.lowlevel.Task
Clock = trio.testing.MockClock


class Abandoned:
    """The tasks of which the callers are gone, and how often it was asked for one."""

    def __init__(self) -> None:
        self.tasks: set[Task] = set()
        self.looks = 0

    def __call__(self, task: Task) -> bool:
        self.looks += 1
        return task in self.tasks

    def add(self) -> None:
        """The running task."""
        self.tasks.add(trio.lowlevel.current_task())


@pytest.fixture
async def abandoned(nursery: trio.Nursery, waits: SlowWaits) -> Abandoned:
    abandoned = Abandoned()
    nursery.start_soon(waits.cut_off, abandoned)
    return abandoned


@pytest.fixture
def waits() -> SlowWaits:
    return SlowWaits()


async def test_only_who_is_abandoned_is_cut_off(
    waits: SlowWaits, abandoned: Abandoned, nursery: trio.Nursery, autojump_clock: Clock
) -> None:
    ended: list[str] = []

    async def other() -> None:
        with waits.wait():
            await trio.sleep(10)
        ended.append("other")

    nursery.start_soon(other)
    abandoned.add()
    begun = trio.current_time()
    with pytest.raises(AbandonedError), waits.wait():
        await trio.sleep_forever()
    assert trio.current_time() - begun <= 2 * LOOK_SECONDS
    await trio.sleep(20)
    assert ended == ["other"]


async def test_what_comes_after_a_wait_is_not_cut_off(
    waits: SlowWaits, abandoned: Abandoned, autojump_clock: Clock
) -> None:
    abandoned.add()
    with waits.wait():
        await trio.lowlevel.checkpoint()
    await trio.sleep(10)
    with pytest.raises(KeyError), waits.wait():  # an error of what waited is raised as it is
        raise KeyError


async def test_nobody_is_looked_at_while_nobody_waits(
    waits: SlowWaits, abandoned: Abandoned, autojump_clock: Clock
) -> None:
    with waits.wait():
        await trio.sleep(1)
    await trio.sleep(LOOK_SECONDS)
    looks = abandoned.looks
    assert 0 < looks <= 1 / LOOK_SECONDS + 1
    await trio.sleep(1000)
    assert abandoned.looks == looks
    abandoned.add()
    with pytest.raises(AbandonedError), waits.wait():
        await trio.sleep_forever()


class Hanging(MemoryUpstream):
    """Blocks come when `answers` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.answers = trio.Event()

    async def get_block(self, block: BlockId) -> bytes:
        await self.answers.wait()
        return await super().get_block(block)


async def test_a_reader_that_is_cut_off_takes_nothing_from_another(
    tmp_path: Path, nursery: trio.Nursery
) -> None:
    """Both wait for the same blocks, and the first to ask has them fetched."""
    upstream, abandoned, data, got = Hanging(), Abandoned(), content("random", 300_000, 1), []
    async with opened(tmp_path / "cache", upstream) as drive:
        made = await make_file(drive, b"file", data)
        await drive.sync()
        drive.blocks.clear()
        nursery.start_soon(drive.slow_waits.cut_off, abandoned)

        async def read() -> None:
            got.append(bytes(await drive.read(made.inode, 0, len(data))))

        async def read_abandoned() -> None:
            abandoned.add()
            with pytest.raises(AbandonedError):
                await drive.read(made.inode, 0, len(data))
            upstream.answers.set()

        async with trio.open_nursery() as readers:
            readers.start_soon(read_abandoned)
            await trio.testing.wait_all_tasks_blocked()
            readers.start_soon(read)
    assert got == [data]
