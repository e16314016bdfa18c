"""What happened on a drive, told by points; against a model that compares whole trees, too."""

from __future__ import annotations

import random
import sys
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from stat import S_IFDIR, S_ISDIR
from typing import Any, Final

import pytest

from cache.attributes import AttributeChange
from cache.drive import Drive
from cache.errors import FileSystemError, InvalidArgumentError, NoEntryError, NotEmptyError
from cache.history import PointActivity, activity
from cache.history.activity import MOST_KEPT
from cache.namespace import open_database
from cache.namespace.operations import ROOT_INODE
from cache.services import activity_calls
from cache.services.calls import services_of
from tests.contents import KINDS, content
from tests.drives import make_file, opened
from tests.memory_upstream import MemoryUpstream
from tests.sync.drives import Hub

SEEDS: Final = range(4)
Happening = tuple[str, str, str | None, int | None]


async def call(drive: Drive, path: str = "", limit: int = 100) -> list[dict[str, Any]]:
    answer = await services_of(drive)["activity"]({"path": path, "limit": limit})
    points: list[dict[str, Any]] = dict(answer)["points"]
    return points


def told(point: dict[str, Any]) -> list[Happening]:
    return [
        (change["kind"], change["path"], change.get("before"), change.get("inside"))
        for change in point["changes"]
    ]


async def folder(drive: Drive, name: bytes, parent: int = ROOT_INODE) -> int:
    return (await drive.make_node(parent, name, S_IFDIR | 0o755, 0, 0, 0)).inode


async def write(drive: Drive, inode: int, data: bytes) -> None:
    await drive.write(inode, 0, data)
    await drive.settle(inode)


async def test_each_kind_is_told_with_the_device_that_made_it(tmp_path: Path) -> None:
    hub = Hub(tmp_path)
    async with hub.device(1) as first, hub.device(2) as second:
        d = await folder(first, b"d")
        file = (await make_file(first, b"report 1", b"one", d)).inode
        for name in (b"old", b"other"):
            await make_file(first, name, b"x", d)
        await first.sync()
        await second.publisher.follow()
        await second.rename(d, b"old", ROOT_INODE, b"new")
        await write(second, file, b"two!")
        await second.set_attributes(second.lookup(d, b"other").inode, AttributeChange(mode=0o600))
        await second.sync()
        await first.publisher.follow()
        await first.unlink(d, b"other")
        await first.sync()
        removed, changed, made = await call(first)
    assert told(made) == [("added", "d", None, 3)]
    assert told(changed) == [
        ("attributes", "d/other", None, None),
        ("content", "d/report%201", None, None),
        ("renamed", "new", "d/old", None),
    ]
    assert told(removed) == [("removed", "d/other", None, None)]
    assert [point["host"] for point in (removed, changed, made)] == ["dev1", "dev2", "dev1"]
    assert removed["device"] != changed["device"]


async def test_a_save_by_rename_is_another_content_of_the_path(tmp_path: Path) -> None:
    async with opened(tmp_path, MemoryUpstream()) as drive:
        await make_file(drive, b"f", b"one")
        await drive.sync()
        await make_file(drive, b".f.swp", b"two")
        await drive.rename(ROOT_INODE, b".f.swp", ROOT_INODE, b"f")
        await drive.sync()
        saved, _ = await call(drive)
    assert told(saved) == [("content", "f", None, None)]


async def test_a_file_that_is_renamed_and_changed_is_told_as_both(tmp_path: Path) -> None:
    async with opened(tmp_path, MemoryUpstream()) as drive:
        file = (await make_file(drive, b"f", b"one")).inode
        await drive.sync()
        await drive.rename(ROOT_INODE, b"f", ROOT_INODE, b"g")
        await write(drive, file, b"two!")
        await drive.sync()
        changed, _ = await call(drive)
    assert told(changed) == [("renamed", "g", "f", None), ("content", "g", None, None)]


