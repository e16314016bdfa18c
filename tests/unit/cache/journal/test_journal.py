"""The journal: what is read back after each kind of end, and what failures mean."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from backend.buffer import Buffer
from backend.system import Environment
from backend.system.durable import Durable
from cache.errors import FileTooBigError, InputOutputError, NoSpaceLeftError
from cache.journal.format import MAX_PAYLOAD, RECORD_HEADER_SIZE, SEGMENT_HEADER_SIZE, RecordType
from cache.journal.journal import Journal
from tests.changing_disk import ChangingDisk, exchanged

SEGMENT = 4096


class Failing(Durable):
    """Fails as told; counts."""

    def __init__(self) -> None:
        self.write_error = self.sync_error = self.space = 0
        self.syncs = 0
        self.preallocated_by: list[threading.Thread] = []

    def write(self, descriptor: int, parts: Sequence[Buffer], offset: int) -> int:
        if self.write_error:
            raise OSError(self.write_error, os.strerror(self.write_error))
        return super().write(descriptor, parts, offset)

    def sync_data(self, descriptor: int) -> None:
        self.syncs += 1
        if self.sync_error:
            raise OSError(self.sync_error, os.strerror(self.sync_error))

    def preallocate(self, descriptor: int, size: int) -> None:
        self.preallocated_by.append(threading.current_thread())
        if self.space:
            raise OSError(self.space, os.strerror(self.space))
        super().preallocate(descriptor, size)


@contextmanager
def failing(journal: Journal) -> Iterator[Failing]:
    disk = Failing()
    with exchanged(journal.environment, disk):
        yield disk


def opened(
    folder: Path, segment_size: int = SEGMENT, disk: Durable | None = None
) -> tuple[Journal, list[tuple[int, bytes]]]:
    journal = Journal(folder, segment_size, environment=Environment(disk or ChangingDisk()))
    found = [(record.position, bytes(record.payload)) for record in journal.replay()]
    journal.start(1)
    return journal, found


def put(journal: Journal, data: bytes, open_commit: int = 1) -> int:
    return journal.append(RecordType.DATA, (data,), open_commit)


def test_records_come_back_in_order_over_segments(tmp_path: Path) -> None:
    journal, found = opened(tmp_path)
    assert found == []
    written = [(put(journal, data), data) for data in (bytes([n]) * 900 for n in range(20))]
    assert len(list(tmp_path.glob("*.journal"))) > 4
    for position, data in written:
        assert journal.read_at(position + RECORD_HEADER_SIZE, 900) == data
    journal.close()
    journal, found = opened(tmp_path)
    assert found == written
    later = put(journal, b"later")
    journal.close()
    assert opened(tmp_path)[1] == [*written, (later, b"later")]


def test_a_torn_record_ends_the_journal_wherever_it_was_torn(tmp_path: Path) -> None:
    base = tmp_path / "base"
    journal, _ = opened(base)
    first = put(journal, b"first")
    torn = put(journal, b"the torn one") & 0xFFFFFFFF
    end = journal.end & 0xFFFFFFFF
    journal.close()
    (path,) = base.glob("*.journal")
    whole = path.read_bytes()
    for cut in range(torn, end):
        folder = tmp_path / str(cut)
        shutil.copytree(base, folder)
        (folder / path.name).write_bytes(whole[:cut].ljust(len(whole), b"\0"))
        journal, found = opened(folder)
        assert found == [(first, b"first")]
        after = put(journal, b"after")
        journal.close()
        assert opened(folder)[1] == [(first, b"first"), (after, b"after")]


async def test_dropped_segments_are_used_again_and_their_old_records_never_read(tmp_path: Path) -> None:
    journal, _ = opened(tmp_path)
    for number in range(12):
        put(journal, bytes([number]) * 1000)
    journal.drop_before(journal.end)
    assert len(list(tmp_path.glob("*.spare"))) == 2
    journal.begin_segment(1)
    assert len(list(tmp_path.glob("*.spare"))) == 2, "a power cut could take their new names back"
    await journal.close_dropped()
    assert not any(b"".join(path.read_bytes() for path in tmp_path.glob("*.spare")))
    journal.begin_segment(1)
    position = put(journal, b"x" * 1000)  # as long as the old ones: what follows was an old record
    assert len(list(tmp_path.glob("*.spare"))) == 1
    journal.close()
    found = opened(tmp_path)[1]
    assert found[-1] == (position, b"x" * 1000)
    assert all(data[0] >= 9 for _, data in found)
    assert not list(tmp_path.glob("*.spare")), "nobody knows what an earlier process left in it"


def test_drop_before_keeps_what_is_needed(tmp_path: Path) -> None:
    journal, _ = opened(tmp_path)
    positions = [put(journal, bytes([number]) * 1000) for number in range(12)]
    journal.drop_before(positions[6])
    assert journal.read_at(positions[6] + RECORD_HEADER_SIZE, 1) == b"\6"
    with pytest.raises(InputOutputError):
        journal.read_at(positions[0] + RECORD_HEADER_SIZE, 1)
    before = journal.used_bytes
    journal.drop_before(journal.end)
    assert journal.used_bytes < before
    journal.drop_before(journal.end)
    put(journal, b"still accepts")


@pytest.mark.logs_warnings
def test_segments_after_a_gap_are_put_aside(tmp_path: Path) -> None:
    journal, _ = opened(tmp_path)
    written = [(put(journal, data), data) for data in (bytes([n]) * 1000 for n in range(9))]
    journal.close()
    first, second, third = sorted(tmp_path.glob("*.journal"))
    second.unlink()
    journal, found = opened(tmp_path)
    assert found == written[: len(found)]
    assert len(found) == 3
    assert (tmp_path / "lost" / third.name).exists()
    assert first.exists()
    position = put(journal, b"new")
    journal.close()
    assert opened(tmp_path)[1] == [*found, (position, b"new")]


def test_headers_lost_by_a_power_cut_do_not_bring_records_back(tmp_path: Path) -> None:
    """Regression: the segment's number seeds the checksums, so it must never be given twice."""
    journal, _ = opened(tmp_path)
    put(journal, b"a" * 1000)
    put(journal, b"b" * 1000)
    journal.close()
    (path,) = tmp_path.glob("*.journal")
    data = bytearray(path.read_bytes())
    data[:SEGMENT_HEADER_SIZE] = bytes(SEGMENT_HEADER_SIZE)
    path.write_bytes(data)
    journal, found = opened(tmp_path)
    assert found == []
    position = put(journal, b"c" * 1000)
    journal.close()
    assert opened(tmp_path)[1] == [(position, b"c" * 1000)]


