"""Large rebases: the drive is read and changed while they are made on a shadow of its namespace."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from stat import S_IFREG
from typing import Final

import pytest
import trio
import trio.testing

import cache.drive as drive_module
import cache.presence.presence as presence_module
from backend.errors import FencedError, NoSpaceError
from backend.failpoints import Failpoints
from backend.system import Environment
from cache.attributes import AttributeChange
from cache.drive import Drive
from cache.errors import NoSpaceLeftError
from cache.journal import rebasing
from cache.namespace import Create, MalformedError, Namespace, SetXattr, Shadow
from cache.namespace.operations import ROOT_INODE, Operation
from cache.presence import Presence, Present, Writing
from cache.rebase import Device, Resolved, Tail, take_up
from cache.retention import mass_deletion
from cache.sync import Follower, follower, rebaser
from tests.drives import content_of, make_file, tree
from tests.sync.drives import Hub
from tests.sync.test_power_cuts import (
    test_what_was_synced_outlives_a_power_cut_among_others as outlives_power_cuts,
)
from tests.sync.test_random_drives import test_drives_that_do_anything_converge as drives_converge
from tests.sync.test_whole_drives import (
    COPY,
    StillHub,
    begin,
    change_here,
    change_there,
    die,
    die_running,
    go_on,
    names,
    same_everywhere,
    write,
)
from tests.unit.cache.test_drive import FullDisk

PATIENCE: Final = 60
GROUP: Final = AttributeChange(mode=0o640)
KILLED_AT: Final = [
    ("rebase.aside", 0),
    ("rebase.spooled", 0),
    ("rebase.journaled", 0),
    ("rebase.synced", 0),
    ("journal.appended", 0),
    ("journal.appended", 2),
    ("ledger.saved", 0),
    ("ledger.saved", 1),
    ("namespace.committing", 0),
]
"""Failpoints, and how often each is passed before the kill."""


@pytest.fixture(autouse=True)
def all_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each rebase is made aside."""
    monkeypatch.setattr(rebaser, "STEP", -1)


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    return Hub(tmp_path, StillHub())


class Slow:
    """Rebases of which those in a thread are made, but do not end before they are let."""

    def __init__(self) -> None:
        self._go = threading.Semaphore(0)
        self.made = 0

    def take_up(self, namespace: Namespace, follow: Callable[[], None], device: Device) -> Resolved:
        resolved = take_up(namespace, follow, device)
        self.made += 1
        if threading.current_thread() is not threading.main_thread():
            assert self._go.acquire(timeout=PATIENCE)
        return resolved

    async def begun(self, count: int = 1) -> None:
        """Return when there are so many."""
        with trio.fail_after(PATIENCE):
            while self.made < count:
                await trio.sleep(0.001)

    def let(self, count: int = 10) -> None:
        """So many end; by default all."""
        self._go.release(count)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Slow]:
    slow = Slow()
    monkeypatch.setattr(rebasing, "take_up", slow.take_up)
    yield slow
    slow.let()


@asynccontextmanager
async def in_a_rebase(hub: Hub, slow: Slow) -> AsyncIterator[Drive]:
    """A device with changes, in the middle of a rebase. At the end that is made, and both have the same."""
    await begin(hub)
    async with hub.device(2) as second:
        await change_here(second)
        await change_there(hub)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(second.publisher.follow)
            await slow.begun()
            try:
                yield second
            finally:
                slow.let()
        assert {b"h", b"d", b"f", b"there0"} <= {*names(second)}
        (copy,) = [name for name in names(second) if COPY in name]
        assert await content_of(second, copy) == b"of the second" * 1000
        await same_everywhere(hub, second)


async def test_the_drive_is_read_while_a_rebase_is_made(hub: Hub, slow: Slow) -> None:
    async with in_a_rebase(hub, slow) as second:
        assert {*names(second)} == {b"f", b"h", b"d"}
        assert await content_of(second, b"f") == b"of the second" * 1000
        inode = second.lookup(ROOT_INODE, b"h").inode
        assert second.attributes(inode).size == 4
        await second.fsync(inode)
        second.tick(-1)
        await second.trimming.trim()
        assert second.ledger.standing.is_aside
    assert slow.made == 1


