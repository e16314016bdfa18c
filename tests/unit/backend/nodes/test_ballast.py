"""The ballast of a directory node: what may take of it, when it is whole again, and what is left alone."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from backend.buffer import Buffer
from backend.coding.capacity import reserve
from backend.errors import ConflictError, NoSpaceError
from backend.nodes import ballast
from backend.nodes.directory import DirectoryNode
from backend.nodes.directory_place import DirectoryPlace
from backend.nodes.identity import NodeIdentity, initialise_directory_node
from backend.system import THIS_MACHINE, Environment
from backend.system.durable import Durable
from tests.crash.lossy_durable import LossyDurable

DRIVE = bytes(range(16))
LEASE, COMMIT, FRAGMENT = "lease", "commits/0000000000000001", "packs/aa/aa.0"


class SmallDisk(Durable):
    """Has room for so many bytes more; None: for as many as come."""

    def __init__(self) -> None:
        self.room: int | None = None
        self._lock = threading.Lock()

    def take(self, size: int) -> None:
        with self._lock:
            if self.room is None:
                return
            if size > self.room:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self.room -= size

    def write(self, descriptor: int, parts: Sequence[Buffer], offset: int) -> int:
        self.take(sum(map(len, parts)))
        return super().write(descriptor, parts, offset)

    def preallocate(self, descriptor: int, size: int) -> None:
        self.take(size - os.fstat(descriptor).st_size)
        super().preallocate(descriptor, size)

    def truncate(self, descriptor: int, size: int) -> None:
        self.take(size - os.fstat(descriptor).st_size)
        super().truncate(descriptor, size)

    def unlink(self, path: str, *, folder: int | None = None) -> None:
        self.take(-os.stat(os.path.basename(path) if folder else path, dir_fd=folder).st_size)
        super().unlink(path, folder=folder)


@pytest.fixture
def disk() -> SmallDisk:
    return SmallDisk()


@pytest.fixture
def device(disk: SmallDisk) -> Environment:
    return Environment(disk)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "node"
    folder.mkdir()
    initialise_directory_node(str(folder), DRIVE, "node0", "zone0")
    return folder


@pytest.fixture
def node(path: Path, device: Environment) -> DirectoryNode:
    return DirectoryNode(str(path), NodeIdentity("node0", DRIVE, "zone0"), environment=device)


def whole(path: Path) -> int:
    found = os.statvfs(path)
    return ballast.size_on(found.f_blocks * found.f_frsize)


def size(path: Path) -> int:
    return (path / ballast.FILE_NAME).stat().st_size


class AllocatingNothing(SmallDisk):
    """As ZFS does: what is preallocated is longer, and that is all."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def preallocate(self, descriptor: int, size: int) -> None:
        self.asked += 1
        os.ftruncate(descriptor, max(size, os.fstat(descriptor).st_size))


