"""Mass deletions on whole drives: the pin, the notice, and having them undone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from stat import S_IFDIR
from typing import Final

import pytest
import trio
from trio.testing import MockClock

from backend.system import Environment
from cache.drive import Drive
from cache.errors import InvalidArgumentError, NoEntryError, NoSpaceLeftError
from cache.messages import NOTICES, UNDO
from cache.namespace.operations import ROOT_INODE, Operation
from cache.notices import Kind
from cache.retention import RetentionSchedule
from cache.services import clone, services_of
from cache.sync import Change, NameChanged
from tests.drives import QUIET, make_file, opened, tree
from tests.memory_upstream import MemoryUpstream
from tests.mock_time import environment_of, let_pass

DAY: Final = 24 * 3600.0


@asynccontextmanager
async def running(folder: Path, clock: MockClock, upstream: MemoryUpstream) -> AsyncIterator[Drive]:
    async with opened(folder, upstream, environment=environment_of(clock)) as drive:
        yield drive


@pytest.fixture
def clock(autojump_clock: MockClock) -> MockClock:
    """It stands still but for `let_pass`."""
    autojump_clock.autojump_threshold = float("inf")
    return autojump_clock


async def fill(drive: Drive, count: int) -> int:
    """So many files in a new folder, published; the folder."""
    folder = (await drive.make_node(ROOT_INODE, b"d", S_IFDIR | 0o750, 0, 0, 0)).inode
    for number in range(count):
        await make_file(drive, b"%d" % number, b"content %d" % number, folder)
    await drive.sync()
    return folder


async def empty(drive: Drive, folder: int, count: int) -> None:
    for number in range(count):
        await drive.unlink(folder, b"%d" % number)


async def undo(drive: Drive) -> dict[str, object]:
    return {**await services_of(drive)[UNDO.name]({})}


@pytest.mark.parametrize(
    ("files", "removed", "is_mass"),
    [(1500, 1001, True), (6000, 1000, False), (500, 100, True), (501, 100, False), (99, 99, False)],
)
async def test_many_files_or_a_large_share_of_some(
    tmp_path: Path, clock: MockClock, files: int, removed: int, is_mass: bool
) -> None:
    async with running(tmp_path, clock, MemoryUpstream()) as drive:
        folder = await fill(drive, files)
        await let_pass(clock, 2)
        await empty(drive, folder, removed)
        await let_pass(clock, 2)
        assert (len(drive.retention.pins()), len(drive.kept_notices())) == (int(is_mass), int(is_mass))


@pytest.mark.parametrize("seconds", [0, 2])
async def test_files_that_came_and_went_between_two_looks_are_in_the_state_that_is_pinned(
    tmp_path: Path, clock: MockClock, seconds: int
) -> None:
    """Or before the first one."""
    async with running(tmp_path, clock, MemoryUpstream()) as drive:
        await let_pass(clock, seconds)
        folder = await fill(drive, 150)
        before = drive.ledger.head.number
        await empty(drive, folder, 150)
        await let_pass(clock, 2)
        assert [*drive.retention.pins().values()] == [before]
        assert len(drive.kept_notices()) == 1


async def test_files_that_were_published_after_some_had_gone_are_pinned_with_those(
    tmp_path: Path, clock: MockClock
) -> None:
    """The newest state in which none of them was gone, though there are later ones."""
    async with running(tmp_path, clock, MemoryUpstream()) as drive:
        await let_pass(clock, 2)
        folder = await fill(drive, 150)
        before = drive.ledger.head.number
        await drive.unlink(folder, b"0")
        await drive.sync()
        for number in range(1, 150):
            await drive.unlink(folder, b"%d" % number)
        await let_pass(clock, 2)
        assert [*drive.retention.pins().values()] == [before]


async def test_files_that_could_not_be_removed_are_none(
    tmp_path: Path, clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(operation: Operation) -> None:
        raise NoSpaceLeftError("the journal's disk is full")

    async with running(tmp_path, clock, MemoryUpstream()) as drive:
        folder = await fill(drive, 150)
        await let_pass(clock, 2)
        with monkeypatch.context() as patched:
            patched.setattr(drive.intake, "accept", refuse)
            for number in range(150):
                with pytest.raises(NoSpaceLeftError):
                    await drive.unlink(folder, b"%d" % number)
        await let_pass(clock, 2)
        assert not drive.retention.pins()


async def test_a_slow_deletion_is_none(tmp_path: Path, clock: MockClock) -> None:
    async with running(tmp_path, clock, MemoryUpstream()) as drive:
        folder = await fill(drive, 400)
        for number in range(300):
            await drive.unlink(folder, b"%d" % number)
            await let_pass(clock, 1)
        assert not drive.retention.pins()


async def test_all_of_it_is_undone_at_once(tmp_path: Path, clock: MockClock) -> None:
    upstream = MemoryUpstream()
    async with running(tmp_path, clock, upstream) as drive:
        folder = await fill(drive, 300)
        inner = (await drive.make_node(folder, b"inner", S_IFDIR | 0o700, 0, 7, 8)).inode
        await make_file(drive, b"deep", b"deep down", inner)
        await drive.sync()
        before = shape(await tree(drive))
        await let_pass(clock, 2)
        await empty(drive, folder, 300)
        await drive.unlink(inner, b"deep")
        await drive.remove_directory(folder, b"inner")
        await drive.remove_directory(ROOT_INODE, b"d")
        await drive.sync()
        await let_pass(clock, 2)
        (notice,) = drive.kept_notices()
        assert (notice.kind, notice.commit) == (Kind.MASS_DELETION, 3)
    async with running(tmp_path, clock, upstream) as drive:
        shown = await services_of(drive)[NOTICES.name]({})
        assert "301 files were deleted" in shown["notices"][0]["text"]
        done = await undo(drive)
        assert (done["made"], done["in_the_way"]) == (303, 0)
        assert shape(await tree(drive)) == before
        assert not drive.kept_notices()
        assert (await undo(drive))["made"] == 0


def shape(found: dict[bytes, tuple[object, ...]]) -> dict[bytes, tuple[object, ...]]:
    """Without inode numbers, and times of folders."""
    return {path: (*values[1:6], *values[8:]) for path, values in found.items()}


async def test_what_is_there_now_is_left_and_what_was_moved_is_not_doubled(
    tmp_path: Path, clock: MockClock
) -> None:
    async with running(tmp_path, clock, MemoryUpstream()) as drive:
        folder = await fill(drive, 300)
        await let_pass(clock, 2)
        await empty(drive, folder, 250)
        await make_file(drive, b"7", b"another", folder)
        await drive.rename(folder, b"299", ROOT_INODE, b"moved")
        await let_pass(clock, 2)
        done = await undo(drive)
        assert (done["made"], done["in_the_way"]) == (249, 1)
        assert drive.lookup(folder, b"7").size == len(b"another")
        with pytest.raises(NoEntryError):
            drive.lookup(folder, b"299")


async def test_a_tree_that_is_too_much_for_one_step_comes_back_in_several(
    tmp_path: Path, clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clone, "MOST_BYTES", 2000)
    async with running(tmp_path, clock, MemoryUpstream()) as drive:
        folder = await fill(drive, 120)
        before = shape(await tree(drive))
        await let_pass(clock, 2)
        await empty(drive, folder, 120)
        await drive.remove_directory(ROOT_INODE, b"d")
        await let_pass(clock, 2)
        assert (await undo(drive))["made"] == 121
        assert shape(await tree(drive)) == before


@pytest.mark.parametrize("in_the_way", ["removed", "taken", "taken by a file"])
async def test_a_folder_that_changes_while_an_undo_makes_one_in_it_is_no_harm(
    tmp_path: Path, clock: MockClock, monkeypatch: pytest.MonkeyPatch, in_the_way: str
) -> None:
    """It has to be decided on the state that is there then: what is journaled has to fit it."""
    monkeypatch.setattr(clone, "MOST_BYTES", 2000)
    async with running(tmp_path, clock, MemoryUpstream()) as drive:
        folder = (await drive.make_node(ROOT_INODE, b"outer", S_IFDIR | 0o700, 0, 7, 8)).inode
        inner = (await drive.make_node(folder, b"inner", S_IFDIR | 0o700, 0, 7, 8)).inode
        for number in range(120):
            await make_file(drive, b"%d" % number, b"deep", inner)
        await drive.sync()
        await let_pass(clock, 2)
        await empty(drive, inner, 120)
        await drive.remove_directory(folder, b"inner")
        await let_pass(clock, 2)
        drive.hold(folder)
        accept_together, changes = drive.accept_together, [in_the_way]

        async def change_first(make: Callable[[], list[Operation]]) -> None:
            if "_make_folder" in make.__qualname__ and changes:
                await change(drive, folder, changes.pop())
            await accept_together(make)

        monkeypatch.setattr(drive, "accept_together", change_first)
        with pytest.raises(NoEntryError) if in_the_way == "removed" else nullcontext():
            await undo(drive)
        assert not drive.ledger.has_diverged
        assert not changes


async def change(drive: Drive, folder: int, how: str) -> None:
    if how == "removed":
        await drive.remove_directory(ROOT_INODE, b"outer")
    elif how == "taken":
        await drive.make_node(folder, b"inner", S_IFDIR | 0o700, 0, 7, 8)
    else:
        await make_file(drive, b"inner", b"", folder)


async def test_an_undo_that_was_interrupted_goes_on_when_it_is_repeated(
    tmp_path: Path, clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clone, "MOST_BYTES", 2000)
    upstream = MemoryUpstream()
    async with running(tmp_path, clock, upstream) as drive, trio.open_nursery() as nursery:
        folder = await fill(drive, 120)
        before = shape(await tree(drive))
        await let_pass(clock, 2)
        await empty(drive, folder, 120)
        await drive.remove_directory(ROOT_INODE, b"d")
        await let_pass(clock, 2)
        undoing = trio.CancelScope()

        async def interrupt(changes: Sequence[Change]) -> None:
            if any(isinstance(change, NameChanged) and change.name == b"50" for change in changes):
                undoing.cancel()

        await nursery.start(drive.changes.serve, "a test", interrupt)
        with undoing:
            await undo(drive)
        assert undoing.cancelled_caught
        assert 1 < len(await tree(drive)) < 121
        nursery.cancel_scope.cancel()
    async with running(tmp_path, clock, upstream) as drive:
        await undo(drive)
        assert shape(await tree(drive)) == before
        assert not drive.kept_notices()


async def test_a_folder_that_somebody_made_anew_gets_what_it_lacks(tmp_path: Path, clock: MockClock) -> None:
    """As a program does that goes on beside a deletion."""
    async with running(tmp_path, clock, MemoryUpstream()) as drive:
        folder = await fill(drive, 120)
        await let_pass(clock, 2)
        await empty(drive, folder, 120)
        await drive.remove_directory(ROOT_INODE, b"d")
        anew = (await drive.make_node(ROOT_INODE, b"d", S_IFDIR | 0o700, 0, 0, 0)).inode
        await make_file(drive, b"7", b"another", anew)
        await let_pass(clock, 2)
        done = await undo(drive)
        assert (done["made"], done["in_the_way"]) == (119, 1)
        found = await tree(drive)
        assert {path for path in found if path.startswith(b"/d/")} == {b"/d/%d" % n for n in range(120)}
        assert (found[b"/d/7"][-1], found[b"/d/8"][-1]) == (b"another", b"content 8")
        assert drive.lookup(ROOT_INODE, b"d").mode == S_IFDIR | 0o700


async def test_a_file_that_is_too_much_for_one_step_keeps_nothing_else_away(
    tmp_path: Path, clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path, clock, MemoryUpstream()) as drive:
        folder = await fill(drive, 120)
        inode = drive.lookup(folder, b"0").inode
        for number in range(8):
            await drive.set_xattr(inode, b"user.%d" % number, bytes(1000))
        await drive.sync()
        await let_pass(clock, 2)
        await empty(drive, folder, 120)
        await let_pass(clock, 2)
        monkeypatch.setattr(clone, "MOST_BYTES", 5000)
        with pytest.raises(InvalidArgumentError, match=r"but 1 files, .* step: 0$"):
            await undo(drive)
        assert len(await tree(drive)) == 120
        assert drive.kept_notices()


async def test_one_deletion_makes_one_pin_however_long_it_takes(tmp_path: Path, clock: MockClock) -> None:
    async with running(tmp_path, clock, MemoryUpstream()) as drive:
        folder = await fill(drive, 2000)
        await let_pass(clock, 2)
        for number in range(1800):
            await drive.unlink(folder, b"%d" % number)
            if number % 9 == 0:
                await let_pass(clock, 1)
        assert len(drive.retention.pins()) == 1


class Calendar:
    """A wall clock that days can be added to."""

    def __init__(self, clock: MockClock) -> None:
        self._clock = clock
        self.days = 0

    def __call__(self) -> int:
        return int((self._clock.current_time() + self.days * DAY) * 1e9)


async def test_the_pin_goes_after_thirty_days_and_that_of_a_person_stays(
    tmp_path: Path, clock: MockClock
) -> None:
    calendar, options = Calendar(clock), replace(QUIET, retention=RetentionSchedule(period=5))
    environment = Environment(wall_clock=calendar, boot_clock=clock.current_time)
    async with opened(tmp_path, MemoryUpstream(), options, environment=environment) as drive:
        folder = await fill(drive, 300)
        drive.retention.pin(b"mine", 1)
        await let_pass(clock, 2)
        await empty(drive, folder, 300)
        await let_pass(clock, 2)
        for day in range(31):
            assert len(drive.retention.pins()) == (2 if day < 30 else 1)
            calendar.days += 1
            await make_file(drive, b"of day %d" % day)
            await drive.sync()
            await let_pass(clock, 6)
        assert [*drive.retention.pins()] == [b"mine"]


async def test_nothing_is_undone_where_nothing_was_deleted(tmp_path: Path, clock: MockClock) -> None:
    async with running(tmp_path, clock, MemoryUpstream()) as drive:
        with pytest.raises(NoEntryError):
            await undo(drive)
