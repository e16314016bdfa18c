"""The requests that a drive in object stores makes, counted by the store."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from backend.system import THIS_MACHINE, Environment
from cache.defaults import STORE_COMMIT_INTERVAL
from cache.drive import Drive
from cache.opening import DriveOptions
from cache.publish import Intervals
from tests.contents import content
from tests.drives import QUIET, make_file
from tests.fake_s3 import FakeS3, fake_s3
from tests.mock_time import environment_of, let_pass
from tests.small_drive import SmallDrive, make_empty_drive
from tools import drive_opening
from tools.commands.cost import DAY, Traffic, Use, total, traffic
from tools.commands.cost_report import layout_of

HOUR = 3600.0
NODES, VOTERS = 6, 5
RENEWALS = 36
LOOKS = 120
"""at the nodes, in an hour"""


@pytest.fixture
def server() -> Iterator[FakeS3]:
    with fake_s3() as running:
        yield running


@pytest.fixture
def drive(server: FakeS3, tmp_path: Path) -> SmallDrive:
    """Empty, with all nodes in stores."""
    urls = [f"{server.node_url(f'place{number}')}?credentials=env:FAKE" for number in range(NODES)]
    return make_empty_drive(tmp_path, *urls)


@asynccontextmanager
async def opened(
    drive: SmallDrive, options: DriveOptions, environment: Environment = THIS_MACHINE
) -> AsyncIterator[Drive]:
    async with (
        drive_opening.opened_drive(
            drive.unlocked(), drive.own(), options, environment=environment
        ) as running,
        trio.open_nursery() as nursery,
    ):
        await nursery.start(running.run)
        yield running
        nursery.cancel_scope.cancel()


def by_kind(server: FakeS3) -> Counter[str]:
    return Counter(request.partition(" ")[0] for request in server.requests)


async def test_an_idle_hour_is_the_renewals_of_the_lease(
    drive: SmallDrive, server: FakeS3, mock_clock: MockClock
) -> None:
    """Nothing is published, and nothing else written; as `drivefs doctor --cost` says, within a tenth."""
    async with opened(drive, DriveOptions(), environment_of(mock_clock)) as running:
        await make_file(running, b"file", content("text", 30_000))
        await let_pass(mock_clock, 2 * HOUR)
        head = running.ledger.head
        server.requests.clear()
        await let_pass(mock_clock, HOUR)
        found = by_kind(server)
        assert running.ledger.head == head
        assert found.keys() == {"GET", "PUT"}
        assert found["PUT"] <= RENEWALS * VOTERS
        assert found["GET"] <= RENEWALS * VOTERS + (LOOKS + 1) * NODES
    told = expected(drive, Use(0, 0), HOUR)
    assert found["PUT"] == pytest.approx(told.writes, rel=0.1)
    assert found["GET"] == pytest.approx(told.reads, rel=0.1)


@pytest.mark.parametrize("size", [10_000, 50_000])
async def test_the_cost_of_writing_is_what_the_store_counts(
    drive: SmallDrive, server: FakeS3, mock_clock: MockClock, size: int
) -> None:
    """In each second a file is written. Within a tenth: requests of each kind, and bytes."""
    options = DriveOptions(intervals=Intervals(commit=STORE_COMMIT_INTERVAL))
    seconds = 900
    async with opened(drive, options, environment_of(mock_clock)) as running:
        await make_file(running, b"first", content("random", size))
        await running.sync()
        server.requests.clear()
        server.received = 0
        for number in range(seconds):
            await make_file(running, b"%d" % number, content("random", size, number + 1))
            await let_pass(mock_clock, 1)
        found, received = by_kind(server), server.received
    told = expected(drive, Use(0, size * DAY), seconds)
    assert found["PUT"] == pytest.approx(told.writes, rel=0.1)
    assert found["GET"] + found["HEAD"] == pytest.approx(told.reads, rel=0.1)
    assert received == pytest.approx(told.sent, rel=0.1)


def expected(drive: SmallDrive, use: Use, seconds: float) -> Traffic:
    options = argparse.Namespace(scrub_interval=None, commit_interval=None)
    layout = layout_of(str(drive.drive), drive.unlocked().file, options)
    return total([*traffic(layout, use, seconds).values()])


async def test_no_key_is_written_by_two_requests_at_once(drive: SmallDrive, server: FakeS3) -> None:
    """Some stores take one write a second for each key, and refuse the others. Nor are uploads in parts."""
    server.requests.clear()  # mkfs has many race for one
    server.most_writers.clear()
    server.latency = 0.02
    async with opened(drive, QUIET) as running, trio.open_nursery() as nursery:
        for number in range(8):
            await make_file(running, b"%d" % number, content("random", 300_000, number))
            nursery.start_soon(running.sync)
    assert {path: most for path, most in server.most_writers.items() if most > 1} == {}
    assert server.most_writers["/bucket/place0/lease"] == 1
    assert by_kind(server).keys() <= {"GET", "PUT", "HEAD", "DELETE"}
