"""backend.nodes.directory and backend.nodes.identity: what only directories do; the wrappers' own work."""

from __future__ import annotations

import errno
import os
import random
import resource
import stat
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import trio
import trio.testing

from backend.buffer import Buffer
from backend.errors import (
    ConflictError,
    NodeError,
    NoSpaceError,
    NotFoundError,
    ReadOnlyError,
    TransientError,
    UsageError,
)
from backend.failpoints import OF_PROCESS
from backend.nodes.directory import DirectoryNode
from backend.nodes.directory_place import DirectoryPlace
from backend.nodes.identity import (
    NodeIdentity,
    decode_identity,
    encode_identity,
    initialise_directory_node,
    read_identity,
)
from backend.nodes.patient import PatientNode
from backend.nodes.rate_limited import RateLimitedNode, TokenBucket
from backend.nodes.retry import RetryNode
from backend.system import Environment
from backend.system.durable import Durable
from tests.crash.lossy_durable import LossyDurable
from tests.faulty_node import Fault, FaultyNode

DRIVE = bytes(range(16))
IDENTITY = NodeIdentity("node0", DRIVE, "zone0")


class FailingDurable(Durable):
    """Raises `number` at `step`."""

    def __init__(self, step: str, number: int) -> None:
        self._step = step
        self._number = number

    def write(self, descriptor: int, parts: Sequence[Buffer], offset: int) -> int:
        self._fail("write")
        return super().write(descriptor, parts, offset)

    def sync(self, descriptor: int) -> None:
        self._fail("sync")
        super().sync(descriptor)

    def _fail(self, step: str) -> None:
        if step == self._step:
            raise OSError(self._number, os.strerror(self._number))


class RecordingDurable(Durable):
    """Notes which folders were made durable."""

    def __init__(self) -> None:
        self.folders: list[str] = []

    def sync_folder(self, path: str, *, folder: int | None = None) -> None:
        self.folders.append(path)
        super().sync_folder(path, folder=folder)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    initialise_directory_node(str(tmp_path / "node0"), DRIVE, "node0", "zone0")
    return tmp_path / "node0"


@pytest.fixture
def node(path: Path) -> DirectoryNode:
    return DirectoryNode(str(path), IDENTITY)


def node_on(disk: Durable, path: Path) -> DirectoryNode:
    """The node of a device with that disk."""
    return DirectoryNode(str(path), IDENTITY, environment=Environment(disk))


def test_an_identity_survives_its_file() -> None:
    assert decode_identity(encode_identity(IDENTITY)) == IDENTITY


def test_an_identity_file_made_by_hand() -> None:
    text = b'format = 1\ndrive = "000102030405060708090a0b0c0d0e0f"\nname = "node0"\nzone = "zone0"\n'
    assert decode_identity(text) == IDENTITY


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff",
        b"format = 2",
        b"[[[",
        b'format = 1\ndrive = "00"\nname = "n"\nzone = "z"\n',
        b'format = 1\ndrive = "000102030405060708090a0b0c0d0e0f"\nname = "a/b"\nzone = "z"\n',
        b'format = 1\ndrive = 7\nname = "n"\nzone = "z"\n',
        b"#" * 5000,
    ],
)
def test_a_damaged_identity_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_identity(text)


def test_initialising_again_changes_nothing(path: Path) -> None:
    before = (path / "node.toml").read_bytes()
    initialise_directory_node(str(path), DRIVE, "node0", "zone0")
    assert (path / "node.toml").read_bytes() == before
    assert read_identity(str(path), "node0") == IDENTITY


@pytest.mark.parametrize(
    ("drive", "name", "message"),
    [
        (bytes(16), "node0", "another drive"),
        (DRIVE, "node1", "already this drive's node0"),
    ],
)
def test_a_folder_with_another_node_is_refused(path: Path, drive: bytes, name: str, message: str) -> None:
    with pytest.raises(NodeError, match=message):
        initialise_directory_node(str(path), drive, name, "zone0")


def test_a_foreign_folder_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(NodeError, match=r"not empty \(it holds letter.txt\)"):
        initialise_directory_node(str(tmp_path), DRIVE, "node0", "zone0")
    assert [entry.name for entry in tmp_path.iterdir()] == ["letter.txt"]


