"""Devices whose upstream is away: they open, work on what is here, and go on by themselves when it is not."""

from __future__ import annotations

import errno
import logging
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from backend.errors import AwayError
from cache.contact.contact import BRIEF, BRIEF_PAUSE, MAX_BACKOFF, PATIENCE, PATIENCE_LOST
from cache.drive import LOOK_SECONDS
from cache.local.device_file import FILE
from cache.namespace.operations import ROOT_INODE
from mountfs.errno_table import errno_of
from tests import contents
from tests.contents import KINDS, STORED_KINDS, Kind
from tests.crash.lossy_durable import LossyDurable
from tests.crash.lossy_sqlite import all_lossy, cut_all
from tests.drives import content_of, make_file
from tests.memory_hub import Line
from tests.mock_time import let_pass
from tests.sync.drives import SMALL, Hub
from tests.sync.test_power_cuts import SharedWorker
from tests.sync.test_whole_drives import (
    COPY,
    KILLED_AT,
    die_running,
    go_on,
    names,
    same_everywhere,
    write,
)
from tests.sync.test_whole_drives import begin as begin_with_folder

pytestmark = pytest.mark.logs_warnings

LIVELY = replace(SMALL, intervals=replace(SMALL.intervals, shared=0.01))
"""What is accepted is published by itself."""


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    return Hub(tmp_path)


@pytest.fixture
def line() -> Line:
    return Line()


@asynccontextmanager
async def passing(clock: MockClock) -> AsyncIterator[None]:
    """Time passes whenever all wait for it."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(let_pass, clock, 1000)
        yield
        nursery.cancel_scope.cancel()


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The lines of the log that somebody sees who does not ask for more."""
    return [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]


async def begin(hub: Hub, kind: Kind = "text") -> None:
    """Two devices know a drive."""
    async with hub.device(1) as first:
        await make_file(first, b"f", contents.content(kind, 50_000, 1))
        await make_file(first, b"g", b"base")
        await first.sync()
    async with hub.device(2):
        pass


@pytest.mark.parametrize("kind", KINDS)
async def test_a_device_opens_and_works_without_its_upstream(hub: Hub, line: Line, kind: Kind) -> None:
    new = contents.content(kind, 80_000, 2)
    await begin(hub)
    line.cut()
    async with hub.device(2, line=line, crash=True) as second:
        assert {b"f", b"g"} <= {*names(second)}
        made = await make_file(second, b"new", new)
        await second.rename(ROOT_INODE, b"g", ROOT_INODE, b"h")
        await second.fsync(made.inode)
        assert await content_of(second, b"new") == new
        with pytest.raises(AwayError, match="not published"):
            await second.sync()
    async with hub.device(2, line=line) as second:
        assert await content_of(second, b"new") == new
        line.mend()
        await same_everywhere(hub, second)
        assert {b"new", b"h"} <= {*names(second)}


async def test_nobody_waits_for_long_for_a_silent_upstream(
    hub: Hub, line: Line, mock_clock: MockClock
) -> None:
    """Neither who has something to publish, once the loss is known, nor who asks for the status before."""
    await begin(hub)
    async with passing(mock_clock), hub.device(2, line=line, crash=True) as second:
        line.cut(silent=True)
        with trio.fail_after(LOOK_SECONDS + 1):
            assert (await second.status()).away is None
        with trio.fail_after(PATIENCE + LOOK_SECONDS + 1):
            while (await second.status()).away is None:
                await trio.sleep(0.1)
        await make_file(second, b"new", b"waits")
        with trio.fail_after(PATIENCE_LOST + 1), pytest.raises(AwayError, match="not published"):
            await second.sync()


async def test_without_the_upstream_all_is_stored_where_nothing_waits(hub: Hub, line: Line) -> None:
    """So the drive can be unmounted."""
    await begin(hub)
    async with hub.device(2, line=line) as second:
        line.cut()
        await second.sync()
        assert await second.redundancy() == ""


async def test_a_new_folder_needs_the_upstream(hub: Hub, line: Line) -> None:
    await begin(hub)
    line.cut()
    with pytest.raises(AwayError, match="has no state of the drive"):
        async with hub.device(3, line=line):
            pass
    line.mend()
    async with hub.device(3, line=line):
        pass


async def test_a_folder_that_is_no_device_needs_the_upstream(hub: Hub, line: Line) -> None:
    await begin(hub)
    (hub.folder / "2" / FILE).unlink()
    line.cut()
    with pytest.raises(AwayError, match="no device of the drive yet"):
        async with hub.device(2, line=line):
            pass