def test_a_number_that_is_given_again_does_not_bring_records_back(tmp_path: Path) -> None:
    """Regression: a power cut took the segment's name, and what it held lay under the same number again."""
    journal, _ = opened(tmp_path)
    put(journal, b"a" * 1000)
    put(journal, b"b" * 1000)
    journal.close()
    (path,) = tmp_path.glob("*.journal")
    path.rename(path.with_suffix(".spare"))
    number = int(path.stem, 16)
    path.with_suffix(".spare").rename(tmp_path / f"{0:016x}.spare")
    journal, found = opened(tmp_path)
    assert found == []
    assert path.exists(), "the same number"
    assert number == 1
    position = put(journal, b"c" * 1000)
    journal.close()
    assert opened(tmp_path)[1] == [(position, b"c" * 1000)]


def test_numbers_go_on_behind_a_position_that_somebody_knows(tmp_path: Path) -> None:
    journal = Journal(tmp_path, SEGMENT)
    list(journal.replay())
    journal.pass_by(77 << 32 | 500)
    journal.start(1)
    assert [int(path.stem, 16) for path in tmp_path.glob("*.journal")] == [78]
    journal.close()


def test_several_lost_headers_do_not_make_two_segments_share_a_file(tmp_path: Path) -> None:
    """Regression: a stale file was renamed over a live segment's."""
    journal, _ = opened(tmp_path)
    for _ in range(9):
        put(journal, b"x" * 1000)
    journal.close()
    for path in tmp_path.glob("*.journal"):
        path.write_bytes(bytes(SEGMENT))
    journal, found = opened(tmp_path)
    assert found == []
    written = [(put(journal, data), data) for data in (bytes([n]) * 1000 for n in range(20))]
    journal.close()
    assert opened(tmp_path)[1] == written


@pytest.mark.logs_warnings
async def test_a_failed_fsync_poisons_for_ever(tmp_path: Path) -> None:
    journal, _ = opened(tmp_path)
    put(journal, b"accepted")
    with failing(journal) as disk:
        disk.sync_error = errno.EIO
        with pytest.raises(InputOutputError):
            await journal.sync()
        disk.sync_error = 0
        for _ in range(2):
            with pytest.raises(InputOutputError):
                await journal.sync()
            with pytest.raises(InputOutputError):
                put(journal, b"refused")
        assert disk.syncs == 1
    journal.close()
    assert [data for _, data in opened(tmp_path)[1]] == [b"accepted"]