def test_the_root_of_a_fresh_disk_will_do(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    initialise_directory_node(str(tmp_path), DRIVE, "node0", "zone0")
    assert read_identity(str(tmp_path), "node0") == IDENTITY


async def test_a_node_that_is_away_is_a_node_error_not_a_lost_object(path: Path, node: DirectoryNode) -> None:
    await node.put("packs/aa/x", [b"x"])
    path.rename(path.with_name("elsewhere"))
    for call in (
        node.get("packs/aa/x"),
        node.put("packs/aa/x", [b"y"]),
        node.keys("packs/"),
        node.check(),
        node.delete("packs/aa/x"),
        node.put("lease", [b"y"]),
        node.swap("lease", None, b"y"),
    ):
        with pytest.raises(NodeError, match=r"node0: .* is missing"):
            await call
    assert not path.exists()


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.write_bytes(b"x")])
def test_what_is_no_folder_is_called_that(tmp_path: Path, make: Callable[[Path], object]) -> None:
    make(tmp_path / "node")
    with pytest.raises(NodeError, match=r"node0: .*/node is not a folder"):
        read_identity(str(tmp_path / "node"), "node0")
    with pytest.raises(UsageError, match="is not a folder"):
        DirectoryPlace(str(tmp_path / "node")).prepare()


def test_a_power_cut_does_not_take_a_new_node(tmp_path: Path) -> None:
    for seed in range(10):
        disk = LossyDurable(random.Random(seed), tmp_path / "kept")
        place = DirectoryPlace(str(tmp_path / f"new {seed}" / "node"), Environment(disk))
        place.prepare()
        place.initialise(IDENTITY)
        assert disk.knows(tmp_path / f"new {seed}" / "node")
        disk.cut(tmp_path)
        assert place.identity("node0") == IDENTITY


async def test_an_empty_mount_point_is_not_written_to(path: Path, node: DirectoryNode) -> None:
    await node.put("packs/aa/x", [b"x"])
    await node.put("lease", [b"x"])
    path.rename(path.with_name("elsewhere"))
    path.mkdir()
    for call in (node.put("packs/aa/y", [b"y"]), node.put("lease", [b"y"]), node.swap("lease", None, b"y")):
        with pytest.raises(NodeError, match="is not a node"):
            await call
    assert list(path.iterdir()) == []


async def test_a_foreign_node_is_recognised(path: Path) -> None:
    with pytest.raises(NodeError, match="another drive"):
        await DirectoryNode(str(path), NodeIdentity("node0", bytes(16), "zone0")).tidy()
    with pytest.raises(NodeError, match="is this drive's node0"):
        await DirectoryNode(str(path), NodeIdentity("node5", DRIVE, "zone0")).tidy()


async def test_a_folder_that_was_removed_is_made_again(path: Path, node: DirectoryNode) -> None:
    await node.put("packs/aa/x", [b"x"])
    (path / "packs/aa/x").unlink()
    (path / "packs/aa").rmdir()
    await node.put("packs/aa/x", [b"again"])
    assert await node.get("packs/aa/x") == b"again"


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, NoSpaceError),
        (errno.EDQUOT, NoSpaceError),
        (errno.EROFS, ReadOnlyError),
        (errno.EACCES, ReadOnlyError),
        (errno.EIO, TransientError),
        (errno.ETIMEDOUT, TransientError),
    ],
)
@pytest.mark.parametrize("step", ["write", "sync"])
async def test_errors_of_the_system_are_told_apart(
    path: Path, node: DirectoryNode, number: int, expected: type[Exception], step: str
) -> None:
    await node.put("packs/aa/x", [b"before"])
    failing = node_on(FailingDurable(step, number), path)
    with pytest.raises(expected, match="node0: cannot write packs/aa/x"):
        await failing.put("packs/aa/x", [b"after"])
    assert await node.get("packs/aa/x") == b"before"
    assert [entry.name for entry in (path / "packs/aa").iterdir()] == ["x"]


async def test_new_folders_are_made_durable_once(path: Path) -> None:
    recorder = RecordingDurable()
    node = node_on(recorder, path)
    await node.put("packs/aa/x", [b"x"])
    assert recorder.folders == [str(path), str(path / "packs"), str(path / "packs/aa")]
    await node.put("packs/aa/y", [b"y"])
    assert recorder.folders[3:] == [str(path / "packs/aa")]


async def test_temporary_files_are_never_listed_and_go_when_old(path: Path, node: DirectoryNode) -> None:
    await node.put("packs/aa/x", [b"x"])
    old, new = path / "packs/aa/.tmp-1-x", path / "packs/aa/.tmp-2-x"
    old.write_bytes(b"half")
    new.write_bytes(b"half")
    os.utime(old, (0, 0))
    assert await node.keys("packs/") == ["packs/aa/x"]
    await node.tidy()
    assert not old.exists()
    assert new.exists()


WRITES = ["put", "create", "swap"]


