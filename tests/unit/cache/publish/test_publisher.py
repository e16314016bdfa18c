"""The publisher on a whole drive: the cut rule, retries, fencing, back-pressure."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from unittest.mock import PropertyMock

import pytest
import trio
import trio.testing

import cache.journal.set_apart
import cache.publish.pressure
import cache.publish.publisher
from backend.errors import FencedError, TransientError
from backend.failpoints import OF_PROCESS
from cache.attributes import AttributeChange
from cache.drive import Drive
from cache.errors import InputOutputError, NoSpaceLeftError, ReadOnlyFileSystemError, UnreadableError
from cache.namespace.namespace import Namespace
from cache.namespace.operations import ROOT_INODE, SetAttributes, SetExtents, decode
from cache.publish.cut_rule import Intervals
from cache.publish.due import GLANCE
from cache.publish.pressure import Pressure
from tests.contents import content
from tests.drives import QUIET, content_of, make_file, opened, tree
from tests.memory_upstream import MemoryUpstream
from tests.unreadable import Unreadable

TINY = replace(QUIET, journal_size=512 << 10)


@pytest.fixture
def upstream() -> MemoryUpstream:
    return MemoryUpstream()


@pytest.fixture
async def drive(tmp_path: Path, upstream: MemoryUpstream) -> AsyncIterator[Drive]:
    async with opened(tmp_path / "cache", upstream) as drive:
        yield drive


async def published_tree(tmp_path: Path, upstream: MemoryUpstream) -> dict[bytes, tuple[object, ...]]:
    """What another reader sees: a drive from an empty cache."""
    async with opened(tmp_path / "other", upstream, read_only=True) as other:
        return await tree(other)


async def test_settled_files_are_in_the_cut_and_open_ones_are_not(
    drive: Drive, upstream: MemoryUpstream, tmp_path: Path
) -> None:
    await make_file(drive, b"closed", b"closed content")
    still_open = await make_file(drive, b"open")
    await drive.write(still_open.inode, 0, b"half")
    await drive.publisher.publish(everything=False)
    found = await published_tree(tmp_path, upstream)
    assert found[b"/closed"][-1] == b"closed content"
    assert found[b"/open"][-1] == b""
    await drive.sync()
    (commit, _) = upstream.commits[-1]
    assert commit.number == 3


async def test_write_new_rename_over_is_never_seen_empty(
    drive: Drive, upstream: MemoryUpstream, tmp_path: Path
) -> None:
    await make_file(drive, b"config", b"old")
    await drive.publisher.publish(everything=False)
    new = await make_file(drive, b"config.new")
    await drive.write(new.inode, 0, b"new")
    await drive.rename(ROOT_INODE, b"config.new", ROOT_INODE, b"config")
    await drive.publisher.publish(everything=False)
    assert (await published_tree(tmp_path, upstream))[b"/config"][-1] == b"new"


async def test_a_write_after_close_waits_for_the_next_cut(drive: Drive) -> None:
    made = await make_file(drive, b"file", b"closed")
    await drive.write(made.inode, 0, b"opened")
    await drive.publisher.publish(everything=False)
    assert drive.ledger.dirty.top(made.inode) is not None
    assert drive.ledger.unpublished


@pytest.mark.logs_warnings
async def test_a_retry_after_a_lost_answer_publishes_once(drive: Drive, upstream: MemoryUpstream) -> None:
    await make_file(drive, b"file", b"content")
    upstream.fail_after_append = True
    with pytest.raises(TransientError):
        await drive.publisher.publish(everything=False)
    assert drive.publisher.problem
    await make_file(drive, b"later", b"more")
    await drive.sync()
    assert [commit.number for commit, _ in upstream.commits] == [1, 2, 3]
    assert not drive.ledger.unpublished
    assert not drive.publisher.problem


@pytest.mark.logs_warnings
async def test_sync_publishes_what_came_after_a_commit_that_failed(
    drive: Drive, upstream: MemoryUpstream
) -> None:
    """Regression: a sync that finished an older commit must still cut what was accepted before it."""
    await make_file(drive, b"one", b"1")
    upstream.flush_gate = trio.Event()

    async def fails() -> None:
        with pytest.raises(TransientError):
            await drive.publisher.publish(everything=False)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fails)
        while drive.ledger.pending is None:
            await trio.sleep(0.001)
        await make_file(drive, b"two", b"2")
        nursery.start_soon(drive.sync)
        await trio.testing.wait_all_tasks_blocked()
        upstream.fail_after_append = True
        upstream.flush_gate.set()
    assert not drive.ledger.unpublished
    assert len(upstream.commits) == 3


@pytest.mark.logs_warnings
async def test_fenced_is_for_ever(drive: Drive, upstream: MemoryUpstream) -> None:
    await make_file(drive, b"file", b"content")
    upstream.fenced = True
    with pytest.raises(FencedError):
        await drive.sync()
    upstream.fenced = False
    with pytest.raises(FencedError):
        await drive.sync()
    assert len(upstream.commits) == 1
    with pytest.raises(ReadOnlyFileSystemError):
        await make_file(drive, b"more")
    assert await content_of(drive, b"file") == b"content"


async def test_unlinked_dirty_files_are_not_published(drive: Drive, upstream: MemoryUpstream) -> None:
    made = await make_file(drive, b"temporary")
    drive.hold(made.inode)
    await drive.write(made.inode, 0, b"scratch")
    await drive.unlink(ROOT_INODE, b"temporary")
    await drive.sync()
    assert upstream.stored == {}
    assert bytes(await drive.read(made.inode, 0, 10)) == b"scratch"
    drive.release(made.inode)
    await drive.sync()
    assert not drive.ledger.unpublished


async def fill(drive: Drive, done: trio.Event) -> None:
    for number in range(100):
        await make_file(drive, b"%d" % number, bytes([number + 1]) * 20_000)
    done.set()


@pytest.mark.logs_warnings
async def test_writers_wait_while_the_nodes_are_away_and_go_on(
    tmp_path: Path, upstream: MemoryUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache.publish.publisher, "FIRST_BACKOFF", 0.01)
    monkeypatch.setattr(cache.publish.publisher, "MAX_BACKOFF", 0.02)
    async with opened(tmp_path / "cache", upstream, TINY) as drive:
        upstream.away = True
        done = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fill, drive, done)
            while not drive.publisher.pressure.blocks_writers or upstream.attempts < 3:
                await trio.lowlevel.checkpoint()
            assert not done.is_set()
            assert drive.ledger.journal.used_bytes < TINY.journal_size + (200 << 10)
            upstream.away = False
        await drive.sync()
        for number in range(100):
            assert await content_of(drive, b"%d" % number) == bytes([number + 1]) * 20_000
        assert drive.ledger.journal.used_bytes < TINY.journal_size // 2


@pytest.mark.logs_warnings
async def test_the_publisher_does_not_spin_while_the_nodes_are_away(
    drive: Drive, upstream: MemoryUpstream
) -> None:
    """Regression: every accepted operation ended the pause after a failure."""
    await make_file(drive, b"file", b"content")
    upstream.away = True
    with pytest.raises(TransientError):
        await drive.publisher.publish(everything=False)
    before = upstream.attempts
    for number in range(50):
        await make_file(drive, b"%d" % number, b"x")
        await trio.testing.wait_all_tasks_blocked()
    assert upstream.attempts - before <= 2


@pytest.mark.logs_warnings
async def test_waiting_writers_are_told_when_the_drive_is_fenced(
    tmp_path: Path, upstream: MemoryUpstream
) -> None:
    """Regression: they waited for room that could never come."""
    async with opened(tmp_path / "cache", upstream, TINY) as drive:
        upstream.fenced = True
        with pytest.raises(ReadOnlyFileSystemError):
            await fill(drive, trio.Event())


@pytest.mark.logs_warnings
@pytest.mark.parametrize("asked", ["fsync", "nothing"])
async def test_a_drive_that_is_fenced_says_so_at_once(
    tmp_path: Path, upstream: MemoryUpstream, asked: str
) -> None:
    """Not at the next commit, which is an hour away: an fsync would be a promise that nobody keeps."""
    async with opened(tmp_path / "cache", upstream) as drive:
        made = await make_file(drive, b"file", b"content")
        await drive.fsync(made.inode)
        upstream.fenced = True
        if asked == "fsync":
            with pytest.raises(FencedError):
                await drive.fsync(made.inode)
        else:
            with trio.fail_after(5):
                while not drive.publisher.fenced:
                    await trio.sleep(0.05)
        with pytest.raises(ReadOnlyFileSystemError):
            await make_file(drive, b"more")


@pytest.mark.logs_warnings
@pytest.mark.parametrize(("action", "error"), [("eio", InputOutputError), ("enospc", NoSpaceLeftError)])
async def test_writers_get_the_error_when_their_own_disk_stops_publishing(
    tmp_path: Path, upstream: MemoryUpstream, action: str, error: type[Exception]
) -> None:
    """Regression: with the journal full and broken they waited for ever."""
    async with opened(tmp_path / "cache", upstream, TINY) as drive:
        OF_PROCESS.arm("ledger.checkpointed", action)
        with pytest.raises(error):
            await fill(drive, trio.Event())
        OF_PROCESS.disarm_all()
        await drive.sync()
        await make_file(drive, b"after")


async def test_operations_in_memory_are_bounded(
    tmp_path: Path, upstream: MemoryUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: names alone could outgrow memory and what one commit can hold."""
    monkeypatch.setattr(cache.publish.pressure, "OPERATIONS_LIMIT", 2000)
    async with opened(tmp_path / "cache", upstream) as drive:
        highest = 0
        for number in range(300):
            await make_file(drive, b"%d" % number)
            highest = max(highest, drive.ledger.operation_bytes)
        assert 2000 < highest < 5000
        await drive.sync()
        assert len(upstream.commits) >= 3


