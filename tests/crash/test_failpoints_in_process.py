"""Each failpoint of `cache/`: the step fails, or the process is killed; nothing acknowledged is lost.

The workload writes down ("the manifest") each file whose close or fsync has returned. Afterwards the
drive is opened again: what the manifest says is there; it can be published; and a restore from an
empty cache gives the same tree.
"""

from __future__ import annotations

import os
import pickle
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from stat import S_IFDIR

import pytest
import trio

from backend.errors import DriveError
from backend.failpoints import OF_PROCESS
from backend.upstream import Commit, Head
from cache.drive import Drive
from cache.errors import FileSystemError
from cache.namespace.operations import ROOT_INODE
from cache.services.clone import Clone
from tests.declared_failpoints import DECLARED
from tests.drives import QUIET, content_of, make_file, opened, tree
from tests.memory_upstream import MemoryUpstream

OPTIONS = replace(QUIET, journal_size=1 << 20, large_write=24_000)
SALVAGES = {"journal.salvaging", "journal.salvaged"}
"""Reached only where a journal cannot be read (tests/crash/test_salvages.py)."""
NAMES = sorted(
    name
    for name in DECLARED.keys() - SALVAGES
    if name.split(".")[0] in ("journal", "sealer", "ledger", "snapshot")
)
COPIED = b"d001"
"""A folder that `change` makes and that stays."""
ROOT = Path(__file__).parent.parent.parent
Refused = (OSError, FileSystemError, DriveError)