async def write(node: DirectoryNode, how: str, key: str, data: bytes) -> None:
    if how == "put":
        await node.put(key, [data])
    elif how == "create":
        await node.create(key, [data])
    else:
        await node.swap(key, None, data)


async def is_absent(node: DirectoryNode, key: str) -> bool:
    """As all calls that read say."""
    for call in (node.get(key), node.get(key, 0, 3), node.get(key, 1, 0), node.state(key)):
        with pytest.raises(NotFoundError):
            await call
    return key not in await node.keys("")


@pytest.mark.parametrize("how", WRITES)
@pytest.mark.parametrize("kind", ["link", "dead link", "link to itself", "pipe", "socket"])
async def test_what_is_no_file_is_no_object(
    path: Path, node: DirectoryNode, tmp_path: Path, kind: str, how: str
) -> None:
    """Nor is it opened: a pipe would be waited for. It is replaced when the object is written."""
    outside = tmp_path / "outside"
    outside.write_bytes(b"theirs")
    (path / "packs/aa").mkdir(parents=True)
    place = path / "packs/aa/x"
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "socket":
        os.mknod(place, stat.S_IFSOCK | 0o600)
    else:
        place.symlink_to({"link": outside, "dead link": tmp_path / "none", "link to itself": place}[kind])
    with trio.fail_after(20):
        assert await is_absent(node, "packs/aa/x")
        await write(node, how, "packs/aa/x", b"ours")
        assert await node.get("packs/aa/x") == b"ours"
    assert outside.read_bytes() == b"theirs"
    assert not (tmp_path / "none").exists()
    await node.delete("packs/aa/x")


@pytest.mark.parametrize("how", WRITES)
@pytest.mark.parametrize("depth", ["packs", "packs/aa"])
@pytest.mark.parametrize("dead", [False, True])
async def test_no_link_is_followed_out_of_a_node(
    path: Path, node: DirectoryNode, tmp_path: Path, depth: str, how: str, dead: bool
) -> None:
    outside = tmp_path / "outside"
    if not dead:
        (outside / "aa").mkdir(parents=True)
        for file in ("x", "aa/x", ".tmp-old", "aa/.tmp-old"):
            (outside / file).write_bytes(b"theirs")
            os.utime(outside / file, (0, 0))
    (path / depth).parent.mkdir(exist_ok=True)
    (path / depth).symlink_to(outside)
    assert await is_absent(node, "packs/aa/x")
    assert await node.keys("packs/") == []
    await node.tidy()
    await node.delete("packs/aa/x")
    with pytest.raises(NodeError, match=r"node0: packs/aa/x: something is in the way .*fsck"):
        await write(node, how, "packs/aa/x", b"ours")
    if dead:
        assert not outside.exists()
    else:
        assert sorted(file.name for file in outside.rglob("*")) == [".tmp-old", ".tmp-old", "aa", "x", "x"]
        assert all(file.read_bytes() == b"theirs" for file in outside.rglob("*") if file.is_file())


@pytest.mark.parametrize("how", WRITES)
async def test_a_folder_in_the_place_of_an_object_stays_and_is_told(
    path: Path, node: DirectoryNode, how: str
) -> None:
    (path / "packs/aa/x").mkdir(parents=True)
    (path / "packs/aa/x/theirs").write_bytes(b"theirs")
    assert await is_absent(node, "packs/aa/x")
    with pytest.raises(NodeError, match="something is in the way"):
        await write(node, how, "packs/aa/x", b"ours")
    await node.delete("packs/aa/x")
    assert (path / "packs/aa/x/theirs").read_bytes() == b"theirs"


def put_there(kind: str, place: Path, outside: Path) -> None:
    if kind == "link":
        place.symlink_to(outside)
    elif kind == "pipe":
        os.mkfifo(place)
    else:
        place.mkdir()


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
async def test_a_lock_that_is_no_file_locks_nothing(
    path: Path, node: DirectoryNode, tmp_path: Path, kind: str
) -> None:
    lock, outside = path / ".lock", tmp_path / "outside"
    put_there(kind, lock, outside)
    with trio.fail_after(20), pytest.raises(NodeError, match="something is in the way"):
        await node.swap("lease", None, b"x")
    assert not outside.exists()


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
async def test_an_identity_that_is_no_file_is_none(
    path: Path, node: DirectoryNode, tmp_path: Path, kind: str
) -> None:
    identity, outside = path / "node.toml", tmp_path / "outside"
    identity.rename(outside)
    put_there(kind, identity, outside)
    with trio.fail_after(20), pytest.raises(NodeError, match=r"node0: cannot read .*node.toml"):
        await node.check()
    with pytest.raises(NodeError):
        await node.put("a", [b"x"])


