"""The past of a drive on a memory upstream: as-of trees, points, versions of a path."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cache.attributes import AttributeChange
from cache.drive import Drive
from cache.errors import (
    DirectoryError,
    NoAttributeError,
    NoEntryError,
    NoSpaceLeftError,
    NotDirectoryError,
    StaleError,
)
from cache.history import past_points
from cache.namespace.operations import ROOT_INODE
from cache.past_names import DAY, SECOND, format_time
from cache.publish.cut_rule import Intervals
from tests.contents import KINDS
from tests.contents import content as made_of
from tests.drives import QUIET, make_file, opened
from tests.memory_upstream import MemoryUpstream
from tests.past import Clock, clock, commit, drive, make_folder, write

__all__ = ["clock", "drive"]


async def test_a_state_stays_as_it_was(drive: Drive, clock: Clock) -> None:
    past = drive.past
    made = await make_file(drive, b"f", b"one")
    await drive.set_xattr(made.inode, b"user.x", b"1")
    first = await commit(drive, clock)
    old = drive.attributes(made.inode)
    await write(drive, made.inode, b"two, longer")
    await drive.set_attributes(made.inode, AttributeChange(mode=0o600, uid=5))
    await drive.set_xattr(made.inode, b"user.x", b"2")
    second = await commit(drive, clock)
    await drive.unlink(ROOT_INODE, b"f")
    third = await commit(drive, clock)
    assert replace(past.attributes(made.inode, first), atime_ns=0) == replace(old, atime_ns=0)
    then = past.attributes(made.inode, second)
    assert (then.mode & 0o777, then.uid) == (0o600, 5)
    assert bytes(await past.read(made.inode, first, 0, 99)) == b"one"
    assert bytes(await past.read(made.inode, second, 4, 3)) == b" lo"
    assert await past.read(made.inode, second, 11, 3) == b""
    assert [past.get_xattr(made.inode, b"user.x", at) for at in (first, second)] == [b"1", b"2"]
    assert past.xattr_names(made.inode, first) == [b"user.x"]
    with pytest.raises(NoAttributeError):
        past.get_xattr(made.inode, b"user.y", first)
    with pytest.raises(NoEntryError):
        past.lookup(ROOT_INODE, b"f", third)
    with pytest.raises(StaleError):
        past.row(made.inode, third)
    assert past.walk(b"/f", second).inode == made.inode
    with pytest.raises(NotDirectoryError):
        past.walk(b"f/x", second)
    with pytest.raises(DirectoryError):
        await past.read(ROOT_INODE, first, 0, 1)


async def test_what_is_dirty_or_not_published_is_no_past(drive: Drive, clock: Clock) -> None:
    made = await make_file(drive, b"f", b"one")
    first = await commit(drive, clock)
    await drive.write(made.inode, 0, b"new")
    await make_file(drive, b"other", b"x")
    assert bytes(await drive.past.read(made.inode, first, 0, 9)) == b"one"
    assert drive.past.head == first
    assert [point.commit for point in await drive.past.points(ROOT_INODE)] == [first]
    assert drive.past.versions(ROOT_INODE, b"other") == []


async def test_holes_are_zeros(drive: Drive, clock: Clock) -> None:
    made = await make_file(drive, b"f", b"start")
    await write(drive, made.inode, b"end", 100_000)
    first = await commit(drive, clock)
    await write(drive, made.inode, b"x" * 50_000, 5)
    await commit(drive, clock)
    assert bytes(await drive.past.read(made.inode, first, 0, 200_000)) == b"start" + bytes(99_995) + b"end"


async def test_names_of_moments(drive: Drive, clock: Clock) -> None:
    past, begin = drive.past, clock.now
    assert past.resolve("@2") is None
    await make_file(drive, b"a")
    first = await commit(drive, clock, 0.25)
    await make_file(drive, b"b")
    second = await commit(drive, clock, 3600)
    await make_file(drive, b"c")
    third = await commit(drive, clock, 2 * 24 * 3600)
    names = [f"{format_time(begin)}~2", f"{format_time(begin)}~3", format_time(begin + 3600 * SECOND)]
    assert [past.name_of(number) for number in (first, second, third)] == names
    assert [past.resolve(name) for name in names] == [first, second, third]
    assert past.resolve(f"{format_time(begin)}~4") is None
    assert past.resolve(format_time(begin - SECOND)) is None
    assert past.resolve(format_time(begin + SECOND)) == second
    assert past.resolve(format_time(begin + 7200 * SECOND)) == third
    assert past.resolve(format_time(clock.now)) == third
    assert past.resolve(format_time(clock.now + SECOND)) is None
    assert [past.resolve(text) for text in ("1d", "2d", "49h", "3d")] == [third, third, second, None]
    assert past.resolve(format_time(begin)[:10]) == third
    assert past.resolve(format_time(begin - DAY)[:10]) is None
    assert past.resolve(format_time(clock.now + DAY)[:10]) is None
    assert [past.resolve(text) for text in ("@0", "@2", "@4", "@5", "later", "junk")] == [
        *(None, first, third),
        *(None, None, None),
    ]


async def test_a_clock_that_went_back_hides_no_commit(drive: Drive, clock: Clock) -> None:
    await make_file(drive, b"a")
    await commit(drive, clock, -3600)
    await make_file(drive, b"b")
    second = await commit(drive, clock)
    assert drive.past.resolve(drive.past.name_of(second)) == second


async def test_points_follow_a_tree_and_nothing_else(drive: Drive, clock: Clock) -> None:
    past = drive.past
    upper = await make_folder(drive, b"upper")
    lower = await make_folder(drive, b"lower", upper)
    other = await make_folder(drive, b"other")
    start = await commit(drive, clock)
    file = (await make_file(drive, b"f", b"1", lower)).inode
    made = await commit(drive, clock)
    await make_file(drive, b"g", b"1", other)
    beside = await commit(drive, clock)
    await write(drive, file, b"2")
    written = await commit(drive, clock)
    await drive.set_attributes(file, AttributeChange(mode=0o600))
    changed = await commit(drive, clock)
    await drive.rename(lower, b"f", other, b"f")
    moved = await commit(drive, clock)
    await write(drive, file, b"3")
    elsewhere = await commit(drive, clock)
    await drive.remove_directory(upper, b"lower")
    removed = await commit(drive, clock)

    async def points(directory: int) -> list[int]:
        return [point.commit for point in await past.points(directory)]

    assert await points(lower) == [moved, changed, written, made, start]
    assert await points(upper) == [removed, moved, changed, written, made, start]
    assert await points(other) == [elsewhere, moved, beside, start]
    everything = [removed, elsewhere, moved, changed, written, beside, made, start]
    assert await points(ROOT_INODE) == everything
    path = drive.ledger.namespace.path
    assert past_points.points(path, upper, budget=2) == await past.points(ROOT_INODE)
    assert [point.commit for point in past_points.points(path, upper, limit=2)] == [removed, moved]


async def test_points_of_what_retention_left(drive: Drive, clock: Clock) -> None:
    """Only some commits are still recorded: a change counts for the first of those that shows it."""
    folder = await make_folder(drive, b"folder")
    numbers = [await commit(drive, clock)]
    for number in range(6):
        await make_file(drive, b"f%d" % number, b"x", folder if number % 2 else ROOT_INODE)
        numbers.append(await commit(drive, clock))
    connection = drive.ledger.namespace.synced_connection()
    kept = (numbers[1], numbers[3], numbers[6])
    connection.execute(f"DELETE FROM commits WHERE number NOT IN {kept}")
    connection.execute(f"DELETE FROM past_inode WHERE born > {numbers[3]} AND died <= {numbers[6]}")
    drive.ledger.save()
    found = past_points.points(drive.ledger.namespace.path, folder)
    assert [point.commit for point in found] == [numbers[6], numbers[3], numbers[1]]
    assert [point.commit for point in past_points.points(drive.ledger.namespace.path, ROOT_INODE)] == [*kept][
        ::-1
    ]


async def test_an_orphans_end_is_no_point(drive: Drive, clock: Clock) -> None:
    made = await make_file(drive, b"f", b"1")
    drive.hold(made.inode)
    await commit(drive, clock)
    await drive.unlink(ROOT_INODE, b"f")
    unlinked = await commit(drive, clock)
    drive.release(made.inode)
    assert await commit(drive, clock) > unlinked
    assert (await drive.past.points(ROOT_INODE))[0].commit == unlinked


async def test_versions_follow_the_path(drive: Drive, clock: Clock) -> None:
    past = drive.past
    made = await make_file(drive, b"f.txt", b"one")
    first = await commit(drive, clock, 0.1)
    await write(drive, made.inode, b"two")
    second = await commit(drive, clock)
    await drive.set_attributes(made.inode, AttributeChange(mode=0o600))
    await commit(drive, clock)
    await make_file(drive, b".tmp", b"three")
    await drive.rename(ROOT_INODE, b".tmp", ROOT_INODE, b"f.txt")
    third = await commit(drive, clock)
    await drive.unlink(ROOT_INODE, b"f.txt")
    await make_folder(drive, b"folder")
    await commit(drive, clock)
    versions = past.versions(ROOT_INODE, b"f.txt")
    assert [item.commit for item in versions] == [first, second, third]
    assert [item.name for item in versions] == [past.name_of(item.commit) for item in versions]
    contents = [bytes(await past.read(item.version.inode, item.commit, 0, 9)) for item in versions]
    assert contents == [b"one", b"two", b"three"]
    assert past.names(ROOT_INODE, b"", 9) == [b"f.txt", b"folder"]
    assert past.names(ROOT_INODE, b"f.txt", 9) == [b"folder"]
    assert past.versions(ROOT_INODE, b"folder") == []


async def test_an_open_file_that_is_fsynced_makes_few_versions(tmp_path: Path, clock: Clock) -> None:
    options = replace(QUIET, intervals=Intervals(commit=3600, version=3600))
    async with opened(tmp_path / "cache", MemoryUpstream(), options) as drive:
        made = await make_file(drive, b"f")
        for number in range(20):
            await drive.write(made.inode, 0, b"%d" % number)
            await drive.set_attributes(made.inode, AttributeChange(mtime_ns=clock.now, ctime_ns=clock.now))
            await drive.fsync(made.inode)
            await drive.publisher.publish(everything=False)
            clock.now += SECOND
        assert len(drive.past.versions(ROOT_INODE, b"f")) == 1
        assert len(await drive.past.points(ROOT_INODE)) == 1
        await drive.settle(made.inode)
        await drive.publisher.publish(everything=False)
        versions = drive.past.versions(ROOT_INODE, b"f")
        assert len(versions) == 2
        assert drive.attributes(made.inode).mtime_ns == clock.now - SECOND
        assert bytes(await drive.past.read(made.inode, versions[-1].commit, 0, 9)) == b"19"


async def told(drive: Drive, inode: int, mtime_ns: int, ctime_ns: int) -> None:
    """The kernel says which times it shows."""
    await drive.set_attributes(inode, AttributeChange(mtime_ns=mtime_ns, ctime_ns=ctime_ns))
    assert times(drive, inode) == (mtime_ns, ctime_ns)


def times(drive: Drive, inode: int) -> tuple[int, int]:
    found = drive.attributes(inode)
    return found.mtime_ns, found.ctime_ns


async def test_times_of_a_file_that_is_being_written_are_kept_at_once(tmp_path: Path, clock: Clock) -> None:
    """They make no operation, and outlive the process with the content."""
    upstream = MemoryUpstream()
    async with opened(tmp_path / "cache", upstream, QUIET) as drive:
        made = await make_file(drive, b"f")
        await drive.write(made.inode, 0, b"x")
        before = drive.ledger.open_operations
        await told(drive, made.inode, 5, clock.now)
        assert drive.ledger.open_operations == before
    async with opened(tmp_path / "cache", upstream, QUIET) as drive:
        assert times(drive, made.inode) == (5, clock.now)
        await drive.sync()
        assert times(drive, made.inode) == (5, clock.now)
    async with opened(tmp_path / "other", upstream, QUIET) as drive:
        assert times(drive, made.inode) == (5, clock.now)


async def test_times_of_a_file_at_rest_are_kept_at_once(tmp_path: Path, clock: Clock) -> None:
    """The kernel tells when it thinks that a file was renamed, before or after what the drive thinks."""
    upstream = MemoryUpstream()
    async with opened(tmp_path / "one", upstream) as drive:
        made = await make_file(drive, b"f", b"content")
        await commit(drive, clock)
        await drive.rename(ROOT_INODE, b"f", ROOT_INODE, b"h")
        mtime_ns, ctime_ns = times(drive, made.inode)
        await told(drive, made.inode, mtime_ns, ctime_ns - 50)
        before = drive.ledger.open_operations
        await told(drive, made.inode, mtime_ns, ctime_ns - 50)
        assert drive.ledger.open_operations == before
        await commit(drive, clock)
    async with opened(tmp_path / "two", upstream) as drive:
        assert times(drive, made.inode) == (mtime_ns, ctime_ns - 50)


@pytest.mark.parametrize("closed", [False, True])
async def test_the_last_change_of_a_dirty_file_says_when_it_was(drive: Drive, closed: bool) -> None:
    """Also if the clock went back meanwhile."""
    made = await make_file(drive, b"f")
    await drive.write(made.inode, 0, b"x")
    if closed:
        await drive.settle(made.inode)
    mtime_ns, last = times(drive, made.inode)
    for turn, change in enumerate(
        (
            drive.link(made.inode, ROOT_INODE, b"g"),
            drive.rename(ROOT_INODE, b"g", ROOT_INODE, b"h"),
            drive.set_xattr(made.inode, b"user.a", b"b"),
            drive.remove_xattr(made.inode, b"user.a"),
            drive.unlink(ROOT_INODE, b"h"),
        ),
        1,
    ):
        await told(drive, made.inode, mtime_ns, last + turn * 10**12)
        await change
        assert times(drive, made.inode)[0] == mtime_ns
        assert times(drive, made.inode)[1] < last + turn * 10**12


async def test_access_times_are_put_off_until_they_can_be_accepted(
    drive: Drive, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = await make_file(drive, b"f")
    drive.touch(made.inode)
    read_at = drive.attributes(made.inode).atime_ns
    with monkeypatch.context() as patch:
        patch.setattr(drive.ledger, "accept_all", _full)
        with pytest.raises(NoSpaceLeftError):
            await drive.accept_times()
    assert drive.attributes(made.inode).atime_ns == read_at
    await drive.accept_times()
    assert drive.attributes(made.inode).atime_ns == read_at
    await drive.unlink(ROOT_INODE, b"f")
    await drive.accept_times()


def _full(_operations: object) -> None:
    raise NoSpaceLeftError("full")


async def test_the_past_is_the_same_elsewhere(tmp_path: Path, clock: Clock) -> None:
    upstream = MemoryUpstream()
    async with opened(tmp_path / "one", upstream) as drive:
        folder = await make_folder(drive, b"d")
        made = await make_file(drive, b"f", made_of("text", 5000, "first"), folder)
        for kind in KINDS:
            await commit(drive, clock)
            await write(drive, made.inode, made_of(kind, 4000), 1000)
        await commit(drive, clock)
        points = await drive.past.points(folder)
        contents = [bytes(await drive.past.read(made.inode, point.commit, 0, 9000)) for point in points]
    async with opened(tmp_path / "two", upstream) as drive:
        assert await drive.past.points(folder) == points
        assert [bytes(await drive.past.read(made.inode, at.commit, 0, 9000)) for at in points] == contents
