"""`.versions`: what it lists, its inodes, and what the kernel may remember of it."""

from __future__ import annotations

from hashlib import blake2b
from stat import S_ISDIR, S_ISLNK, S_ISREG

import pytest

from cache.drive import Drive
from cache.errors import (
    DirectoryError,
    InvalidArgumentError,
    NoEntryError,
    NotDirectoryError,
    StaleError,
)
from cache.history.past import PAST_BIT
from cache.namespace.operations import ROOT_INODE
from cache.services.versions_view import Found, VersionsView
from tests.drives import make_file
from tests.past import Clock, clock, commit, drive, make_folder, write

__all__ = ["clock", "drive"]


async def found_at(view: VersionsView, *names: bytes, directory: int = ROOT_INODE) -> Found:
    """What a walk from a live directory's `.versions` ends at; everything on the way is held."""
    found = view.enter(directory)
    view.hold(found)
    for name in names:
        found = await view.lookup(found.attributes.inode, name)
        view.hold(found)
    return found


async def listed(view: VersionsView, found: Found, page: int = 2) -> list[tuple[bytes, int]]:
    handle, after, names = await view.open_directory(found.attributes.inode), 0, []
    while entries := view.entries(handle, after, page):
        names += [(entry.name, entry.attributes.inode) for entry, _ in entries]
        assert entries[-1][0].cookie > after
        after = entries[-1][0].cookie
    view.close_directory(handle)
    return names


async def test_the_view_lists_times_and_nothing_else(drive: Drive, clock: Clock) -> None:
    view = VersionsView(drive)
    folder = await make_folder(drive, b"d")
    commits = []
    for number in range(5):
        await make_file(drive, b"f%d" % number, b"%d" % number, folder)
        commits.append(await commit(drive, clock))
    names = [drive.past.name_of(number).encode() for number in commits[::-1]]
    top = await found_at(view, directory=folder)
    assert [name for name, _ in await listed(view, top)] == names
    latest = await found_at(view, b"latest", directory=folder)
    assert await view.read_link(latest.attributes.inode) == names[0]
    inside = await found_at(view, names[-2], directory=folder)
    assert [name for name, _ in await listed(view, inside)] == [b"f0", b"f1"]
    with pytest.raises(NoEntryError):
        await found_at(view, names[0], b".versions", directory=folder)
    for name in (b"nonsense", b".versions", b"2001-01-01", b"\xff"):
        with pytest.raises(NoEntryError):
            await found_at(view, name, directory=folder)


async def test_numbers_are_high_distinct_and_stable(drive: Drive, clock: Clock) -> None:
    folder = await make_folder(drive, b"d")
    made = await make_file(drive, b"f", b"1", folder)
    await drive.link(made.inode, folder, b"hard")
    first = drive.past.name_of(await commit(drive, clock)).encode()
    await write(drive, made.inode, b"2")
    second = drive.past.name_of(await commit(drive, clock)).encode()
    paths: list[tuple[bytes, ...]] = [
        *((), (first,), (second,), (b"@2",), (b"10s",), (b"latest",), (first, b"d"), (first, b"d", b"f")),
        *((second, b"d"), (second, b"d", b"f"), (b"@2", b"d"), (b"@2", b"d", b"f"), (b"by-name",)),
    ]
    numbers = [
        [(await found_at(view, *path)).attributes.inode for path in paths]
        for view in (VersionsView(drive), VersionsView(drive))
    ]
    assert numbers[0] == numbers[1]
    assert len(set(numbers[0])) == len(paths)
    assert all(PAST_BIT <= number < 2 * PAST_BIT for number in numbers[0])
    view = VersionsView(drive)
    hard = await found_at(view, first, b"d", b"hard")
    assert hard.attributes.inode == (await found_at(view, first, b"d", b"f")).attributes.inode
    assert hard.attributes.nlink == 2
    assert dict(await listed(view, await found_at(view, first, b"d")))[b"f"] == hard.attributes.inode


