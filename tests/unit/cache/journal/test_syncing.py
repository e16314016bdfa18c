"""Where an fsync waits for the disk: on the event loop if all conditions hold, else in a thread."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from backend.buffer import Buffer
from backend.system import Environment
from backend.system.durable import Durable
from cache.errors import InputOutputError
from cache.journal import disk_pace, syncing
from cache.journal.disk_pace import (
    FIRST_PAUSE_NS,
    FRESH_NS,
    LONGEST_PAUSE_NS,
    SLOW_IN_THREAD_NS,
    SLOW_NS,
)
from cache.journal.format import SEGMENT_HEADER_SIZE, RecordType
from cache.journal.journal import Journal
from cache.journal.syncing import AHEAD
from tests.contents import content

SEGMENT = 4 << 20
LARGE = 100_000


class Disk(Durable):
    """Knows which thread waited for it, and what was written; time passes only with its calls."""

    def __init__(self) -> None:
        self.waited: list[bool] = []
        """for each fdatasync, whether it was on the event loop"""
        self.takes_ns = 0
        self.now = 10**12
        self.error = 0
        self.hold: threading.Event | None = None
        self.written: list[tuple[int, int, bool]] = []
        """offset, length, whether it was all zeros"""
        self.refuses_zeros = False

    def sync_data(self, descriptor: int) -> None:
        on_loop = threading.current_thread() is threading.main_thread()
        self.waited.append(on_loop)
        self.now += self.takes_ns
        if self.error:
            raise OSError(self.error, os.strerror(self.error))
        if self.hold is not None and not on_loop:
            assert self.hold.wait(30)

    def write(self, descriptor: int, parts: Sequence[Buffer], offset: int) -> int:
        data = b"".join(parts)
        if self.refuses_zeros and len(data) > 1000 and not any(data):
            raise OSError(errno.EIO, "no zeros")
        self.written.append((offset, len(data), not any(data)))
        return super().write(descriptor, parts, offset)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk()
    monkeypatch.setattr(disk_pace, "time", SimpleNamespace(perf_counter_ns=lambda: disk.now))
    return disk


def opened(
    folder: Path,
    size: int = SEGMENT,
    on_nameless: Callable[[str], None] = lambda _path: None,
    disk: Durable | None = None,
) -> Journal:
    journal = Journal(folder, size, on_nameless, Environment(disk or Durable()))
    list(journal.replay())
    journal.start(1)
    return journal


def put(journal: Journal, data: bytes = b"record") -> int:
    return journal.append(RecordType.DATA, (data,), 1)


@pytest.fixture
async def journal(disk: Disk, tmp_path: Path) -> Journal:
    """Its first segment is there, durably, and written ahead."""
    journal = opened(tmp_path, disk=disk)
    put(journal)
    await journal.sync()
    disk.waited.clear()
    return journal


async def waits_on_loop(journal: Journal, disk: Disk, *, alone: bool = True) -> bool:
    """Whether the next fsync waits there."""
    disk.waited.clear()
    await journal.sync(alone=alone)
    assert disk.waited, "nothing was synced"
    return all(disk.waited)


async def test_who_is_alone_waits_on_the_loop_without_a_turn_of_others(journal: Journal, disk: Disk) -> None:
    put(journal)
    with trio.testing.assert_no_checkpoints():
        await journal.sync(alone=True)
    assert disk.waited == [True]
    await journal.sync(alone=True)
    assert disk.waited == [True], "there was nothing more to sync"


async def test_who_is_not_alone_waits_in_a_thread(journal: Journal, disk: Disk) -> None:
    put(journal)
    assert not await waits_on_loop(journal, disk, alone=False)


def _new_name(journal: Journal) -> None:
    journal.begin_segment(1)
    put(journal)


def _large_write(journal: Journal) -> None:
    journal.append_bulk(1, 0, 0, content("text", LARGE), 1)


def _unwritten(journal: Journal) -> None:
    put(journal, content("random", AHEAD))


@pytest.mark.parametrize("change", [_new_name, _large_write, _unwritten])
async def test_new_names_more_files_and_unwritten_blocks_are_for_a_thread(
    journal: Journal, disk: Disk, change: Callable[[Journal], None]
) -> None:
    change(journal)
    assert not await waits_on_loop(journal, disk)
    put(journal)
    assert await waits_on_loop(journal, disk), "once that is synced the loop will do again"


async def test_two_segments_are_for_a_thread(journal: Journal, disk: Disk) -> None:
    put(journal)
    journal.begin_segment(1)
    put(journal)
    assert not await waits_on_loop(journal, disk)
    assert len(disk.waited) == 2


async def test_while_another_fsync_waits_in_a_thread_one_who_is_alone_joins_it(
    journal: Journal, disk: Disk
) -> None:
    disk.hold = threading.Event()
    async with trio.open_nursery() as nursery:
        put(journal)
        nursery.start_soon(journal.sync)
        await trio.testing.wait_all_tasks_blocked()
        put(journal)
        nursery.start_soon(lambda: journal.sync(alone=True))
        await trio.testing.wait_all_tasks_blocked()
        disk.hold.set()
    assert True not in disk.waited


async def test_a_slow_disk_is_left_to_threads_for_ever_longer(journal: Journal, disk: Disk) -> None:
    pause = FIRST_PAUSE_NS
    while pause < LONGEST_PAUSE_NS:
        disk.takes_ns = SLOW_NS + 1
        put(journal)
        assert await waits_on_loop(journal, disk)
        disk.takes_ns = 0
        disk.now += pause - 1
        put(journal)
        assert not await waits_on_loop(journal, disk)
        disk.now += 1
        pause = min(2 * pause, LONGEST_PAUSE_NS)
    put(journal)
    assert await waits_on_loop(journal, disk)  # a quick one: the next pause is the first again
    disk.takes_ns = SLOW_NS + 1
    put(journal)
    assert await waits_on_loop(journal, disk)
    disk.takes_ns = 0
    disk.now += FIRST_PAUSE_NS
    for on_loop in (False, True):
        put(journal)
        assert await waits_on_loop(journal, disk) == on_loop


async def test_a_slow_disk_is_tried_in_threads_until_it_is_quick(journal: Journal, disk: Disk) -> None:
    """Regression: the loop itself tried it after each pause, and waited for a disk that hung."""
    disk.takes_ns = SLOW_IN_THREAD_NS + 1
    put(journal)
    assert not await waits_on_loop(journal, disk, alone=False)
    for _ in range(5):
        disk.now += LONGEST_PAUSE_NS
        put(journal)
        assert not await waits_on_loop(journal, disk)
    disk.now += LONGEST_PAUSE_NS
    disk.takes_ns = 0
    for on_loop in (False, True):
        put(journal)
        assert await waits_on_loop(journal, disk) == on_loop


async def test_a_disk_that_was_idle_is_tried_in_a_thread(journal: Journal, disk: Disk) -> None:
    """It may sleep, or be gone."""
    disk.now += FRESH_NS
    for on_loop in (False, True):
        put(journal)
        assert await waits_on_loop(journal, disk) == on_loop


async def test_large_writes_that_take_long_do_not_make_the_disk_slow(journal: Journal, disk: Disk) -> None:
    disk.takes_ns = SLOW_IN_THREAD_NS + 1
    _large_write(journal)
    assert not await waits_on_loop(journal, disk)
    disk.takes_ns = 0
    put(journal)
    assert await waits_on_loop(journal, disk)


def test_the_pauses_are_those_that_were_measured() -> None:
    assert (SLOW_NS, FIRST_PAUSE_NS) == (500_000, 20_000_000)


@pytest.mark.logs_warnings
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("alone", [True, False])
async def test_an_fsync_that_failed_is_the_end_wherever_it_was_waited_for(
    journal: Journal, disk: Disk, alone: bool, number: int
) -> None:
    put(journal)
    disk.error = number
    with pytest.raises(InputOutputError, match="mount again"):
        await journal.sync(alone=alone)
    assert disk.waited == [alone]
    disk.error = 0
    for later in (True, False):
        with pytest.raises(InputOutputError, match="mount again"):
            await journal.sync(alone=later)
    with pytest.raises(InputOutputError, match="mount again"):
        put(journal)
    assert disk.waited == [alone], "a failed fsync is never repeated"


async def test_a_segment_without_a_name_is_found_out_on_the_loop_too(disk: Disk, tmp_path: Path) -> None:
    told: list[str] = []
    journal = opened(tmp_path, on_nameless=told.append, disk=disk)
    await journal.sync()
    (path,) = tmp_path.glob("*.journal")
    path.unlink()
    put(journal)
    assert await waits_on_loop(journal, disk)
    assert told == [str(path)]


async def test_a_journal_that_was_removed_with_its_folder_is_found_out(disk: Disk, tmp_path: Path) -> None:
    """Also where names were to be synced: the sync was refused as one that may succeed later."""
    told: list[str] = []
    folder = tmp_path / "journal"
    folder.mkdir()
    journal = opened(folder, on_nameless=told.append, disk=disk)
    put(journal)
    (path,) = folder.glob("*.journal")
    shutil.rmtree(folder)
    await journal.sync()
    assert told == [str(path)]


async def test_files_that_were_let_go_during_an_fsync_have_not_lost_their_names(
    disk: Disk, tmp_path: Path
) -> None:
    """Others were told that somebody had removed the journal, and nothing was durable from then on."""
    told: list[str] = []
    journal = opened(tmp_path, on_nameless=told.append, disk=disk)
    journal.append_bulk(1, 0, 1, content("random", 3000), 1)
    journal.begin_segment(2)
    needed = put(journal)
    disk.hold = threading.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(journal.sync)
        with trio.fail_after(60):
            while not disk.waited:
                await trio.sleep(0.001)
        journal.segment_size *= 2
        journal.drop_before(needed)
        assert len(journal.named_files()) == 1
        disk.hold.set()
    assert told == []


# Written ahead


async def test_zeros_come_behind_the_last_record_once_for_many_fsyncs(journal: Journal, disk: Disk) -> None:
    disk.written.clear()
    while not any(zeros for _, _, zeros in disk.written):
        end = put(journal, content("random", 3000)) & 0xFFFFFFFF
        await journal.sync(alone=True)
    records = [length for _, length, zeros in disk.written if not zeros]
    assert sum(records) > AHEAD * 0.9
    (ahead,) = [(offset, length) for offset, length, zeros in disk.written if zeros]
    assert ahead == (end + records[-1], AHEAD)
    assert ahead[0] == journal.end & 0xFFFFFFFF


async def test_zeros_stay_within_what_is_preallocated(disk: Disk, tmp_path: Path) -> None:
    journal = opened(tmp_path, 64 << 10, disk=disk)
    for _ in range(100):
        put(journal, content("random", 2000))
        await journal.sync(alone=True)
    assert max(offset + length for offset, length, zeros in disk.written if zeros) <= 64 << 10
    assert {path.stat().st_size for path in tmp_path.glob("*.journal")} == {64 << 10}


async def test_who_never_calls_fsync_has_nothing_written_ahead(disk: Disk, tmp_path: Path) -> None:
    journal = opened(tmp_path, disk=disk)
    for _ in range(500):
        put(journal, content("random", 3000))
    await journal.sync_records(0, journal.end)
    assert not any(zeros for _, _, zeros in disk.written)


async def test_zeros_that_cannot_be_written_refuse_nothing(journal: Journal, disk: Disk) -> None:
    disk.refuses_zeros = True
    for _ in range(5):
        _unwritten(journal)
        assert not await waits_on_loop(journal, disk)


async def test_what_was_emptied_is_ready_and_holds_nothing_in_clear(
    journal: Journal, disk: Disk, tmp_path: Path
) -> None:
    for number in range(300):
        put(journal, content("text", 3000, number))
        await journal.sync(alone=True)
    journal.leave(1)
    journal.drop_before(journal.end)
    await journal.close_dropped()
    (spare,) = tmp_path.glob("*.spare")
    assert not any(spare.read_bytes())
    journal.begin_segment(1)
    put(journal)
    await journal.sync()
    disk.written.clear()
    for _ in range(300):
        put(journal, content("text", 3000))
        assert await waits_on_loop(journal, disk)
    assert not any(zeros for _, _, zeros in disk.written), "it was written before"


@given(st.lists(st.tuples(st.integers(1, 40_000), st.sampled_from(["none", "alone", "thread", "drop"]))))
def test_what_was_appended_comes_back_wherever_it_was_synced(steps: list[tuple[int, str]]) -> None:
    async def live(folder: Path) -> list[bytes]:
        journal, accepted = opened(folder, 128 << 10), []
        for number, (size, then) in enumerate(steps):
            accepted.append(content("random", size, number))
            put(journal, accepted[-1])
            if then in ("alone", "thread"):
                await journal.sync(alone=then == "alone")
            elif then == "drop":
                journal.leave(1)
                journal.drop_before(journal.end)
                await journal.close_dropped()
                accepted.clear()
        journal.close()
        return accepted

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        accepted = trio.run(live, folder)
        assert [bytes(record.payload) for record in Journal(folder).replay()] == accepted


async def test_the_header_of_a_new_segment_is_not_written_over(disk: Disk, tmp_path: Path) -> None:
    journal = opened(tmp_path, disk=disk)
    await journal.sync()
    assert min(offset for offset, _, zeros in disk.written if zeros) == SEGMENT_HEADER_SIZE
    assert syncing.AHEAD <= 1 << 20, "more would be a stall of the loop"
