"""Kept folders: whole on this machine's disk, whatever else is read, and however the nodes are."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from stat import S_IFDIR
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from backend.buffer import Buffer
from backend.system import THIS_MACHINE, Durable, Environment
from cache.disk import PARTS, BlockFolder, CachedBlocks, DiskCache, cached_blocks
from cache.disk.entry_format import HEADER_SIZE
from cache.drive import Circumstances, Drive
from cache.errors import InvalidArgumentError, NotDirectoryError
from cache.keeping import FILE, KeptFolder, keeper
from cache.keeping.keeper import LOOK_EVERY, RETRY
from cache.keeping.kept_trees import KeptTrees, trees_of
from cache.messages import KeepingStatus, KeptShown
from cache.namespace import ROOT_INODE
from tests.contents import KINDS, content
from tests.drives import content_of, make_file, opened
from tests.memory_upstream import MemoryUpstream
from tests.mock_time import environment_of, let_pass

LIMIT = PARTS * 700_000
MANY = range(80)
SIZES = (100, 70_001, 600_000)
FILES = {f"{kind} {size}".encode(): content(kind, size, size) for kind in KINDS for size in SIZES}


class SmallDisk(Durable):
    """A disk of `size` bytes for the cache in `folder`; the rest others have taken."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.size = 1 << 40

    def free_space(self, path: str) -> tuple[int, int]:
        return 1 << 40, self.size - size_of(self.folder)


class BrokenDisk(SmallDisk):
    """Nothing can be written below it while it `is_broken`."""

    is_broken = False

    def write(self, descriptor: int, parts: Sequence[Buffer], offset: int) -> int:
        if self.is_broken:
            raise OSError(errno.EIO, "Input/output error")
        return super().write(descriptor, parts, offset)


class FarUpstream(MemoryUpstream):
    """What is read of it goes through a disk cache in `folder`, made anew for each opening."""

    def __init__(self, folder: Path, disk: Durable) -> None:
        super().__init__()
        self.folder = folder
        self.device = Environment(disk)
        self.open_cache()

    def open_cache(self) -> None:
        used = BlockFolder(self.folder / "sealed", LIMIT, 10_000, self.device)
        self.cached = CachedBlocks(
            self, DiskCache(used, BlockFolder(self.folder / "kept", None, 10_000, self.device))
        )

    @property
    def blocks(self) -> CachedBlocks:
        return self.cached


@pytest.fixture
def disk(tmp_path: Path) -> SmallDisk:
    return SmallDisk(tmp_path / "cache")


@pytest.fixture
def far(tmp_path: Path, disk: SmallDisk) -> FarUpstream:
    return FarUpstream(tmp_path / "cache", disk)


@asynccontextmanager
async def mounted(
    far: FarUpstream, environment: Environment = THIS_MACHINE, *, read_only: bool = False
) -> AsyncIterator[Drive]:
    far.open_cache()
    known = Circumstances(disk_cache=far.cached)
    state = far.folder.with_name("state")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(far.cached.run)
        opening = opened(state, far, environment=environment, circumstances=known, read_only=read_only)
        async with opening as drive:
            yield drive
        nursery.cancel_scope.cancel()


async def make_folder(drive: Drive, name: bytes, parent: int = ROOT_INODE) -> int:
    return (await drive.make_node(parent, name, S_IFDIR | 0o755, 0, 0, 0)).inode


async def fill(drive: Drive, folder: int) -> None:
    for name, data in FILES.items():
        await make_file(drive, name, data, folder)
    await drive.sync()


async def wrong(drive: Drive, folder: int) -> list[bytes]:
    drive.blocks.clear()
    return [name for name, data in FILES.items() if await content_of(drive, name, folder) != data]


async def churn(drive: Drive, far: FarUpstream) -> None:
    """As much else is read as pushes out what was used before."""
    for seed in MANY:
        await make_file(drive, b"else %d" % seed, content("random", 300_000, seed))
    await drive.sync()
    for seed in MANY:
        drive.blocks.clear()
        await content_of(drive, b"else %d" % seed)
        assert size_of(far.folder / "sealed") <= LIMIT


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def status(drive: Drive) -> KeepingStatus:
    found = drive.keeper.status()
    assert found is not None
    return found


