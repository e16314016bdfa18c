"""cache.enrolment: each state folder is a device before it accepts anything, and stays it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from backend.errors import DriveError, FencedError, FormatError, ReadOnlyError
from backend.system import Environment
from backend.upstream import Commit, Head
from cache.enrolment import ADDED, BECAME, KEPT
from cache.errors import ReadOnlyFileSystemError
from cache.local.device_file import FILE
from cache.local.local_state import NAMESPACE_FILE
from cache.namespace.namespace import Namespace
from cache.namespace.operations import (
    DEVICE_SHIFT,
    ROOT_INODE,
    AddDevice,
    NewEpoch,
    RevokeDevice,
    SetWriter,
    decode,
)
from cache.opening import DriveOptions
from cache.sync.follower import Follower
from tests.drives import DRIVE_ID, KEYS, QUIET, content_of, make_file, opened
from tests.key_rings import ring_of_log
from tests.memory_upstream import MemoryUpstream

SHARED = replace(QUIET, is_shared=True)


def operations(upstream: MemoryUpstream, number: int) -> list[object]:
    """What a commit says."""
    ring = ring_of_log(DRIVE_ID, KEYS, upstream.commits)
    follower = Follower(None, ring)  # type: ignore[arg-type]
    return [decode(encoded) for encoded in follower.encoded_operations(upstream.commits[number - 1][0])]


def devices_of(upstream: MemoryUpstream) -> list[int]:
    """The devices that were added, in their order."""
    found = [each for at in range(len(upstream.commits)) for each in operations(upstream, at + 1)]
    return [each.device for each in found if isinstance(each, AddDevice)]


async def test_the_first_commit_of_a_folder_adds_it_and_no_other_does(tmp_path: Path) -> None:
    upstream = MemoryUpstream()
    for name in ("one", "one", "other", "one", "other"):
        async with opened(tmp_path / name, upstream, QUIET) as drive:
            made = await make_file(drive, name.encode() + b"%d" % len(upstream.commits))
            assert made.inode >> DEVICE_SHIFT == {"one": 1, "other": 2}[name]
            await drive.sync()
    assert devices_of(upstream) == [1, 2]
    added, writer, epoch = operations(upstream, 1)
    assert isinstance(epoch, NewEpoch)
    assert [commit.key_epoch for commit, _ in upstream.commits] == [1] * 7
    assert isinstance(added, AddDevice)
    assert writer == SetWriter(1, added.host)
    assert [commit.device for commit, _ in upstream.commits] == [1, 1, 1, 2, 2, 1, 2]


async def test_who_only_reads_is_no_device(tmp_path: Path) -> None:
    upstream = MemoryUpstream()
    async with opened(tmp_path / "state", upstream, read_only=True):
        pass
    assert upstream.commits == []
    assert not (tmp_path / "state" / FILE).exists()


@pytest.mark.logs_warnings
@pytest.mark.parametrize("options", [QUIET, SHARED])
@pytest.mark.parametrize(
    "damage", [None, b"noise", b"DFDEVICE\1" + bytes(67), b"DFDEVICE\1\0\0\0\2" + bytes(63)]
)
async def test_a_folder_that_lost_its_key_is_a_new_device_and_loses_nothing(
    tmp_path: Path, options: DriveOptions, damage: bytes | None
) -> None:
    upstream, folder = MemoryUpstream(), tmp_path / "state"
    async with opened(folder, upstream, options, crash=True) as drive:
        await make_file(drive, b"published", b"p" * 5000)
        await drive.sync()
        await make_file(drive, b"unpublished", b"u" * 5000)
    if damage is None:
        (folder / FILE).unlink()
    else:
        (folder / FILE).write_bytes(damage)
    async with opened(folder, upstream, options) as drive:
        assert (await make_file(drive, b"new")).inode >> DEVICE_SHIFT == 2
        assert await content_of(drive, b"published") == b"p" * 5000
        assert await content_of(drive, b"unpublished") == b"u" * 5000
        await drive.sync()
        assert any("new device now" in notice for notice in drive.notices) == (damage is not None)
    assert devices_of(upstream) == [1, 2]
    async with opened(tmp_path / "other", upstream, read_only=True) as drive:
        assert await content_of(drive, b"unpublished") == b"u" * 5000


@pytest.mark.parametrize(
    ("name", "options"), [(KEPT, QUIET), (KEPT, SHARED), (ADDED, SHARED), (BECAME, SHARED)]
)
async def test_what_it_published_before_stays_the_work_of_the_device_that_it_was(
    tmp_path: Path, options: DriveOptions, name: str
) -> None:
    """Only the journal knows of it, and each time the process is killed."""
    upstream, folder, environment = MemoryUpstream(), tmp_path / "state", Environment()
    async with opened(folder, upstream, options, crash=True) as drive:
        for number in range(3):
            await make_file(drive, b"published %d" % number, b"p" * 5000)
            await drive.sync()
        await make_file(drive, b"unpublished", b"u" * 5000)
    (folder / FILE).unlink()
    environment.failpoints.arm(name, "eio", 0)
    with pytest.raises((OSError, DriveError)):
        async with opened(folder, upstream, options, environment=environment):
            pass
    for number in range(2):
        async with opened(folder, upstream, options, crash=True) as drive:
            assert (await make_file(drive, b"new %d" % number)).inode >> DEVICE_SHIFT == 2
            await drive.sync()
            devices = drive.ledger.namespace.devices
            assert (devices.sequence_of(1), devices.sequence_of(2)) == (4, 2 + number)
    async with opened(tmp_path / "other", upstream, options) as drive:
        assert len(drive.entries(ROOT_INODE, 0, 10)) == 6
        assert await content_of(drive, b"unpublished") == b"u" * 5000


async def test_a_key_of_a_later_version_is_refused(tmp_path: Path) -> None:
    upstream, folder = MemoryUpstream(), tmp_path / "state"
    async with opened(folder, upstream):
        pass
    data = bytearray((folder / FILE).read_bytes())
    data[8] = 2
    (folder / FILE).write_bytes(data)
    with pytest.raises(FormatError, match="version 2"):
        async with opened(folder, upstream):
            pass
    assert (folder / FILE).read_bytes() == data


async def test_a_revoked_device_only_reads(tmp_path: Path) -> None:
    upstream = MemoryUpstream()
    async with opened(tmp_path / "one", upstream) as drive:
        await make_file(drive, b"f", b"content")
        await drive.sync()
    async with opened(tmp_path / "other", upstream) as drive:
        drive.ledger.accept(RevokeDevice(1))
        await drive.sync()
    with pytest.raises(ReadOnlyError, match=r"device 1 .* was revoked"):
        async with opened(tmp_path / "one", upstream):
            pass
    async with opened(tmp_path / "one", upstream, read_only=True) as drive:
        assert await content_of(drive, b"f") == b"content"


@pytest.mark.logs_warnings
@pytest.mark.parametrize("is_idle", [False, True])
async def test_a_device_that_is_revoked_while_it_runs_makes_no_commit_more(
    tmp_path: Path, *, is_idle: bool
) -> None:
    """All others would take it for damage of the log."""
    upstream = MemoryUpstream()
    async with opened(tmp_path / "other", upstream, SHARED) as other:
        async with opened(tmp_path / "one", upstream, SHARED, crash=True) as one:
            await make_file(one, b"f", b"content")
            await one.sync()
            await make_file(one, b"unpublished", b"u" * 5000)
            await other.publisher.follow()
            other.ledger.accept(RevokeDevice(one.ledger.namespace.device))
            await other.sync()
            count = len(upstream.commits)
            with pytest.raises(FencedError, match=r"device 2 .* was revoked"):
                await (one.publisher.follow() if is_idle else one.sync())
            with pytest.raises(ReadOnlyFileSystemError, match="was revoked"):
                await make_file(one, b"more")
            assert await content_of(one, b"unpublished") == b"u" * 5000
        assert len(upstream.commits) == count
        await make_file(other, b"goes on")
        await other.sync()


class Overtaken(MemoryUpstream):
    """Another folder becomes a device while this one's commit is on its way."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder: Path | None = folder

    async def append(self, commit: Commit, expected: Head) -> Head:
        folder, self.folder = self.folder, None
        if folder is not None:
            async with opened(folder, self, SHARED):
                pass
        return await super().append(commit, expected)