async def test_it_follows_rebases_and_publishes_by_itself_when_the_upstream_answers(
    hub: Hub, line: Line, mock_clock: MockClock
) -> None:
    await begin(hub)
    line.cut()
    async with hub.device(1) as first, hub.device(2, line=line, options=LIVELY) as second:
        await write(first, b"g", b"of the first")
        await make_file(first, b"there", b"there")
        await first.sync()
        await write(second, b"g", b"of the second")
        await make_file(second, b"here", b"here")
        await let_pass(mock_clock, 300)
        assert b"there" not in names(second)
        line.mend()
        await let_pass(mock_clock, MAX_BACKOFF + 1)
        assert {b"there", b"here"} <= {*names(second)}
        assert not second.ledger.unpublished
        await first.publisher.follow()
        (copy,) = [name for name in names(first) if COPY in name]
        assert await content_of(first, copy) == b"of the second"
        await same_everywhere(hub, first, second)


@pytest.mark.parametrize("silent", [False, True])
async def test_an_upstream_that_goes_under_a_drive_is_said_once(
    hub: Hub, line: Line, mock_clock: MockClock, caplog: pytest.LogCaptureFixture, silent: bool
) -> None:
    caplog.set_level(logging.INFO)
    await begin(hub)
    async with hub.device(2, line=line, options=LIVELY) as second:
        await let_pass(mock_clock, 1)
        line.cut(silent=silent)
        await make_file(second, b"one", b"1")
        second.contact.doubt()
        await let_pass(mock_clock, 300)
        assert len(said(caplog)) == 1
        assert second.contact.is_lost is True
        # It asks some 30 s apart, and publishing is tried as often.
        assert 10 < line.calls < 100
        line.mend()
        await let_pass(mock_clock, PATIENCE + MAX_BACKOFF + 1)
        assert second.contact.reason == ""
        # What was asked in silence is never answered: a client gives up by itself, this one does not.
        assert silent or not second.ledger.unpublished


async def test_the_status_says_since_when_and_how_much_waits(
    hub: Hub, line: Line, mock_clock: MockClock
) -> None:
    await begin(hub)
    line.cut()
    before = time.time_ns()
    async with hub.device(2, line=line, crash=True) as second:
        away = (await second.status()).away
        assert away is not None
        assert away.reason == "the line to the hub is cut"
        assert before <= away.since_ns <= time.time_ns()
        assert (await second.status()).waiting is None
        await make_file(second, b"one", b"1" * 5000)
        after = time.time_ns()
        await let_pass(mock_clock, 10)
        await write(second, b"g", b"two")
        waiting = (await second.status()).waiting
        assert waiting is not None
        assert waiting.changes >= 4
        assert waiting.bytes >= 5003
        assert before - 10**8 <= waiting.since_ns <= after
    async with hub.device(2, line=line) as second:
        again = (await second.status()).waiting
        assert again is not None
        assert again.since_ns == waiting.since_ns
        line.mend()
        await let_pass(mock_clock, MAX_BACKOFF + 1)
        await second.sync()
        status = await second.status()
        assert (status.away, status.waiting) == (None, None)


async def test_reading_what_is_not_here_fails_soon_and_works_again_at_once(
    hub: Hub, line: Line, mock_clock: MockClock
) -> None:
    await begin(hub)
    line.cut(silent=True)
    async with passing(mock_clock), hub.device(2, line=line) as second:
        for _ in range(3):
            began = trio.current_time()
            with pytest.raises(AwayError) as raised:
                await content_of(second, b"f")
            assert trio.current_time() - began == pytest.approx(PATIENCE_LOST)
            assert errno_of(raised.value) == errno.ENETDOWN
        line.mend()
        assert await content_of(second, b"f") == contents.content("text", 50_000, 1)


async def test_a_read_waits_for_an_upstream_that_goes_for_a_minute(
    hub: Hub, line: Line, mock_clock: MockClock
) -> None:
    """Who reads later than that waits no longer than is said of a loss that is known."""
    await begin(hub)
    async with hub.device(2, line=line) as second:
        await wait_all_tasks_blocked()
        line.cut(silent=True)
        began = trio.current_time()
        second.contact.doubt()
        async with passing(mock_clock):
            with pytest.raises(AwayError):
                await content_of(second, b"f")
            assert BRIEF <= trio.current_time() - began <= PATIENCE + BRIEF + BRIEF_PAUSE + PATIENCE_LOST
            began = trio.current_time()
            with pytest.raises(AwayError):
                await content_of(second, b"f")
            assert trio.current_time() - began == pytest.approx(PATIENCE_LOST)