async def test_a_kept_folder_reads_whole_with_the_nodes_away_whatever_else_was_read(far: FarUpstream) -> None:
    async with mounted(far) as drive:
        folder = await make_folder(drive, b"kept")
        below = await make_folder(drive, b"below", folder)
        await fill(drive, below)
        drive.keeper.keep(folder)
        await drive.keeper.complete()
        (shown,) = await drive.keeper.shown()
        assert shown == KeptShown("kept", status(drive).bytes, status(drive).bytes)
        assert shown.here > 2_000_000
        await churn(drive, far)
        await drive.keeper.complete()
    async with mounted(far) as drive:
        far.away = True
        assert await wrong(drive, below) == []
        assert size_of(far.folder / "sealed") <= LIMIT
        far.away = False


async def test_files_that_come_later_are_fetched_by_themselves(
    far: FarUpstream, mock_clock: MockClock
) -> None:
    async with mounted(far, environment_of(mock_clock)) as drive:
        folder = await make_folder(drive, b"kept")
        drive.keeper.keep(folder)
        await fill(drive, await make_folder(drive, b"elsewhere"))
        await let_pass(mock_clock, 3 * LOOK_EVERY)
        assert status(drive).bytes == 0
        await drive.rename(ROOT_INODE, b"elsewhere", folder, b"moved here")
        await drive.sync()
        await let_pass(mock_clock, 3 * LOOK_EVERY)
        assert status(drive).here == status(drive).bytes > 2_000_000
        far.away = True
        assert await wrong(drive, drive.lookup(folder, b"moved here").inode) == []
        far.away = False


async def test_what_is_kept_no_more_is_within_the_limit_again(far: FarUpstream) -> None:
    async with mounted(far) as drive:
        folder = await make_folder(drive, b"kept")
        for seed in MANY:
            await make_file(drive, b"%d" % seed, content("random", 300_000, seed), folder)
        await drive.sync()
        drive.keeper.keep(folder)
        await drive.keeper.complete()
        assert size_of(far.folder / "kept") > 2 * LIMIT
        drive.keeper.unkeep(folder)
        await drive.keeper.complete()
        assert size_of(far.folder / "kept") == 0
        assert LIMIT // 2 < size_of(far.folder / "sealed") <= LIMIT
        assert await drive.keeper.shown() == []
        with pytest.raises(InvalidArgumentError, match="not kept"):
            drive.keeper.unkeep(folder)


async def test_what_a_file_named_before_is_given_back(far: FarUpstream) -> None:
    async with mounted(far) as drive:
        folder = await make_folder(drive, b"kept")
        made = await make_file(drive, b"file", content("random", 300_000, 1), folder)
        await drive.sync()
        drive.keeper.keep(folder)
        await drive.keeper.complete()
        before = size_of(far.folder / "kept")
        await drive.write(made.inode, 0, content("random", 300_000, 2))
        await drive.settle(made.inode)
        await drive.sync()
        await drive.keeper.complete()
        assert status(drive).here == status(drive).bytes == 300_000
        assert abs(size_of(far.folder / "kept") - before) < 10_000


async def test_a_disk_that_fills_takes_what_was_only_used_first(
    far: FarUpstream, disk: SmallDisk, mock_clock: MockClock
) -> None:
    async with mounted(far, environment_of(mock_clock)) as drive:
        folder = await make_folder(drive, b"kept")
        await fill(drive, folder)
        drive.keeper.keep(folder)
        await drive.keeper.complete()
        kept = size_of(far.folder / "kept")
        await make_file(drive, b"else", content("random", 600_000))
        await drive.sync()
        await let_pass(mock_clock, 2 * LOOK_EVERY)
        used = size_of(far.folder / "sealed")
        assert used >= 600_000
        disk.size = kept + used // 2
        await let_pass(mock_clock, cached_blocks.LOOK_EVERY + 1)
        assert size_of(far.folder / "sealed") < used
        assert size_of(far.folder / "kept") == kept
        disk.size = kept // 2
        await let_pass(mock_clock, RETRY + 3 * LOOK_EVERY)
        assert size_of(far.folder / "sealed") == 0
        assert kept // 4 < size_of(far.folder / "kept") < kept // 2
        assert status(drive).here < status(drive).bytes
        assert status(drive).problem == "this machine's disk has no room for more"
        assert await wrong(drive, folder) == []
        disk.size = 1 << 40
        await let_pass(mock_clock, RETRY + 3 * LOOK_EVERY)
        assert status(drive).here == status(drive).bytes
        assert status(drive).problem == ""


