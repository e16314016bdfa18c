"""The end of tokens: by time that passes, not by a clock that jumps."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

import psycopg
import pytest

from backend.errors import ExpiredError
from backend.hub.directory import Directory
from backend.hub.token_end import LISTED_DAYS, TOKEN_DAYS
from backend.system import Environment
from tests.hub_server import RunningHub, hub_for_test

LONG: Final = (TOKEN_DAYS + LISTED_DAYS + 1) * 86400
"""Seconds, after which a device that was not heard of is forgotten."""


@pytest.fixture(scope="module")
def running() -> Iterator[RunningHub]:
    with hub_for_test() as found:
        yield found


class Device:
    """One that is logged in now, and the clocks of the hub's machine. The database has this machine's."""

    def __init__(self, running: RunningHub) -> None:
        self._running = running
        _, self._token = running.new_drive()
        self.number = running.call(running.hub.directory.device(self._token)).number
        self.wall = time.time()
        self.booted = 1000.0

    def environment(self) -> Environment:
        return Environment(wall_clock=lambda: int(self.wall * 1e9), boot_clock=lambda: self.booted)

    def shift(self, seconds: float) -> None:
        """What the database knows of the device was so long ago."""
        moved = "UPDATE device SET seen = seen - {0}, renewed = renewed - {0} WHERE id = %(number)s"
        with psycopg.connect(self._running.conninfo) as connection:
            connection.execute(
                moved.format("make_interval(secs => %(seconds)s)").encode(),
                {"seconds": seconds, "number": self.number},
            )

    def seen(self) -> float:
        """Seconds since 1970."""
        with psycopg.connect(self._running.conninfo) as connection:
            seen = "SELECT extract(epoch FROM seen)::float8 FROM device WHERE id = %s"
            row = connection.execute(seen.encode(), (self.number,)).fetchone()
            assert row is not None
            return float(row[0])

    def show(self, directory: Directory) -> bool:
        """The device shows its token; whether it is to ask for another one."""
        device = self._running.call(directory.device(self._token))
        assert device.number == self.number
        return device.is_due


@pytest.fixture
def device(running: RunningHub) -> Device:
    return Device(running)


def test_no_token_ends_when_the_clock_of_the_database_jumps_ahead(
    running: RunningHub, device: Device
) -> None:
    """Regression: all devices of all accounts had to log in again, and were forgotten."""
    device.wall -= LONG  # which is as if the database's clock were ahead
    device.shift(LONG)
    directory = Directory(running.database, device.environment())
    running.call(running.hub.table.remove_departed(device.wall))
    assert not device.show(directory)
    device.wall += 7200
    device.booted += 7200
    assert not device.show(directory)
    # Else the token would not end for as long as the clock was ahead.
    assert device.seen() == pytest.approx(device.wall, abs=60)


def test_no_token_ends_when_the_clock_of_the_machine_jumps_ahead(running: RunningHub, device: Device) -> None:
    device.wall -= LONG
    device.shift(LONG)
    directory = Directory(running.database, device.environment())
    device.wall += LONG
    device.booted += 60
    assert not device.show(directory)


def test_a_token_ends_when_the_time_has_passed(running: RunningHub, device: Device) -> None:
    device.wall -= LONG
    directory = Directory(running.database, device.environment())
    device.shift(LONG)
    device.wall += LONG
    device.booted += LONG
    with pytest.raises(ExpiredError):
        device.show(directory)
    running.call(running.hub.table.remove_departed(device.wall))
    with psycopg.connect(running.conninfo) as connection:
        assert connection.execute("SELECT 1 FROM device WHERE id = %s", (device.number,)).fetchone() is None