async def test_a_folder_that_came_second_takes_the_next_number(tmp_path: Path) -> None:
    upstream = Overtaken(tmp_path / "quicker")
    async with opened(tmp_path / "slower", upstream, SHARED) as drive:
        assert drive.ledger.namespace.device == 2
    async with opened(tmp_path / "quicker", upstream, SHARED) as drive:
        assert drive.ledger.namespace.device == 1
    assert devices_of(upstream) == [1, 2]


async def test_a_machine_whose_clock_is_behind_becomes_a_device_too(tmp_path: Path) -> None:
    upstream = MemoryUpstream()
    async with opened(tmp_path / "one", upstream):
        pass
    behind = Environment(wall_clock=lambda: 1)
    async with opened(tmp_path / "other", upstream, environment=behind) as drive:
        await make_file(drive, b"f")
        await drive.sync()
    times = [commit.time_ns for commit, _ in upstream.commits]
    assert times == sorted(times)
    assert devices_of(upstream) == [1, 2]


@pytest.mark.parametrize("name", [KEPT, ADDED, BECAME])
async def test_an_enrolment_that_was_cut_off_is_finished(tmp_path: Path, name: str) -> None:
    upstream, environment = MemoryUpstream(), Environment()
    environment.failpoints.arm(name, "eio", 0)
    with pytest.raises((OSError, DriveError)):
        async with opened(tmp_path / "state", upstream, environment=environment):
            pass
    kept = (tmp_path / "state" / FILE).read_bytes()
    namespace = Namespace(str(tmp_path / "state" / NAMESPACE_FILE))
    assert namespace.device == (1 if name == BECAME else 0)
    namespace.close()
    async with opened(tmp_path / "state", upstream) as drive:
        await make_file(drive, b"f")
        await drive.sync()
    assert devices_of(upstream) == [1]
    assert (tmp_path / "state" / FILE).read_bytes() == kept


