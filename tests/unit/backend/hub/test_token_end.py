"""The end of tokens: by time that passes, not by a clock that is wrong."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from backend.errors import ExpiredError
from backend.hub import BlockTable, Database
from backend.hub.directory import Directory
from backend.hub.token_end import LISTED_DAYS, RENEWAL_DAYS, TOKEN_DAYS, TokenClock
from backend.system import Environment
from tests.hub_server import RunningHub, hub_for_test

DAY: Final = 86400.0
LONG: Final = (TOKEN_DAYS + LISTED_DAYS + 1) * DAY
"""Seconds, after which a device that was not heard of is forgotten."""
_SHIFTED: Final = (
    "CREATE SCHEMA shifted; CREATE TABLE shifted.by AS SELECT 0::float8 AS seconds;"
    " CREATE FUNCTION shifted.now() RETURNS timestamptz STABLE LANGUAGE sql"
    " AS 'SELECT pg_catalog.now() + make_interval(secs => seconds) FROM shifted.by';"
    " ALTER TABLE device ALTER seen SET DEFAULT shifted.now(), ALTER renewed SET DEFAULT shifted.now()"
)


class Machine:
    """A hub's process and its database, each with a clock that may be wrong, and time that passes."""

    def __init__(self, running: RunningHub, database: Database) -> None:
        self._running = running
        self._database = database
        self._passed = 0.0
        self._wrong = {"database": 0.0, "process": 0.0}
        self.set_clock("database", 0.0)
        self.start()

    def start(self) -> None:
        """The process (again)."""
        environment = Environment(
            wall_clock=lambda: int((time.time() + self._passed + self._wrong["process"]) * 1e9),
            boot_clock=lambda: time.monotonic() + self._passed,
        )
        self._directory = Directory(self._database, environment)
        self._clock = TokenClock(environment)

    def set_clock(self, name: str, wrong: float) -> None:
        """The clock is so many seconds ahead of the right time."""
        self._wrong[name] = wrong
        self.wait(0.0)

    def wait(self, days: float) -> None:
        """Time passes, and the hub does its background work."""
        self._passed += days * DAY
        with psycopg.connect(self._running.conninfo) as connection:
            connection.execute(
                "UPDATE shifted.by SET seconds = %s", (self._passed + self._wrong["database"],)
            )
        if self._passed:
            self._running.call(BlockTable(self._database).remove_departed(self._clock.now()))

    def new_device(self) -> bytes:
        """Its token."""
        account = self._running.call(self._directory.add_account(f"{time.monotonic_ns()}@example.org"))
        return self._running.call(self._directory.add_device(account))

    def show(self, token: bytes) -> bool:
        """The device shows its token; whether it is to ask for another one."""
        return self._running.call(self._directory.device(token)).is_due

    def rotated(self, token: bytes) -> bytes:
        """Another token of the device, which has been shown."""
        device = self._running.call(self._directory.device(token))
        other = self._running.call(self._directory.rotate(device))
        self.show(other)
        return other

    def is_listed(self, token: bytes) -> bool:
        """Whether the hub has a device of this token, also one that has ended."""
        with psycopg.connect(self._running.conninfo) as connection:
            found = connection.execute("SELECT 1 FROM device WHERE token = sha256(%s)", (token,))
            return found.fetchone() is not None

    def writes_of(self, token: bytes) -> str:
        """Changes with each write to the device's row."""
        with psycopg.connect(self._running.conninfo) as connection:
            found = connection.execute("SELECT xmin::text FROM device WHERE token = sha256(%s)", (token,))
            row = found.fetchone()
            assert row is not None
            return str(row[0])


@pytest.fixture(scope="module")
def shifted() -> Iterator[tuple[RunningHub, Database]]:
    """A hub, and its database with a clock of its own."""
    with hub_for_test() as running:
        with psycopg.connect(running.conninfo) as connection:
            connection.execute(_SHIFTED)
        options = "-c search_path=shifted,pg_catalog,public"
        running.call(_opened(database := Database(make_conninfo(running.conninfo, options=options))))
        yield running, database
        running.call(database.close())


async def _opened(database: Database) -> None:
    await database.open()


@pytest.fixture
def machine(shifted: tuple[RunningHub, Database]) -> Machine:
    return Machine(*shifted)