async def test_a_full_disk_leaves_nothing_and_is_no_poison(tmp_path: Path) -> None:
    journal, _ = opened(tmp_path)
    first = put(journal, b"x" * 3000)
    files = set(tmp_path.iterdir())
    with failing(journal) as disk:
        disk.space = errno.ENOSPC
        with pytest.raises(NoSpaceLeftError):
            put(journal, b"y" * 3000)
        assert set(tmp_path.iterdir()) == files
        disk.space, disk.write_error = 0, errno.ENOSPC
        with pytest.raises(NoSpaceLeftError):
            put(journal, b"y" * 300)
    second = put(journal, b"z" * 3000)
    await journal.sync()
    journal.close()
    assert opened(tmp_path)[1] == [(first, b"x" * 3000), (second, b"z" * 3000)]


async def test_room_that_was_made_is_there_for_records_of_more_than_a_segment(tmp_path: Path) -> None:
    """Regression: the second began a segment of its own, which a full disk refused in the middle."""
    journal, _ = opened(tmp_path)
    put(journal, b"before")
    datas = [bytes([number]) * 3000 for number in range(4)]
    with failing(journal) as disk:
        disk.space = errno.ENOSPC
        with pytest.raises(NoSpaceLeftError):
            journal.make_room([SEGMENT], 7)
        disk.space = 0
        journal.make_room([3000] * 4, 7)
        disk.space = errno.ENOSPC
        for data in datas:
            put(journal, data)
    journal.close()
    assert [data for _, data in opened(tmp_path)[1]] == [b"before", *datas]


class Late(Durable):
    """While `full`, a write is there, and is refused all the same; `for_long`: so is the erasing after it."""

    full = for_long = False

    def write(self, descriptor: int, parts: Sequence[Buffer], offset: int) -> int:
        is_record = len(parts) > 1
        if is_record or not (self.full and self.for_long):
            super().write(descriptor, parts, offset)
        if self.full and (is_record or self.for_long):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return sum(map(len, parts))


@pytest.mark.parametrize("for_long", [False, True])
def test_a_refused_record_does_not_come_back(tmp_path: Path, for_long: bool) -> None:
    """What was not written of it can have been there: zeros. Then later segments would follow a gap."""
    journal, _ = opened(tmp_path)
    first = put(journal, b"first")
    disk = Late()
    with exchanged(journal.environment, disk):
        disk.full, disk.for_long = True, for_long
        with pytest.raises(NoSpaceLeftError):
            put(journal, b"refused")
        disk.full = False
        if not for_long:
            copy = tmp_path / "killed now"
            copy.mkdir()
            for path in tmp_path.glob("*.journal"):
                shutil.copy(path, copy)
            assert opened(copy)[1] == [(first, b"first")]
        second = put(journal, b"x" * SEGMENT)  # in a segment of its own
    journal.close()
    assert opened(tmp_path)[1] == [(first, b"first"), (second, b"x" * SEGMENT)]


class Waiting(Durable):
    """An fdatasync that begins, waits until it is let go, and then looks at what it was given."""

    def __init__(self) -> None:
        self.begun, self.let_go = threading.Event(), threading.Event()
        self.synced: list[tuple[int, int]] = []

    def sync_data(self, descriptor: int) -> None:
        self.begun.set()
        assert self.let_go.wait(30)
        found = os.fstat(descriptor)
        self.synced.append((found.st_dev, found.st_ino))
        super().sync_data(descriptor)


def open_files() -> set[tuple[int, int]]:
    """The files that this process has open."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the listing's own
            status = os.fstat(int(number))
            found.add((status.st_dev, status.st_ino))
    return found


async def test_a_segment_dropped_during_an_fdatasync_is_closed_after_it(tmp_path: Path) -> None:
    """Regression: the descriptor was closed at once, and its number could be another file's by then."""
    journal, _ = opened(tmp_path)
    put(journal, b"x" * (SEGMENT + 1))
    first = os.stat(min(tmp_path.glob("*.journal")))
    identity = (first.st_dev, first.st_ino)
    journal.leave(1)
    disk = Waiting()
    with exchanged(journal.environment, disk):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(journal.sync)
            await trio.to_thread.run_sync(disk.begun.wait, 30)
            journal.drop_before(journal.end)
            nursery.start_soon(journal.close_dropped)
            await trio.testing.wait_all_tasks_blocked()
            other = os.open(tmp_path, os.O_RDONLY)  # gets the number that a close has freed
            disk.let_go.set()
        os.close(other)
    assert identity in disk.synced
    assert identity not in open_files()
    put(journal, b"still accepts")
    await journal.sync()
    journal.close()