@contextmanager
def folder(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@given(st.integers(1 << 16, 1 << 50))
def test_those_of_six_nodes_on_one_disk_are_less_than_its_reserve(total: int) -> None:
    assert 0 < 6 * ballast.size_on(total) <= reserve(total)


async def test_the_first_small_object_makes_it_and_data_does_not(node: DirectoryNode, path: Path) -> None:
    await node.put(FRAGMENT, [b"data"])
    assert not (path / ballast.FILE_NAME).exists()
    await node.create(COMMIT, [b"commit"])
    found = (path / ballast.FILE_NAME).stat()
    assert found.st_size == whole(path)
    assert found.st_blocks * 512 >= found.st_size
    assert found.st_mode & 0o777 == 0o600
    assert await node.keys("") == [COMMIT, FRAGMENT]


async def test_small_objects_go_on_where_there_is_no_room_and_data_waits(
    node: DirectoryNode, path: Path, disk: SmallDisk
) -> None:
    await node.swap(LEASE, None, b"first")
    await node.put(FRAGMENT, [b"data"])
    disk.room = 0
    for number in range(5):
        await node.swap(LEASE, *(b"first" if not number else b"%d" % (number - 1), b"%d" % number))
        await node.put(f"commits/{number:016x}", [bytes(1000)])
        disk.room = 0
        with pytest.raises(NoSpaceError):
            await node.put("packs/bb/bb.0", [b"data"])
    assert await node.get(LEASE) == b"4"
    assert 0 < size(path) < whole(path)
    assert (await node.space()).free >= size(path)


async def test_no_more_is_given_than_the_object_takes_and_a_little(
    node: DirectoryNode, path: Path, disk: SmallDisk
) -> None:
    await node.put(LEASE, [b"x"])
    disk.room = 0
    await node.put(COMMIT, [bytes(100_000)])
    assert whole(path) - size(path) == 100_000 + ballast.PIECE


async def test_when_it_is_spent_the_error_says_what_to_do(
    node: DirectoryNode, path: Path, disk: SmallDisk
) -> None:
    await node.put(LEASE, [b"x"])
    disk.room = 0
    with pytest.raises(NoSpaceError, match=r"its ballast is too small: make room on the disk of .*/node"):
        await node.put(COMMIT, [bytes(whole(path) + 1)])
    assert size(path) == 0
    disk.room = 0
    with pytest.raises(NoSpaceError, match="its ballast is too small"):
        await node.swap(LEASE, b"x", b"y")
    assert await node.get(LEASE) == b"x"
    assert sorted(name.name for name in path.rglob("*") if name.name.startswith(".tmp")) == []


async def test_it_is_whole_again_when_there_is_room(node: DirectoryNode, path: Path, disk: SmallDisk) -> None:
    await node.put(LEASE, [b"x"])
    disk.room = 0
    await node.put(COMMIT, [bytes(1000)])
    assert size(path) < whole(path)
    disk.room = None
    await node.put(LEASE, [b"y"])
    assert size(path) == whole(path)


async def test_a_conflict_is_one_also_without_room(node: DirectoryNode, path: Path, disk: SmallDisk) -> None:
    await node.create(COMMIT, [b"x"])
    disk.room = 0
    with pytest.raises(ConflictError):
        await node.create(COMMIT, [b"y"])
    with pytest.raises(ConflictError):
        await node.swap(COMMIT, b"z", b"y")
    assert await node.get(COMMIT) == b"x"


@pytest.mark.logs_warnings
async def test_a_write_that_is_done_is_done_though_the_ballast_cannot_be_made(
    node: DirectoryNode, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_file: int, _wanted: int, _disk: Durable) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(ballast, "_extend", fail)
    await node.create(COMMIT, [b"x"])
    assert await node.get(COMMIT) == b"x"


@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "second name"])
async def test_what_is_not_this_nodes_own_file_is_left_alone(
    node: DirectoryNode, path: Path, tmp_path: Path, disk: SmallDisk, kind: str
) -> None:
    other, place = tmp_path / "other", path / ballast.FILE_NAME
    other.write_bytes(b"somebody's" * 1000)
    match kind:
        case "link":
            place.symlink_to(other)
        case "pipe":
            os.mkfifo(place)
        case "folder":
            place.mkdir()
        case _:
            place.hardlink_to(other)
    await node.put(LEASE, [b"x"])
    disk.room = 0
    with pytest.raises(NoSpaceError, match="ballast is too small"):
        await node.put(COMMIT, [b"y"])
    assert other.read_bytes() == b"somebody's" * 1000
    assert ballast.FILE_NAME not in " ".join(await node.keys(""))


async def test_a_process_that_dies_with_ballast_given_has_lost_nothing(
    node: DirectoryNode, disk: SmallDisk, device: Environment
) -> None:
    class Killed(BaseException):
        pass

    def die() -> None:
        raise Killed

    await node.put(LEASE, [b"x"])
    disk.room = 0
    device.failpoints.arm(ballast.GIVEN, die)
    with pytest.raises(Killed):
        await node.swap(LEASE, b"x", b"y")
    device.failpoints.disarm_all()
    disk.room = 0
    assert await node.get(LEASE) == b"x"
    await node.swap(LEASE, b"x", b"y")
    assert await node.get(LEASE) == b"y"


