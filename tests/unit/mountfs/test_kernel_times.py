"""The kernel's own times: the short way answers as the long one, and waits where that has to."""

from __future__ import annotations

from collections.abc import AsyncIterator
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import trio
import trio.testing
from pyfuse3 import EntryAttributes, FUSEError, RequestContext, SetattrFields

from cache.attributes import AttributeChange, Attributes
from cache.drive import Drive
from cache.errors import ReadOnlyFileSystemError
from cache.namespace.operations import NEWEST_TIME, OLDEST_TIME, ROOT_INODE
from cache.services import VersionsView
from mountfs.kernel_times import only_times
from mountfs.request_handlers import RequestHandlers
from tests.contents import content
from tests.drives import make_file, opened
from tests.memory_upstream import MemoryUpstream

FIELDS = ("atime", "mtime", "ctime", "mode", "uid", "gid", "size")
TIMES = [(1, 2), (5_000_000_000, 5_000_000_000), (NEWEST_TIME + 9, OLDEST_TIME - 9)]


def fields(*names: str) -> SetattrFields:
    """What pyfuse3 makes of a SETATTR that sets these."""
    return cast(SetattrFields, SimpleNamespace(**{f"update_{name}": name in names for name in FIELDS}))


@pytest.fixture
async def drive(tmp_path: Path) -> AsyncIterator[Drive]:
    async with opened(tmp_path / "cache", MemoryUpstream()) as drive:
        yield drive


def handlers(drive: Drive) -> RequestHandlers:
    return RequestHandlers(drive, b"", access_times=True, view=VersionsView(drive))


async def state_times(calls: RequestHandlers, inode: int, times: tuple[int, int]) -> EntryAttributes:
    """The answer to such a SETATTR."""
    wanted, context = EntryAttributes(), RequestContext.__new__(RequestContext)
    wanted.st_mtime_ns, wanted.st_ctime_ns = times
    return await calls.setattr(inode, wanted, fields("mtime", "ctime"), None, context)


def test_exactly_both_times_are_the_kernels_own() -> None:
    subsets = [list(names) for count in range(len(FIELDS) + 1) for names in combinations(FIELDS, count)]
    assert [names for names in subsets if only_times(fields(*names))] == [["mtime", "ctime"]]


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize("state", ["clean", "dirty", "settled", "cut", "unlinked", "folder"])
async def test_the_short_way_does_what_the_long_one_does(
    tmp_path: Path, state: str, times: tuple[int, int]
) -> None:
    found: list[tuple[Attributes, Attributes, int, int]] = []
    for way in ("short", "long"):
        async with opened(tmp_path / way, MemoryUpstream()) as drive:
            inode = await _in_state(drive, state)
            operations_before, end = drive.ledger.open_operations, drive.ledger.journal.end
            if way == "short":
                answer = drive.kernel_times(inode, *times)
                assert answer is not None
            else:
                answer = await drive.set_attributes(
                    inode, AttributeChange(mtime_ns=times[0], ctime_ns=times[1])
                )
            assert answer == drive.attributes(inode)
            grown = drive.ledger.open_operations - operations_before
            found.append((answer, drive.attributes(inode), grown, drive.ledger.journal.end - end))
    for answer, shown, _, _ in found:
        answer.atime_ns = shown.atime_ns = 0
        if state == "unlinked":  # its own are shown still
            answer.mtime_ns = answer.ctime_ns = shown.mtime_ns = shown.ctime_ns = 0
    assert found[0] == found[1]


async def _in_state(drive: Drive, state: str) -> int:
    if state == "folder":
        return ROOT_INODE
    inode = (await make_file(drive, b"file", b"" if state == "clean" else b"content")).inode
    drive.hold(inode)
    if state == "clean":
        await drive.sync()
    if state == "dirty":
        await drive.write(inode, 0, b"again")
    if state == "settled":
        await drive.settle(inode)
    if state == "cut":
        drive.ledger.cut([inode])
    if state == "unlinked":
        await drive.unlink(ROOT_INODE, b"file")
    return inode


async def test_it_is_answered_before_any_wait(drive: Drive) -> None:
    inode = (await make_file(drive, b"file", b"content")).inode
    with trio.testing.assert_no_checkpoints():
        answer = await state_times(handlers(drive), inode, (3, 4))
    assert (answer.st_mtime_ns, answer.st_ctime_ns) == (3, 4)
    assert (drive.attributes(inode).mtime_ns, drive.attributes(inode).ctime_ns) == (3, 4)


async def test_it_comes_after_large_writes_of_the_file_that_were_put_off(drive: Drive) -> None:
    inode, other = [(await make_file(drive, name)).inode for name in (b"one", b"two")]
    calls, go_on = handlers(drive), trio.Event()
    calls.large_writes.turn = go_on.wait
    async with trio.open_nursery() as nursery:
        nursery.start_soon(calls.write, inode, 0, content("text", 1 << 20, 1))
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(state_times, calls, inode, (3, 4))
        await trio.testing.wait_all_tasks_blocked()
        assert drive.attributes(inode).mtime_ns != 3
        with trio.testing.assert_no_checkpoints():
            await state_times(calls, other, (3, 4))
        go_on.set()
    assert (drive.attributes(inode).mtime_ns, drive.attributes(inode).size) == (3, 1 << 20)


async def test_where_the_journal_is_full_it_waits_for_room(
    drive: Drive, monkeypatch: pytest.MonkeyPatch
) -> None:
    inode = (await make_file(drive, b"file", b"content")).inode
    before, full = drive.attributes(inode), True
    monkeypatch.setattr(drive.publisher.pressure, "is_over", lambda _times: full)
    assert drive.kernel_times(inode, 3, 4) is None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(state_times, handlers(drive), inode, (3, 4))
        await trio.testing.wait_all_tasks_blocked()
        assert drive.attributes(inode) == before
        full = False
        await drive.ledger.wake_waiting()
    assert drive.attributes(inode).mtime_ns == 3


@pytest.mark.logs_warnings
@pytest.mark.parametrize("why", ["fenced", "closing"])
async def test_of_a_drive_that_cannot_be_written_it_is_refused_as_everything(
    drive: Drive, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    inode = (await make_file(drive, b"file", b"content")).inode
    if why == "fenced":
        monkeypatch.setattr(drive.publisher, "fenced", True)
    else:
        monkeypatch.setattr(drive.intake, "closing", True)
    assert drive.kernel_times(inode, 3, 4) is None
    with pytest.raises(FUSEError):
        await state_times(handlers(drive), inode, (3, 4))
    monkeypatch.undo()


async def test_of_a_drive_that_is_read_only_it_is_refused(tmp_path: Path) -> None:
    async with opened(tmp_path / "cache", MemoryUpstream(), read_only=True) as drive:
        assert drive.kernel_times(ROOT_INODE, 3, 4) is None
        with pytest.raises(ReadOnlyFileSystemError):
            await drive.set_attributes(ROOT_INODE, AttributeChange(mtime_ns=3, ctime_ns=4))
