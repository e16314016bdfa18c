"""What is given up after a power cut that kept records and lost the bytes which they refer to."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from stat import S_IFREG

import pytest
import trio
import trio.testing

from backend.errors import TransientError
from backend.failpoints import OF_PROCESS
from cache.drive import Drive
from cache.journal.format import OFFSET_BITS
from cache.journal.pieces import Data
from cache.namespace.operations import ROOT_INODE
from cache.recovery import StaleCacheError
from tests.drives import QUIET, content_of, make_file, opened
from tests.memory_upstream import MemoryUpstream

pytestmark = pytest.mark.logs_warnings
LARGE = b"large" * 1000
OPTIONS = replace(QUIET, large_write=len(LARGE))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def names(drive: Drive) -> list[bytes]:
    return [entry.name for entry in drive.entries(ROOT_INODE, 0, 100)]


def place(drive: Drive, name: bytes) -> int:
    """Where the bytes of a dirty file are."""
    file = drive.ledger.dirty.get(drive.lookup(ROOT_INODE, name).inode)
    assert file is not None
    (piece,) = file.pieces(0, len(LARGE))
    assert isinstance(piece, Data)
    return piece.position


def lose(folder: Path, *places: int) -> None:
    """The disk has zeros there."""
    for position in places:
        path = folder / "journal" / f"{position >> OFFSET_BITS:016x}.bulk"
        descriptor = os.open(path, os.O_WRONLY)
        os.pwrite(descriptor, bytes(len(LARGE)), position & ((1 << OFFSET_BITS) - 1))
        os.close(descriptor)


async def write_open(drive: Drive, name: bytes) -> None:
    """A large file that stays open."""
    made = await drive.make_node(ROOT_INODE, name, S_IFREG | 0o644, 0, 0, 0)
    await drive.write(made.inode, 0, LARGE)


async def publish_unheard_while_another_is_made(drive: Drive, upstream: MemoryUpstream, name: bytes) -> None:
    async def publish() -> None:
        with pytest.raises(TransientError):
            await drive.publisher.publish(everything=False)

    upstream.flush_gate, upstream.fail_after_append = trio.Event(), True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(publish)
        while drive.ledger.pending is None:
            await trio.sleep(0.001)
        await make_file(drive, name, LARGE)
        upstream.flush_gate.set()


async def test_what_came_after_lost_bytes_is_given_up_for_good(folder: Path) -> None:
    upstream = MemoryUpstream()
    async with opened(folder, upstream, OPTIONS, crash=True) as drive:
        await make_file(drive, b"before", LARGE)
        await make_file(drive, b"lost", LARGE)
        await make_file(drive, b"after", b"small")
        where = place(drive, b"lost")
    lose(folder, where)
    for round_number in range(3):
        async with opened(folder, upstream, OPTIONS, crash=True) as drive:
            expected = [b"before", b"lost", *(b"%d" % number for number in range(round_number))]
            assert names(drive) == expected
            assert await content_of(drive, b"before") == LARGE
            assert await content_of(drive, b"lost") == b""
            await make_file(drive, b"%d" % round_number, LARGE)
    async with opened(folder, upstream, OPTIONS) as drive:
        await drive.sync()
        assert await content_of(drive, b"2") == LARGE


async def test_a_namespace_that_was_written_down_goes_back_too(folder: Path) -> None:
    upstream = MemoryUpstream()
    async with opened(folder, upstream, OPTIONS, crash=True) as drive:
        await make_file(drive, b"lost", LARGE)
        await make_file(drive, b"after", b"small")
        where = place(drive, b"lost")
        drive.ledger.save()
    lose(folder, where)
    async with opened(folder, upstream, OPTIONS) as drive:
        assert names(drive) == [b"lost"]
        await drive.sync()


@pytest.mark.parametrize("overwritten", [False, True])
async def test_bytes_that_nobody_needs_may_be_lost(folder: Path, overwritten: bool) -> None:
    upstream = MemoryUpstream()
    async with opened(folder, upstream, OPTIONS, crash=True) as drive:
        await make_file(drive, b"gone", LARGE)
        await make_file(drive, b"stored", LARGE)
        where = [place(drive, b"gone"), place(drive, b"stored")]
        await drive.unlink(ROOT_INODE, b"gone")
        await drive.publisher.publish(everything=False)
        if overwritten:
            await drive.write(drive.lookup(ROOT_INODE, b"stored").inode, 0, b"small")
        await make_file(drive, b"after", LARGE)
        kept = sorted((folder / "journal").glob("*.bulk"))
    with suppress(FileNotFoundError):  # if the journal has let go of them
        lose(folder, *where)
    assert kept
    async with opened(folder, upstream, OPTIONS) as drive:
        assert names(drive) == [b"stored", b"after"]
        assert (await content_of(drive, b"stored"))[:5] == (b"small" if overwritten else LARGE[:5])
        assert await content_of(drive, b"after") == LARGE


async def test_a_commit_that_was_appended_is_known_though_later_bytes_are_lost(folder: Path) -> None:
    upstream = MemoryUpstream()
    async with opened(folder, upstream, OPTIONS, crash=True) as drive:
        await make_file(drive, b"published", LARGE)
        await publish_unheard_while_another_is_made(drive, upstream, b"later")
        where = place(drive, b"later")
    lose(folder, where)
    async with opened(folder, upstream, OPTIONS) as drive:
        assert drive.ledger.head.number == 2
        assert names(drive) == [b"published", b"later"]
        assert await content_of(drive, b"published") == LARGE
        assert await content_of(drive, b"later") == b""
        await drive.sync()


async def test_extents_that_are_given_up_make_older_bytes_needed_again(folder: Path) -> None:
    upstream = MemoryUpstream()
    async with opened(folder, upstream, OPTIONS, crash=True) as drive:
        for name in (b"first", b"second", b"third"):
            await make_file(drive, name, LARGE)
        where = [place(drive, name) for name in (b"first", b"second", b"third")]
        OF_PROCESS.arm("ledger.extents", "eio", 1)  # of the first two files they are kept
        with pytest.raises(OSError, match=r"ledger\.extents"):
            await drive.publisher.publish(everything=False)
        OF_PROCESS.disarm_all()
    lose(folder, where[1], where[2])
    async with opened(folder, upstream, OPTIONS, crash=True) as drive:
        assert names(drive) == [b"first", b"second"]
        assert await content_of(drive, b"first") == LARGE
        assert await content_of(drive, b"second") == b""
    async with opened(folder, upstream, OPTIONS) as drive:
        await drive.sync()
        assert await content_of(drive, b"first") == LARGE


async def test_bytes_before_a_published_cut_cannot_be_lost_by_a_power_cut(folder: Path) -> None:
    """They were synced before the commit was appended. Where they are lost all the same, what else the
    journal says of dirty files may be older than what is published: it is kept aside, never followed."""
    upstream = MemoryUpstream()
    async with opened(folder, upstream, OPTIONS, crash=True) as drive:
        await write_open(drive, b"open")
        await make_file(drive, b"closed", LARGE)
        where = place(drive, b"open")
        await drive.publisher.publish(everything=False)
        assert drive.ledger.head.number == 2
    lose(folder, where)
    with pytest.raises(StaleCacheError):
        async with opened(folder, upstream, OPTIONS):
            pass