async def test_each_name_of_a_file_is_told_by_itself(tmp_path: Path) -> None:
    """One file with several names; each step is a point."""
    async with opened(tmp_path, MemoryUpstream()) as drive:
        file = (await make_file(drive, b"a", b"one")).inode
        await drive.sync()
        await drive.link(file, ROOT_INODE, b"b")
        await write(drive, file, b"two!")
        await drive.sync()
        await drive.link(file, ROOT_INODE, b"c")
        await drive.rename(ROOT_INODE, b"b", ROOT_INODE, b"d")
        await drive.sync()
        await drive.unlink(ROOT_INODE, b"a")
        await drive.sync()
        await drive.rename(ROOT_INODE, b"c", ROOT_INODE, b"e")
        await drive.unlink(ROOT_INODE, b"d")
        await drive.sync()
        one_less, removed, moved, linked, _ = await call(drive)
    assert told(linked) == [("content", "a", None, None), ("added", "b", None, None)]
    assert sorted(kind for kind, *_ in told(moved)) == ["added", "renamed"]
    assert {path for _, path, *_ in told(moved)} == {"c", "d"}
    assert told(removed) == [("removed", "a", None, None)]
    assert sorted(kind for kind, *_ in told(one_less)) == ["removed", "renamed"]


async def test_a_folder_in_the_place_of_another_is_another_content(tmp_path: Path) -> None:
    async with opened(tmp_path, MemoryUpstream()) as drive:
        old = await folder(drive, b"build")
        await make_file(drive, b"x", b"one", old)
        await drive.sync()
        await drive.unlink(old, b"x")
        await drive.remove_directory(ROOT_INODE, b"build")
        new = await folder(drive, b"build")
        for name in (b"x", b"y"):
            await make_file(drive, name, b"two", new)
        await drive.sync()
        made, _ = await call(drive)
    assert told(made) == [("content", "build", None, 2)]


async def test_a_tree_may_be_deep(tmp_path: Path) -> None:
    """Deeper than Python calls."""
    async with opened(tmp_path, MemoryUpstream()) as drive:
        deepest, depth = ROOT_INODE, sys.getrecursionlimit()
        for _ in range(depth):
            deepest = await folder(drive, b"d", deepest)
        await drive.sync()
        await make_file(drive, b"f", b"x", deepest)
        await drive.sync()
        added, made = await call(drive)
    assert told(added) == [("added", "d/" * depth + "f", None, None)]
    assert told(made) == [("added", "d", None, depth - 1)]


async def test_folders_that_come_and_go_whole_are_told_once(tmp_path: Path) -> None:
    async with opened(tmp_path, MemoryUpstream()) as drive:
        a = await folder(drive, b"a")
        kept = (await make_file(drive, b"kept", b"x", a)).inode
        b = await folder(drive, b"b", a)
        for number in range(20):
            await make_file(drive, b"%d" % number, b"x", b)
        await drive.sync()
        await drive.rename(a, b"kept", ROOT_INODE, b"kept")
        for number in range(20):
            await drive.unlink(b, b"%d" % number)
        await drive.remove_directory(a, b"b")
        await drive.remove_directory(ROOT_INODE, b"a")
        await drive.sync()
        gone, made = await call(drive)
        assert drive.lookup(ROOT_INODE, b"kept").inode == kept
    assert told(made) == [("added", "a", None, 22)]
    assert told(gone) == [("removed", "a", None, 21), ("renamed", "kept", "a/kept", None)]


async def test_a_path_has_its_own_points_under_the_names_of_then(tmp_path: Path) -> None:
    async with opened(tmp_path, MemoryUpstream()) as drive:
        d = await folder(drive, b"d")
        await drive.sync()
        await make_file(drive, b"f", b"x", d)
        await drive.sync()
        await make_file(drive, b"beside", b"x")
        await drive.sync()
        await drive.rename(ROOT_INODE, b"d", ROOT_INODE, b"e")
        await drive.sync()
        assert [told(point) for point in await call(drive, "d")] == [
            [("renamed", "e", "d", None)],
            [("added", "d/f", None, None)],
            [("added", "d", None, None)],
        ]
        assert [told(point) for point in await call(drive, limit=2)] == [
            [("renamed", "e", "d", None)],
            [("added", "beside", None, None)],
        ]
        with pytest.raises(InvalidArgumentError):
            await call(drive, limit=0)