def test_many_at_once_give_all_of_it_and_no_more(path: Path) -> None:
    with folder(path) as top:
        ballast.keep(str(path), top, THIS_MACHINE)
        total, given = whole(path), []

        def give() -> None:
            while ballast.give(str(path), top, 1000, THIS_MACHINE):
                given.append(size(path))

        threads = [threading.Thread(target=give) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert size(path) == 0
        assert len(given) == -(-total // (1000 + ballast.PIECE))


def test_where_inodes_lack_it_stays(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with folder(path) as top:
        ballast.keep(str(path), top, THIS_MACHINE)
        found = os.fstatvfs(top)
        monkeypatch.setattr(os, "fstatvfs", lambda _folder: os.statvfs_result((*found[:7], 0, *found[8:])))
        assert not ballast.give(str(path), top, 1000, THIS_MACHINE)
    assert size(path) == whole(path)


def test_a_write_that_all_of_it_would_not_help_gets_none(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit may have 80 MiB: what it was given in vain would go to whoever filled the disk, and lack when
    the lease is to be renewed."""
    with folder(path) as top:
        ballast.keep(str(path), top, THIS_MACHINE)
        found, room = os.fstatvfs(top), 100
        full = os.statvfs_result((*found[:3], 1 << 30, room, *found[5:]))
        monkeypatch.setattr(os, "fstatvfs", lambda _folder: full)
        most = whole(path) + room * found.f_frsize
        assert not ballast.give(str(path), top, most + 1, THIS_MACHINE)
        assert size(path) == whole(path)
        assert ballast.give(str(path), top, most, THIS_MACHINE)
        assert size(path) == 0


async def test_a_write_that_is_done_waits_for_nobody_who_is_about_the_ballast(
    node: DirectoryNode, path: Path
) -> None:
    """A process that was stopped, or whose disk hangs, may be."""
    await node.put(LEASE, [b"one"])
    os.truncate(path / ballast.FILE_NAME, 0)
    with open(path / ballast.FILE_NAME) as held, trio.fail_after(20):
        fcntl.flock(held, fcntl.LOCK_EX)
        await node.put(LEASE, [b"two"])
        assert size(path) == 0
    await node.put(LEASE, [b"three"])
    assert size(path) == whole(path)


async def test_where_nothing_is_allocated_ahead_there_is_none_and_that_is_said(path: Path) -> None:
    """It is asked for once, and not at each commit; without it the first refusal is the last word."""
    disk = AllocatingNothing()
    node = DirectoryNode(str(path), NodeIdentity("node0", DRIVE, "zone0"), environment=Environment(disk))
    assert (await node.space()).allocates_ahead
    for number in range(5):
        await node.put(f"commits/{number:016x}", [b"commit"])
    assert disk.asked == 1
    space = await node.space()
    assert not space.allocates_ahead
    with folder(path) as top:
        assert ballast.held(top) == 0
    disk.room = 0
    with pytest.raises(NoSpaceError, match="ballast is too small"):
        await node.put(LEASE, [b"x"])
    assert size(path) == whole(path), "nothing was given that nobody has"


async def test_one_that_lost_its_blocks_when_the_node_was_copied_is_made_again(
    node: DirectoryNode, path: Path
) -> None:
    """cp(1) and rsync(1) leave out what is allocated and was never written."""
    with open(path / ballast.FILE_NAME, "wb") as copied:
        copied.truncate(whole(path))
    assert not (await node.space()).allocates_ahead
    await node.put(LEASE, [b"x"])
    assert (await node.space()).allocates_ahead
    with folder(path) as top:
        assert ballast.held(top) == whole(path)


def test_it_is_made_on_the_disk_of_the_device(path: Path, tmp_path: Path) -> None:
    """Regression: a power cut of a device left what of its ballast was not durable."""
    lossy = LossyDurable(Random(1), tmp_path / "kept", lies=True)
    with folder(path) as top:
        assert ballast.keep(str(path), top, Environment(lossy))
        assert ballast.held(top) == whole(path)
    lossy.cut(path)
    assert not (path / ballast.FILE_NAME).exists()


def test_a_place_that_is_let_go_keeps_none(path: Path) -> None:
    place = DirectoryPlace(str(path))
    with folder(path) as top:
        ballast.keep(str(path), top, THIS_MACHINE)
    before = place.space().free
    place.remove((ballast.FILE_NAME,), ())
    assert os.listdir(path) == ["node.toml"]
    assert abs(place.space().free - before) < 64 << 20


async def test_one_that_was_made_longer_than_it_can_be_is_soon_spent(
    node: DirectoryNode, path: Path, disk: SmallDisk
) -> None:
    (path / ballast.FILE_NAME).touch()
    os.truncate(path / ballast.FILE_NAME, 5 << 30)
    assert (await node.space()).free <= os.statvfs(path).f_bavail * os.statvfs(path).f_frsize + (1 << 16)
    with folder(path) as top:
        rounds = sum(iter(lambda: ballast.give(str(path), top, 0, THIS_MACHINE), False))
    assert rounds <= -(-whole(path) // ballast.PIECE)
