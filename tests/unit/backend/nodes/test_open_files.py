"""backend.nodes.open_files: what is read without a thread, as a directory node uses it."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from backend.errors import NodeError
from backend.nodes.directory import DirectoryNode
from backend.nodes.identity import NodeIdentity, initialise_directory_node
from backend.nodes.open_files import (
    FIRST_PAUSE_NS,
    LONGEST_PAUSE_NS,
    NOW_MOST,
    READ_AHEAD,
    SOON_MOST,
    SOON_NS,
    SPIN_NS,
)
from backend.nodes.patient import PatientNode
from tests import contents

IDENTITY = NodeIdentity("node0", bytes(16), "zone0")
DATA = contents.content("half-compressible", 3 << 20)
KEY = "packs/aa/fragment"


class Disk:
    """Stands before preadv(2): the page cache has nothing the next `waits` times that it is asked. Counts
    these questions, what the kernel was asked to read, and the reads that took a thread."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.waits = 0
        self.looks = 0
        self.asked: list[tuple[int, int]] = []
        self.threads = 0
        self.now = 0
        self._preadv, self._pread = os.preadv, os.pread
        monkeypatch.setattr(os, "preadv", self.preadv)
        monkeypatch.setattr(os, "pread", self.pread)
        monkeypatch.setattr(os, "posix_fadvise", self.posix_fadvise)
        monkeypatch.setattr(time, "perf_counter_ns", self.clock)

    def preadv(self, descriptor: int, buffers: list[bytearray], offset: int, flags: int) -> int:
        assert flags == os.RWF_NOWAIT
        self.looks += 1
        if self.waits:
            self.waits -= 1
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return self._preadv(descriptor, buffers, offset)

    def pread(self, descriptor: int, length: int, offset: int) -> bytes:
        self.threads += 1
        return self._pread(descriptor, length, offset)

    def posix_fadvise(self, descriptor: int, offset: int, length: int, advice: int) -> None:
        if advice == os.POSIX_FADV_WILLNEED:
            self.asked.append((offset, length))

    def clock(self) -> int:
        self.now += SOON_NS // 100
        return self.now


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.fixture
async def node(tmp_path: Path, disk: Disk) -> DirectoryNode:
    """With one file that was read from, hence open."""
    initialise_directory_node(str(tmp_path / "node"), IDENTITY.drive_id, IDENTITY.name, IDENTITY.zone)
    node = DirectoryNode(str(tmp_path / "node"), IDENTITY)
    await node.put(KEY, [DATA])
    assert await node.get(KEY, 4096, 10) == DATA[4096:4106]
    disk.threads, disk.asked = 0, []
    return node


async def test_a_quick_disk_needs_no_thread(node: DirectoryNode, disk: Disk) -> None:
    disk.waits = 5
    assert await node.get(KEY, 500_000, 1000) == DATA[500_000:501_000]
    assert (disk.threads, disk.asked) == (0, [(500_000, 1000)])


async def test_what_follows_is_asked_for_with_it(node: DirectoryNode, disk: Disk) -> None:
    disk.waits = 5
    assert await node.get(KEY, 4200, 1000) == DATA[4200:5200]
    assert (disk.threads, disk.asked) == (0, [(4200, READ_AHEAD)])


async def turns_of_others(node: DirectoryNode, disk: Disk, waits: int) -> int:
    """How often another task had its turn while a read looked `waits` times in vain."""
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    disk.waits = waits
    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        assert await node.get(KEY, 500_000, 1000) == DATA[500_000:501_000]
        nursery.cancel_scope.cancel()
    assert disk.threads == 0
    return turns


async def test_others_go_on_meanwhile(node: DirectoryNode, disk: Disk) -> None:
    spins = SPIN_NS * 100 // SOON_NS
    assert 70 - spins - 2 <= await turns_of_others(node, disk, 70) <= 70 - spins + 2


