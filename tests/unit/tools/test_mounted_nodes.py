"""tools.mounted_nodes: the nodes of a drive in use come and go, and programs read and write meanwhile."""

from __future__ import annotations

import shutil
import threading
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from backend.cluster import check_nodes, left_on
from backend.commits import Lease, this_process
from backend.errors import ConflictError, ReadOnlyError, UsageError
from backend.failpoints import OF_PROCESS
from backend.health import NodeChange, NodesWanted, PlaceWanted
from backend.nodes import Node
from backend.packs import parse_fragment_key
from backend.system import THIS_MACHINE, Durable, Environment, patience
from cache.drive import Drive
from cache.opening import DriveOptions
from cache.publish import Intervals
from cache.services import services_of
from tests.contents import KINDS, content
from tests.drives import QUIET, make_file, tree
from tests.small_drive import CLEAN, SmallDrive, copy_of, make_small_drive
from tools import compose, drive_nodes, drive_opening

BUSY = replace(QUIET, intervals=Intervals(commit=0.05, version=3600))
SIZE = 60_000
LONG = 30.0
"""Seconds after which a call that hangs goes on, so that a test that fails ends."""

pytestmark = pytest.mark.logs_warnings


@pytest.fixture(scope="module")
def six(tmp_path_factory: pytest.TempPathFactory) -> SmallDrive:
    return make_small_drive(tmp_path_factory.mktemp("six"))


@pytest.fixture
def made(six: SmallDrive, tmp_path: Path) -> SmallDrive:
    return copy_of(six, tmp_path)


@asynccontextmanager
async def mounted(
    made: SmallDrive, options: DriveOptions = QUIET, environment: Environment = THIS_MACHINE
) -> AsyncIterator[Drive]:
    """The drive, in use."""
    opening = drive_opening.opened_drive(made.unlocked(), made.own(), options, environment=environment)
    async with opening as opened, trio.open_nursery() as nursery:
        await nursery.start(opened.run)
        yield opened
        nursery.cancel_scope.cancel()


async def change(drive: Drive, verb: str, **wanted: Any) -> NodeChange:
    """The change, at its end."""
    assert drive.node_changes is not None
    drive.node_changes.begin(NodesWanted(verb=verb, **wanted))
    ended = await drive.node_changes.ended()
    assert ended is not None
    assert not ended.running
    return ended


async def changed(drive: Drive, verb: str, **wanted: Any) -> None:
    """The same, of one that succeeds."""
    ended = await change(drive, verb, **wanted)
    assert ended.problem == ""


def places(made: SmallDrive, *names: str) -> tuple[PlaceWanted, ...]:
    return tuple(PlaceWanted(str(made.drive / name)) for name in names)


