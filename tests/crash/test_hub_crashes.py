"""A hub and its database that break in the middle: no acknowledged byte is lost, and all devices converge."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import anyio
import httpx
import psycopg
import pytest
import trio

from backend import wire
from backend.commits import decode_commit, encode_commit
from backend.errors import DriveError, FormatError, TransientError
from cache.drive import Drive
from cache.errors import FileSystemError
from tests import contents
from tests.drives import content_of, make_file, tree
from tests.hub_server import RunningHub, hub, hub_for_test
from tests.lying_hub import Ask, Heard, LiedTo, Said
from tests.postgres import cluster, new_database, restart
from tests.servers import NoServerError
from tests.sync.test_drives_on_a_hub import settle
from tests.unit.backend.hub.test_attacks import content, following
from tests.waiting import wait_until

pytestmark = pytest.mark.logs_warnings

FILES = 6
SAFE = ("fsync=off", "synchronous_commit=on")
"""Of a server that is killed, on a machine that goes on."""


@pytest.fixture(scope="module")
def running() -> Iterator[RunningHub]:
    with hub_for_test() as found:
        yield found


@pytest.fixture
def broken() -> Iterator[tuple[RunningHub, str]]:
    """A hub whose database can be restarted, and the folder of that."""
    try:
        folder = cluster(SAFE)
    except NoServerError as error:
        pytest.skip(str(error))
    with hub(new_database(folder)) as found:
        yield found, folder


def until_ready(running: RunningHub) -> None:
    """Of the hub's connections to its database none is a broken one any more; that takes seconds at most."""

    async def ask() -> None:
        async with anyio.create_task_group() as group:
            for _ in range(16):
                group.start_soon(running.database.row, "SELECT pg_sleep(0.05)")

    until = time.monotonic() + 8
    while True:
        try:
            return running.call(ask())
        except* TransientError:
            assert time.monotonic() < until


async def insist(drive: Drive) -> None:
    """Sync, as often as it takes."""
    with trio.fail_after(120):
        while True:
            with suppress(DriveError, FileSystemError):
                await drive.sync()
                return
            await trio.sleep(0.01)


async def work(drive: Drive, name: str, is_enough: Callable[[], bool]) -> dict[bytes, bytes]:
    """Files of all kinds, each published before the next, until it `is_enough`; what was acknowledged."""
    made: dict[bytes, bytes] = {}
    while len(made) < FILES or not is_enough():
        kind = contents.KINDS[len(made) % FILES]
        data = contents.content(kind, 60_000, f"{name}{len(made)}")
        path = f"{name} {len(made)} {kind}".encode()
        await make_file(drive, path, data)
        await insist(drive)
        made[path] = data
    return made


def always() -> bool:
    """It is enough."""
    return True


async def two_work(
    running: RunningHub,
    lied_to: LiedTo,
    mend: Callable[[], None],
    is_enough: Callable[[], bool] = always,
) -> None:
    """Two devices write at once while something breaks, until it `is_enough`, and `mend`. Then all devices,
    mounted anew, have what these were told is published."""
    made: dict[bytes, bytes] = {}

    async def one_works(number: int) -> None:
        async with lied_to.device(number, crash=True) as drive:
            made.update(await work(drive, f"of {number}", is_enough))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(one_works, 1)
        nursery.start_soon(one_works, 2)
    await trio.to_thread.run_sync(mend)
    await trio.to_thread.run_sync(until_ready, running)
    async with lied_to.device(1) as one, lied_to.device(2) as two, lied_to.device(3) as three:
        await settle(one, two, three)
        for drive in (one, two, three):
            for path, data in made.items():
                assert await content_of(drive, path) == data
        assert await tree(one) == await tree(two) == await tree(three)
    assert len(made) >= 2 * FILES


async def enrolled(running: RunningHub, folder: Path) -> LiedTo:
    """A drive with two devices: that a mount fails while the hub breaks is for people to see."""
    lied_to = LiedTo(running, folder)
    async with lied_to.device(1), lied_to.device(2):
        return lied_to


