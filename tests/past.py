"""A drive on a memory upstream whose clock a test sets, to make a past of: fixtures `clock` and `drive`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from stat import S_IFDIR

import pytest

from backend.system import Environment
from cache.drive import Drive
from cache.file_clock import FileClock
from cache.namespace.operations import ROOT_INODE
from cache.past_names import SECOND
from tests.drives import opened
from tests.memory_upstream import MemoryUpstream


class Clock:
    """Stands for `time.time_ns` and for the clock of files; a commit takes it as its time."""

    def __init__(self) -> None:
        self.now = 1_790_000_000 * SECOND

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(FileClock, "now", lambda _: found.now)
    return found


@pytest.fixture
async def drive(tmp_path: Path, clock: Clock) -> AsyncIterator[Drive]:
    async with opened(
        tmp_path / "cache", MemoryUpstream(), environment=Environment(wall_clock=clock)
    ) as made:
        yield made


async def commit(drive: Drive, clock: Clock, seconds: float = 10) -> int:
    """Publish; the time goes on. The commit's number."""
    await drive.sync()
    clock.now += int(seconds * SECOND)
    return drive.past.head


async def write(drive: Drive, inode: int, data: bytes, offset: int = 0) -> None:
    await drive.write(inode, offset, data)
    await drive.settle(inode)


async def make_folder(drive: Drive, name: bytes, parent: int = ROOT_INODE) -> int:
    return (await drive.make_node(parent, name, S_IFDIR | 0o755, 0, 0, 0)).inode