async def test_an_answer_that_was_lost_adds_no_second_device(tmp_path: Path) -> None:
    upstream = MemoryUpstream()
    upstream.fail_after_append = True
    with pytest.raises(DriveError, match="the answer was lost"):
        async with opened(tmp_path / "state", upstream):
            pass
    async with opened(tmp_path / "state", upstream):
        pass
    assert devices_of(upstream) == [1]


async def copied(
    tmp_path: Path, upstream: MemoryUpstream, options: DriveOptions, *, unpublished: bool
) -> Path:
    """A state folder, whose original went on after it was copied."""
    async with opened(tmp_path / "original", upstream, options, crash=unpublished) as drive:
        await make_file(drive, b"f")
        await drive.sync()
        if unpublished:
            await make_file(drive, b"mine")
    shutil.copytree(tmp_path / "original", tmp_path / "copy")
    async with opened(tmp_path / "original", upstream, options) as drive:
        await make_file(drive, b"theirs")
        await drive.sync()
    return tmp_path / "copy"


@pytest.mark.parametrize("options", [QUIET, SHARED])
async def test_a_copy_of_a_state_becomes_a_new_device(tmp_path: Path, options: DriveOptions) -> None:
    upstream = MemoryUpstream()
    copy = await copied(tmp_path, upstream, options, unpublished=False)
    for name in (b"one", b"two"):
        async with opened(copy, upstream, options) as drive:
            assert (await make_file(drive, name)).inode >> DEVICE_SHIFT == 2
            await drive.sync()
    async with opened(tmp_path / "original", upstream, options) as drive:
        assert (await make_file(drive, b"three")).inode >> DEVICE_SHIFT == 1
    assert devices_of(upstream) == [1, 2]


@pytest.mark.logs_warnings
async def test_a_copy_with_something_unpublished_becomes_a_new_device_with_it(tmp_path: Path) -> None:
    upstream = MemoryUpstream()
    copy = await copied(tmp_path, upstream, SHARED, unpublished=True)
    async with opened(copy, upstream, SHARED) as drive:
        assert any("is device 2 of the drive now" in notice for notice in drive.notices)
        await drive.sync()
        assert (await make_file(drive, b"new")).inode >> DEVICE_SHIFT == 2
        assert {b"f", b"mine", b"theirs", b"new"} == {e.name for e in drive.entries(ROOT_INODE, 0, 10)}
    assert devices_of(upstream) == [1, 2]


@pytest.mark.logs_warnings
async def test_a_copy_that_runs_stops_where_the_other_writes(tmp_path: Path) -> None:
    upstream = MemoryUpstream()
    async with opened(tmp_path / "original", upstream, SHARED):
        pass
    shutil.copytree(tmp_path / "original", tmp_path / "copy")
    async with (
        opened(tmp_path / "copy", upstream, SHARED, crash=True) as copy,
        opened(tmp_path / "original", upstream, SHARED, crash=True) as original,
    ):
        await make_file(copy, b"mine")
        await make_file(original, b"theirs")
        await original.sync()
        with pytest.raises(FencedError, match=r"another copy .* as device 1"):
            await copy.sync()
        with pytest.raises(ReadOnlyFileSystemError):
            await make_file(copy, b"more")