async def test_many_changes_are_no_reason_to_look_at_each(
    drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The look at what presses a cut would cost each change a tenth of its time."""
    looks = PropertyMock(return_value=False)
    monkeypatch.setattr(Pressure, "calls_for_cut", looks)
    began = trio.current_time()
    for number in range(300):
        await drive.make_node(ROOT_INODE, b"%d" % number, stat.S_IFREG | 0o600, 0, 0, 0, None)
        await trio.testing.wait_all_tasks_blocked()
    assert 0 < looks.call_count <= 2 + (trio.current_time() - began) / GLANCE


async def test_pieces_in_memory_are_bounded(
    tmp_path: Path, upstream: MemoryUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache.publish.pressure, "WRITES_LIMIT", 20)
    async with opened(tmp_path / "cache", upstream) as drive:
        made = await make_file(drive, b"file")
        for number in range(200):
            await drive.write(made.inode, number * 3, b"x")
            assert drive.ledger.open_writes <= 41
        drive.hold(made.inode)
        await drive.unlink(ROOT_INODE, b"file")
        for number in range(200):
            await drive.write(made.inode, number * 3, b"y")
        assert bytes(await drive.read(made.inode, 0, 6)) == b"y\0\0y\0\0"


async def test_a_commit_says_size_and_content_of_each_file_together(
    drive: Drive, upstream: MemoryUpstream
) -> None:
    made = await make_file(drive, b"file", b"content")
    pending = drive.ledger.cut([made.inode])
    assert pending is not None
    sizes = [
        item for item in map(decode, pending.operations) if isinstance(item, SetAttributes) and item.size
    ]
    assert [item.size for item in sizes] == [7]
    await drive.publisher.publish(everything=False)
    contents = [item for item in map(decode, pending.extents) if isinstance(item, SetExtents)]
    assert [(item.inode, item.cleared) for item in contents] == [(made.inode, ((0, 7),))]


@pytest.fixture
def unreadable(tmp_path: Path) -> Iterator[Unreadable]:
    found = Unreadable(tmp_path / "cache")
    with found.installed():
        yield found


@pytest.mark.logs_warnings
@pytest.mark.parametrize("end", ["mended", "rewritten", "truncated", "deleted"])
@pytest.mark.parametrize("was_published", [False, True])
async def test_a_file_that_cannot_be_read_is_set_apart_until_it_can(
    drive: Drive,
    upstream: MemoryUpstream,
    unreadable: Unreadable,
    tmp_path: Path,
    was_published: bool,
    end: str,
) -> None:
    """Regression: no file was published any more."""
    made = await make_file(drive, b"broken", b"old" if was_published else b"")
    await drive.sync()
    modified = drive.attributes(made.inode).mtime_ns
    await drive.write(made.inode, 1, content("text", 5000))
    await drive.settle(made.inode)
    assert unreadable.break_file(drive, made.inode)
    await make_file(drive, b"other", b"content")
    with pytest.raises(UnreadableError, match=r"but 1 file: /broken \("):
        await drive.sync()
    found = await published_tree(tmp_path, upstream)
    assert found[b"/broken"][-1] == (b"old" if was_published else b"")
    assert found[b"/broken"][-3] == modified
    assert found[b"/other"][-1] == b"content"
    assert [apart.path for apart in (await drive.status()).set_apart] == ["/broken"]
    assert drive.size(made.inode) == 5001
    expected = await end_trouble(drive, unreadable, made.inode, end)
    await drive.sync()
    assert (await drive.status()).set_apart == ()
    async with opened(tmp_path / "third", upstream, read_only=True) as other:
        names = [entry.name for entry in other.entries(ROOT_INODE, 0, 9)]
        assert names == ([b"other"] if expected is None else [b"broken", b"other"])
        if expected is not None:
            assert await content_of(other, b"broken") == expected


async def end_trouble(drive: Drive, unreadable: Unreadable, inode: int, end: str) -> bytes | None:
    """What the file holds then."""
    if end == "mended":
        unreadable.mend()
        return await content_of(drive, b"broken")
    if end == "rewritten":
        await drive.write(inode, 0, b"x" * 5001)
        return b"x" * 5001
    if end == "truncated":
        await drive.set_attributes(inode, AttributeChange(size=0))
        return b""
    await drive.unlink(ROOT_INODE, b"broken")
    return None


@pytest.mark.logs_warnings
async def test_who_has_no_room_is_said_by_the_error_alone(drive: Drive, upstream: MemoryUpstream) -> None:
    """It may be the nodes, an account, or the disk of this machine's block index."""
    await drive.sync()
    await make_file(drive, b"file", content("random", 5000))
    upstream.full = True
    with pytest.raises(NoSpaceLeftError):
        await drive.sync()
    (apart,) = (await drive.status()).set_apart
    assert drive.publisher.problem.endswith(f"(the journal keeps them): {apart.reason}")
    assert "nodes" not in drive.publisher.problem.removesuffix(apart.reason)


@pytest.mark.logs_warnings
async def test_a_file_that_is_set_apart_is_tried_again_by_itself(
    tmp_path: Path, upstream: MemoryUpstream, unreadable: Unreadable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache.journal.set_apart, "FIRST_PAUSE", 0.01)
    options = replace(QUIET, intervals=Intervals(commit=0.01, version=0.01))
    async with opened(tmp_path / "cache", upstream, options) as drive:
        with trio.fail_after(30):
            upstream.away = True
            made = await make_file(drive, b"broken", content("text", 5000))
            assert unreadable.break_file(drive, made.inode)
            upstream.away = False
            while not drive.publisher.set_apart() or not upstream.commits:
                await trio.sleep(0.01)
            unreadable.mend()
            while drive.ledger.unpublished:
                await trio.sleep(0.01)
    assert (await published_tree(tmp_path, upstream))[b"/broken"][-1] == content("text", 5000)


@pytest.mark.logs_warnings
async def test_the_journal_does_not_fill_for_a_file_that_is_set_apart(
    tmp_path: Path, upstream: MemoryUpstream, unreadable: Unreadable
) -> None:
    """Its segments are kept, and all that came after them: that must not make the others wait."""
    async with opened(tmp_path / "cache", upstream, TINY) as drive:
        made = await make_file(drive, b"broken", b"x" * 500)
        assert unreadable.break_file(drive, made.inode)
        for number in range(100):
            with trio.fail_after(4):
                await make_file(drive, b"%d" % number, bytes([number + 1]) * 20_000)
        with pytest.raises(UnreadableError):
            await drive.sync()
        assert drive.ledger.journal.used_bytes > 2 * TINY.journal_size
        assert not drive.publisher.pressure.blocks_writers
        assert len(await published_tree(tmp_path, upstream)) == 101
        unreadable.mend()
        await drive.sync()
        assert drive.ledger.journal.used_bytes < TINY.journal_size
        assert drive.trimming.pinned_bytes == 0


@pytest.mark.logs_warnings
async def test_a_cut_that_was_taken_back_stays_so_if_that_was_not_written_down(
    tmp_path: Path, upstream: MemoryUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill between the journal's record and the namespace's."""
    async with opened(tmp_path / "cache", upstream, crash=True) as drive:
        made = await make_file(drive, b"file", b"content")
        upstream.away = True
        with pytest.raises(TransientError):
            await drive.sync()
        upstream.away = False
        await drive.write(made.inode, 7, b" and more")
        await make_file(drive, b"later", b"content")
        drive.ledger.save()
    upstream.lose_unflushed()
    with monkeypatch.context() as patched:
        patched.setattr(Namespace, "save", lambda *_: failing())
        with pytest.raises(OSError, match="killed"):
            async with opened(tmp_path / "cache", upstream):
                raise AssertionError("not reached")
    async with opened(tmp_path / "cache", upstream) as drive:
        assert drive.ledger.pending is None
        assert drive.size(made.inode) == len(b"content and more")
        await drive.sync()
    found = await published_tree(tmp_path, upstream)
    assert [found[path][-1] for path in (b"/file", b"/later")] == [b"content and more", b"content"]
    assert len(upstream.commits) == 2


def failing() -> None:
    raise OSError("killed")
