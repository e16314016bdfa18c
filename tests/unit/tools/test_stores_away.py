"""A store that is away for an hour of a mount costs nothing but redundancy, and gets what it lacks when it is
back, unasked; `status` tells how far that is."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest
import trio
from trio.testing import MockClock

from backend.system import Environment
from backend.upstream import StoreStatus
from cache.drive import Drive
from cache.opening import DriveOptions
from tests.contents import KINDS, content
from tests.drives import content_of, make_file
from tests.fake_s3 import BUCKET, FakeS3, fake_s3
from tests.mock_time import environment_of, let_pass
from tests.small_drive import SmallDrive, make_empty_drive
from tools import drive_opening

MINUTE = 60.0
CATCHING_UP = 10 * MINUTE
SIZE = 30_000

Answer = TypeVar("Answer")


@pytest.fixture
def away() -> Iterator[FakeS3]:
    """The store that is going to be away."""
    with fake_s3() as running:
        yield running


@pytest.fixture
def drive(away: FakeS3, tmp_path: Path) -> Iterator[SmallDrive]:
    """Empty; six stores, one of them on a server of its own."""
    with fake_s3() as server:
        urls = [server.node_url(f"place{number}") for number in range(5)]
        yield make_empty_drive(tmp_path, *(f"{url}?credentials=env:FAKE" for url in [*urls, away.node_url()]))


@asynccontextmanager
async def opened(drive: SmallDrive, environment: Environment) -> AsyncIterator[Drive]:
    unlocked, own = drive.unlocked(), drive.own()
    options = DriveOptions(cache_disk=0)
    opening = drive_opening.opened_drive(unlocked, own, options, environment=environment)
    async with opening as running, trio.open_nursery() as nursery:
        await nursery.start(running.run)
        yield running
        nursery.cancel_scope.cancel()


async def write(drive: Drive, number: int) -> None:
    for kind in KINDS:
        await make_file(drive, b"%s %d" % (kind.encode(), number), content(kind, SIZE, number))


async def wrong(drive: Drive, count: int) -> list[bytes]:
    drive.blocks.clear()
    return [
        name
        for number in range(count)
        for kind in KINDS
        for name in [b"%s %d" % (kind.encode(), number)]
        if await content_of(drive, name) != content(kind, SIZE, number)
    ]


async def in_time(clock: MockClock, call: Callable[[], Awaitable[Answer]]) -> Answer:
    """The answer of a call that may wait for the clock."""
    answers: list[Answer] = []

    async def ask() -> None:
        answers.append(await call())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        while not answers:
            await let_pass(clock, 0.1)
    return answers[0]


async def store_of(drive: Drive, clock: MockClock) -> StoreStatus:
    found = (await in_time(clock, drive.status)).store
    assert found is not None
    return found


def vanish(server: FakeS3) -> Callable[[], None]:
    server.has_vanished = True
    return lambda: setattr(server, "has_vanished", False)


def lose_bucket(server: FakeS3) -> Callable[[], None]:
    """It is deleted. Brought back, it has what it had."""
    buckets, server.buckets = server.buckets, {}
    return lambda: setattr(server, "buckets", buckets)


def lose_content(server: FakeS3) -> Callable[[], None]:
    """Another one is under the bucket's name meanwhile."""
    buckets, server.buckets = server.buckets, {BUCKET: {}}
    return lambda: setattr(server, "buckets", buckets)


@pytest.mark.parametrize("go_away", [vanish, lose_bucket, lose_content])
async def test_it_is_away_for_an_hour_and_gets_what_it_lacks_when_it_is_back(
    drive: SmallDrive, away: FakeS3, mock_clock: MockClock, go_away: Callable[[FakeS3], Callable[[], None]]
) -> None:
    async with opened(drive, environment_of(mock_clock)) as running:
        await write(running, 0)
        await running.sync()
        come_back = go_away(away)
        await let_pass(mock_clock, 2 * MINUTE)  # so long may it take to see that it is another bucket
        for number in range(1, 7):
            await write(running, number)
            await let_pass(mock_clock, 10 * MINUTE)
        status = await store_of(running, mock_clock)
        assert running.ledger.head.number >= 7
        assert not running.ledger.unpublished
        assert [node.name for node in status.nodes if node.state != "ok"] == ["node5"]
        assert status.packs_to_repair >= 6
        assert await in_time(mock_clock, partial(wrong, running, 7)) == []
        come_back()
        lacking = [status.packs_to_repair]
        while lacking[-1] and len(lacking) < CATCHING_UP:
            await let_pass(mock_clock, 1)
            lacking.append((await store_of(running, mock_clock)).packs_to_repair)
        assert lacking[-1] == 0
        assert lacking == sorted(lacking, reverse=True)
        status = await store_of(running, mock_clock)
        assert {node.state for node in status.nodes} == {"ok"}
        stored = [key for key in away.objects if key.startswith("prefix/packs/")]
        assert len(stored) == status.packs
        assert await in_time(mock_clock, partial(wrong, running, 7)) == []
    assert await trio.to_thread.run_sync(drive.fsck, "-n", "--data") == 0