async def test_changes_go_on_while_a_rebase_is_made(hub: Hub, slow: Slow) -> None:
    """They are done before it is, seen, and there after it."""
    async with in_a_rebase(hub, slow) as second:
        with trio.fail_after(PATIENCE):
            inode = (await make_file(second, b"late", b"late")).inode
            await second.rename(ROOT_INODE, b"late", ROOT_INODE, b"later")
            await second.unlink(ROOT_INODE, b"h")
            await make_file(second, b"h", b"again")
            await second.fsync(inode)
        second.tick(-1)
        assert {*names(second)} == {b"f", b"h", b"d", b"later"}
        assert [row.name for row in second.entries_by_name(ROOT_INODE, b"g", b"m", 9)] == [b"h", b"later"]
        assert await content_of(second, b"h") == b"again"
    assert slow.made == 1
    assert await content_of(second, b"h") == b"again"
    assert await content_of(second, b"later") == b"late"


async def test_what_the_drive_does_of_itself_ends_no_rebase(
    hub: Hub, slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To save, to show what is open, and to pin what was there before a mass deletion: each would write the
    database."""
    monkeypatch.setattr(presence_module, "TICK", 0.001)
    monkeypatch.setattr(drive_module, "TICK", 0.001)
    monkeypatch.setattr(mass_deletion, "SOME", 1)
    ticks, now = 0, Presence.now

    def counted(presence: Presence) -> list[Present]:
        nonlocal ticks
        ticks += 1
        return now(presence)

    async with in_a_rebase(hub, slow) as second:
        assert second.presence is not None
        inode = second.lookup(ROOT_INODE, b"h").inode
        second.presence.writing = lambda: [Writing(inode, ROOT_INODE, b"h")]
        await second.unlink(ROOT_INODE, b"h")
        await make_file(second, b"h", b"again")
        monkeypatch.setattr(Presence, "now", counted)
        with trio.fail_after(PATIENCE):
            while ticks < 100:
                await trio.sleep(0.001)
    assert slow.made == 1


Change = Callable[[Drive], Awaitable[None]]


async def _writes(drive: Drive) -> None:
    await drive.write(drive.lookup(ROOT_INODE, b"g").inode, 0, b"written")


async def _removes(drive: Drive) -> None:
    await drive.unlink(ROOT_INODE, b"g")


async def _chmods(drive: Drive) -> None:
    await drive.set_attributes(drive.lookup(ROOT_INODE, b"g").inode, AttributeChange(mode=0o600))


async def _writes_the_log_of_a_database(drive: Drive) -> None:
    await drive.write(drive.lookup(ROOT_INODE, b"q-wal").inode, 0, b"written")


async def _makes_a_journal_of_a_database(drive: Drive) -> None:
    await make_file(drive, b"q-journal", b"written")


@pytest.mark.parametrize(
    ("here", "there"),
    [
        (_writes, lambda drive: write(drive, b"g", b"of the first")),
        (_removes, lambda drive: write(drive, b"g", b"of the first")),
        (_chmods, lambda drive: drive.set_attributes(drive.lookup(ROOT_INODE, b"g").inode, GROUP)),
        (_writes_the_log_of_a_database, lambda drive: write(drive, b"q", b"of the first")),
        (_makes_a_journal_of_a_database, lambda drive: write(drive, b"q", b"of the first")),
    ],
)
async def test_a_change_of_what_others_changed_is_resolved_while_others_wait(
    hub: Hub, slow: Slow, here: Change, there: Change
) -> None:
    """The rebase is made anew, and what comes meanwhile waits."""
    async with hub.device(1) as first:
        for name in (b"g", b"q", b"q-wal"):
            await make_file(first, name, b"base")
        await first.sync()
    async with hub.device(2) as second:
        await make_file(second, b"here", b"here")
        async with hub.device(1) as first:
            await there(first)
            await first.sync()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(second.publisher.follow)
            await slow.begun()
            with trio.fail_after(PATIENCE):
                letting = threading.Timer(0.01, slow.let)
                letting.start()
                await here(second)
                letting.join()
        assert slow.made == 2
        settled = await same_everywhere(hub, second)
        assert b"/here" in settled


async def test_changes_that_come_as_fast_as_they_are_taken_wait_at_last(
    hub: Hub, slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: all that had come was done in the last turn, in which no call is answered."""
    taken, in_the_last_turn = 0, list[int]()
    take = Tail.take

    async with in_a_rebase(hub, slow) as second:

        async def more() -> None:
            if not second.ledger.standing.is_still:
                numbers = [second.allocate_number() for _ in range(rebasing.FEW_CHANGES + 1)]
                made: list[Operation] = [
                    Create(ROOT_INODE, b"%d" % n, n, S_IFREG | 0o644, 0, 0, 0, b"", 1) for n in numbers
                ]
                await second.accept_together(lambda: made)

        def take_and_more(tail: Tail, operations: Sequence[Operation], written: Iterable[int]) -> None:
            nonlocal taken
            if threading.current_thread() is threading.main_thread():
                in_the_last_turn.append(len(operations))
            else:
                taken += 1
                trio.from_thread.run(more)
            take(tail, operations, written)

        monkeypatch.setattr(Tail, "take", take_and_more)
        await more()
    assert in_the_last_turn == [0]
    assert taken == rebasing.ROUNDS + 1
    assert slow.made == 1


async def test_changes_wait_for_a_rebase_that_is_made_anew(hub: Hub, slow: Slow) -> None:
    async with in_a_rebase(hub, slow) as second:
        inode = second.lookup(ROOT_INODE, b"f").inode
        await second.set_attributes(inode, AttributeChange(mode=0o600))
        slow.let(1)
        await slow.begun(2)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(make_file, second, b"late", b"late")
            for _ in range(10):
                await trio.sleep(0.001)
            assert {*names(second)} == {b"f", b"h", b"d"}
            assert await content_of(second, b"f") == b"of the second" * 1000
            slow.let()
        assert {b"there0", b"late"} <= {*names(second)}
    assert slow.made == 2


async def test_a_change_that_writes_the_database_is_kept(hub: Hub, slow: Slow) -> None:
    """It waits for nothing but what the shadow is just at. The rebase is made anew."""
    async with in_a_rebase(hub, slow) as second:
        letting, inode = threading.Timer(0.01, slow.let), second.lookup(ROOT_INODE, b"h").inode
        letting.start()
        second.ledger.accept(SetXattr(inode, b"user.a", b"a", 1))
        letting.join()
    assert slow.made == 2
    async with hub.device(1) as first:
        await first.publisher.follow()
        assert first.get_xattr(first.lookup(ROOT_INODE, b"h").inode, b"user.a") == b"a"


async def test_numbers_of_inodes_are_not_wasted(hub: Hub, slow: Slow) -> None:
    """A rebase without copies takes none of those that were left to the changes."""
    await begin(hub)
    async with hub.device(2) as second:
        before = (await make_file(second, b"before", b"")).inode
        async with hub.device(1) as first:
            await make_file(first, b"there", b"")
            await first.sync()
        slow.let()
        await second.publisher.follow()
        assert slow.made == 1
        assert (await make_file(second, b"after", b"")).inode == before + 1


async def test_a_tail_that_takes_more_numbers_than_are_left_to_it_is_kept(
    hub: Hub, slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy that the rebase makes has the number of a file of the tail."""
    monkeypatch.setattr(rebasing, "NUMBERS", 3)
    async with in_a_rebase(hub, slow) as second:
        for number in range(5):
            await make_file(second, b"new%d" % number, b"%d" % number)
    assert slow.made >= 2


@pytest.mark.parametrize("count", [3, 4, 20])
async def test_numbers_that_were_given_before_a_rebase_ended_are_of_nobody_else(
    hub: Hub, slow: Slow, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """An instant copy takes its numbers when it is planned, and is accepted at its end."""
    monkeypatch.setattr(rebasing, "NUMBERS", 3)
    async with in_a_rebase(hub, slow) as second:
        given = [second.allocate_number() for _ in range(count)]
        slow.let()
        while second.ledger.standing.is_aside:
            await trio.testing.wait_all_tasks_blocked(0.01)
        await second.accept_together(
            lambda: [
                Create(ROOT_INODE, b"planned%d" % number, number, S_IFREG | 0o644, 0, 0, 0, b"", 1)
                for number in given
            ]
        )
        assert not second.ledger.has_diverged
    assert (slow.made > 1) == (count > 3)


async def test_what_was_decided_on_who_has_a_file_open_holds_at_the_end(hub: Hub, slow: Slow) -> None:
    """Both made an empty file: it is one, unless somebody has it open here."""
    await begin(hub)
    async with hub.device(2) as second:
        inode = (await make_file(second, b"empty", b"")).inode
        async with hub.device(1) as first:
            await make_file(first, b"empty", b"")
            await first.sync()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(second.publisher.follow)
            await slow.begun()
            second.hold(inode)
            slow.let()
        assert slow.made == 2
        (copy,) = [name for name in names(second) if COPY in name]
        assert second.lookup(ROOT_INODE, copy).inode == inode
        second.release(inode)
        await same_everywhere(hub, second)


@pytest.mark.logs_warnings
async def test_a_refused_commit_changes_nothing(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    await begin(hub)
    async with hub.device(2) as second:
        await change_here(second)
        await change_there(hub)
        before, end = await tree(second), second.ledger.journal.end

        def damaged(*_: object) -> list[bytes]:
            raise MalformedError("damaged")

        monkeypatch.setattr(Follower, "encoded_operations", damaged)
        monkeypatch.setattr(follower, "open_operations", damaged)
        with pytest.raises(FencedError):
            await second.publisher.follow()
        assert (await tree(second), second.ledger.journal.end) == (before, end)
        assert not second.ledger.standing.is_still


@pytest.mark.logs_warnings
@pytest.mark.parametrize(("name", "skip"), KILLED_AT)
@pytest.mark.parametrize("dies", [die, die_running])
async def test_a_device_that_is_killed_in_a_rebase_goes_on(
    hub: Hub, dies: Callable[[Hub, str, int], Awaitable[None]], name: str, skip: int
) -> None:
    await begin(hub)
    if dies is die:
        async with hub.device(2, crash=True) as second:
            await change_here(second)
        await change_there(hub)
    await dies(hub, name, skip)
    await go_on(hub)


@pytest.mark.logs_warnings
@pytest.mark.parametrize("seed", range(2))
async def test_what_was_synced_outlives_a_power_cut(tmp_path: Path, seed: int) -> None:
    await outlives_power_cuts(tmp_path, seed)


@pytest.mark.parametrize("seed", range(20, 22))
async def test_drives_that_do_anything_converge(tmp_path: Path, seed: int) -> None:
    await drives_converge(tmp_path, seed)


async def test_a_commit_of_many_changes_is_followed_aside(
    hub: Hub, slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where nothing is unpublished here."""
    monkeypatch.undo()
    monkeypatch.setattr(rebasing, "take_up", slow.take_up)
    await begin(hub)
    async with hub.device(2) as second:
        async with hub.device(1) as first:
            for number in range(300):
                await make_file(first, b"%d" % number, b"%d" % number)
            await first.sync()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(second.publisher.follow)
            await slow.begun()
            assert len(names(second)) == 3
            slow.let()
        assert len(names(second)) == 303
        await same_everywhere(hub, second)


@pytest.mark.parametrize("more", [0, 1])
async def test_many_small_commits_are_followed_aside(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, more: int
) -> None:
    """And as many as need no pause are not."""
    monkeypatch.setattr(rebaser, "STEP", 1 << 20)
    await begin(hub)
    failpoints, count = Failpoints(), rebaser.MANY + more
    async with hub.device(2, environment=Environment(failpoints=failpoints)) as second:
        async with hub.device(1) as first:
            for number in range(count):
                await make_file(first, b"%d" % number, b"%d" % number)
                await first.sync()
            before = second.ledger.head.number
            assert first.ledger.head.number == before + count
        failpoints.arm("rebase.aside")
        await second.publisher.follow()
        assert failpoints.hits["rebase.aside"] == more
        assert len(names(second)) == 3 + count
        await same_everywhere(hub, second)


async def test_a_rebase_that_finds_no_room_after_what_came_meanwhile_changes_nothing(
    hub: Hub, slow: Slow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: that took the room of the rebase without a pause, and the drive had to be mounted anew."""
    disk, shadow = FullDisk(), Namespace.shadow

    def refused(namespace: Namespace, numbers: int) -> Shadow[Namespace] | None:
        if disk.full:
            raise NoSpaceError("full")
        return shadow(namespace, numbers)

    monkeypatch.setattr(Namespace, "shadow", refused)
    await begin(hub)
    async with hub.device(2, environment=Environment(disk)) as second:
        await change_here(second)
        await change_there(hub)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(is_refused, second.publisher.follow)
            await slow.begun()
            disk.full = True
            file, inode = (second.lookup(ROOT_INODE, name).inode for name in (b"f", b"h"))
            await second.set_attributes(file, AttributeChange(mode=0o600))
            await is_refused(partial(fill, second, inode))
            slow.let()
        assert slow.made == 1
        assert not second.ledger.has_diverged
        assert {*names(second)} == {b"f", b"h", b"d"}
        disk.full = False
        await second.publisher.follow()
        await same_everywhere(hub, second)
        assert await content_of(second, b"h") == b"x" * 900


async def is_refused(call: Callable[[], Awaitable[None]]) -> None:
    with pytest.raises(NoSpaceLeftError, match="disk"):
        await call()


async def fill(drive: Drive, inode: int) -> None:
    """Write until there is no room."""
    while True:
        await drive.write(inode, 0, b"x" * 900)