@pytest.mark.parametrize("silent", [False, True])
async def test_who_waits_for_the_upstream_keeps_nobody_else_waiting(
    hub: Hub, line: Line, mock_clock: MockClock, silent: bool
) -> None:
    """Many read, and what publishes needs the bytes beside a change. Names, changes, what is here and a sync
    are answered meanwhile, and the drive can be closed."""
    await begin(hub)
    async with hub.device(2, line=line, options=LIVELY) as second:
        await wait_all_tasks_blocked()
        line.cut(silent=silent)
        second.contact.doubt()
        async with passing(mock_clock), trio.open_nursery() as readers:
            while not second.contact.is_lost:
                await trio.sleep(0.1)
            began = trio.current_time()
            for _ in range(100):
                readers.start_soon(content_of, second, b"f")
            file = second.lookup(ROOT_INODE, b"f").inode
            await second.write(file, 20_000, b"in the middle")
            await trio.sleep(1)
            with trio.fail_after(PATIENCE_LOST + 1):
                assert {b"f", b"g"} <= {*names(second)}
                await make_file(second, b"new", b"here")
                assert await content_of(second, b"new") == b"here"
                assert await second.read(file, 20_000, 13) == b"in the middle"
                await second.fsync(file)
                with pytest.raises(AwayError, match="not published"):
                    await second.sync()
            assert len(readers.child_tasks) == 100
            readers.cancel_scope.cancel()
    assert trio.current_time() - began < BRIEF / 2


async def test_many_who_wait_for_the_upstream_are_told_at_once(
    hub: Hub, line: Line, mock_clock: MockClock
) -> None:
    await begin(hub)
    line.cut(silent=True)
    async with passing(mock_clock), hub.device(2, line=line) as second:

        async def read() -> None:
            with pytest.raises(AwayError):
                await content_of(second, b"f")

        with trio.fail_after(PATIENCE_LOST + 1):
            async with trio.open_nursery() as readers:
                for _ in range(20):
                    readers.start_soon(read)


@pytest.mark.parametrize("silent", [False, True])
@pytest.mark.parametrize("kind", STORED_KINDS)
async def test_a_read_is_answered_though_the_upstream_goes_and_comes_back(
    hub: Hub, line: Line, mock_clock: MockClock, kind: Kind, silent: bool
) -> None:
    """A server that is started again, a database that fails over: programs wait, and see no error."""
    await begin(hub, kind)
    async with hub.device(2, line=line) as second:
        await wait_all_tasks_blocked()
        line.cut(silent=silent)
        second.contact.doubt()

        async def come_back() -> None:
            await trio.sleep(BRIEF / 2)
            line.mend()

        async with passing(mock_clock), trio.open_nursery() as nursery:
            nursery.start_soon(come_back)
            assert await content_of(second, b"f") == contents.content(kind, 50_000, 1)


async def test_an_upstream_that_never_answers_does_not_keep_a_drive_from_opening(
    hub: Hub, line: Line, mock_clock: MockClock
) -> None:
    await begin(hub)
    line.cut(silent=True)
    began = trio.current_time()
    async with passing(mock_clock), hub.device(2, line=line) as second:
        assert trio.current_time() - began <= PATIENCE + 1
        await make_file(second, b"one", b"1")
        await second.fsync(second.lookup(ROOT_INODE, b"one").inode)
        assert trio.current_time() - began <= PATIENCE + 1


async def opened_and_killed(hub: Hub, line: Line, number: int) -> None:
    async with hub.device(2, line=line, crash=True) as second:
        made = await make_file(second, b"here%d" % number, b"here")
        await second.fsync(made.inode)


async def test_a_device_that_is_killed_again_and_again_while_it_is_offline_keeps_all(
    hub: Hub, line: Line
) -> None:
    await begin(hub)
    async with hub.device(1) as first:
        await make_file(first, b"there", b"there")
        await first.sync()
    line.cut()
    for number in range(4):
        await opened_and_killed(hub, line, number)
    line.mend()
    async with hub.device(2, line=line) as second:
        await same_everywhere(hub, second)
        assert {b"there", *(b"here%d" % number for number in range(4))} <= {*names(second)}