async def test_numbers_that_collide_are_told_apart(
    drive: Drive, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def poor(key: bytes, digest_size: int) -> object:
        is_first_try = key[25:29] == bytes(4)
        return blake2b(b"" if is_first_try else key, digest_size=digest_size)

    monkeypatch.setattr("cache.services.versions_view.blake2b", poor)
    view = VersionsView(drive)
    await make_file(drive, b"f", b"1")
    name = drive.past.name_of(await commit(drive, clock)).encode()
    found = [await found_at(view), await found_at(view, name), await found_at(view, name, b"f")]
    assert len({each.attributes.inode for each in found}) == 3
    assert [view.find(each.attributes.inode).node for each in found] == [each.node for each in found]


async def test_what_the_kernel_forgot_is_gone(drive: Drive, clock: Clock) -> None:
    view = VersionsView(drive)
    await make_file(drive, b"f", b"1")
    name = drive.past.name_of(await commit(drive, clock)).encode()
    found = await found_at(view, name, b"f")
    number = found.attributes.inode
    view.hold(found)
    view.release(number)
    assert bytes(await view.read(number, 0, 9)) == b"1"
    view.release(number)
    with pytest.raises(StaleError):
        view.find(number)


async def test_what_may_be_remembered(drive: Drive, clock: Clock) -> None:
    view = VersionsView(drive)
    await make_file(drive, b"f", b"1")
    name = drive.past.name_of(await commit(drive, clock)).encode()
    for relative in (b"5s", b"@2", b"latest"):
        assert (await found_at(view, relative)).name_seconds == 0
    assert (await found_at(view)).attribute_seconds == 0
    for names in ((name,), (name, b"f"), (b"5s", b"f")):
        found = await found_at(view, *names)
        assert found.name_seconds == 0  # who looks is checked each time
        assert found.attribute_seconds == 0  # so is who asks whether he may write
    whole = await VersionsView(drive, None, as_of=2).lookup(ROOT_INODE, b"f")
    assert whole.name_seconds > 0
    assert whole.attribute_seconds > 0


async def test_by_name_in_the_view(drive: Drive, clock: Clock) -> None:
    view = VersionsView(drive)
    made = await make_file(drive, b"f.txt", b"one")
    await commit(drive, clock, 0.1)
    await write(drive, made.inode, b"two")
    await commit(drive, clock)
    await make_folder(drive, b"folder")
    await drive.symlink(ROOT_INODE, b"link", b"target", 0, 0)
    await drive.unlink(ROOT_INODE, b"f.txt")
    await commit(drive, clock)
    assert [name for name, _ in await listed(view, await found_at(view, b"by-name"))] == [b"f.txt", b"link"]
    names = [name for name, _ in await listed(view, await found_at(view, b"by-name", b"f.txt"))]
    begin = drive.past.name_of(1).encode()
    assert names == [begin + b"~2.txt", begin + b"~3.txt"]
    contents = []
    for name in names:
        found = await found_at(view, b"by-name", b"f.txt", name)
        assert S_ISREG(found.attributes.mode)
        contents.append(bytes(await view.read(found.attributes.inode, 0, 9)))
    assert contents == [b"one", b"two"]
    link = await listed(view, await found_at(view, b"by-name", b"link"))
    found = await found_at(view, b"by-name", b"link", link[0][0])
    assert S_ISLNK(found.attributes.mode)
    assert await view.read_link(found.attributes.inode) == b"target"
    for missing in ((b"folder",), (b"nope",), (b"f.txt", begin)):
        with pytest.raises(NoEntryError):
            await found_at(view, b"by-name", *missing)
    with pytest.raises(NotDirectoryError):
        await found_at(view, b"by-name", b"f.txt", names[0], b"x")


async def test_above_leads_back(drive: Drive, clock: Clock) -> None:
    view = VersionsView(drive)
    folder = await make_folder(drive, b"d")
    await make_folder(drive, b"e", folder)
    name = drive.past.name_of(await commit(drive, clock)).encode()

    async def above(*names: bytes) -> int:
        handle = await view.open_directory((await found_at(view, *names)).attributes.inode)
        return view.above(handle, b"..").inode

    async def number(*names: bytes) -> int:
        return (await found_at(view, *names)).attributes.inode

    assert await above() == ROOT_INODE
    assert await above(name) == await number()
    assert await above(name, b"d") == await number(name)
    assert await above(name, b"d", b"e") == await number(name, b"d")
    assert await above(b"by-name") == await number()
    top = await number()
    for call in (view.read(top, 0, 1), view.read_link(top)):
        with pytest.raises((DirectoryError, InvalidArgumentError)):
            await call
    assert view.xattr_names(top) == []
    assert S_ISDIR(view.find(top).attributes.mode)
    assert view.find(top).attributes.mode & 0o222 == 0


async def test_a_whole_mount_of_the_past(drive: Drive, clock: Clock) -> None:
    folder = await make_folder(drive, b"d")
    await make_file(drive, b"f", b"1", folder)
    at = await commit(drive, clock)
    await drive.unlink(folder, b"f")
    await commit(drive, clock)
    view = VersionsView(drive, as_of=at)
    assert view.first == 0
    assert view.name is None
    root = view.find(ROOT_INODE)
    assert root.attributes.inode == ROOT_INODE
    inner = await view.lookup(ROOT_INODE, b"d")
    view.hold(inner)
    file = await view.lookup(inner.attributes.inode, b"f")
    view.hold(file)
    assert bytes(await view.read(file.attributes.inode, 0, 9)) == b"1"
    handle = await view.open_directory(inner.attributes.inode)
    assert view.above(handle, b"..").inode == ROOT_INODE
    with pytest.raises(NoEntryError):
        await view.lookup(ROOT_INODE, b".versions")


# When a version is made
