"""An instant copy of a tree is one batch: it is there whole or not at all, whatever ends it in the middle.

Kills at each step are in `test_failpoints_in_process`, one on a real mount in `tests/mount/test_versions.py`.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from stat import S_IFDIR, S_IFREG

import pytest

from backend.buffer import Buffer
from backend.errors import CorruptError
from backend.system import Environment
from backend.system.durable import Durable
from cache.drive import Drive
from cache.errors import InputOutputError, NoSpaceLeftError
from cache.journal.format import OFFSET_BITS
from cache.namespace.namespace import Namespace
from cache.namespace.operations import ROOT_INODE, Create
from cache.services.calls import services_of
from tests.drives import QUIET, make_file, opened, tree
from tests.memory_upstream import MemoryUpstream
from tests.mount.mounted import run
from tests.mount.test_bad_input import fill_disk

FILES = 40
CUTS = 24
OPTIONS = replace(QUIET, journal_size=1 << 20)
MANY = 1500
"""Files that make a record larger than the segment that is preallocated with these options."""


class FullDisk(Durable):
    """While `full`, a write leaves half of its bytes and then fails, as on a disk that fills meanwhile."""

    full = False

    def write(self, descriptor: int, parts: Sequence[Buffer], offset: int) -> int:
        if not self.full:
            return super().write(descriptor, parts, offset)
        data = b"".join(parts)
        os.pwrite(descriptor, data[: len(data) // 2], offset)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


async def fill(drive: Drive, files: int = FILES) -> None:
    """A published folder `top` with files."""
    top = (await drive.make_node(ROOT_INODE, b"top", S_IFDIR | 0o755, 0, 0, 0)).inode
    for number in range(files):
        await make_file(drive, b"%d" % number, b"%d" % number * 100, top)
    await drive.sync()


async def clone(drive: Drive) -> None:
    await services_of(drive)["clone"]({"source": "top", "target": "copy"})


async def names(drive: Drive) -> tuple[int, int]:
    """How many names the root has, and how many there are in `copy`."""
    root = [entry.name for entry in drive.entries(ROOT_INODE, 0, 100)]
    if b"copy" not in root:
        return len(root), 0
    return len(root), len(drive.entries(drive.lookup(ROOT_INODE, b"copy").inode, 0, 10_000))


@pytest.mark.logs_warnings
async def test_a_torn_record_leaves_nothing_of_it(tmp_path: Path) -> None:
    upstream, folder = MemoryUpstream(), tmp_path / "cache"
    async with opened(folder, upstream, OPTIONS, crash=True) as drive:
        await fill(drive)
        begin = drive.ledger.journal.end
        await clone(drive)
        end = drive.ledger.journal.end
    segment = folder / "journal" / f"{begin >> OFFSET_BITS:016x}.journal"
    assert begin >> OFFSET_BITS == end >> OFFSET_BITS
    first, last = (position & ((1 << OFFSET_BITS) - 1) for position in (begin, end))
    cuts = [*range(first, last, (last - first) // CUTS), last - 1, last]
    record = segment.read_bytes()[:last]
    for number, cut in enumerate(cuts):
        copy = tmp_path / str(number)
        shutil.copytree(folder, copy)
        with open(copy / "journal" / segment.name, "r+b") as file:
            file.seek(cut)
            file.write(bytes(last - cut))
        async with opened(copy, upstream, OPTIONS, crash=True) as drive:
            # A record that ends in zeros is not torn where only those are missing.
            assert await names(drive) == ((1, 0) if any(record[cut:]) else (2, FILES))
        shutil.rmtree(copy)


async def test_a_disk_that_fills_in_the_middle_changes_nothing(tmp_path: Path) -> None:
    upstream, disk = MemoryUpstream(), FullDisk()
    device = Environment(disk)
    async with opened(tmp_path / "cache", upstream, OPTIONS, crash=True, environment=device) as drive:
        await fill(drive)
        before, accepted = await tree(drive), drive.ledger.accepted
        disk.full = True
        with pytest.raises(NoSpaceLeftError, match=r"copy: .*full.*nothing was changed") as caught:
            await clone(drive)
        assert "\n" not in str(caught.value)
        assert (await tree(drive), drive.ledger.accepted) == (before, accepted)
        disk.full = False
        await make_file(drive, b"goes on", b"yes")
    async with opened(tmp_path / "cache", upstream, OPTIONS, crash=True, environment=device) as drive:
        assert await names(drive) == (2, 0)
        await clone(drive)
    async with opened(tmp_path / "cache", upstream, OPTIONS, environment=device) as drive:
        assert await names(drive) == (3, FILES)
        await drive.sync()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 32 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", folder)
    yield folder
    run("umount", folder)


@pytest.mark.mount
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a tmpfs")
async def test_a_cache_disk_that_is_really_full(small_disk: Path) -> None:
    upstream = MemoryUpstream()
    async with opened(small_disk / "cache", upstream, OPTIONS, crash=True) as drive:
        await fill(drive, MANY)
        before, accepted = await names(drive), drive.ledger.accepted
        fill_disk(small_disk / "ballast")
        with pytest.raises(NoSpaceLeftError, match="nothing was changed"):
            await clone(drive)
        assert (await names(drive), drive.ledger.accepted) == (before, accepted)
    async with opened(small_disk / "cache", upstream, OPTIONS, crash=True) as drive:
        assert await names(drive) == before
        (small_disk / "ballast").unlink()
        await clone(drive)
    async with opened(small_disk / "cache", upstream, OPTIONS) as drive:
        assert await names(drive) == (2, MANY)


@pytest.mark.logs_warnings
async def test_a_batch_that_does_not_fit_the_state_is_never_written_down_in_part(tmp_path: Path) -> None:
    """A fault of ours, which must not become half a change."""
    async with opened(tmp_path / "cache", MemoryUpstream(), OPTIONS, crash=True) as drive:
        await fill(drive)
        drive.ledger.save()
        made = [drive.allocate_number(), drive.allocate_number()]
        batch = [Create(ROOT_INODE, b"same", inode, S_IFREG, 0, 0, 0, b"", 1) for inode in made]
        with pytest.raises(CorruptError):
            drive.ledger.accept_all(batch)
        with pytest.raises(InputOutputError):
            drive.ledger.save()
        on_disk = Namespace(str(tmp_path / "cache" / "namespace.db"), read_only=True)
        assert on_disk.entry(ROOT_INODE, b"top") is not None
        assert on_disk.entry(ROOT_INODE, b"same") is None
        on_disk.close()