def fragments(made: SmallDrive) -> dict[bytes, dict[int, set[str]]]:
    """The nodes that hold each fragment of each pack, by the files."""
    found: dict[bytes, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
    for path in made.drive.glob("node*/packs/*/[!.]*"):
        node = path.relative_to(made.drive).parts[0]
        parsed = parse_fragment_key(str(path.relative_to(made.drive / node)))
        assert parsed is not None
        found[parsed[0]][parsed[1]].add(node)
    return found


def require_in_order(made: SmallDrive) -> None:
    """All fragments of all packs are there once, on nodes of their own; fsck has nothing to say, and a
    machine that has never seen the drive reads what was written."""
    for lie in fragments(made).values():
        assert sorted(lie) == list(range(6))
        assert sorted(len(names) for names in lie.values()) == [1] * 6
        assert len(set.union(*lie.values())) == 6
    assert made.fsck("-f") == CLEAN
    assert made.read() == made.content


class Programs:
    """They write files of all kinds, one after the other, and read back what they and others wrote."""

    def __init__(self, drive: Drive) -> None:
        self._drive = drive
        self.written: dict[int, bytes] = {}
        self.reads = 0

    async def write(self) -> None:
        for number in range(1_000_000):
            data = content(KINDS[number % len(KINDS)], SIZE, number)
            made = await make_file(self._drive, b"busy%d" % number, data)
            await self._drive.settle(made.inode)
            self.written[made.inode] = data
            await trio.sleep(0.01)

    async def read(self) -> None:
        while True:
            for inode, data in list(self.written.items()):
                assert await self._drive.read(inode, 0, SIZE) == data
                self.reads += 1
                await trio.sleep(0)
            await trio.sleep(0.001)


@asynccontextmanager
async def busy(drive: Drive) -> AsyncIterator[Programs]:
    """Programs run meanwhile; what they wrote is stored and right at the end."""
    programs = Programs(drive)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(programs.write)
        nursery.start_soon(programs.read)
        yield programs
        nursery.cancel_scope.cancel()
    assert programs.reads
    await drive.sync()
    for inode, data in programs.written.items():
        assert await drive.read(inode, 0, SIZE) == data


async def keep(made: SmallDrive, drive: Drive) -> None:
    """What is in the drive now is what is to be read later."""
    await drive.sync()
    made.content = await tree(drive)


def test_nodes_come_and_go_under_programs(made: SmallDrive) -> None:
    async def run() -> None:
        async with mounted(made, BUSY) as drive:
            async with busy(drive):
                await changed(drive, "add", places=places(made, "node6"))
                await changed(drive, "rebalance")
                await changed(drive, "remove", names=("node0",))
                shutil.rmtree(made.drive / "node1")
                await changed(drive, "replace", names=("node1",), places=places(made, "new1"))
            await keep(made, drive)
            status = await drive.status()
            assert status.store is not None
            assert [node.name for node in status.store.nodes] == [f"node{number}" for number in range(1, 7)]
            assert {node.state for node in status.store.nodes} == {"ok"}

    trio.run(run)
    file = compose.load_drive(str(made.drive))
    assert [entry.name for entry in file.nodes] == [f"node{number}" for number in range(1, 7)]
    assert sum(entry.votes for entry in file.nodes) == 5
    assert not check_nodes.survey(str(made.drive)).wrong
    assert made.fsck("-f") == CLEAN
    assert made.read() == made.content


class Watched(Durable):
    """Notes the files that it writes."""

    def __init__(self) -> None:
        super().__init__()
        self.opened: set[str] = set()

    def open(self, path: str, flags: int, mode: int = 0o600, *, folder: int | None = None) -> int:
        self.opened.add(path)
        return super().open(path, flags, mode, folder=folder)


def test_a_node_that_comes_is_on_the_disk_of_the_device(made: SmallDrive) -> None:
    """Regression: what a new node wrote passed by the environment of the mount: its disk, its failpoints."""
    disk = Watched()

    async def run() -> None:
        async with mounted(made, environment=Environment(disk)) as drive:
            await changed(drive, "add", places=places(made, "node6"))

    trio.run(run)
    assert any(path.startswith(f"{made.drive}/node0/") for path in disk.opened), "one that was there"
    assert any(path.startswith(f"{made.drive}/node6/packs/") for path in disk.opened)


class Hanging(Durable):
    """Packs do not come to node6 before the end."""

    def __init__(self) -> None:
        super().__init__()
        self.hangs, self._end = threading.Event(), threading.Event()

    def open(self, path: str, flags: int, mode: int = 0o600, *, folder: int | None = None) -> int:
        if "/node6/packs/" in path:
            self.hangs.set()
            self._end.wait(LONG)
        return super().open(path, flags, mode, folder=folder)

    def end(self) -> None:
        self._end.set()


def test_a_change_is_stopped_also_where_a_node_hangs(
    made: SmallDrive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is being written is waited for as long as the patience with a node is."""
    disk = Hanging()
    monkeypatch.setattr("tools.mounted_nodes.TOOL_PATIENCE", 1.0)

    async def run() -> None:
        async with mounted(made, environment=Environment(disk)) as drive:
            assert drive.node_changes is not None
            drive.node_changes.begin(NodesWanted(verb="add", places=places(made, "node6")))
            while not disk.hangs.is_set():
                await trio.sleep(0.01)
            drive.node_changes.stop()
            with trio.fail_after(LONG / 2):
                ended = await drive.node_changes.ended()
            assert ended is not None
            assert ended.problem == "stopped; the same command goes on with it"
            disk.end()
            with trio.fail_after(LONG):  # a busy machine may take longer than the patience with a node
                while (ended := await change(drive, "add", places=places(made, "node6"))).problem:
                    assert "are away: node6" in ended.problem

    trio.run(run)
    require_in_order(made)


def test_a_node_that_is_lost_under_the_mount_is_removed_at_once(made: SmallDrive) -> None:
    """What it held is rebuilt on the others, although the index names it still."""

    async def run() -> None:
        async with mounted(made, BUSY) as drive:
            async with busy(drive):
                await changed(drive, "add", places=places(made, "node6"))
                shutil.rmtree(made.drive / "node3")
                await changed(drive, "remove", names=("node3",))
            await drive.sync()
            await changed(drive, "rebalance")
            await keep(made, drive)

    trio.run(run)
    require_in_order(made)


def test_a_change_that_fails_half_way_is_finished_by_the_next(made: SmallDrive) -> None:
    """The drive's folder could not be written: the drive goes on by the map before, with nodes that have the
    next one."""

    async def run() -> None:
        async with mounted(made, BUSY) as drive, busy(drive):
            OF_PROCESS.arm("drive-file.nodes-written", "eio")
            failed = await change(drive, "add", places=places(made, "node6"))
            assert failed.problem
            again = await change(drive, "rebalance")
            assert (again.problem, again.said) == (failed.problem, ())
            OF_PROCESS.disarm_all()
            status = await drive.status()
            assert status.store is not None
            assert len(status.store.nodes) == 6
            await drive.sync()
            ended = await change(drive, "rebalance")
            assert ended.problem == ""
            assert "interrupted; it is finished now" in ended.said[0]
            assert "moved" in ended.said[1]
            status = await drive.status()
            assert status.store is not None
            assert len(status.store.nodes) == 7
        made.content = {}

    trio.run(run)
    assert not check_nodes.survey(str(made.drive)).wrong
    assert made.fsck("-f") == CLEAN


def test_a_node_that_hangs_at_the_last_look_keeps_nobody_waiting(
    made: SmallDrive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is published meanwhile, so the change is given up soon; the same command goes on with it."""
    looks: list[str] = []

    async def hang_at_the_last(node: Node) -> list[str]:
        looks.append(node.name)
        if len(looks) == 3:
            await trio.sleep(LONG)
        return await left_on(node)

    async def run() -> None:
        async with mounted(made, BUSY) as drive, busy(drive):
            await changed(drive, "add", places=places(made, "node6"))
            ended = await change(drive, "remove", names=("node0",))
            assert ended.problem == "node0: does not answer, so it stays a node; run this again"
            await drive.sync()
            await changed(drive, "remove", names=("node0",))

    monkeypatch.setattr("tools.node_changes.left_on", hang_at_the_last)
    monkeypatch.setattr(patience, "SECONDS", 2.0)
    trio.run(run)
    assert looks[:3] == ["node0"] * 3


def test_a_node_that_goes_in_the_middle_ends_the_change_and_nothing_else(made: SmallDrive) -> None:
    async def run() -> None:
        async with mounted(made, BUSY) as drive:
            async with busy(drive) as programs:
                assert drive.node_changes is not None
                wanted = NodesWanted(verb="add", places=places(made, "node6"), rate=30_000.0)
                drive.node_changes.begin(wanted)
                while (now := drive.node_changes.status()) is None or not now.done:
                    await trio.sleep(0.01)
                (made.drive / "node2").rename(made.folder / "away")
                ended = await drive.node_changes.ended()
                assert ended is not None
                assert "node2" in ended.problem
                written = len(programs.written)
                await drive.sync()
                while len(programs.written) < written + 3:
                    await trio.sleep(0.01)
                refused = await change(drive, "add", places=places(made, "node7"))
                assert "nothing is added while nodes are away (node2" in refused.problem
                (made.folder / "away").rename(made.drive / "node2")
                await changed(drive, "rebalance")
            await drive.health.repair()  # type: ignore[union-attr]  # it is open for writing
            await keep(made, drive)

    trio.run(run)
    require_in_order(made)


def test_what_is_stopped_goes_on_with_the_same_command(made: SmallDrive) -> None:
    async def run() -> None:
        async with mounted(made, BUSY) as drive:
            async with busy(drive):
                assert drive.node_changes is not None
                drive.node_changes.begin(NodesWanted(verb="add", places=places(made, "node6"), rate=10_000.0))
                while (now := drive.node_changes.status()) is None or not now.total:
                    await trio.sleep(0.01)
                assert (now.verb, now.step) == ("add", "fragments")
                with pytest.raises(ConflictError, match=r"is under way \(add\)"):
                    drive.node_changes.begin(NodesWanted(verb="rebalance"))
                drive.node_changes.stop()
                ended = await drive.node_changes.ended()
                assert ended is not None
                assert ended.problem == "stopped; the same command goes on with it"
                await changed(drive, "add", places=places(made, "node6"))
            await drive.sync()
            await changed(drive, "rebalance")
            await keep(made, drive)

    trio.run(run)
    require_in_order(made)


@pytest.mark.parametrize("new", ["node0", "new0"])
def test_a_replacement_that_is_stopped_goes_on_with_the_same_command(made: SmallDrive, new: str) -> None:
    """Also where its map is in force already: what it lacks is rebuilt, and as many vote as before."""

    async def run() -> None:
        async with mounted(made, BUSY) as drive:
            shutil.rmtree(made.drive / "node0")
            assert drive.node_changes is not None
            drive.node_changes.begin(NodesWanted(verb="replace", names=("node0",), places=places(made, new)))
            while not ((now := drive.node_changes.status()) and now.step == "repair"):
                await trio.lowlevel.checkpoint()
            drive.node_changes.stop()
            ended = await drive.node_changes.ended()
            assert ended is not None
            assert ended.problem == "stopped; the same command goes on with it"
            assert voters(made) == 4
            await changed(drive, "replace", names=("node0",), places=places(made, new))
            assert voters(made) == 5
            await changed(drive, "replace", names=("node0",), places=places(made, new))
            assert voters(made) == 5
            await keep(made, drive)

    trio.run(run)
    if new == "node0":
        require_in_order(made)
    assert made.fsck("-f", "--data") == CLEAN


def voters(made: SmallDrive) -> int:
    """So many nodes vote, by the map in force."""
    return sum(entry.votes for entry in compose.load_drive(str(made.drive)).nodes)


async def _nothing(_drive: Drive, _made: SmallDrive) -> None:
    await trio.lowlevel.checkpoint()


async def _taken_over(_drive: Drive, made: SmallDrive) -> None:
    unlocked = made.unlocked()
    nodes = drive_nodes.voting(drive_nodes.open_nodes(unlocked.folder, unlocked.file), unlocked.file)
    await Lease(
        nodes, unlocked.file.id, unlocked.keys.lease, this_process(), life=lambda *_: "gone"
    ).acquire()


async def _three_away(_drive: Drive, made: SmallDrive) -> None:
    for number in range(3):
        (made.drive / f"node{number}").rename(made.drive / f"away{number}")
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize(
    ("before", "verb", "names", "said"),
    [
        (_nothing, "remove", ("node1",), "profile 4+2 needs 6 nodes and 5 would be left"),
        (_nothing, "remove", ("node9",), "no node is named node9"),
        (_taken_over, "add", (), "taken over"),
        (_three_away, "add", (), "nothing is added while nodes are away"),
        (_three_away, "replace", ("node0",), "the lease needs 3 of 5 nodes"),
    ],
)
def test_what_cannot_be_done_is_refused_in_words_and_changes_nothing(
    made: SmallDrive,
    before: Callable[[Drive, SmallDrive], Awaitable[None]],
    verb: str,
    names: tuple[str, ...],
    said: str,
) -> None:
    old = compose.load_drive(str(made.drive))

    async def run() -> None:
        async with mounted(made) as drive:
            await before(drive, made)
            new = places(made, "new") if verb == "add" else ()
            refused = await change(drive, verb, names=names, places=new)
            assert said in refused.problem
            assert "\n" not in refused.problem
            for path in made.drive.glob("away*"):
                path.rename(made.drive / path.name.replace("away", "node"))
            assert await tree(drive) == made.content

    trio.run(run)
    assert compose.load_drive(str(made.drive)).nodes == old.nodes


def test_a_change_that_there_is_not_is_refused_at_once(made: SmallDrive) -> None:
    async def run() -> None:
        async with mounted(made) as drive:
            assert drive.node_changes is not None
            assert await drive.node_changes.ended() is None
            for wanted in (
                NodesWanted(verb="shuffle"),
                NodesWanted(verb="add"),
                NodesWanted(verb="remove"),
                NodesWanted(verb="replace", names=("node0", "node1")),
                NodesWanted(verb="rebalance", names=("node0",)),
                NodesWanted(verb="add", places=(PlaceWanted("gopher://x"),)),
            ):
                with pytest.raises(UsageError):
                    drive.node_changes.begin(wanted)
            assert drive.node_changes.status() is None
        async with mounted(made, replace(QUIET, read_only=True)) as drive:
            assert drive.node_changes is None
            services = services_of(drive)
            with pytest.raises(ReadOnlyError, match="its nodes cannot be changed"):
                await services["nodes-change"]({"verb": "rebalance"})

    trio.run(run)


def test_two_lost_nodes_are_replaced_one_after_the_other(made: SmallDrive) -> None:
    async def run() -> None:
        async with mounted(made, BUSY) as drive:
            async with busy(drive):
                for name in ("node1", "node2"):
                    shutil.rmtree(made.drive / name)
                await changed(drive, "replace", names=("node1",), places=places(made, "node1b"))
                await changed(drive, "replace", names=("node2",))
            await keep(made, drive)

    trio.run(run)
    file = compose.load_drive(str(made.drive))
    assert sum(entry.votes for entry in file.nodes) == 5
    require_in_order(made)
