"""Power cuts that take the end of the journal, or bytes that were not synced, around a commit and a recovery.

What the state at a published cut needs must be there, though the file was deleted after it: that it was can
be lost. And a recovery that did not come to its end is repeated from what it left.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from stat import S_IFREG

import pytest

from backend.errors import NoSpaceError, TransientError
from backend.system import Environment
from backend.system.durable import Durable
from cache.drive import Drive
from cache.journal.format import OFFSET_BITS
from cache.namespace.namespace import Namespace
from cache.namespace.operations import ROOT_INODE
from tests.drives import QUIET, content_of, make_file, opened
from tests.memory_upstream import MemoryUpstream
from tests.unit.cache.journal.test_journal_scan import names

pytestmark = pytest.mark.logs_warnings
LARGE = b"large" * 14_000
"""Fills a bulk file of its own in journals of this size."""
OPTIONS = replace(QUIET, large_write=len(LARGE), journal_size=1 << 20)
SMALL_ONLY = replace(OPTIONS, large_write=1 << 30)
_OFFSET = (1 << OFFSET_BITS) - 1


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def erase(folder: Path, position: int, length: int, suffix: str) -> None:
    """The disk has zeros there, if it has that file."""
    with suppress(FileNotFoundError):
        descriptor = os.open(folder / "journal" / f"{position >> OFFSET_BITS:016x}{suffix}", os.O_WRONLY)
        os.pwrite(descriptor, bytes(length), position & _OFFSET)
        os.close(descriptor)


class Noting(Durable):
    """Has the names of the files of which an fdatasync was asked."""

    def __init__(self) -> None:
        self.synced: list[str] = []

    def sync_data(self, descriptor: int) -> None:
        self.synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        super().sync_data(descriptor)


def lose_bytes(folder: Path, position: int) -> None:
    """A large write was never synced."""
    erase(folder, position, len(LARGE), ".bulk")


def lose_end(folder: Path, position: int) -> None:
    """Records from there on were never synced."""
    erase(folder, position, 2000, ".journal")


async def write_open(drive: Drive, name: bytes, data: bytes = LARGE) -> tuple[int, int]:
    """A file that is written and stays open: its inode, and where its bytes are in the journal."""
    made = await drive.make_node(ROOT_INODE, name, S_IFREG | 0o644, 0, 0, 0)
    drive.hold(made.inode)
    await drive.write(made.inode, 0, data)
    return made.inode, place(drive, made.inode)


def place(drive: Drive, inode: int) -> int:
    file = drive.ledger.dirty.get(inode)
    assert file is not None
    return file.pieces(0, 1)[0].position  # type: ignore[union-attr]


def close(drive: Drive, inode: int) -> None:
    """The last who knew of it lets go."""
    while drive.put_off.holds(inode):
        drive.release(inode)


async def publish(
    drive: Drive,
    before: Callable[[], Awaitable[None]] | None = None,
    after: Callable[[], Awaitable[None]] | None = None,
) -> int:
    """Publish, and do something just before the journal is synced for it or just after; the journal's end
    that is surely on the disk then."""
    real, ends = drive.ledger.sync_pending, []

    async def sync_pending() -> None:
        if before is not None:
            await before()
        ends.append(drive.ledger.journal.end)
        await real()
        if after is not None:
            await after()

    drive.ledger.sync_pending = sync_pending  # type: ignore[method-assign]
    try:
        await drive.publisher.publish(everything=False)
    finally:
        drive.ledger.sync_pending = real  # type: ignore[method-assign]
    return ends[-1]


@pytest.mark.parametrize("when", ["before it is synced", "after it is published"])
async def test_a_deletion_after_the_cut_that_is_given_up(folder: Path, when: str) -> None:
    """It follows a large write whose bytes are lost: the file is as it was at the cut."""
    upstream = MemoryUpstream()
    lost = []
    async with opened(folder, upstream, OPTIONS, crash=True) as drive:
        inode, _ = await write_open(drive, b"open")
        await make_file(drive, b"closed", LARGE)

        async def delete() -> None:
            made = await make_file(drive, b"unsynced", LARGE)
            lost.append(place(drive, made.inode))
            await drive.unlink(ROOT_INODE, b"open")
            close(drive, inode)

        if when == "after it is published":
            await publish(drive)
            await delete()
            await drive.trimming.trim()
        else:
            await publish(drive, before=delete)
        assert drive.ledger.head.number == 2
    lose_bytes(folder, lost[0])
    async with opened(folder, upstream, OPTIONS) as drive:
        assert await content_of(drive, b"open") == LARGE
        assert names(drive) == [b"open", b"closed", b"unsynced"]


async def test_the_bytes_of_a_file_that_was_deleted_after_the_cut_are_synced(folder: Path) -> None:
    upstream, disk = MemoryUpstream(), Noting()
    async with opened(folder, upstream, OPTIONS, crash=True, environment=Environment(disk)) as drive:
        inode, where = await write_open(drive, b"open")
        await make_file(drive, b"closed", LARGE)

        async def delete() -> None:
            await drive.unlink(ROOT_INODE, b"open")
            close(drive, inode)

        upstream.fail_after_append = True
        disk.synced.clear()
        with pytest.raises(TransientError):
            await publish(drive, before=delete)
        assert f"{where >> OFFSET_BITS:016x}.bulk" in disk.synced


async def test_a_deletion_that_is_torn_off(folder: Path) -> None:
    """A temporary file, closed for good while the commit that its unlink is in is on its way."""
    upstream = MemoryUpstream()
    async with opened(folder, upstream, OPTIONS, crash=True) as drive:
        inode, _ = await write_open(drive, b"temporary")
        await drive.unlink(ROOT_INODE, b"temporary")
        await make_file(drive, b"closed", LARGE)

        async def let_go() -> None:
            close(drive, inode)

        end = await publish(drive, after=let_go)
        await make_file(drive, b"later", b"small")
    lose_end(folder, end)
    async with opened(folder, upstream, OPTIONS) as drive:
        assert drive.ledger.head.number == 2
        assert names(drive) == [b"closed"]


async def test_what_fsync_returned_for_is_there_if_the_deletion_after_it_is_lost(folder: Path) -> None:
    upstream = MemoryUpstream()
    async with opened(folder, upstream, SMALL_ONLY, crash=True) as drive:
        inode, _ = await write_open(drive, b"durable", b"first")
        await drive.fsync(inode)
        await drive.publisher.publish(everything=False)
        await drive.write(inode, 0, LARGE)
        await drive.fsync(inode)
        for number in range(3):
            await make_file(drive, b"%d" % number, b"x" * 60_000)

        async def delete() -> None:
            await drive.unlink(ROOT_INODE, b"durable")
            close(drive, inode)

        end = await publish(drive, after=delete)
        assert drive.ledger.head.number == 3
    lose_end(folder, end)
    async with opened(folder, upstream, SMALL_ONLY) as drive:
        assert await content_of(drive, b"durable") == LARGE


async def test_segments_stay_until_the_database_knows_the_commit(folder: Path) -> None:
    upstream = MemoryUpstream()
    async with opened(folder, upstream, SMALL_ONLY, crash=True) as drive:
        await make_file(drive, b"one", b"x")

        async def more() -> None:
            for number in range(5):
                await make_file(drive, b"%d" % number, b"x" * 40_000)
            await write_open(drive, b"open")

        await publish(drive, after=more)  # the database is made durable behind all of that
        durable = drive.ledger.positions.durable
        database = {path: path.read_bytes() for path in folder.glob("namespace.db*")}
        end = await publish(drive)
        assert drive.ledger.head.number == 3
        is_durable = drive.ledger.positions.durable > durable
    for path, data in database.items():
        if not is_durable:
            path.write_bytes(data)
    lose_end(folder, end)
    async with opened(folder, upstream, SMALL_ONLY) as drive:
        assert drive.ledger.head.number == 3
        assert len(names(drive)) == 7


@pytest.mark.parametrize("torn", [False, True])
async def test_a_recovery_that_did_not_come_to_its_end(
    folder: Path, monkeypatch: pytest.MonkeyPatch, torn: bool
) -> None:
    """The database was ahead of what the journal has left, and could not be written down after it."""
    upstream = MemoryUpstream()
    async with opened(folder, upstream, OPTIONS, crash=True) as drive:
        made = await make_file(drive, b"first", b"" if torn else LARGE)
        where = drive.ledger.journal.end if torn else place(drive, made.inode)
        await make_file(drive, b"second", b"small")
        drive.ledger.save()
    (lose_end if torn else lose_bytes)(folder, where)

    def full(self: Namespace, position: int) -> None:
        raise NoSpaceError("full")

    with monkeypatch.context() as patch:
        patch.setattr(Namespace, "save", full)
        with pytest.raises(NoSpaceError):
            await opened(folder, upstream, OPTIONS).__aenter__()
    async with opened(folder, upstream, OPTIONS) as drive:
        assert names(drive) == [b"first"]


class Names(Durable):
    """Renames that are not on the disk, as (old, new); the next ones into spares fail, `failing` of them."""

    def __init__(self) -> None:
        self.renamed: list[tuple[str, str]] = []
        self.failing = 0

    def rename(self, old: str, new: str, *, folder: int | None = None) -> None:
        if self.failing and new.endswith(".spare"):
            self.failing -= 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().rename(old, new, folder=folder)
        self.renamed.append((old, new))

    def sync_folder(self, path: str, *, folder: int | None = None) -> None:
        super().sync_folder(path, folder=folder)
        if path.endswith("journal"):
            self.renamed.clear()


async def fill(drive: Drive, name: bytes, count: int) -> None:
    for number in range(count):
        await make_file(drive, name + b"%d" % number, b"x" * 60_000)


async def test_the_names_of_dropped_segments_come_back(folder: Path) -> None:
    """Two are dropped; one's file is begun anew, and the power goes before their names are on the disk."""
    disk = Names()
    upstream, options = MemoryUpstream(), replace(SMALL_ONLY, journal_size=2 << 20)
    async with opened(folder, upstream, options, crash=True, environment=Environment(disk)) as drive:
        await fill(drive, b"dropped", 11)
        await drive.publisher.publish(everything=True)
        await drive.fsync((await make_file(drive, b"durable", b"y")).inode)
        await fill(drive, b"later", 4)
    for old, new in reversed(disk.renamed):
        os.rename(new, old)
    async with opened(folder, upstream, options) as drive:
        assert b"durable" in names(drive)


