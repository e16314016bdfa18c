"""Waiting for commits: of thousands who wait, only those are woken whom a commit concerns."""

from __future__ import annotations

from collections import UserDict
from collections.abc import ItemsView, Iterator
from typing import Any

import anyio
import pytest
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from backend.errors import NotFoundError, TransientError
from backend.hub import Database, Heads
from backend.hub.database import Values
from backend.hub.heads import pause_after
from tests.hub_server import RunningHub, hub_for_test


@pytest.fixture(scope="module")
def running() -> Iterator[RunningHub]:
    with hub_for_test() as found:
        yield found


class CountedDrives(UserDict[int, int]):
    """How often somebody looks whether one of them has a newer head."""

    looks = 0

    def items(self) -> ItemsView[int, int]:
        self.looks += 1
        return super().items()


def drives_of(running: RunningHub, count: int) -> list[tuple[int, int]]:
    """New drives: numbers of device and drive."""

    async def find(uuid: bytes, token: bytes) -> tuple[int, int]:
        device = await running.hub.directory.device(token)
        return device.number, (await running.hub.directory.drives(device, [uuid]))[uuid].number

    return [running.call(find(*running.new_drive())) for _ in range(count)]


def test_neither_polls_that_come_nor_commits_of_others_wake_who_waits(running: RunningHub) -> None:
    first, *others = drives_of(running, 6)
    counted, heads = CountedDrives({first[1]: 0}), Heads(running.database)

    async def run() -> dict[int, int]:
        found: dict[int, int] = {}

        async def wait() -> None:
            found.update(await heads.wait(first[0], counted, 30))

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            while not counted.looks:
                await anyio.lowlevel.checkpoint()
            for device, drive in others:
                assert await heads.wait(device, {drive: 0}, 0) == {}
                heads.moved(drive, 1)
                assert counted.looks == 1
            heads.moved(first[1], 0)
            await anyio.lowlevel.checkpoint()
            assert counted.looks == 1
            heads.moved(first[1], 1)
        return found

    assert running.call(run()) == {first[1]: 1}
    assert heads.polls == 0


def test_one_commit_wakes_all_who_wait_for_its_drive(running: RunningHub) -> None:
    ((device, drive),) = drives_of(running, 1)
    running.call(running.database.execute("UPDATE drive SET head = 4 WHERE id = %s", (drive,)))
    heads = Heads(running.database)

    async def run() -> list[dict[int, int]]:
        found: list[dict[int, int]] = []

        async def wait(number: int) -> None:
            found.append(await heads.wait(device, {drive: number}, 30))

        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(wait, 4)
            while heads.polls < 3:
                await anyio.lowlevel.checkpoint()
            heads.moved(drive, 4)
            heads.moved(drive, 6)
        return found

    assert running.call(run()) == [{drive: 6}] * 3


class SlowDatabase(Database):
    """Each look takes a second. One drive, without a commit; the devices of `ended` count no more."""

    def __init__(self) -> None:
        self.ended = set[int]()
        self.is_away = False

    async def rows(self, statement: str, values: Values = ()) -> list[tuple[Any, ...]]:
        await anyio.sleep(1)
        if self.is_away:
            raise TransientError("the database does not answer")
        (asked,) = values
        return [(number, 0) for number in asked if number not in self.ended]


@pytest.mark.parametrize("was_away", [False, True])
async def test_a_device_that_another_process_revoked_waits_for_seconds_only_where_looks_take_long(
    was_away: bool, autojump_clock: trio.testing.MockClock
) -> None:
    database = SlowDatabase()
    heads = Heads(database)
    async with anyio.create_task_group() as group:
        group.start_soon(heads.run)

        async def wait() -> None:
            with pytest.raises(NotFoundError):
                await heads.wait(7, {3: 0}, 600)
            group.cancel_scope.cancel()

        group.start_soon(wait)
        await anyio.sleep(20)
        database.ended.add(7)
        database.is_away, answers_at = was_away, anyio.current_time()
        if was_away:
            await anyio.sleep(20)
            database.is_away, answers_at = False, anyio.current_time()
    assert anyio.current_time() - answers_at < 6


@given(st.floats(0, 100))
def test_looking_takes_a_tenth_of_the_time_and_a_commit_is_seen_within_a_second(took: float) -> None:
    pause = pause_after(took)
    assert 0.05 <= pause <= 1
    assert took <= 0.11 * (took + pause) or pause == 1


def test_who_has_seen_more_than_there_is_hears_of_it_at_once(running: RunningHub) -> None:
    """As after a backup of the database was restored."""
    (device, drive), (_, other) = drives_of(running, 2)
    heads = Heads(running.database)
    assert running.call(heads.wait(device, {drive: 7, other: 0}, 30)) == {drive: 0}