@pytest.mark.parametrize("size", [4097, 1 << 20, 5 << 30])
async def test_a_lease_without_end_is_not_read(path: Path, node: DirectoryNode, size: int) -> None:
    (path / "lease").write_bytes(b"short")
    os.truncate(path / "lease", size)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    stored = await node.get("lease", 0, 4097)
    assert len(stored) == 4097
    for expected in (None, b"short", stored[:-1]):
        with pytest.raises(ConflictError):
            await node.swap("lease", expected, b"new")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - most < 64 << 10


async def test_the_folder_itself_may_be_reached_by_a_link(path: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(path)
    node = DirectoryNode(str(tmp_path / "link"), IDENTITY)
    await node.put("packs/aa/x", [b"x"])
    assert await node.get("packs/aa/x") == b"x"
    assert (path / "packs/aa/x").read_bytes() == b"x"


async def test_only_the_range_is_read(node: DirectoryNode, monkeypatch: pytest.MonkeyPatch) -> None:
    await node.put("big", [bytes(1_000_000)])
    asked: list[int] = []
    read = os.pread

    def counting(descriptor: int, length: int, offset: int) -> bytes:
        asked.append(length)
        return read(descriptor, length, offset)

    monkeypatch.setattr(os, "pread", counting)
    await node.get("big", 500_000, 10)
    assert asked == [10]


@pytest.mark.parametrize("place", ["node.before-write", "node.after-write"])
async def test_failpoints_of_a_write_fire(node: DirectoryNode, place: str) -> None:
    OF_PROCESS.arm(place, "eio")
    with pytest.raises(TransientError):
        await node.put("a", [b"x"])
    assert OF_PROCESS.hits[place] == 1


async def test_failpoint_of_a_delete_fires(node: DirectoryNode) -> None:
    await node.put("a", [b"x"])
    OF_PROCESS.arm("node.after-delete", "eio")
    with pytest.raises(TransientError):
        await node.delete("a")
    assert await node.keys("") == []


async def test_who_has_waited_for_a_disk_that_hangs_is_told(path: Path, node: DirectoryNode) -> None:
    """The write may still happen then."""
    disk = threading.Event()

    class Hanging(Durable):
        def sync(self, descriptor: int) -> None:
            disk.wait()
            super().sync(descriptor)

    hurried = PatientNode(node_on(Hanging(), path), 0.05)
    with pytest.raises(TransientError, match=r"node0: cannot write a: no answer within 0.05 s"):
        await hurried.put("a", [b"late"])
    while not hurried.watch.is_overdue(0.05):  # its thread began a little later than the call
        await trio.sleep(0.01)
    with pytest.raises(NodeError, match="not answered yet"):
        await hurried.state("b")
    disk.set()
    while hurried.watch:  # the abandoned thread ends by itself
        await trio.sleep(0.01)
    assert await node.get("a") == b"late"


async def test_retry_outlasts_transient_errors(
    node: DirectoryNode, autojump_clock: trio.testing.MockClock
) -> None:
    faulty = FaultyNode(node)
    faulty.faults = [Fault(times=3, error=TransientError("away"))]
    await RetryNode(faulty).put("a", [b"x"])
    assert await node.get("a") == b"x"
    assert len(faulty.calls) == 4


async def test_retry_ends_at_its_deadline(
    node: DirectoryNode, autojump_clock: trio.testing.MockClock
) -> None:
    faulty = FaultyNode(node)
    faulty.faults = [Fault(error=TransientError("away"))]
    started = trio.current_time()
    with pytest.raises(TransientError):
        await RetryNode(faulty, deadline=10.0).get("a")
    assert trio.current_time() - started <= 10.0
    assert len(faulty.calls) > 5


@pytest.mark.parametrize("error", [NotFoundError("x"), NodeError("x", "node0"), NoSpaceError("x")])
async def test_retry_leaves_other_errors_alone(node: DirectoryNode, error: NotFoundError) -> None:
    faulty = FaultyNode(node)
    faulty.faults = [Fault(error=error)]
    with pytest.raises(type(error)):
        await RetryNode(faulty).get("a")
    assert len(faulty.calls) == 1


async def test_a_retried_create_recognises_its_own_object(node: DirectoryNode) -> None:
    OF_PROCESS.arm("node.after-write", "eio")
    with pytest.raises(TransientError):
        await node.create("a", [b"mine"])
    OF_PROCESS.disarm_all()
    faulty = FaultyNode(node)
    faulty.faults = [Fault(("create",), times=1, error=TransientError("lost answer"))]
    await RetryNode(faulty, first_wait=0.001).create("a", [b"mi", b"ne"])
    assert faulty.calls[-1] == ("swap", "a")
    faulty.faults = [Fault(("create",), times=1, error=TransientError("lost answer"))]
    with pytest.raises(ConflictError):
        await RetryNode(faulty, first_wait=0.001).create("a", [b"theirs"])
    with pytest.raises(ConflictError):
        await RetryNode(node).create("a", [b"mine"])


async def test_a_retried_create_whose_object_is_read_late_is_tried_again(node: DirectoryNode) -> None:
    """Regression: the node said that there is one, then that there is none, and `create` raised that."""
    await node.create("a", [b"mine"])
    faulty = FaultyNode(node)
    faulty.faults = [
        Fault(("create",), times=1, error=TransientError("lost answer")),
        Fault(("get",), times=1, error=NotFoundError("as it was a moment ago")),
    ]
    await RetryNode(faulty, first_wait=0.001).create("a", [b"mine"])
    assert await node.get("a") == b"mine"


async def test_a_swap_is_never_retried(node: DirectoryNode) -> None:
    faulty = FaultyNode(node)
    faulty.faults = [Fault(error=TransientError("away"))]
    with pytest.raises(TransientError):
        await RetryNode(faulty).swap("lease", None, b"x")
    assert len(faulty.calls) == 1


class NetworkDisk(Durable):
    """As NFS: the first answer to each change of names is lost, and the request that is sent again is told
    that it cannot be done, as it was."""

    def link(self, old: str, new: str, *, folder: int | None = None) -> None:
        super().link(old, new, folder=folder)
        raise FileExistsError(errno.EEXIST, "File exists", new)

    def rename(self, old: str, new: str, *, folder: int | None = None) -> None:
        super().rename(old, new, folder=folder)
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", old)

    def unlink(self, path: str, *, folder: int | None = None) -> None:
        super().unlink(path, folder=folder)
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)

    def make_folder(self, path: str, *, folder: int | None = None) -> None:
        super().make_folder(path, folder=folder)
        raise FileExistsError(errno.EEXIST, "File exists", path)