@pytest.mark.parametrize("seed", range(2))
async def test_answers_that_are_lost_lose_nothing(running: RunningHub, tmp_path: Path, seed: int) -> None:
    """The hub ended between storing and answering, or before it had heard: a device cannot tell."""
    source = random.Random(seed)

    async def lose(heard: Heard, ask: Ask) -> Said:
        if source.random() < 0.15:
            raise httpx.ReadError("the hub ended before it was asked")
        said = await ask(heard)
        if source.random() < 0.3:
            raise httpx.ReadError("the hub ended before it answered")
        return said

    lied_to = await enrolled(running, tmp_path)
    lossy = ("POST log", "POST blocks", "POST blocks/missing", "GET blocks/ID", "POST wait")
    for number in (1, 2):
        lied_to.told[number].lies |= dict.fromkeys(lossy, lose)

    def mend() -> None:
        for told in lied_to.told.values():
            told.lies.clear()

    await two_work(running, lied_to, mend)


class Breaker:
    """A thread that does something again and again, until `end`."""

    def __init__(self, action: Callable[[], object], pause: float) -> None:
        self.count = 0
        self._action = action
        self._pause = pause
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._is_over.wait(self._pause):
            self._action()
            self.count += 1

    def end(self) -> None:
        """No more of it. Idempotent."""
        self._is_over.set()
        self._thread.join()


def end_connections(conninfo: str) -> None:
    """All that the database has."""
    parts = psycopg.conninfo.conninfo_to_dict(conninfo)
    with psycopg.connect(conninfo, dbname="postgres", autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (parts["dbname"],)
        )


async def test_connections_to_the_database_that_break_lose_nothing(
    running: RunningHub, tmp_path: Path
) -> None:
    """In the middle of transactions, again and again."""
    lied_to = await enrolled(running, tmp_path)
    breaker = Breaker(partial(end_connections, running.conninfo), 1.0)
    try:
        await two_work(running, lied_to, breaker.end, lambda: breaker.count > 3)
    finally:
        breaker.end()


async def test_a_database_that_is_killed_under_load_loses_nothing(
    broken: tuple[RunningHub, str], tmp_path: Path
) -> None:
    """And comes up again by its log, a few times."""
    running, folder = broken
    lied_to = await enrolled(running, tmp_path)
    breaker = Breaker(partial(restart, folder), 1.0)
    try:
        await two_work(running, lied_to, breaker.end, lambda: breaker.count > 1)
    finally:
        breaker.end()


def append(client: httpx.Client, url: str, number: int, source: random.Random) -> list[bytes]:
    """Put blocks and append a commit that names them, once; what was acknowledged."""
    blocks = [source.randbytes(32) for _ in range(3)]
    body = b"".join(block + (100).to_bytes(4, "little") + content(block) for block in blocks)
    with suppress(httpx.TransportError, FormatError):
        if client.post(f"{url}/blocks", content=body).status_code == 204:
            head = wire.decode_head(client.get(f"{url}/head").text)
            said = {"Expected-Head": wire.encode_head(head)}
            commit = encode_commit(following(head, blocks, number))
            if client.post(f"{url}/log", content=commit, headers=said).status_code == 201:
                return blocks
    return []


def has_acknowledged(blocks: list[bytes], count: int) -> bool:
    return len(blocks) >= count


def test_what_a_hub_acknowledged_outlives_its_database(broken: tuple[RunningHub, str]) -> None:
    """Commits and blocks, by requests alone, of which many fail."""
    running, folder = broken
    uuid, token = running.new_drive()
    url = f"{running.url}/v1/drives/{uuid.hex()}"
    headers = {"Authorization": f"Bearer {token.hex()}"}
    acknowledged: list[bytes] = []
    is_over = threading.Event()

    def write(number: int) -> None:
        source = random.Random(number)
        with httpx.Client(verify=False, headers=headers, timeout=60) as client:
            while not is_over.is_set():
                acknowledged.extend(append(client, url, number, source))

    with ThreadPoolExecutor(4) as pool:
        writers = [pool.submit(write, number) for number in range(4)]
        try:
            for count in (20, 60, 100):  # in the middle of the work
                wait_until(partial(has_acknowledged, acknowledged, count))
                restart(folder)
        finally:
            is_over.set()
        for writer in writers:
            writer.result(120)
    until_ready(running)
    with httpx.Client(verify=False, headers=headers, timeout=60) as client:
        for block in acknowledged:
            assert client.get(f"{url}/blocks/{block.hex()}").content == content(block)
        log = client.get(f"{url}/log", params={"after": 0, "limit": 256}).content
        named = {block for each in wire.decode_commits(log) for block in decode_commit(each).added}
    assert {*acknowledged} <= named