async def test_waiters_share_an_fdatasync(tmp_path: Path) -> None:
    journal, _ = opened(tmp_path)
    put(journal, b"one")
    with failing(journal) as disk:
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(journal.sync)
        assert disk.syncs <= 2
        await journal.sync()
        assert disk.syncs <= 2  # nothing new
        put(journal, b"two")
        await journal.sync()
        assert disk.syncs <= 3


def test_a_record_over_the_limit_is_refused_because_replay_would_stop_there(tmp_path: Path) -> None:
    journal, _ = opened(tmp_path)
    with pytest.raises(FileTooBigError):
        put(journal, bytes(MAX_PAYLOAD + 1))
    large = put(journal, bytes(3 * SEGMENT))  # larger than a segment is fine
    after = put(journal, b"after")
    journal.close()
    assert opened(tmp_path)[1] == [(large, bytes(3 * SEGMENT)), (after, b"after")]


def test_an_oversized_segment_can_be_left(tmp_path: Path) -> None:
    journal, _ = opened(tmp_path)
    put(journal, bytes(10 * SEGMENT))
    journal.leave(1)
    journal.drop_before(journal.end)
    assert journal.used_bytes < SEGMENT


@given(st.lists(st.integers(1, 3 * SEGMENT), min_size=1, max_size=6))
def test_the_room_that_a_segment_has_left_is_no_record(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int]
) -> None:
    """As many bytes before a kill as after it, though what was the last segment is a whole one then."""
    folder = tmp_path_factory.mktemp("journal")
    journal, _ = opened(folder)
    begun = journal.record_bytes
    for size in sizes:
        put(journal, bytes(size))
    written = journal.record_bytes
    assert written >= begun + sum(sizes)
    assert written <= journal.used_bytes
    journal.close()
    again, _ = opened(folder)
    assert again.record_bytes - written <= begun, "a segment that has nothing but its header"
    again.close()


async def test_the_next_segment_is_made_before_it_is_needed(tmp_path: Path) -> None:
    """A disk may take long to find so much room; the event loop does not wait for it."""
    disk = Failing()
    journal, _ = opened(tmp_path, disk=disk)
    await journal.prepare()
    assert not list(tmp_path.glob("*.spare")), "there is no need yet"
    disk.preallocated_by.clear()
    written = []
    for number in range(20):
        written.append(b"%d" % number * 900)
        journal.append(RecordType.DATA, (written[-1],), 1)
        await journal.prepare()
    assert len(list(tmp_path.glob("*.journal"))) > 5
    assert len(disk.preallocated_by) > 5
    assert threading.main_thread() not in disk.preallocated_by
    journal.close()
    _, found = opened(tmp_path)
    assert [payload for _, payload in found] == written


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EMFILE])
async def test_what_cannot_be_made_beforehand_is_made_when_it_is_needed(tmp_path: Path, error: int) -> None:
    disk = Failing()
    journal, _ = opened(tmp_path, disk=disk)
    journal.append(RecordType.DATA, (b"a" * 3000,), 1)
    disk.space = error
    await journal.prepare()
    assert not list(tmp_path.glob("*.spare"))
    disk.space = 0
    journal.append(RecordType.DATA, (b"b" * 3000,), 1)
    await journal.prepare()
    assert len(list(tmp_path.glob("*.spare"))) == 1, "and the next one beforehand again"
    journal.close()


async def test_files_made_beforehand_and_emptied_ones_are_counted_apart(tmp_path: Path) -> None:
    disk = Failing()
    journal, _ = opened(tmp_path, disk=disk)
    for _ in range(4):
        journal.append(RecordType.DATA, (b"a" * 3000,), 1)
    async with trio.open_nursery() as nursery:
        journal.drop_before(journal.end)
        nursery.start_soon(journal.close_dropped)
        nursery.start_soon(journal.prepare)
    for _ in range(6):
        journal.append(RecordType.DATA, (b"a" * 3000,), 1)
        await journal.prepare()
        journal.drop_before(journal.end)
        await journal.close_dropped()
        assert len(list(tmp_path.glob("*.spare"))) <= 3
    journal.close()