@pytest.mark.logs_warnings
async def test_a_disk_that_cannot_be_written_is_not_called_full(
    tmp_path: Path, mock_clock: MockClock
) -> None:
    broken = BrokenDisk(tmp_path / "cache")
    far = FarUpstream(tmp_path / "cache", broken)
    async with mounted(far, environment_of(mock_clock)) as drive:
        folder = await make_folder(drive, b"kept")
        await fill(drive, folder)
        await let_pass(mock_clock, LOOK_EVERY)
        broken.is_broken = True
        drive.keeper.keep(folder)
        await drive.keeper.complete()
        assert status(drive).problem == "the disk cache cannot be used now"
        broken.is_broken = False
        await let_pass(mock_clock, cached_blocks.REST + RETRY + LOOK_EVERY)
        assert status(drive).here == status(drive).bytes > 0
        assert status(drive).problem == ""


async def test_what_the_nodes_do_not_give_now_is_fetched_when_they_are_back(
    far: FarUpstream, mock_clock: MockClock
) -> None:
    async with mounted(far, environment_of(mock_clock)) as drive:
        folder = await make_folder(drive, b"kept")
        await fill(drive, folder)
    for path in (far.folder / "sealed").rglob("*/*"):
        path.unlink()
    async with mounted(far, environment_of(mock_clock)) as drive:
        far.away = True
        drive.keeper.keep(folder)
        await drive.keeper.complete()
        assert (status(drive).here, status(drive).problem) == (0, "the nodes are away")
        far.away = False
        await let_pass(mock_clock, RETRY + LOOK_EVERY)
        assert status(drive).here == status(drive).bytes > 0
        assert status(drive).problem == ""


async def test_what_a_node_gives_wrong_is_not_kept(far: FarUpstream) -> None:
    async with mounted(far) as drive:
        folder = await make_folder(drive, b"kept")
        await fill(drive, folder)
    for path in (far.folder / "sealed").rglob("*/*"):
        path.unlink()
    async with mounted(far) as drive:
        far.corrupt.update(far.stored)
        drive.keeper.keep(folder)
        await drive.keeper.complete()
        far.away = True
        assert await wrong(drive, folder) == []
        far.away = False


async def test_who_only_reads_keeps_folders_too(far: FarUpstream) -> None:
    async with mounted(far) as drive:
        folder = await make_folder(drive, b"kept")
        await fill(drive, folder)
    async with mounted(far, read_only=True) as drive:
        drive.keeper.keep(folder)
        await drive.keeper.complete()
        (shown,) = await drive.keeper.shown()
        assert shown.here == shown.bytes > 2_000_000
    async with mounted(far, read_only=True) as drive:
        far.away = True
        assert await wrong(drive, folder) == []
        far.away = False
        drive.keeper.unkeep(folder)
        await drive.keeper.complete()
        assert await drive.keeper.shown() == []


async def test_what_a_power_cut_left_empty_is_fetched_again(far: FarUpstream) -> None:
    """Files of the cache are not synced: their names outlive the power, and what is in them need not."""
    async with mounted(far) as drive:
        folder = await make_folder(drive, b"kept")
        await fill(drive, folder)
        drive.keeper.keep(folder)
        await drive.keeper.complete()
    sealed = [path for top in ("kept", "sealed") for path in (far.folder / top).rglob("*") if path.is_file()]
    for number, path in enumerate(sorted(sealed)):
        os.truncate(path, (0, path.stat().st_size, HEADER_SIZE)[number % 3])
    async with mounted(far) as drive:
        await drive.keeper.complete()
        assert status(drive).here == status(drive).bytes > 2_000_000
        far.away = True
        assert await wrong(drive, folder) == []
        far.away = False


