"""Who is alone on a mount: one process behind all requests for long enough, and nobody waiting."""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pyfuse3
import pytest
from pyfuse3 import EntryAttributes, ReaddirToken, RequestContext, SetattrFields

from cache.drive import Drive
from cache.namespace.operations import ROOT_INODE
from cache.services import VersionsView
from mountfs import callers as callers_module
from mountfs.callers import ALONE_NS, Callers
from mountfs.request_handlers import RequestHandlers
from tests.drives import make_file, opened
from tests.memory_upstream import MemoryUpstream

OURS, OTHERS = 7, 8
FILE, OTHER_FILE = 100, 101


class Clock:
    """Nanoseconds."""

    def __init__(self) -> None:
        self.now = 10**12


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(callers_module, "time", SimpleNamespace(perf_counter_ns=lambda: clock.now))
    return clock


@pytest.fixture
def callers(clock: Clock) -> Callers:
    """Our process has opened the file, and was alone for long enough."""
    callers = Callers()
    callers.is_line_empty = lambda: True
    callers.called(OURS)
    callers.opened(FILE, OURS)
    clock.now += ALONE_NS
    return callers


def test_it_is_the_time_that_was_measured() -> None:
    assert ALONE_NS == 50_000_000


def test_one_process_is_alone_after_a_while(callers: Callers, clock: Clock) -> None:
    assert callers.is_alone(FILE)
    assert callers.process == OURS


@pytest.mark.parametrize(
    "other",
    [
        lambda callers: callers.called(OTHERS) or callers.called(OURS),
        lambda callers: callers.used(OTHER_FILE),
        lambda callers: callers.is_alone(OTHER_FILE),
        lambda callers: callers.closed(OTHER_FILE),
    ],
    ids=["request", "read or write", "fsync", "close"],
)
def test_another_request_ends_it_for_a_while(
    callers: Callers, clock: Clock, other: Callable[[Callers], None]
) -> None:
    other(callers)
    assert not callers.is_alone(FILE)
    clock.now += ALONE_NS - 1
    assert not callers.is_alone(FILE)
    clock.now += 1
    assert callers.is_alone(FILE)


def test_what_the_process_has_open_itself_is_no_other_file(callers: Callers) -> None:
    callers.opened(OTHER_FILE, OURS)
    callers.used(OTHER_FILE)
    assert callers.is_alone(FILE)
    assert callers.is_alone(OTHER_FILE)
    callers.closed(OTHER_FILE)
    callers.used(OTHER_FILE)
    assert not callers.is_alone(FILE)


def test_a_file_that_two_have_open_is_nobodys(callers: Callers, clock: Clock) -> None:
    callers.opened(FILE, OTHERS)
    callers.opened(FILE, OURS)
    for left in range(3):
        clock.now += ALONE_NS
        assert not callers.is_alone(FILE), left
        callers.closed(FILE)
    callers.opened(FILE, OURS)
    clock.now += ALONE_NS
    assert callers.is_alone(FILE)


def test_processes_that_have_no_number_here_may_be_several(callers: Callers, clock: Clock) -> None:
    callers.opened(FILE, 0)
    for _ in range(3):
        assert callers.process != 0, "so each of its requests is another one's"
        callers.called(0)
        assert not callers.is_alone(FILE)
        clock.now += ALONE_NS // 2


def test_who_has_others_waiting_behind_is_not_alone(callers: Callers) -> None:
    callers.is_line_empty = lambda: False
    assert not callers.is_alone(FILE)


def test_where_the_line_cannot_be_looked_at_nobody_is_alone(clock: Clock) -> None:
    callers = Callers()
    callers.called(OURS)
    callers.opened(FILE, OURS)
    clock.now += 10 * ALONE_NS
    assert not callers.is_alone(FILE)


# The handlers


class Context(RequestContext):
    """Of the process that the test says."""

    pid = OURS
    uid = gid = umask = 0


class OtherContext(Context):
    """Of another one."""

    pid = OTHERS


NO_FIELDS = cast(
    SetattrFields,
    SimpleNamespace(
        **{f"update_{n}": n == "mode" for n in ["mode", "uid", "gid", "size", "atime", "mtime", "ctime"]}
    ),
)
CALLS: dict[str, Callable[[RequestHandlers, int, RequestContext], Awaitable[object]]] = {
    "lookup": lambda calls, _, ctx: calls.lookup(ROOT_INODE, b"nothing", ctx),
    "getattr": lambda calls, inode, ctx: calls.getattr(inode, ctx),
    "open": lambda calls, inode, ctx: calls.open(inode, os.O_RDONLY, ctx),
    "setattr": lambda calls, inode, ctx: calls.setattr(inode, EntryAttributes(), NO_FIELDS, None, ctx),
    "create": lambda calls, _, ctx: calls.create(ROOT_INODE, b"new", 0o644, os.O_RDWR, ctx),
    "unlink": lambda calls, _, ctx: calls.unlink(ROOT_INODE, b"old", ctx),
    "rename": lambda calls, _, ctx: calls.rename(ROOT_INODE, b"old", ROOT_INODE, b"name", 0, ctx),
    "mkdir": lambda calls, _, ctx: calls.mkdir(ROOT_INODE, b"new", 0o755, ctx),
    "mknod": lambda calls, _, ctx: calls.mknod(ROOT_INODE, b"new", stat.S_IFIFO | 0o600, 0, ctx),
    "opendir": lambda calls, _, ctx: calls.opendir(ROOT_INODE, ctx),
    "statfs": lambda calls, _, ctx: calls.statfs(ctx),
    "listxattr": lambda calls, inode, ctx: calls.listxattr(inode, ctx),
}