class KeptUpstream(MemoryUpstream):
    """A memory upstream whose stored part is kept in a file, so that it outlives a killed process."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        if path.exists():
            self.commits, self.stored, self.kept_roots = pickle.loads(path.read_bytes())

    def _keep(self) -> None:
        new = self._path.with_suffix(".new")
        new.write_bytes(pickle.dumps((self.commits, self.stored, self.kept_roots)))
        new.rename(self._path)

    async def flush(self) -> None:
        await super().flush()
        self._keep()

    async def append(self, commit: Commit, expected: Head) -> Head:
        head = await super().append(commit, expected)
        self._keep()
        return head

    async def put_root(self, name: str, data: bytes) -> None:
        await super().put_root(name, data)
        self._keep()


def payload(number: int) -> bytes:
    return bytes(number * (index + 7) % 251 for index in range(3_000)) * (1 + number % 9)


async def work(drive: Drive, acknowledged: Callable[[int], None], *, patient: bool) -> None:
    """Some hundred calls; with `patient`, refusals are suffered and the work goes on."""
    refusals = Refused if patient else ()
    for number in range(100):
        with suppress(*refusals):
            made = await make_file(drive, b"%03d" % number, payload(number))
            if number % 5 == 0:
                await drive.fsync(made.inode)
            acknowledged(number)
        with suppress(*refusals):
            await change(drive, number)
        with suppress(*refusals):
            if number % 10 == 9:
                await drive.publisher.publish(everything=number % 20 == 9)
        with suppress(*refusals):
            if number % 10 == 5:
                await publish_without_room(drive, number)
        with suppress(*refusals):
            if number % 8 == 7 and drive.past.head:
                await copy_of_the_past(drive, b"copy%03d" % number)
        with suppress(*refusals):
            if number % 7 == 6:
                drive.ledger.save()
            if number % 30 == 29:
                await drive.snapshots.make()


async def change(drive: Drive, number: int) -> None:
    """Other calls than on plain files."""
    directory = await drive.make_node(ROOT_INODE, b"d%03d" % number, S_IFDIR | 0o755, 0, 0, 0)
    await drive.set_xattr(directory.inode, b"user.number", b"%d" % number)
    await make_file(drive, b"temporary", b"t" * 300, directory.inode)
    await drive.rename(directory.inode, b"temporary", directory.inode, b"kept")
    if number % 3 == 0:
        await drive.unlink(directory.inode, b"kept")
        await drive.remove_directory(ROOT_INODE, b"d%03d" % number)


async def publish_without_room(drive: Drive, number: int) -> None:
    """A commit that is taken back, as the nodes have no room for what it took: one file."""
    upstream = drive.upstream
    assert isinstance(upstream, MemoryUpstream)
    await drive.publisher.publish(everything=True)
    await make_file(drive, b"no room %d" % number, payload(number + 100))
    upstream.full = True
    try:
        await drive.publisher.publish(everything=False)
    finally:
        upstream.full = False


async def copy_of_the_past(drive: Drive, name: bytes) -> None:
    """An instant copy of a folder that was published: a batch of operations."""
    commit = drive.past.head
    source = drive.past.lookup(ROOT_INODE, COPIED, commit)
    await Clone(drive, commit, source.inode, ROOT_INODE, name).perform(replace=False)


async def copies_are_whole(drive: Drive) -> None:
    """No copy is there in part, nor anything that helped to make one."""
    for entry in drive.entries(ROOT_INODE, 0, 1000):
        assert not entry.name.startswith(b".")
        if entry.name.startswith(b"copy"):
            copy, folder = entry.attributes, drive.lookup(ROOT_INODE, COPIED)
            assert drive.get_xattr(copy.inode, b"user.number") == b"1"
            assert (copy.mode, copy.mtime_ns) == (folder.mode, folder.mtime_ns)
            assert await content_of(drive, b"kept", copy.inode) == b"t" * 300


async def check(folder: Path, upstream: MemoryUpstream, acknowledged: list[int]) -> None:
    """See the module."""
    async with opened(folder, upstream, OPTIONS) as drive:
        for number in acknowledged:
            assert await content_of(drive, b"%03d" % number) == payload(number)
        await copies_are_whole(drive)
        await make_file(drive, b"and it goes on", b"yes")
        await drive.sync()
        assert not drive.ledger.unpublished
        before = await tree(drive)
    shutil.rmtree(folder)
    async with opened(folder, upstream, OPTIONS) as drive:
        assert await tree(drive) == before


def test_the_client_side_has_failpoints() -> None:
    assert len(NAMES) >= 11


@pytest.mark.logs_warnings
@pytest.mark.parametrize(("action", "skip"), [("eio", 0), ("eio", 5), ("enospc", 3)])
@pytest.mark.parametrize("name", NAMES)
async def test_a_step_that_fails(tmp_path: Path, name: str, action: str, skip: int) -> None:
    folder, upstream = tmp_path / "cache", MemoryUpstream()
    acknowledged: list[int] = []
    async with opened(folder, upstream, OPTIONS, crash=True) as drive:
        OF_PROCESS.arm(name, action, skip if name != "snapshot.stored" else 0)
        await work(drive, acknowledged.append, patient=True)
        assert OF_PROCESS.hits[name] > 0
        OF_PROCESS.disarm_all()
    upstream.lose_unflushed()
    await check(folder, upstream, acknowledged)


@pytest.mark.parametrize(
    ("name", "skip"),
    [
        *((name, 0) for name in NAMES),
        *(pytest.param(name, 6, marks=pytest.mark.soak) for name in NAMES),
        ("ledger.batch-applying", 3),
    ],
)
async def test_a_process_that_is_killed(tmp_path: Path, name: str, skip: int) -> None:
    seen = tmp_path / "seen"
    number = skip if name != "snapshot.stored" else skip // 6
    armed = {"DRIVEFS_FAILPOINTS": f"{name}=kill*{number}", "DRIVEFS_FAILPOINTS_SEEN": str(seen)}
    child = [sys.executable, "-m", __spec__.name if __spec__ else "", str(tmp_path)]
    result = await trio.run_process(
        child, cwd=ROOT, env={**os.environ, **armed}, check=False, capture_stderr=True
    )
    assert result.returncode == -9, result.stderr.decode()
    assert seen.read_text().split() == [name]
    acknowledged = [int(line) for line in (tmp_path / "manifest").read_text().split()]
    await check(tmp_path / "cache", KeptUpstream(tmp_path / "upstream"), acknowledged)


async def be_killed(folder: Path) -> None:
    """The child process: work until a failpoint ends it."""
    OF_PROCESS.arm_from_environment()
    with (folder / "manifest").open("wb", buffering=0) as manifest:
        async with opened(folder / "cache", KeptUpstream(folder / "upstream"), OPTIONS) as drive:
            await work(drive, lambda number: print_number(manifest.fileno(), number), patient=False)


def print_number(descriptor: int, number: int) -> None:
    os.write(descriptor, b"%d\n" % number)


if __name__ == "__main__":
    trio.run(be_killed, Path(sys.argv[1]))