async def test_one_block_that_is_lost_keeps_no_other_away(far: FarUpstream) -> None:
    async with mounted(far) as drive:
        folder = await make_folder(drive, b"kept")
        await fill(drive, folder)
    for path in (far.folder / "sealed").rglob("*/*"):
        path.unlink()
    lost = next(iter(far.stored))
    far.stored.pop(lost)
    async with mounted(far) as drive:
        drive.keeper.keep(folder)
        await drive.keeper.complete()
        assert "is not stored" in status(drive).problem
        assert await far.cached.kept() == set(far.stored)


async def test_a_folder_that_is_removed_is_kept_no_more(far: FarUpstream) -> None:
    async with mounted(far) as drive:
        folder = await make_folder(drive, b"kept")
        await make_file(drive, b"file", content("text", 70_000), folder)
        await drive.sync()
        drive.keeper.keep(folder)
        await drive.keeper.complete()
        assert status(drive).folders == 1
        await drive.unlink(folder, b"file")
        await drive.remove_directory(ROOT_INODE, b"kept")
        await drive.keeper.complete()
        assert status(drive) == KeepingStatus(folders=0, bytes=0, here=0, problem="")
        assert size_of(far.folder / "kept") == 0


async def test_a_number_that_was_given_again_is_another_folder(far: FarUpstream) -> None:
    async with mounted(far) as drive:
        folder = await make_folder(drive, b"folder")
        await drive.sync()
        drive.ledger.save()
        row = drive.live_row(folder)
        same, other = KeptFolder(folder, row.btime_ns), KeptFolder(folder, row.btime_ns + 1)
        found = trees_of(drive.ledger.namespace.path, [same, other])
        assert [tree.folder for tree in found.trees] == [same]
        assert found.gone == (other,)


class Watched(dict[bytes, int]):
    """Blocks of a kept folder; on the thread of the event loop nobody may go through them."""

    def values(self) -> Any:
        assert threading.current_thread() is not threading.main_thread()
        return super().values()

    def items(self) -> Any:
        assert threading.current_thread() is not threading.main_thread()
        return super().items()

    def __iter__(self) -> Any:
        assert threading.current_thread() is not threading.main_thread()
        return super().__iter__()


async def test_nobody_waits_while_many_blocks_are_gone_through(
    far: FarUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: a folder of 300,000 blocks had the whole mount stand still for a second at each look."""

    def watched(path: str, folders: Iterable[KeptFolder]) -> KeptTrees:
        found = trees_of(path, folders)
        return replace(found, trees=tuple(replace(tree, blocks=Watched(tree.blocks)) for tree in found.trees))

    monkeypatch.setattr(keeper, "trees_of", watched)
    async with mounted(far) as drive:
        folder = await make_folder(drive, b"kept")
        await fill(drive, folder)
        drive.keeper.keep(folder)
        await drive.keeper.complete()
        (shown,) = await drive.keeper.shown()
        assert shown.here == shown.bytes == status(drive).here > 2_000_000


async def test_a_file_and_what_is_gone_are_refused(far: FarUpstream) -> None:
    async with mounted(far) as drive:
        made = await make_file(drive, b"file", b"content")
        for inode in (made.inode, made.inode + 1000):
            with pytest.raises(NotDirectoryError):
                drive.keeper.keep(inode)


async def test_without_a_disk_cache_nothing_can_be_kept(tmp_path: Path) -> None:
    async with opened(tmp_path, MemoryUpstream()) as drive:
        with pytest.raises(InvalidArgumentError, match="cache_disk="):
            drive.keeper.keep(ROOT_INODE)
        assert drive.keeper.status() is None
        assert await drive.keeper.shown() == []


async def test_a_list_that_cannot_be_read_gives_nothing_back(far: FarUpstream) -> None:
    async with mounted(far) as drive:
        await fill(drive, ROOT_INODE)
        drive.keeper.keep(ROOT_INODE)
        await drive.keeper.complete()
        kept = size_of(far.folder / "kept")
    path = far.folder.with_name("state") / FILE
    path.write_bytes(path.read_bytes()[:-5])
    async with mounted(far) as drive:
        await drive.keeper.complete()
        assert size_of(far.folder / "kept") == kept
        assert "cannot be read" in status(drive).problem
