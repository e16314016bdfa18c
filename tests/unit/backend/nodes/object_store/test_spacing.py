"""Stores that take one write of an object a second and refuse others: nodes and whole drives live with it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from backend.errors import ConflictError, TransientError
from backend.nodes import address
from backend.nodes.factory import place_at
from backend.nodes.identity import NodeIdentity
from backend.nodes.node import Node
from backend.nodes.object_store.errors import BusyError
from backend.nodes.object_store.location import parse
from backend.nodes.object_store.spacing import SECONDS, TRIES, Spacing, patiently
from backend.nodes.place import NodePlace
from cache.drive import Drive
from tests.contents import content
from tests.drives import QUIET, content_of, make_file
from tests.fake_s3 import FakeS3, Fault, failed, fake_s3
from tests.small_drive import SmallDrive, make_empty_drive
from tools import drive_opening

IDENTITY = NodeIdentity("node0", bytes(range(16)), "zone0")
REFUSALS = {429: "TooManyRequests", 503: "SlowDown"}


@pytest.fixture(params=REFUSALS)
def server(request: pytest.FixtureRequest) -> Iterator[FakeS3]:
    with fake_s3() as running:
        running.one_write_a_second = failed(request.param, REFUSALS[request.param])
        yield running


@pytest.fixture
def place(server: FakeS3) -> NodePlace:
    return place_at(f"{server.node_url()}?credentials=env:FAKE", "/")


@pytest.fixture
def node(place: NodePlace) -> Node:
    place.initialise(IDENTITY)
    return place.node(IDENTITY)


async def test_a_record_that_is_swapped_again_and_again(server: FakeS3, node: Node) -> None:
    """The first refusal teaches it, at the latest: it asks no more than the store allows."""
    await node.swap("lease", None, b"0")
    await node.swap("lease", b"0", b"1")
    refused = server.refused
    await node.swap("lease", b"1", b"2")
    assert await node.get("lease") == b"2"
    assert server.refused == refused
    with pytest.raises(ConflictError):
        await node.swap("lease", b"1", b"3")


async def test_what_another_process_has_just_written(place: NodePlace, node: Node) -> None:
    await node.swap("lease", None, b"0")
    other = place_at(f"{place.url}?credentials=env:FAKE", "/").node(IDENTITY)
    await other.swap("lease", b"0", b"1")
    assert await node.get("lease") == b"1"


async def test_a_refusal_that_was_a_success_is_one(server: FakeS3, node: Node) -> None:
    await node.swap("lease", None, b"0")
    server.faults = [Fault("PUT", "lease", failed(503, "SlowDown"), happens=True)] * 2
    await trio.sleep(SECONDS)
    await node.swap("lease", b"0", b"1")
    assert await node.get("lease") == b"1"
    server.faults = [Fault("PUT", "other", failed(503, "SlowDown"), happens=True)]
    await node.swap("other", None, b"0")
    assert await node.get("other") == b"0"


async def test_a_store_that_stays_busy_is_told_so(server: FakeS3, node: Node) -> None:
    await node.swap("lease", None, b"0")
    server.faults = [Fault("PUT", "lease", failed(503, "SlowDown"))] * TRIES
    with pytest.raises(TransientError, match="SlowDown"):
        await node.swap("lease", b"0", b"1")
    assert server.faults == []


def test_a_place_is_made_probed_and_cleared(server: FakeS3, place: NodePlace) -> None:
    place.initialise(IDENTITY)
    assert place.is_writable()
    place.write("drive.toml", b"one")
    place.write("drive.toml", b"two")
    assert place.read("drive.toml", 10) == b"two"
    place.clear()
    assert server.objects == {}
    place.initialise(IDENTITY)


@pytest.fixture
def busy() -> Iterator[FakeS3]:
    with fake_s3() as running:
        running.one_write_a_second = failed(503, "SlowDown")
        yield running


@asynccontextmanager
async def opened(drive: SmallDrive) -> AsyncIterator[Drive]:
    async with (
        drive_opening.opened_drive(drive.unlocked(), drive.own(), QUIET) as running,
        trio.open_nursery() as nursery,
    ):
        await nursery.start(running.run)
        yield running
        nursery.cancel_scope.cancel()


async def test_a_drive_of_such_stores(busy: FakeS3, tmp_path: Path) -> None:
    """It is made, opened, synced as fast as it can be, its snapshot replaced, closed and opened at once. No
    log says anything, and few requests are refused."""
    server = busy
    urls = [f"{server.node_url(f'place{number}')}?credentials=env:FAKE" for number in range(6)]
    drive = await trio.to_thread.run_sync(make_empty_drive, tmp_path, *urls)
    server.refused = 0
    for turn in range(2):
        async with opened(drive) as running:
            for number in range(3):
                await make_file(running, b"%d %d" % (turn, number), content("json", 30_000, number))
                with trio.fail_after(30):
                    await running.sync()
                    await running.snapshots.make()
            for number in range(3):
                assert await content_of(running, b"0 %d" % number) == content("json", 30_000, number)
        assert server.refused <= 4 * 6
    assert "bucket/place0/lease" not in {path for path, most in server.most_writers.items() if most > 1}


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("gs://bucket/prefix", True),
        ("gs+https://storage.example.org/bucket/prefix", False),
        ("s3+https://account.r2.cloudflarestorage.com/bucket", True),
        ("s3://bucket/prefix", False),
        ("s3+https://r2.example.org/bucket", False),
        ("az://account/container", False),
    ],
)
def test_the_providers_that_say_so_are_known(url: str, expected: bool) -> None:
    assert parse(address.parse(url, "/")).takes_one_write_a_second is expected


class Store:
    """Takes a write of a key a second; counts what it refused."""

    def __init__(self, spacing: Spacing) -> None:
        self.spacing = spacing
        self.taken_at = -1.0
        self.refused = 0

    def write(self) -> None:
        with self.spacing.turn("key"):
            now = trio.current_time()
            if now - self.taken_at < 1:
                self.refused += 1
                raise BusyError("SlowDown")
            self.taken_at = now


async def test_known_stores_refuse_nothing_and_others_once() -> None:
    for is_known in (True, False):
        store = Store(Spacing(is_known=is_known))
        for _ in range(3):
            patiently(store.write)
        assert store.refused == (0 if is_known else 1)