async def test_a_disk_that_is_not_quick_is_waited_for_in_turn_from_the_start(
    node: DirectoryNode, disk: Disk
) -> None:
    found = [await turns_of_others(node, disk, 70) for _ in range(8)]
    assert found[0] <= 55
    assert found[-1] >= 65
    assert await turns_of_others(node, disk, 10) >= 6
    assert await turns_of_others(node, disk, 10) <= 3, "it was quick again"


async def waits(node: DirectoryNode, disk: Disk, place: int) -> bool:
    """Whether a read waited for the disk before it took a thread."""
    disk.waits, looks = 1 << 30, disk.looks
    assert await node.get(KEY, place, 1000) == DATA[place : place + 1000]
    return disk.looks - looks > 1


async def test_a_slow_disk_is_left_to_threads_for_ever_longer(node: DirectoryNode, disk: Disk) -> None:
    waited = partial(waits, node, disk)
    pause = FIRST_PAUSE_NS
    for place in range(100_000, 900_000, 80_000):
        assert await waited(place)
        assert not await waited(place + 2000)
        disk.now += pause - 2 * SOON_NS
        assert not await waited(place + 4000)
        disk.now += 2 * SOON_NS
        pause = min(2 * pause, LONGEST_PAUSE_NS)
    assert pause == LONGEST_PAUSE_NS
    assert disk.threads == 30
    disk.waits = 5
    assert await node.get(KEY, 50_000, 1000) == DATA[50_000:51_000]
    assert disk.threads == 30
    assert await waited(10_000)
    disk.now += FIRST_PAUSE_NS
    assert await waited(20_000)


async def test_reads_that_are_slow_together_are_one_reason_to_pause(node: DirectoryNode, disk: Disk) -> None:
    disk.waits = 1 << 30
    async with trio.open_nursery() as nursery:
        for place in range(100_000, 900_000, 100_000):
            nursery.start_soon(node.get, KEY, place, 1000)
    disk.now += FIRST_PAUSE_NS
    assert await waits(node, disk, 10_000)
    disk.now += 2 * FIRST_PAUSE_NS - 2 * SOON_NS
    assert not await waits(node, disk, 20_000)
    disk.now += 2 * SOON_NS
    assert await waits(node, disk, 30_000), "the second pause was the double of the first, no more"


async def test_a_long_read_of_the_disk_takes_a_thread_at_once(node: DirectoryNode, disk: Disk) -> None:
    disk.waits = 1
    length = SOON_MOST + 1
    assert await node.get(KEY, 100_000, length) == DATA[100_000 : 100_000 + length]
    assert disk.threads == 1
    assert disk.asked == []


@pytest.mark.parametrize("length", [1, SOON_MOST, SOON_MOST + 1, 1 << 20, NOW_MOST])
async def test_what_the_page_cache_has_needs_no_thread(node: DirectoryNode, disk: Disk, length: int) -> None:
    for start in (0, 4097, len(DATA) - length):
        assert await node.get(KEY, start, length) == DATA[start : start + length]
        soon = await node.get_soon(KEY, start, length)
        assert soon == DATA[start : start + length]
    assert await node.get_soon(KEY, len(DATA) - length + 1, length) is None
    assert disk.threads == 0


@pytest.mark.parametrize("length", [SOON_MOST + 1, 400 << 10])
async def test_what_follows_a_long_one_that_the_page_cache_has_is_asked_for(
    node: DirectoryNode, disk: Disk, length: int
) -> None:
    """Regression: nothing was asked for, so that each read after the first two met a cold cache."""
    for start in (4106, 4106 + length, 4106 + 2 * length):
        assert await node.get(KEY, start, length) == DATA[start : start + length]
    assert disk.asked == [(4106 + number * length, READ_AHEAD) for number in (1, 2, 3)]
    assert await node.get(KEY, 100, length) == DATA[100 : 100 + length]
    assert (disk.threads, len(disk.asked)) == (0, 3)


async def test_a_thread_asks_for_what_follows_while_the_disk_is_slow(node: DirectoryNode, disk: Disk) -> None:
    assert await waits(node, disk, 100_000)
    disk.waits, disk.threads, disk.asked = 0, 0, []
    looks, length = disk.looks, SOON_MOST + 1
    assert await node.get(KEY, 101_000, length) == DATA[101_000 : 101_000 + length]
    assert (disk.threads, disk.looks) == (1, looks)
    assert disk.asked == [(101_000 + length, READ_AHEAD)]


