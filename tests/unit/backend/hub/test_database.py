"""The pool of connections to the database: one that met an error of its server is not used again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import pytest

from backend.errors import TransientError
from backend.hub import Database
from tests.postgres import new_database
from tests.servers import NoServerError

IDLE = 1.0
"""Seconds: a busy machine may let the first statement of a transaction wait for a part of it."""
_HAS_BEEN_IDLE = (
    "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle in transaction'"
    " AND clock_timestamp() > state_change + make_interval(secs => %s)"
)


@pytest.fixture
def conninfo() -> str:
    try:
        return new_database()
    except NoServerError as error:
        pytest.skip(str(error))


def with_one_connection(conninfo: str, test: Callable[[Database], Awaitable[None]]) -> None:
    async def run() -> None:
        database = Database(conninfo, size=1)
        await database.open()
        try:
            with anyio.fail_after(30):
                await database.execute("CREATE TABLE number (n integer)")
                await test(database)
        finally:
            await database.close()

    anyio.run(run, backend="asyncio")


@pytest.mark.logs_warnings
def test_a_process_that_stops_in_a_transaction_holds_no_row_for_long(conninfo: str) -> None:
    """Others wait for its rows: devices to commit, for one. It is told when it goes on."""

    async def test(database: Database) -> None:
        await database.execute("INSERT INTO number VALUES (1)")
        stopped = Database(conninfo, size=1, idle=IDLE)
        await stopped.open()
        try:
            with pytest.raises(TransientError):
                await stop_and_go_on(stopped, database)
            assert await database.rows("SELECT n FROM number") == [(3,)]
            assert await stopped.row("SELECT 1") == (1,)
        finally:
            await stopped.close()

    with_one_connection(conninfo, test)


def test_who_is_alone_is_so_however_long_it_takes(conninfo: str) -> None:
    async def test(database: Database) -> None:
        first = Database(conninfo, size=1, idle=IDLE)
        await first.open()
        try:
            async with first.alone(1) as is_first:
                assert is_first
                with anyio.fail_after(60):
                    while not await database.row(_HAS_BEEN_IDLE, (1.5 * IDLE,)):
                        await anyio.sleep(0.05)
                async with database.alone(1) as is_second:
                    assert not is_second
        finally:
            await first.close()

    with_one_connection(conninfo, test)


async def stop_and_go_on(stopped: Database, other: Database) -> None:
    """The other changes a row that `stopped` has changed."""
    async with stopped.transaction() as connection:
        await connection.execute("UPDATE number SET n = 2")
        await other.execute("UPDATE number SET n = 3")
        await connection.execute("UPDATE number SET n = 4")


async def insert_and_fail(database: Database) -> None:
    async with database.transaction() as connection:
        await connection.execute("INSERT INTO number VALUES (1)")
        raise ZeroDivisionError


@pytest.mark.logs_warnings
def test_a_connection_to_a_server_that_takes_no_writes_any_more_is_not_used_again(conninfo: str) -> None:
    async def test(database: Database) -> None:
        await database.execute("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY")
        with pytest.raises(TransientError):
            await database.execute("INSERT INTO number VALUES (1)")
        await database.execute("INSERT INTO number VALUES (2)")
        assert await database.rows("SELECT n FROM number") == [(2,)]

    with_one_connection(conninfo, test)


@pytest.mark.logs_warnings
def test_a_connection_that_the_server_ended_is_not_used_again(conninfo: str) -> None:
    async def test(database: Database) -> None:
        with pytest.raises(TransientError):
            await database.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        assert await database.row("SELECT 1") == (1,)

    with_one_connection(conninfo, test)


def test_what_fails_in_a_transaction_leaves_nothing(conninfo: str) -> None:
    async def test(database: Database) -> None:
        with pytest.raises(ZeroDivisionError):
            await insert_and_fail(database)
        assert await database.row("SELECT n FROM number") is None

    with_one_connection(conninfo, test)