@pytest.fixture
async def drive(tmp_path: Path) -> AsyncIterator[Drive]:
    async with opened(tmp_path / "cache", MemoryUpstream()) as drive:
        yield drive


async def _alone(drive: Drive, clock: Clock) -> tuple[RequestHandlers, int, int]:
    """Handlers that one process alone uses; the file that it has open, and another file."""
    ours = (await make_file(drive, b"ours")).inode
    other = (await make_file(drive, b"old")).inode
    handlers = RequestHandlers(drive, b"", access_times=True, view=VersionsView(drive))
    handlers.callers.is_line_empty = lambda: True
    context = Context.__new__(Context)
    handle = (await handlers.open(ours, os.O_RDWR, context)).fh
    clock.now += ALONE_NS
    assert handlers.callers.is_alone(ours)
    return handlers, handle, other


@pytest.mark.parametrize("name", CALLS)
async def test_every_request_that_says_who_makes_it_counts(drive: Drive, clock: Clock, name: str) -> None:
    handlers, handle, other = await _alone(drive, clock)
    await CALLS[name](handlers, other, OtherContext.__new__(OtherContext))
    assert not await fsync_is_alone(drive, handlers, handle)


@pytest.mark.parametrize("name", CALLS)
async def test_requests_of_the_process_itself_change_nothing(drive: Drive, clock: Clock, name: str) -> None:
    handlers, handle, other = await _alone(drive, clock)
    await CALLS[name](handlers, other, Context.__new__(Context))
    assert await fsync_is_alone(drive, handlers, handle)


@pytest.mark.parametrize("call", ["read", "write", "fsync"])
async def test_reading_and_writing_a_file_of_others_counts(drive: Drive, clock: Clock, call: str) -> None:
    handlers, handle, other = await _alone(drive, clock)
    await _use(handlers, call, handle)
    assert await fsync_is_alone(drive, handlers, handle)
    await _use(handlers, call, other)
    assert not await fsync_is_alone(drive, handlers, handle)


async def _use(handlers: RequestHandlers, call: str, handle: int) -> None:
    if call == "read":
        await handlers.read(handle, 0, 10)
    elif call == "write":
        await handlers.write(handle, 0, b"data")
    else:
        await handlers.fsync(handle, False)


FOLDER_CALLS: dict[str, Callable[[RequestHandlers, int], Awaitable[object]]] = {
    "readdir": lambda calls, handle: calls.readdir(handle, 0, cast(ReaddirToken, None)),
    "fsyncdir": lambda calls, handle: calls.fsyncdir(handle, False),
    "releasedir": lambda calls, handle: calls.releasedir(handle),
}


@pytest.mark.parametrize("name", FOLDER_CALLS)
async def test_listing_and_syncing_a_folder_of_others_counts(
    drive: Drive, clock: Clock, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pyfuse3, "readdir_reply", lambda *_: True)
    handlers, handle, _ = await _alone(drive, clock)
    theirs = await handlers.opendir(ROOT_INODE, OtherContext.__new__(OtherContext))
    await handlers.getattr(ROOT_INODE, Context.__new__(Context))
    clock.now += ALONE_NS
    assert await fsync_is_alone(drive, handlers, handle)
    await FOLDER_CALLS[name](handlers, theirs)
    assert not await fsync_is_alone(drive, handlers, handle)


@pytest.mark.parametrize("name", FOLDER_CALLS)
async def test_listing_and_syncing_a_folder_of_our_own_changes_nothing(
    drive: Drive, clock: Clock, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pyfuse3, "readdir_reply", lambda *_: True)
    handlers, handle, _ = await _alone(drive, clock)
    ours = await handlers.opendir(ROOT_INODE, Context.__new__(Context))
    await FOLDER_CALLS[name](handlers, ours)
    assert await fsync_is_alone(drive, handlers, handle)


@pytest.mark.parametrize("call", ["readdir", "releasedir"])
async def test_a_folder_of_the_past_that_is_listed_or_closed_counts(
    drive: Drive, clock: Clock, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    monkeypatch.setattr(pyfuse3, "readdir_reply", lambda *_: True)
    handlers, handle, _ = await _alone(drive, clock)
    past = (await handlers.lookup(ROOT_INODE, b".versions", Context.__new__(Context))).st_ino
    ours = await handlers.opendir(past, Context.__new__(Context))
    assert await fsync_is_alone(drive, handlers, handle)
    if call == "readdir":
        await handlers.readdir(ours, 0, cast(ReaddirToken, None))
    else:
        await handlers.releasedir(ours)
    assert not await fsync_is_alone(drive, handlers, handle)


async def test_a_file_of_our_own_is_forgotten_when_it_is_closed(drive: Drive, clock: Clock) -> None:
    handlers, handle, other = await _alone(drive, clock)
    second = (await handlers.open(other, os.O_RDWR, Context.__new__(Context))).fh
    await handlers.write(second, 0, b"data")
    assert await fsync_is_alone(drive, handlers, handle)
    await handlers.release(second)
    await handlers.read(other, 0, 1)
    assert not await fsync_is_alone(drive, handlers, handle)


async def fsync_is_alone(drive: Drive, handlers: RequestHandlers, handle: int) -> bool:
    """What the drive is told at an fsync."""
    told: list[bool] = []

    async def fsync(inode: int, *, alone: bool) -> None:
        told.append(alone)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drive, "fsync", fsync)
        await handlers.fsync(handle, False)
    return told[0]