async def test_what_was_done_though_its_answer_was_lost_is_a_success(tmp_path: Path) -> None:
    """Regression: of an object that had been made its maker was told that it was another's."""
    path, disk = tmp_path / "node", NetworkDisk()
    initialise_directory_node(str(path), DRIVE, "node0", "zone0", disk)
    node = DirectoryNode(str(path), IDENTITY, environment=Environment(disk))
    await node.create("packs/ab/one", [b"first"])
    with pytest.raises(ConflictError):
        await node.create("packs/ab/one", [b"second"])
    assert await node.get("packs/ab/one") == b"first"
    await node.put("packs/ab/one", [b"third"])
    assert await node.get("packs/ab/one") == b"third"
    await node.swap("lease", None, b"1")
    await node.swap("lease", b"1", b"2")
    with pytest.raises(ConflictError):
        await node.swap("lease", b"1", b"3")
    await node.delete("packs/ab/one")
    with pytest.raises(NotFoundError):
        await node.get("packs/ab/one")
    place = DirectoryPlace(str(path), Environment(disk))
    assert place.replace("drive.toml", None, b"1")
    assert not place.replace("drive.toml", None, b"2")
    assert place.replace("drive.toml", b"1", b"2")
    assert [name for name in os.listdir(path) if name.startswith(".tmp-")] == []


async def test_the_rate_is_kept(node: DirectoryNode, autojump_clock: trio.testing.MockClock) -> None:
    limited = RateLimitedNode(node, TokenBucket(rate=1000, burst=1000))
    started = trio.current_time()
    await limited.put("a", [bytes(1000)])
    assert trio.current_time() - started < 0.01
    await limited.put("a", [bytes(3000)])
    assert trio.current_time() - started == pytest.approx(3.0, abs=0.1)
    await limited.get("a", 0, 1000)
    assert trio.current_time() - started == pytest.approx(4.0, abs=0.1)


async def test_a_small_object_that_was_read_whole_is_not_kept_open(node: DirectoryNode) -> None:
    """The next read would make room for as much as an object may have before it sees how little there is."""
    await node.put("roots/small", [b"small"])
    assert await node.get("roots/small", 0, 1 << 26) == b"small"
    assert await node.get_soon("roots/small", 1, 3) is None
    assert await node.get("roots/small", 1, 3) == b"mal"
    assert await node.get_soon("roots/small", 1, 3) == b"mal"
