"""A hub that comes back with an older database: its devices hand over the commits that it lost, and nothing
that was acknowledged is gone, whichever of them comes first."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import psycopg
import pytest
import trio

from backend.errors import RollbackError
from backend.keys import DriveKeys
from backend.remote import RemoteUpstream
from backend.remote.recent_commits import FILE
from cache.client import client_of
from cache.drive import Drive
from cache.local import LocalState, StaleState
from cache.local.device_file import FILE as DEVICE_FILE
from cache.namespace.operations import ROOT_INODE
from cache.services import LostHistory
from tests import contents
from tests.contents import KINDS
from tests.drives import content_of, make_file, tree
from tests.hub_server import RunningHub, hub, hub_for_test
from tests.lying_hub import LiedTo
from tests.memory_node import MemoryNode
from tests.postgres import dump, new_database, restored
from tests.servers import NoServerError
from tests.sync.test_drives_on_a_hub import Devices, move_old_commits, settle
from tests.sync.test_lying_hub import refused
from tests.sync.test_whole_drives import names
from tests.unit.backend.hub.test_after_restore import bring_back

pytestmark = pytest.mark.logs_warnings
Tree = dict[bytes, tuple[object, ...]]

FILES = {kind.encode(): contents.content(kind, 70_000, 1) for kind in KINDS}
LATER = {b"later " + name: contents.content(kind, 70_000, 2) for name, kind in zip(FILES, KINDS, strict=True)}


class Restorable:
    """A hub that can be put back; at the same address all the time, on the same nodes."""

    def __init__(self, folder: Path) -> None:
        try:
            self.conninfo = new_database()
        except NoServerError as error:
            pytest.skip(str(error))
        self._dump = folder / "dump"
        self._port = 0
        self.nodes: Mapping[str, MemoryNode] | None = None

    @contextmanager
    def serving(self) -> Iterator[RunningHub]:
        with hub(self.conninfo, self._port, self.nodes) as running:
            self._port, self.nodes = int(running.url.rpartition(":")[2]), running.nodes
            yield running

    def back_up(self) -> None:
        dump(self.conninfo, self._dump)

    def restore(self) -> None:
        """The database is that of the backup, and got what the nodes know. No hub is served."""
        self.conninfo = restored(self._dump)
        with hub(self.conninfo, 0, self.nodes) as apart:
            assert bring_back(apart)[0]

    def commits(self, devices: Devices) -> int:
        """So many has the log of the drive."""
        with psycopg.connect(self.conninfo) as connection:
            row = connection.execute("SELECT head FROM drive WHERE uuid = %s", (devices.uuid,)).fetchone()
        assert row is not None
        return int(row[0])


@pytest.fixture
def lied_to(tmp_path: Path) -> Iterator[LiedTo]:
    with hub_for_test() as running:
        yield LiedTo(running, tmp_path)


@pytest.fixture
def place(tmp_path: Path) -> Restorable:
    return Restorable(tmp_path)


async def make_all(drive: Drive, files: dict[bytes, bytes]) -> None:
    for name, data in files.items():
        await make_file(drive, name, data)
        await drive.sync()


async def lose_work(
    place: Restorable, running: RunningHub, devices: Devices, *, moves: bool
) -> dict[bytes, tuple[object, ...]]:
    """Two devices work, a backup is made, they work on; the tree that both have then."""
    async with devices.device(1) as one, devices.device(2) as two:
        await make_all(one, FILES)
        await settle(one, two)
        place.back_up()
        await make_all(one, LATER)
        await one.rename(ROOT_INODE, b"text", ROOT_INODE, b"renamed")
        await settle(one, two)
        await two.unlink(ROOT_INODE, b"zeros")
        await make_file(two, b"of two", b"two" * 9999)
        await settle(one, two)
        if moves:
            assert await move_old_commits(running) > 0
        return await tree(one)


async def check_contents(drive: Drive) -> None:
    for name, data in (FILES | LATER).items():
        if name != b"zeros":
            assert await content_of(drive, b"renamed" if name == b"text" else name) == data
    assert await content_of(drive, b"of two") == b"two" * 9999


@pytest.mark.parametrize("moves", [False, True], ids=["in-database", "in-segments"])
@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
async def test_devices_that_come_back_one_after_the_other_converge(
    place: Restorable, tmp_path: Path, order: tuple[int, int], moves: bool
) -> None:
    with place.serving() as running:
        devices = Devices(running, tmp_path)
        state = await lose_work(place, running, devices, moves=moves)
    place.restore()
    with place.serving():
        for number in (*order, 3):
            async with devices.device(number) as drive:
                await drive.publisher.follow()
                assert await tree(drive) == state
                await check_contents(drive)
        async with devices.device(1) as one, devices.device(2) as two:
            await make_file(one, b"new", b"1")
            await make_file(two, b"other", b"2")
            await settle(one, two)
            assert {b"new", b"other"} <= set(names(one))
            assert await tree(one) == await tree(two)


async def test_devices_that_stay_mounted_hand_over_at_once(place: Restorable, tmp_path: Path) -> None:
    """Idle ones too. What is written while the hub is away is published after that."""
    server, later = ExitStack(), ExitStack()
    with server, later:
        devices = Devices(server.enter_context(place.serving()), tmp_path)
        async with devices.device(1) as one, devices.device(2) as two:
            await make_all(one, FILES)
            await settle(one, two)
            place.back_up()
            await make_all(two, LATER)
            await settle(one, two)
            state = await tree(one)
            await trio.to_thread.run_sync(server.close)
            await make_file(one, b"while it is away", b"1")
            await trio.to_thread.run_sync(place.restore)
            later.enter_context(place.serving())
            with trio.fail_after(60):
                while place.commits(devices) < one.ledger.head.number:
                    await trio.sleep(0.05)
            await settle(one, two)
            assert await tree(one) == await tree(two)
            assert {*state} < {*await tree(one)}
            for name, data in (FILES | LATER).items():
                assert await content_of(two, name) == data


async def test_an_idle_device_hands_over_while_it_waits(lied_to: LiedTo) -> None:
    """The poll of a device that has seen more than the hub has is answered at once."""
    async with lied_to.device(1) as one:
        await make_all(one, FILES)
        log = lied_to.log()
    lied_to.set_log(log[:-2])
    async with lied_to.device(1):
        assert lied_to.log() == log
        lied_to.set_log(log[:-2])
        with trio.fail_after(30):
            while lied_to.told[1].count("GET head") < 5:
                await trio.sleep(0.05)
        assert lied_to.log() == log[:-2]
    async with lied_to.device(1):
        assert lied_to.log() == log


async def test_what_was_not_kept_cannot_be_handed_over(lied_to: LiedTo) -> None:
    async with lied_to.device(1) as one:
        await make_all(one, FILES)
    log = lied_to.log()
    lied_to.set_log(log[:-2])
    path = lied_to.folder / "1" / FILE
    kept = path.read_bytes()
    path.write_bytes(kept[:-1])
    await refused(lied_to, 1, RollbackError, "has seen commit")
    assert lied_to.log() == log[:-2]
    path.write_bytes(kept)
    async with lied_to.device(1):
        assert lied_to.log() == log


async def test_a_log_that_went_on_without_a_device_is_shown_to_it_for_reading(
    place: Restorable, tmp_path: Path
) -> None:
    """Another that had not seen the lost commits published first: the device is refused, and what it has seen
    can be copied from there."""
    with place.serving() as running:
        devices = Devices(running, tmp_path)
        async with devices.device(1) as one, devices.device(2) as two:
            await make_all(one, FILES)
            await settle(one, two)
        place.back_up()
        async with devices.device(1) as one:
            await make_all(one, LATER)
            await make_file(one, b"not published", b"only here")
            await one.fsync(one.lookup(ROOT_INODE, b"not published").inode)
            state = await tree(one)
    place.restore()
    with place.serving() as running:
        async with devices.device(2) as two:
            await make_all(two, {b"instead": b"1"})
        for commits in (1, 20):
            async with devices.device(2) as two:
                await make_all(two, {b"%d of %d" % (at, commits): b"1" for at in range(commits)})
            await refused(devices, 1, RollbackError, "of another history|follows another history")
            async with devices.device(1, read_only=True) as shown:
                assert await tree(shown) == state
                for name, data in (FILES | LATER).items():
                    assert await content_of(shown, name) == data


@asynccontextmanager
async def set_aside(
    devices: Devices, number: int, work: Path
) -> AsyncIterator[tuple[StaleState, StaleState]]:
    """The state of a device, which the folder has no more, twice; the folder is no device any more."""
    local = LocalState(devices.folder / str(number))
    kept = local.set_aside()
    local.close()
    (local.folder / DEVICE_FILE).unlink()
    with ExitStack() as stack:
        found = []
        for name in ("scratch", "kept"):
            (work / name).mkdir()
            found.append(StaleState(kept, work / name))
            stack.callback(found[-1].close)
            found[-1].replay()
        yield found[0], found[1]


async def brought_in(devices: Devices, number: int, work: Path) -> Tree:
    """What the device has seen is brought in; its tree then."""
    work.mkdir()
    client = RemoteUpstream(devices.client(number), devices.uuid)
    async with set_aside(devices, number, work) as (scratch, kept), devices.device(number) as drive:
        keys = DriveKeys(bytes(range(32)), devices.uuid)
        reader = client_of(client, devices.uuid, keys, 64 << 20, trio.CapacityLimiter(2))
        reader.ring.learn_all(kept.key_epochs())
        await LostHistory(drive, client, scratch, kept).bring(reader.blocks)
        found = await tree(drive)
    await client.close()
    return found


async def test_what_a_hub_lost_and_went_on_without_is_brought_in_by_a_word(
    place: Restorable, tmp_path: Path
) -> None:
    """By each device that has seen it, with what it has not published. Nothing that was acknowledged is lost;
    where others have made the same name since, each device makes a copy."""
    with place.serving() as running:
        devices = Devices(running, tmp_path)
        async with devices.device(1) as one, devices.device(2) as two:
            await make_all(one, FILES)
            await settle(one, two)
        place.back_up()
        async with devices.device(1) as one, devices.device(3) as three:
            await make_all(one, LATER)
            await make_file(one, b"taken", b"by one" * 999)
            await one.unlink(ROOT_INODE, b"zeros")
            await one.rename(ROOT_INODE, b"text", ROOT_INODE, b"renamed")
            await settle(one, three)
            await make_file(three, b"of three", b"three" * 999)
            await settle(three, one)
        async with devices.device(1, crash=True) as one:
            await make_file(one, b"not published", b"only here")
            await one.write(one.lookup(ROOT_INODE, b"json").inode, 5, b"here, too")
            await one.fsync(one.lookup(ROOT_INODE, b"not published").inode)
            json = await content_of(one, b"json")
    place.restore()
    with place.serving() as running:
        async with devices.device(2) as two:
            await make_all(two, {b"instead": b"1", b"taken": b"by two"})
        for number in (1, 3):
            await refused(devices, number, RollbackError, "of another history|follows another history")
        await brought_in(devices, 1, tmp_path / "work1")
        last = await brought_in(devices, 3, tmp_path / "work3")
        async with devices.device(1) as one, devices.device(2) as two, devices.device(4) as four:
            await settle(one, two)
            assert await tree(one) == await tree(two) == await tree(four) == last
            assert b"/zeros" not in last
            for name, data in (FILES | LATER).items():
                if name not in (b"zeros", b"text", b"json"):
                    assert await content_of(two, name) == data
            assert await content_of(two, b"renamed") == FILES[b"text"]
            assert await content_of(two, b"json") == json
            assert await content_of(two, b"not published") == b"only here"
            assert await content_of(two, b"of three") == b"three" * 999
            assert await content_of(two, b"taken") == b"by two"
            copies = [name for name in names(two) if name.startswith(b"taken (conflict")]
            assert [await content_of(two, copy) for copy in copies] == [b"by one" * 999] * 2