async def test_a_commit_whose_answer_was_lost_counts_when_the_upstream_is_back(hub: Hub, line: Line) -> None:
    """The device is killed after it was asked for, and opens without its upstream."""
    await begin(hub)
    data = contents.content("log", 60_000, 3)
    async with hub.device(2, line=line, crash=True) as second:
        await make_file(second, b"new", data)
        hub.upstream.fail_after_append = True
        with pytest.raises(Exception, match="answer was lost"):
            await second.sync()
    line.cut()
    async with hub.device(2, line=line) as second:
        await make_file(second, b"later", b"later")
        line.mend()
        await same_everywhere(hub, second)
        assert await content_of(second, b"new") == data
        assert [name for name in names(second) if COPY in name] == []


async def test_the_same_tree_after_both_were_offline(hub: Hub) -> None:
    await begin(hub)
    lines = Line(), Line()
    for each in lines:
        each.cut()
    async with hub.device(1, line=lines[0]) as first, hub.device(2, line=lines[1]) as second:
        for number, drive in enumerate((first, second)):
            await make_file(drive, b"own%d" % number, b"own")
            await write(drive, b"g", b"of %d" % number)
        for each in lines:
            each.mend()
        found = await same_everywhere(hub, first, second)
        assert {b"/own0", b"/own1"} <= found.keys()


@pytest.mark.parametrize(("name", "skip"), KILLED_AT)
async def test_a_device_that_is_killed_in_a_rebase_opens_offline(
    hub: Hub, line: Line, name: str, skip: int
) -> None:
    """Its journal has the commits of others that it stands on."""
    await begin_with_folder(hub)
    await die_running(hub, name, skip)
    line.cut()
    for number in range(2):
        await opened_and_killed(hub, line, number)
    async with hub.device(2, line=line) as second:
        assert {b"f", b"h", b"d", b"here0", b"here1"} <= {*names(second)}
        line.mend()
        await same_everywhere(hub, second)
    await go_on(hub)


async def test_what_was_followed_and_published_in_turn_is_brought_back_offline(
    hub: Hub, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The namespace on the disk is older than all of it: commits of others and own ones in turn."""
    await begin(hub)
    database = hub.folder / "2" / "namespace.db"
    async with hub.device(1) as first, hub.device(2, crash=True) as second:
        before = database.read_bytes()
        monkeypatch.setattr(second.ledger.namespace, "checkpoint", lambda: None)
        for number in range(4):
            await make_file(first, b"there%d" % number, b"there")
            await first.sync()
            await second.publisher.follow()
            await make_file(second, b"here%d" % number, b"here")
            await second.sync()
            await first.publisher.follow()
        made = await make_file(second, b"unpublished", b"unpublished")
        await second.fsync(made.inode)
        expected = names(second)
    for each in database.parent.glob("namespace.db*"):
        each.unlink()
    database.write_bytes(before)
    line.cut()
    async with hub.device(2, line=line) as second:
        assert names(second) == expected
        assert await content_of(second, b"unpublished") == b"unpublished"
        line.mend()
        await same_everywhere(hub, second)


class OfflineWorker(SharedWorker):
    """Its device opens now and then without the hub, which answers again soon."""

    async def life(self) -> None:
        disk, line = LossyDurable(self.chance, self.folder.with_name("kept")), Line()
        if self.folder.exists() and self.chance.random() < 0.7:
            line.cut()
        with all_lossy(disk) as environment:
            async with self.hub.device(2, crash=True, environment=environment, line=line) as drive:
                assert sum(name.isdigit() for name in names(drive)) >= self.durable_count
                line.mend()
                drive.contact.regain()
                await self.check(drive)
                for _ in range(self.chance.randint(0, 40)):
                    await (self.others() if self.chance.random() < 0.3 else self.step(drive))
                    if self.chance.random() < 0.3:
                        await drive.publisher.follow()
                disk.stop()
        self.upstream.lose_unflushed()
        cut_all(disk, self.folder)


@pytest.mark.parametrize("seed", range(12))
async def test_a_device_that_lost_its_power_opens_offline_with_what_it_synced(
    tmp_path: Path, seed: int
) -> None:
    worker = OfflineWorker(tmp_path, random.Random(seed))
    for _ in range(5):
        await worker.life()
    async with worker.hub.device(2) as drive:
        await worker.check(drive)