async def test_a_longer_one_takes_a_thread_all_the_same(node: DirectoryNode, disk: Disk) -> None:
    looks = disk.looks
    assert await node.get(KEY, 100, NOW_MOST + 1) == DATA[100 : 101 + NOW_MOST]
    assert (disk.threads, disk.looks) == (1, looks)


async def test_a_long_read_of_a_file_that_was_replaced_is_of_the_new_one(node: DirectoryNode) -> None:
    other = contents.content("log", len(DATA))
    await node.put(KEY, [other])
    assert await node.get(KEY, 5, 1 << 20) == other[5 : 5 + (1 << 20)]


async def test_the_end_of_a_file_is_not_waited_for(node: DirectoryNode, disk: Disk) -> None:
    looks = disk.looks
    assert await node.get(KEY, len(DATA) - 10, 100) == DATA[-10:]
    assert (disk.looks - looks, disk.asked) == (1, [])
    disk.waits = 5
    assert await node.get(KEY, 500_000, 1000) == DATA[500_000:501_000]
    assert disk.threads == 1, "a short file is no sign of a slow disk"


async def test_what_the_kernel_refuses_is_read_in_a_thread(
    node: DirectoryNode, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "preadv", _refusing(errno.EIO))
    assert await node.get(KEY, 500_000, 1000) == DATA[500_000:501_000]
    assert disk.threads == 1


async def test_a_file_system_that_cannot_tell_is_not_asked_on_the_loop(
    node: DirectoryNode, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of other machines: their fstat(2) may take as long as the network does."""
    monkeypatch.setattr(os, "preadv", _refusing(errno.EOPNOTSUPP))
    loop, fstat, callers = threading.get_ident(), os.fstat, []

    def noted(descriptor: int) -> os.stat_result:
        callers.append(threading.get_ident())
        return fstat(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", noted)
        for place in (500_000, 600_000):
            assert await node.get(KEY, place, 1000) == DATA[place : place + 1000]
    assert (disk.threads, disk.asked) == (2, [])
    assert callers
    assert loop not in callers


def _refusing(number: int) -> Callable[..., Any]:
    def refuse(*_: Any) -> int:
        raise OSError(number, os.strerror(number))

    return refuse


async def test_a_file_that_was_replaced_is_not_read_any_more(
    node: DirectoryNode, disk: Disk, tmp_path: Path
) -> None:
    path = tmp_path / "node" / KEY
    path.with_suffix(".new").write_bytes(DATA[::-1])
    path.with_suffix(".new").rename(path)
    disk.waits = 5
    assert await node.get(KEY, 0, 1000) == DATA[::-1][:1000]


async def test_a_node_that_owes_an_answer_is_not_asked(node: DirectoryNode, disk: Disk) -> None:
    patient = PatientNode(node, 0.001)
    disk.waits = 5
    with patient.watch.handed_down() as asking, asking.noting():
        while not patient.watch.is_overdue(0.001):
            await trio.sleep(0.001)
        assert await patient.get_soon(KEY, 500_000, 1000) is None
        with pytest.raises(NodeError, match="not answered yet"):
            await patient.get(KEY, 500_000, 1000)
    assert disk.asked == []


def is_open(path: Path) -> bool:
    """Whether a descriptor of this process is of the file that is, or was, at this path."""
    found = []
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the listing's own
            found.append(os.readlink(f"/proc/self/fd/{number}"))
    return any(name in (str(path), f"{path} (deleted)") for name in found)


async def test_a_file_that_went_away_is_let_go_of(node: DirectoryNode, disk: Disk, tmp_path: Path) -> None:
    """Who compacts in another process wants its space back."""
    path = tmp_path / "node" / KEY
    assert is_open(path)
    path.unlink()
    assert await node.get_soon(KEY, 4096, 10) is None
    await trio.to_thread.run_sync(int)  # the thread that opened it refers to it until it has other work
    assert not is_open(path)
