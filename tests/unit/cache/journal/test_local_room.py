"""The journal on a small disk: it leaves the databases room, is let go of in time, and goes on by itself."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.buffer import Buffer
from backend.system import THIS_MACHINE, Environment
from backend.system.durable import Durable
from cache.drive import Drive
from cache.errors import NoSpaceLeftError
from cache.journal import local_room
from cache.journal.room import Need
from cache.journal.segments import SegmentFiles, Spare
from cache.namespace.operations import ROOT_INODE
from cache.opening import DriveOptions
from cache.publish.cut_rule import Intervals
from cache.publish.snapshot_keeper import SnapshotSchedule
from cache.tree import intake
from tests.contents import KINDS, Kind, content
from tests.drives import content_of, make_file, opened
from tests.memory_upstream import MemoryUpstream

MIB = 1 << 20
SIZE = 48 * MIB
SELDOM = DriveOptions(intervals=Intervals(commit=3600, version=3600))
"""Nothing is published before the journal asks for it; and that may have 1 GiB."""
NO_SNAPSHOTS = replace(SELDOM, snapshots=SnapshotSchedule(operation_bytes=1 << 40))
"""A snapshot takes the room of the namespace once more for a moment, if there is that."""


class SmallDisk(Durable):
    """Below `folder` there is room for `size` bytes, of which others have `taken` some. What SQLite writes
    counts, and is not refused: it must have had the room."""

    def __init__(self, folder: Path, size: int = SIZE) -> None:
        self.folder, self.size, self.taken = folder, size, 0
        self.most = 0

    def used(self) -> int:
        found = self.taken
        for path in self.folder.rglob("*"):
            with suppress(FileNotFoundError):
                found += path.lstat().st_blocks * 512
        self.most = max(self.most, found)
        return found

    def free_space(self, path: str) -> tuple[int, int]:
        return self.size, max(self.size - self.used(), 0)

    def write(self, descriptor: int, parts: Sequence[Buffer], offset: int) -> int:
        end = offset + sum(map(len, parts))
        self._need(end - os.fstat(descriptor).st_size)
        return super().write(descriptor, parts, offset)

    def preallocate(self, descriptor: int, size: int) -> None:
        self._need(size - os.fstat(descriptor).st_size)
        super().preallocate(descriptor, size)

    def _need(self, size: int) -> None:
        if size > 0 and self.used() + size > self.size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


async def put(drive: Drive, name: bytes, data: bytes) -> None:
    """A file that was written, fsynced and closed."""
    made = await make_file(drive, name, data)
    await drive.fsync(made.inode)


async def test_a_journal_of_any_size_leaves_its_disk_room(tmp_path: Path) -> None:
    upstream = MemoryUpstream()
    kept = {b"%d" % number: content("random", MIB, number) for number in range(100)}
    disk = SmallDisk(tmp_path)
    with trio.fail_after(120):
        async with opened(tmp_path, upstream, SELDOM, environment=Environment(disk)) as drive:
            for name, data in kept.items():
                await put(drive, name, data)
                assert (await drive.status()).journal_limit < SIZE
            assert disk.most < SIZE * 0.9
            await drive.sync()
            assert disk.used() < SIZE / 2
    async with opened(tmp_path, upstream) as drive:
        for name, data in kept.items():
            assert await content_of(drive, name) == data


@settings(max_examples=15, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["write", "write", "write", "remove", "attribute", "others", "publish"]),
            st.sampled_from(KINDS),
            st.integers(1, 3 * MIB),
        ),
        max_size=40,
    )
)
def test_databases_have_room_whatever_is_done(steps: list[tuple[str, Kind, int]]) -> None:
    """Writing, deleting and attributes while others take room and give it back: all together never take
    more than there is, and what was acknowledged is there."""

    async def live(folder: Path, disk: SmallDisk) -> None:
        upstream, kept = MemoryUpstream(), dict[bytes, bytes]()
        async with opened(folder, upstream, SELDOM, environment=Environment(disk)) as drive:
            for number, (step, kind, size) in enumerate(steps):
                name = b"%d" % number
                with suppress(NoSpaceLeftError):
                    if step == "write":
                        await put(drive, name, data := content(kind, size, number))
                        kept[name] = data
                    elif step == "attribute":
                        value = content(kind, min(size, 64 << 10), number)
                        await drive.set_xattr(ROOT_INODE, b"user." + name[-1:], value)
                    elif step == "remove" and kept:
                        await drive.unlink(ROOT_INODE, gone := next(iter(kept)))
                        del kept[gone]
                    elif step == "others":
                        disk.taken = 0 if disk.taken else size * 8
                    elif step == "publish":
                        await drive.sync()
                drive.ledger.save()
            # Others may take the last byte at once; then it is theirs to give back.
            assert disk.used() <= SIZE or disk.taken
            disk.taken = 0
            await drive.sync()
        async with opened(folder, upstream) as drive:
            for name, data in kept.items():
                assert await content_of(drive, name) == data

    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(intake, "PATIENCE", 0.3)
        trio.run(live, Path(folder), SmallDisk(Path(folder)))


@pytest.mark.parametrize("size", [20_000, 60_000])
async def test_deleting_large_attributes_takes_no_room(tmp_path: Path, size: int) -> None:
    """All of it at once, nothing published in between, on a disk that they have filled."""
    disk = SmallDisk(tmp_path, 24 * MIB)
    with trio.fail_after(120):
        async with opened(tmp_path, MemoryUpstream(), NO_SNAPSHOTS, environment=Environment(disk)) as drive:
            made: list[bytes] = []
            with suppress(NoSpaceLeftError):
                while len(made) < disk.size // size:
                    made.append(b"%d" % len(made))
                    inode = (await make_file(drive, made[-1])).inode
                    await drive.set_xattr(inode, b"user.large", content("random", size, len(made)))
            if drive.entries(ROOT_INODE, 0, len(made))[-1].name != made[-1]:
                made.pop()
            assert len(made) < disk.size // size
            await drive.sync()
            disk.most = 0
            for name in made:
                await drive.unlink(ROOT_INODE, name)
                disk.used()
            await drive.sync()
            assert disk.most < disk.size
            assert drive.entries(ROOT_INODE, 0, 10) == []


@pytest.mark.logs_warnings
async def test_with_the_nodes_away_the_disk_is_not_filled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "PATIENCE", 0.1)
    upstream = MemoryUpstream()
    disk = SmallDisk(tmp_path)
    with trio.fail_after(60):
        async with opened(tmp_path, upstream, SELDOM, environment=Environment(disk)) as drive:
            upstream.away = True
            names: list[bytes] = []
            with suppress(NoSpaceLeftError):
                for number in range(100):
                    await put(drive, b"%d" % number, content("random", MIB, number))
                    names.append(b"%d" % number)
            assert 15 < len(names) < 48
            assert disk.used() < SIZE - 4 * MIB
            await drive.unlink(ROOT_INODE, names.pop())
            upstream.away = False
            await drive.sync()
            await put(drive, b"after", b"after")
        async with opened(tmp_path, upstream) as drive:
            for name in names:
                assert await content_of(drive, name) == content("random", MIB, int(name))


async def test_a_full_disk_refuses_at_once_where_waiting_would_not_help(tmp_path: Path) -> None:
    upstream = MemoryUpstream()
    disk = SmallDisk(tmp_path)
    with trio.fail_after(3):
        async with opened(tmp_path, upstream, SELDOM, environment=Environment(disk)) as drive:
            await put(drive, b"before", b"before")
            await drive.sync()
            disk.taken = SIZE - disk.used()
            await trio.sleep(local_room.SECONDS + 0.1)
            with pytest.raises(NoSpaceLeftError, match="nearly full: make room there"):
                await put(drive, b"refused", b"x")
            await drive.unlink(ROOT_INODE, b"before")
            disk.taken = 0
            await put(drive, b"after", b"after")


def test_spares_are_given_back(tmp_path: Path) -> None:
    files = SegmentFiles(tmp_path, THIS_MACHINE)
    spares = [tmp_path / f"{number}.spare" for number in range(2)]
    for spare in spares:
        spare.touch()
    files.take_spares([Spare(str(spare)) for spare in spares], [])
    files.give_back_spares()
    files.give_back_spares()
    assert not any(spare.exists() for spare in spares)


@given(st.integers(1, 1 << 44), st.integers(0, 1 << 44))
def test_what_is_asked_of_the_disk(total: int, free: int) -> None:
    """Deleting is always allowed, the rest until half of the reserve is gone; one waits before that."""

    class Disk(Durable):
        def free_space(self, path: str) -> tuple[int, int]:
            return total, min(free, total)

    trio.run(_ask, Disk())


async def _ask(disk: Durable) -> None:
    room = local_room.LocalRoom("anywhere", disk)
    left = room.look(0, 0)
    assert room.allows(Need.FREE, left)
    assert room.allows(Need.GROW, left) == room.allows(Need.CHANGE, left)
    assert not room.is_short(left, 3)
    if room.is_short(left, 2):
        assert room.is_short(left, 1)
        assert not room.allows(Need.GROW, left)
    if left >= 0:
        assert room.allows(Need.GROW, left)
        assert not room.is_short(left, 1)
    if room.calm_until > 0:
        most = int(room.calm_until)
        assert left - most - local_room.DATABASE_GROWTH * most >= room.calm_left - 4
