"""A process is ready while the database and enough nodes answer, and until it is to end."""

from __future__ import annotations

from collections.abc import Iterator

import anyio
import pytest

from backend.coding import Profile
from backend.hub import Database, Readiness
from backend.hub.polling_time import PollingTime
from tests.hub_care import database_of
from tests.hub_server import RunningHub, hub_for_test


@pytest.fixture(scope="module")
def running() -> Iterator[RunningHub]:
    with hub_for_test() as found:
        yield found


def test_it_is_ready_as_long_as_packs_can_be_read(running: RunningHub) -> None:
    async def looked(away: int) -> tuple[tuple[str, ...], int]:
        async with database_of(running) as database:
            readiness = Readiness(database, running.nodes, Profile.parse("4+2"))
            assert readiness.faults
            for number, node in enumerate(running.nodes.values()):
                node.away = number < away
            await readiness.look()
            found = readiness.faults, len(readiness.away)
            readiness.end()
            assert readiness.faults == ("this process is ending",)
            return found

    assert running.call(looked(0)) == ((), 0)
    assert running.call(looked(1)) == ((), 1)
    assert running.call(looked(2)) == ((), 2)
    assert running.call(looked(3)) == (("3 nodes answer, and it takes 4 to read something",), 3)
    assert running.call(looked(0)) == ((), 0)


def test_without_a_database_it_is_not(running: RunningHub) -> None:
    async def looked() -> tuple[str, ...]:
        closed = Database(running.conninfo)
        readiness = Readiness(closed, running.nodes, Profile.parse("4+2"))
        await readiness.look()
        return readiness.faults

    assert running.call(looked()) == ("the database does not answer",)


def test_requests_that_have_all_connections_are_no_fault_of_the_database(running: RunningHub) -> None:
    async def looked() -> tuple[str, ...]:
        async with database_of(running) as database, database.transaction(), database.transaction():
            readiness = Readiness(database, running.nodes, Profile.parse("4+2"))
            await readiness.look()
            return readiness.faults

    assert running.call(looked()) == ()


async def test_polls_are_let_go_one_after_the_other(autojump_clock: object) -> None:
    time, left = PollingTime(), list[float]()

    async def poll(seconds: float) -> None:
        with time.of(seconds):
            await anyio.sleep_forever()
        left.append(anyio.current_time() - begun)

    begun = anyio.current_time()
    async with anyio.create_task_group() as group:
        for seconds in (120.0, 120.0, 120.0, 120.0, 1.5):
            group.start_soon(poll, seconds)
        await anyio.sleep(1)
        time.end(10)
        group.start_soon(poll, 120.0)
    assert len(left) == 6
    assert min(left) == 1.0
    assert max(left) == 11.0
    assert len(set(left)) >= 5