async def test_a_segment_that_could_not_be_dropped_is_dropped_before_later_ones(
    folder: Path,
) -> None:
    disk = Names()
    upstream, options = MemoryUpstream(), replace(SMALL_ONLY, journal_size=4 << 20)
    async with opened(folder, upstream, options, crash=True, environment=Environment(disk)) as drive:
        await fill(drive, b"first", 16)
        disk.failing = 1
        with pytest.raises(OSError, match="No space left"):
            await drive.publisher.publish(everything=True)
        await fill(drive, b"second", 16)
        await drive.publisher.publish(everything=True)
        await drive.fsync((await make_file(drive, b"durable", b"y")).inode)
    async with opened(folder, upstream, options) as drive:
        assert b"durable" in names(drive)


async def test_segments_stay_while_the_database_cannot_be_made_durable(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader is in the way of the checkpoint."""
    upstream = MemoryUpstream()
    async with opened(folder, upstream, SMALL_ONLY, crash=True) as drive:
        await fill(drive, b"name", 8)
        before = sorted((folder / "journal").glob("*.journal"))
        assert len(before) > 2
        with monkeypatch.context() as patch:
            patch.setattr(Namespace, "checkpoint", lambda _self: None)
            await drive.publisher.publish(everything=True)
        assert set(before) <= set((folder / "journal").glob("*.journal"))
        await drive.trimming.trim()
        assert not set(before[:-1]) & set((folder / "journal").glob("*.journal"))


async def test_a_drive_opens_after_segments_were_put_aside_with_their_bytes(folder: Path) -> None:
    upstream = MemoryUpstream()
    async with opened(folder, upstream, OPTIONS, crash=True) as drive:
        await make_file(drive, b"published", LARGE)
        await publish(drive)
        for number in range(60):
            await make_file(drive, b"%d" % number, b"x" * 4900)
        made = await make_file(drive, b"aside", LARGE)
        where = place(drive, made.inode)
    sorted((folder / "journal").glob("*.journal"))[1].unlink()
    for _ in range(2):
        async with opened(folder, upstream, OPTIONS, crash=True) as drive:
            assert 0 < len(names(drive)) < 60
    kept = folder / "journal" / "lost" / f"{where >> OFFSET_BITS:016x}.bulk"
    assert kept.read_bytes() == LARGE
