"""A drive that fills its nodes: who writes is told in time, nothing acknowledged is lost, it can be emptied.

A whole drive on nodes in memory that have a size, or are said to be full.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.errors import NoSpaceError
from cache.drive import Drive
from cache.errors import DriveFullError, NoEntryError, NoSpaceLeftError
from cache.namespace.operations import ROOT_INODE
from cache.opening import DriveOptions
from cache.publish.cut_rule import Intervals
from cache.retention.retention import Policy
from cache.tree import intake
from tests.contents import KINDS, Kind, content, contents
from tests.drives import QUIET, content_of, make_file, opened
from tests.memory_node import MemoryNode, memory_nodes
from tests.upstreams import LocalDrive

pytestmark = pytest.mark.logs_warnings  # that a drive is full is news

MIB = 1 << 20
SIZE = 12 * MIB
"""of each node; with 4+2 that is 48 MiB of data, of which 36 beside the reserve"""
NOTHING = Policy(0, 0, 0, 0, 0)
BUSY = DriveOptions(intervals=Intervals(commit=0.05, version=0.05))
ENOUGH = 120.0


@asynccontextmanager
async def mounted(
    folder: Path, nodes: dict[str, MemoryNode], options: DriveOptions = BUSY
) -> AsyncIterator[Drive]:
    async with LocalDrive(nodes).opened() as upstream, opened(folder, upstream, options) as drive:
        yield drive


def sized(*sizes: int) -> dict[str, MemoryNode]:
    nodes = memory_nodes(6)
    for node, size in zip(nodes.values(), sizes or [SIZE] * 6, strict=True):
        node.capacity = size
    return nodes


async def put(drive: Drive, name: bytes, data: bytes) -> None:
    """A file that was written, fsynced and closed; not there if that is refused."""
    try:
        made = await make_file(drive, name, data)
    except NoSpaceLeftError:
        with suppress(NoEntryError):
            await drive.unlink(ROOT_INODE, name)
        raise
    await drive.fsync(made.inode)


async def fill(
    drive: Drive, kind: Kind, size: int = MIB, most: int = 400, begin: int = 0
) -> dict[bytes, bytes]:
    """Write files until the drive is full: those that were acknowledged."""
    kept: dict[bytes, bytes] = {}
    for number in range(begin, begin + most):
        name, data = b"%d" % number, content(kind, size, number)
        try:
            await put(drive, name, data)
        except DriveFullError:
            return kept
        kept[name] = data
    return kept


async def remove_all(drive: Drive) -> None:
    for entry in drive.entries(ROOT_INODE, 0, 1_000_000):
        await drive.unlink(ROOT_INODE, entry.name)


async def collect(drive: Drive) -> None:
    """What `drivefs gc --grace 0 --trust-clock` does under a policy that keeps nothing."""
    drive.retention.set_policy(NOTHING)
    await drive.retention.collect(grace=0, trust_clock=True)


async def available(drive: Drive) -> int:
    """What df says within a second."""
    await trio.sleep(0.7)
    found = drive.statistics()
    return found.available * found.block_size


async def check(drive: Drive, kept: dict[bytes, bytes]) -> None:
    for name, data in kept.items():
        assert await content_of(drive, name) == data


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "zeros"])
async def test_filled_emptied_and_filled_again(tmp_path: Path, kind: Kind) -> None:
    # What compresses takes long to make in such amounts.
    quick = kind in ("random", "half-compressible")
    nodes = sized(*[SIZE if quick else 3 * MIB] * 6)
    with trio.fail_after(ENOUGH):
        async with mounted(tmp_path / "here", nodes) as drive:
            before = await available(drive)
            kept = await fill(drive, kind)
            assert sum(map(len, kept.values())) > before * 0.9
            await drive.sync()
            assert await available(drive) < 2 * MIB
        async with mounted(tmp_path / "elsewhere", nodes) as drive:
            await check(drive, kept)
            await remove_all(drive)
            await collect(drive)
            assert await available(drive) > before * 0.95
            again = await fill(drive, kind, begin=1000, most=400 if quick else 20)
            assert len(again) > min(len(kept) * 0.9, 19)
            await drive.sync()
        async with mounted(tmp_path / "third", nodes) as drive:
            await check(drive, again)
    assert not any(node.used > node.capacity for node in nodes.values())


async def test_nothing_is_refused_that_takes_no_room(tmp_path: Path) -> None:
    """Zeros, and what is there already, are counted as what they are: at the latest when they are stored."""
    nodes = sized()
    data = content("random", 4 * MIB)
    with trio.fail_after(ENOUGH):
        async with mounted(tmp_path, nodes) as drive:
            for number in range(30):
                await put(drive, b"zeros%d" % number, bytes(4 * MIB))
                await put(drive, b"same%d" % number, data)
            await drive.sync()
            await check(drive, {b"same29": data, b"zeros29": bytes(4 * MIB)})
    assert sum(node.used for node in nodes.values()) < 12 * MIB


@settings(max_examples=12, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(KINDS), st.integers(1, 2 * MIB), st.booleans(), st.booleans()),
        min_size=20,
        max_size=60,
    )
)
def test_what_was_acknowledged_is_there_however_full_it_got(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[Kind, int, bool, bool]]
) -> None:
    """Writing, deleting and publishing in any order on small nodes: what fsync returned for is read by
    another machine in the end."""
    nodes = sized(*[8 * MIB] * 6)

    async def live() -> None:
        kept: dict[bytes, bytes] = {}
        async with mounted(tmp_path_factory.mktemp("here"), nodes, QUIET) as drive:
            for number, (kind, size, remove, publish) in enumerate(steps):
                with suppress(DriveFullError):
                    data = content(kind, size, number)
                    await put(drive, b"%d" % number, data)
                    kept[b"%d" % number] = data
                if remove and kept:
                    name = next(iter(kept))
                    await drive.unlink(ROOT_INODE, name)
                    del kept[name]
                if publish:
                    await drive.sync()
            await drive.sync()
        async with mounted(tmp_path_factory.mktemp("there"), nodes, QUIET) as drive:
            assert {entry.name for entry in drive.entries(ROOT_INODE, 0, 1000)} == set(kept)
            await check(drive, kept)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intake, "PATIENCE", 0.2)
        trio.run(live)


async def test_a_full_drive_can_still_be_changed_a_little(tmp_path: Path) -> None:
    """Overwriting, names and attributes go into the reserve; deleting always works."""
    with trio.fail_after(ENOUGH):
        async with mounted(tmp_path, sized()) as drive:
            kept = await fill(drive, "random")
            await drive.sync()
            inode = drive.lookup(ROOT_INODE, b"0").inode
            with pytest.raises(DriveFullError):
                await put(drive, b"more", content("random", 2 * MIB, 5000))
            await drive.write(inode, 0, b"overwritten")
            await drive.set_xattr(inode, b"user.name", b"value")
            await drive.rename(ROOT_INODE, b"0", ROOT_INODE, b"renamed")
            await make_file(drive, b"empty")
            await drive.unlink(ROOT_INODE, b"1")
            await drive.sync()
            assert (await content_of(drive, b"renamed"))[:11] == b"overwritten"
            await check(drive, {name: kept[name] for name in list(kept)[2:]})


async def test_what_finds_no_room_does_not_have_all_published_each_time(tmp_path: Path) -> None:
    """Many small files on full nodes: whoever is refused has not waited for a commit of his own."""
    nodes = sized()
    with trio.fail_after(ENOUGH):
        async with mounted(tmp_path, nodes, QUIET) as drive:
            await put(drive, b"before", content("random", MIB))
            await drive.sync()
            for node in nodes.values():
                node.taken = node.capacity - node.used - 3 * MIB  # of the reserve of 4
            await drive.store.look()
            head = drive.ledger.head.number
            for number in range(30):
                with pytest.raises(DriveFullError):
                    await put(drive, b"small%d" % number, b"content")
                await make_file(drive, b"empty%d" % number)
            assert drive.ledger.head.number == head
            await drive.sync()
            assert len(drive.entries(ROOT_INODE, 0, 100)) == 31


async def test_one_small_node_lets_data_be_stored_with_less(tmp_path: Path) -> None:
    """df promises what has all its redundancy; beyond it data is stored as while a node is away, and that is
    said."""
    nodes = sized(*[SIZE] * 5, 5 * MIB)
    with trio.fail_after(ENOUGH):
        async with mounted(tmp_path / "here", nodes) as drive:
            promised = await available(drive)
            assert 13 * MIB < promised < 16 * MIB
            kept = await fill(drive, "random")
            assert 30 * MIB < sum(map(len, kept.values())) < 48 * MIB
            await drive.sync()
            assert await available(drive) == 0
            store = (await drive.status()).store
            assert store is not None
            assert [node.name for node in store.nodes if node.full][-1] == "node5"
        async with mounted(tmp_path / "there", nodes) as drive:
            await check(drive, kept)


@settings(max_examples=6, deadline=None)
@given(st.permutations(range(6)), st.sampled_from(KINDS))
def test_nodes_that_others_fill_one_by_one(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], kind: Kind
) -> None:
    """As long as a write quorum has room, all goes on; then ENOSPC; and on again when the room is back."""
    nodes = sized(*[64 * MIB] * 6)
    kept: dict[bytes, bytes] = {}

    async def attempt(drive: Drive, name: bytes) -> bool:
        data = content(kind, 300_000, len(kept)) + name
        try:
            await put(drive, name, data)
        except DriveFullError:
            return False
        kept[name] = data
        return True

    async def live() -> None:
        async with mounted(tmp_path_factory.mktemp("here"), nodes, QUIET) as drive:
            for full, number in enumerate(order, 1):
                node = nodes[f"node{number}"]
                node.taken = node.capacity - node.used - 32_000  # the lease is renewed all the same
                await drive.store.look()
                assert await attempt(drive, b"%d" % full) == (full < 2)
                if full < 2:
                    await drive.sync()
            assert drive.statistics().available == 0
            await drive.unlink(ROOT_INODE, b"1")
            kept.clear()
            for node in nodes.values():
                node.taken = 0
            await drive.store.look()
            assert await attempt(drive, b"after")
            await drive.sync()
        async with mounted(tmp_path_factory.mktemp("there"), nodes, QUIET) as drive:
            assert {entry.name for entry in drive.entries(ROOT_INODE, 0, 10)} == {b"after"}
            await check(drive, kept)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(intake, "PATIENCE", 0.2)
        trio.run(live)


async def test_a_quota_that_statfs_does_not_tell_of(tmp_path: Path) -> None:
    """What a node refuses counts, whatever it says that it has."""
    nodes = sized(*[64 * MIB] * 6)
    with trio.fail_after(ENOUGH):
        async with mounted(tmp_path, nodes, QUIET) as drive:
            await put(drive, b"before", content("random", MIB))
            for name in ("node0", "node1"):
                nodes[name].quota = 0
            with suppress(NoSpaceError, NoSpaceLeftError):
                await drive.sync()
            await drive.store.look()
            with pytest.raises(DriveFullError):
                await put(drive, b"more", content("random", MIB, 1))
            for name in ("node0", "node1"):
                nodes[name].quota = 1 << 40
            await drive.sync()
            await drive.store.look()
            await put(drive, b"more", content("random", MIB, 1))


async def test_what_is_dead_goes_though_nothing_can_be_rewritten(tmp_path: Path) -> None:
    """Packs of which much is needed stay as they are where there is no room to write that anew."""
    nodes = sized()
    with trio.fail_after(ENOUGH):
        async with mounted(tmp_path, nodes, QUIET) as drive:
            kept = {b"kept%d" % n: content("random", MIB, n) for n in range(4)}
            for number, (name, data) in enumerate(kept.items()):
                await put(drive, name, data)
                await put(drive, b"gone%d" % number, content("random", 3 * MIB, 100 + number))
            await drive.sync()
            for number in range(4):
                await drive.unlink(ROOT_INODE, b"gone%d" % number)
            await drive.sync()
            for node in nodes.values():
                node.taken = node.capacity - node.used - 100_000
            before = sum(node.used for node in nodes.values())
            await collect(drive)
            assert sum(node.used for node in nodes.values()) < before + 6 * 100_000
            for node in nodes.values():
                node.taken = 0
            await collect(drive)
            assert sum(node.used for node in nodes.values()) < before / 2
            await check(drive, kept)


class TestWaiting:
    """Nobody waits for ever: who is not answered cannot be killed."""

    async def _swamp(self, drive: Drive, nodes: dict[str, MemoryNode]) -> None:
        """The nodes are away, and the journal is as full as it gets."""
        for node in nodes.values():
            node.away = True
        for number in range(1000):
            try:
                await make_file(drive, b"%d" % number, content("random", MIB, number))
            except NoSpaceLeftError:
                return
        raise AssertionError("the journal took everything")

    async def test_a_writer_is_answered_in_time_and_everything_else_works(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(intake, "PATIENCE", 0.3)
        nodes = sized(*[200 * MIB] * 6)
        options = DriveOptions(intervals=Intervals(commit=0.05), journal_size=4 * MIB)
        with trio.fail_after(ENOUGH):
            async with mounted(tmp_path, nodes, options) as drive:
                await make_file(drive, b"before", b"before")
                await drive.sync()
                await self._swamp(drive, nodes)
                assert drive.ledger.journal.used_bytes < 2 * 4 * MIB + 2 * MIB
                names = [entry.name for entry in drive.entries(ROOT_INODE, 0, 1000)]
                with trio.fail_after(1):
                    for name in names[1:]:
                        await drive.unlink(ROOT_INODE, name)
                for node in nodes.values():
                    node.away = False
                await drive.sync()
                await make_file(drive, b"after", content("text", MIB))
                assert await content_of(drive, b"before") == b"before"

    async def test_many_writers_are_all_answered_in_time(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(intake, "PATIENCE", 0.5)
        nodes = sized(*[200 * MIB] * 6)
        options = DriveOptions(intervals=Intervals(commit=0.05), journal_size=4 * MIB)
        async with mounted(tmp_path, nodes, options) as drive:
            await self._swamp(drive, nodes)

            async def write(number: int) -> None:
                with pytest.raises(NoSpaceLeftError):
                    await make_file(drive, b"more%d" % number, b"x")

            with trio.fail_after(3):
                async with trio.open_nursery() as nursery:
                    for number in range(60):
                        nursery.start_soon(write, number)


@settings(max_examples=5, deadline=None)
@given(
    st.lists(st.tuples(contents(min_size=1, max_size=MIB), st.booleans()), min_size=1, max_size=4),
    st.integers(0, 3),
    st.booleans(),
)
def test_deleting_frees_space_though_others_left_no_room_for_what_waits(
    tmp_path_factory: pytest.TempPathFactory,
    waiting: list[tuple[bytes, bool]],
    removed: int,
    restart: bool,
) -> None:
    """Contents wait in the journal, some of them renamed over what is stored; names and deletions are
    published all the same, `gc` makes the room, and then the contents are stored."""
    nodes = sized(*[24 * MIB] * 6)
    kept = {b"old%d" % n: content("random", 3 * MIB, n) for n in range(4)}

    async def written(drive: Drive) -> None:
        for number, (data, over) in enumerate(waiting):
            name = b"new%d" % number
            data = content("random", 2 * MIB, 50 + number) + data
            await put(drive, name, data)
            if over:
                await drive.rename(ROOT_INODE, name, ROOT_INODE, b"old%d" % number)
                name = b"old%d" % number
            kept[name] = data

    async def emptied(drive: Drive) -> None:
        name = b"old%d" % removed
        with pytest.raises(DriveFullError, match="all is stored but"):
            await drive.sync()
        before = sum(node.used for node in nodes.values())
        await drive.unlink(ROOT_INODE, name)
        del kept[name]
        await collect(drive)
        assert sum(node.used for node in nodes.values()) < before - 3 * MIB
        await check(drive, kept)

    async def live() -> None:
        folder = tmp_path_factory.mktemp("here")
        async with mounted(folder, nodes, QUIET) as drive:
            for name, data in kept.items():
                await put(drive, name, data)
                await drive.sync()  # into a pack of its own
            await written(drive)
            for node in nodes.values():
                node.taken = node.capacity - node.used - 300_000
            if not restart:
                await emptied(drive)
            else:
                with pytest.raises(DriveFullError):
                    await drive.sync()
        async with mounted(folder, nodes, QUIET) as drive:
            if restart:
                await emptied(drive)
            for node in nodes.values():
                node.taken = 0
            await drive.sync()
            assert (await drive.status()).set_apart == ()
        async with mounted(tmp_path_factory.mktemp("there"), nodes, QUIET) as drive:
            assert {entry.name for entry in drive.entries(ROOT_INODE, 0, 100)} == set(kept)
            await check(drive, kept)

    trio.run(live)


async def test_who_wants_room_is_heard_also_after_the_status_was_asked_for(tmp_path: Path) -> None:
    """Regression: who asked for the status had the nodes looked at, and after that nobody else had for half a
    minute; what waited for room had ENOSPC before."""
    async with mounted(tmp_path, memory_nodes(6), QUIET) as drive:
        await trio.testing.wait_all_tasks_blocked()
        await drive.status()
        before = drive.store.status
        drive.ledger.room.look_soon()
        with trio.fail_after(intake.PATIENCE):
            while drive.store.status is before:
                await trio.sleep(0.01)