@pytest.mark.parametrize("name", ["database", "process"])
def test_no_token_ends_when_a_clock_jumps_ahead(machine: Machine, name: str) -> None:
    """Regression: all devices of all accounts had to log in again, and were forgotten."""
    token = machine.new_device()
    machine.set_clock(name, LONG)
    machine.wait(0.1)
    assert not machine.show(token)
    # Else the token would not end for as long as the clock was ahead.
    machine.wait(TOKEN_DAYS + 1)
    with pytest.raises(ExpiredError):
        machine.show(token)


def test_a_token_ends_and_its_device_is_forgotten_when_the_time_has_passed(machine: Machine) -> None:
    token = machine.new_device()
    for _ in range(3):
        machine.wait(TOKEN_DAYS - 1)
        machine.show(token)
    machine.wait(TOKEN_DAYS + 1)
    with pytest.raises(ExpiredError):
        machine.show(token)
    machine.wait(LISTED_DAYS - 2)
    assert machine.is_listed(token)
    machine.wait(2)
    assert not machine.is_listed(token)


@pytest.mark.parametrize("is_restarted", [False, True])
@pytest.mark.parametrize("wrong", [-LONG, LONG])
@pytest.mark.parametrize("name", ["database", "process"])
def test_a_clock_that_was_wrong_and_is_set_right_ends_tokens_of_those_that_are_gone_only(
    machine: Machine, name: str, wrong: float, is_restarted: bool
) -> None:
    """Regression: a device that was seen daily was told that its token had expired, or was forgotten, as
    nothing, or what a clock that was behind said, had been noted of it."""
    before = machine.new_device()
    machine.set_clock(name, wrong)
    machine.start()
    during = machine.rotated(machine.new_device())
    for _ in range(20):
        machine.wait(10)
        for token in (before, during):
            machine.show(token)
    machine.set_clock(name, 0.0)
    if is_restarted:
        machine.start()
    machine.wait(0.1)
    for token in (before, during):
        machine.show(token)
    for _ in range(8):
        machine.wait(11)
        machine.show(before)
    machine.show(during)
    machine.start()  # one that began with its clock behind ends older tokens late
    for _ in range(10):
        machine.wait(9.2)
        machine.show(before)
    with pytest.raises(ExpiredError):
        machine.show(during)


@pytest.mark.parametrize("name", ["database", "process"])
def test_a_device_that_was_made_while_a_clock_was_ahead_ends_in_time(machine: Machine, name: str) -> None:
    """Regression: its end, and its next token, came as much later as the clock was ahead."""
    machine.set_clock(name, LONG)
    machine.start()
    token, shown = machine.new_device(), machine.new_device()
    machine.wait(1)
    machine.set_clock(name, 0.0)
    for _ in range(4):
        machine.wait(RENEWAL_DAYS / 4)
        is_due = machine.show(shown)
    assert is_due
    machine.wait(TOKEN_DAYS - RENEWAL_DAYS)
    with pytest.raises(ExpiredError):
        machine.show(token)


def test_a_machine_that_starts_with_both_clocks_behind_spoils_nothing(machine: Machine) -> None:
    """One without a clock of its own, until it hears the time."""
    token = machine.new_device()
    machine.wait(1)
    for name in ("database", "process"):
        machine.set_clock(name, -LONG)
    machine.start()
    machine.wait(0.1)
    machine.show(token)
    for name in ("database", "process"):
        machine.set_clock(name, 0.0)
    machine.start()
    machine.wait(0.1)
    assert not machine.show(token)


@pytest.mark.parametrize("wrong", [-LONG, 0.0, LONG])
@pytest.mark.parametrize("name", ["database", "process"])
def test_a_device_that_comes_often_is_noted_once_an_hour_by_any_clock(
    machine: Machine, name: str, wrong: float
) -> None:
    machine.set_clock(name, wrong)
    machine.start()
    token = machine.new_device()
    machine.wait(0.1)
    machine.show(token)
    before = machine.writes_of(token)
    machine.wait(0.01)
    machine.show(token)
    assert machine.writes_of(token) == before
    machine.wait(0.05)
    machine.show(token)
    assert machine.writes_of(token) != before