async def test_more_names_than_are_kept_are_counted(tmp_path: Path) -> None:
    async with opened(tmp_path, MemoryUpstream()) as drive:
        d = await folder(drive, b"d")
        await folder(drive, b"beside")
        await drive.sync()
        inside = await folder(drive, b"new", d)
        for number in range(MOST_KEPT + 10):
            await drive.make_node(inside if number % 2 else d, b"%d" % number, 0o100644, 0, 0, 0)
        await drive.sync()
        newest, _ = await call(drive)
        of_folder, *_ = await call(drive, "d/new")
        of_parent, *_ = await call(drive, "d")
        assert len(await call(drive, "beside")) == 1
    assert newest["more"] + len(newest["changes"]) == (MOST_KEPT + 10) // 2 + 1
    assert of_parent == newest
    assert told(of_folder) == [("added", "d/new", None, (MOST_KEPT + 10) // 2)]


# Against a model

State = dict[str, tuple[int, bool, bytes, int]]


def state_of(drive: Drive) -> State:
    """Path to (inode, whether it is a folder, content's commit and size, mode), as of the head."""
    past, head = drive.past, drive.past.head
    found: State = {}
    waiting = [(b"", ROOT_INODE)]
    while waiting:
        path, directory = waiting.pop()
        for entry in past.entries(directory, head, 0, 10_000):
            row, here = past.row(entry.inode, head), (path + b"/" + entry.name).lstrip(b"/")
            mark = b"" if row.is_directory else b"%d %d" % (row.content_commit, row.size)
            found[here.decode()] = (row.inode, row.is_directory, mark, row.mode)
            if row.is_directory:
                waiting.append((here, entry.inode))
    return found


def folder_of(path: str) -> str:
    return path.rpartition("/")[0]


def expected(old: State, new: State) -> set[tuple[str, str]]:
    """(kind, path) by comparing two whole trees."""
    before, now = ({row[0]: path for path, row in state.items()} for state in (old, new))
    found: set[tuple[str, str]] = set()
    for path, (inode, _, mark, mode) in new.items():
        was = before.get(inode)
        if was is None:
            parent = new.get(folder_of(path))
            if is_held(new, old, before, path):
                found.add(("content", path))
            elif parent is None or parent[0] in before:
                found.add(("added", path))
            continue
        if was.rpartition("/")[2] != path.rpartition("/")[2] or not same_folder(old, new, was, path):
            found.add(("renamed", path))
        if (mark, mode) != old[was][2:]:
            found.add(("content" if mark != old[was][2] else "attributes", path))
    for path, (inode, *_) in old.items():
        parent = old.get(folder_of(path))
        if inode not in now and (parent is None or parent[0] in now) and not is_held(old, new, now, path):
            found.add(("removed", path))
    return found


def same_folder(old: State, new: State, was: str, path: str) -> bool:
    parents = (
        state[folder_of(each)][0] if "/" in each else ROOT_INODE for state, each in ((old, was), (new, path))
    )
    return len(set(parents)) == 1


def is_held(one: State, other: State, places: dict[int, str], path: str) -> bool:
    """Whether a path of one state has its name held in the other, in its folder, wherever that is there.
    `places`: the other state's paths by inode."""
    folder, _, name = path.rpartition("/")
    if folder and one[folder][0] not in places:
        return False
    return (f"{places[one[folder][0]]}/{name}" if folder else name) in other


class Changes:
    """Changes at random, of a few files and folders."""

    def __init__(self, drive: Drive, seed: int) -> None:
        self._drive = drive
        self._random = random.Random(seed)
        self._folders = {"": ROOT_INODE}

    async def make(self) -> None:
        directory, name = self._place()
        kind = self._random.choice(KINDS)
        if not self._has(directory, name):
            data = content(kind, self._random.choice((0, 10, 5000)), str(self._random.random()))
            await make_file(self._drive, name, data, directory)

    async def make_folder(self) -> None:
        directory, name = self._place()
        if not self._has(directory, name):
            await folder(self._drive, name, directory)

    async def rename(self) -> None:
        directory, name = self._place()
        target, to = self._place()
        with suppress(FileSystemError):
            await self._drive.rename(directory, name, target, to)

    async def remove(self) -> None:
        directory, name = self._place()
        if self._has(directory, name):
            if S_ISDIR(self._drive.lookup(directory, name).mode):
                with suppress(NotEmptyError):
                    await self._drive.remove_directory(directory, name)
            else:
                await self._drive.unlink(directory, name)

    async def change(self) -> None:
        directory, name = self._place()
        if self._has(directory, name):
            found = self._drive.lookup(directory, name)
            if S_ISDIR(found.mode) or self._random.random() < 0.3:
                mode = self._random.choice((0o700, 0o750, 0o755))
                await self._drive.set_attributes(found.inode, AttributeChange(mode=mode))
            else:
                await write(self._drive, found.inode, b"%d" % self._random.randrange(10**6))

    def _place(self) -> tuple[int, bytes]:
        folders = [ROOT_INODE]
        for name in (b"a", b"b"):
            if self._has(folders[-1], name) and S_ISDIR(self._drive.lookup(folders[-1], name).mode):
                folders.append(self._drive.lookup(folders[-1], name).inode)
        return self._random.choice(folders), self._random.choice((b"a", b"b", b"c", b"d"))

    def _has(self, directory: int, name: bytes) -> bool:
        try:
            self._drive.lookup(directory, name)
        except NoEntryError:
            return False
        return True


def thinned(path: str, points: list[int]) -> list[PointActivity]:
    """Of a namespace, after retention left these points of it only."""
    connection = open_database(path)
    for low, high in pairwise([0, *points]):
        for table in ("past_inode", "past_dentry"):
            connection.execute(f"DELETE FROM {table} WHERE born > ? AND died <= ?", (low, high))
        connection.execute("DELETE FROM commits WHERE number > ? AND number < ?", (low, high))
    connection.close()
    return activity(path, b"", points[-1] + 1, len(points))


@pytest.mark.parametrize("seed", SEEDS)
async def test_it_says_the_differences_of_whole_trees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Of each point when it is the newest, of all when they are read again in pages, and of those that
    retention leaves."""
    monkeypatch.setattr(activity_calls, "PAGE", 4)
    chance = random.Random(seed)
    states: dict[int, State] = {0: {}}
    found: dict[int, set[tuple[str, str]]] = {}
    async with opened(tmp_path, MemoryUpstream()) as drive:
        changes = Changes(drive, seed)
        steps = (changes.make, changes.make_folder, changes.rename, changes.remove, changes.change)
        for _ in range(25):
            head = drive.past.head
            for _ in range(chance.randrange(1, 8)):
                await chance.choice(steps)()
            await drive.sync()
            if drive.past.head == head:
                continue
            states[drive.past.head] = state_of(drive)
            for point in await call(drive, limit=1):
                found[point["commit"]] = {(kind, path) for kind, path, _, _ in told(point)}
        again = {
            point["commit"]: {(kind, path) for kind, path, _, _ in told(point)} for point in await call(drive)
        }
        path = drive.ledger.namespace.path
    differ = {
        now: happened
        for before, now in pairwise(states)
        if (happened := expected(states[before], states[now]))
    }
    assert {commit: happened for commit, happened in found.items() if happened} == differ
    assert again == differ
    left = sorted({*chance.sample(list(states)[1:-1], len(states) // 2), max(states)})
    points = {
        point.commit: {(change.kind, change.path.decode()) for change in point.changes}
        for point in thinned(path, left)
    }
    assert points == {now: expected(states[before], states[now]) for before, now in pairwise([0, *left])}
