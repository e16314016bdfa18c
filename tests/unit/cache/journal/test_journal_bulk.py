"""Bulk files: large writes come back, are missed where they are lost, and go when nobody needs them."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from backend.buffer import Buffer
from backend.system.durable import Durable
from cache.errors import InputOutputError, NoSpaceLeftError
from cache.journal.format import OFFSET_MASK, Bulk, RecordType, decode_bulk
from cache.journal.journal import Journal
from tests.changing_disk import exchanged
from tests.unit.cache.journal.test_journal import SEGMENT, Waiting, failing, open_files, opened, put


def write(journal: Journal, data: bytes, inode: int = 7) -> tuple[int, int]:
    return journal.append_bulk(inode, 100, 5, data, 1)


def bulks(folder: Path) -> tuple[Journal, list[Bulk]]:
    """The journal, read and not started, and its BULK records."""
    journal = Journal(folder, SEGMENT)
    return journal, [decode_bulk(r.payload) for r in journal.replay() if r.kind is RecordType.BULK]


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.bulk"))


def test_large_writes_come_back(tmp_path: Path) -> None:
    journal, _ = opened(tmp_path)
    written = [(write(journal, data), data) for data in (bytes([n]) * 3000 for n in range(1, 9))]
    assert len(files(tmp_path)) == 4
    for (_, position), data in written:
        assert journal.read_at(position + 10, 2000) == data[10:2010]
    assert journal.used_bytes > 8 * 3000
    journal.close()
    journal, found = bulks(tmp_path)
    assert [(b.inode, b.offset, b.time_ns, b.length) for b in found] == [(7, 100, 5, 3000)] * 8
    assert [b.position for b in found] == [position for (_, position), _ in written]
    assert all(journal.holds(bulk) for bulk in found)
    assert journal.read_at(found[3].position, 3000) == written[3][1]
    journal.start(1)
    write(journal, b"in a file of its own")
    assert len(files(tmp_path)) == 5
    journal.close()


def test_lost_and_changed_bytes_are_missed(tmp_path: Path) -> None:
    journal, _ = opened(tmp_path)
    for number in range(4):
        write(journal, bytes([number]) * 2048)
    journal.close()
    first, second = files(tmp_path)
    first.write_bytes(first.read_bytes()[:-1])
    second.write_bytes(second.read_bytes().replace(b"\2\2", b"\2\0", 1))
    journal, found = bulks(tmp_path)
    assert [journal.holds(bulk) for bulk in found] == [True, False, False, True]
    with pytest.raises(InputOutputError):
        journal.read_at(found[1].position, 2048)
    journal.close()
    first.unlink()
    second.write_bytes(second.read_bytes()[2048:] * 2)  # right bytes at another place
    journal, found = bulks(tmp_path)
    assert [journal.holds(bulk) for bulk in found] == [False, False, False, True]
    journal.close()


async def test_records_are_synced_without_the_bytes_that_nobody_needs(tmp_path: Path) -> None:
    journal, _ = opened(tmp_path)
    await journal.sync()
    records = [write(journal, bytes(SEGMENT))[0] for _ in range(3)]  # each fills a file
    with failing(journal) as disk:
        await journal.sync_records(journal.end, journal.end)
        assert disk.syncs == 1
        await journal.sync_records(records[1], records[1] + 1)
        assert disk.syncs == 2
        await journal.sync()
        assert disk.syncs == 4
        await journal.sync_records(0, journal.end)
        assert disk.syncs == 4


@pytest.mark.logs_warnings
async def test_a_failed_fdatasync_of_records_poisons(tmp_path: Path) -> None:
    journal, _ = opened(tmp_path)
    write(journal, bytes(SEGMENT))
    with failing(journal) as disk:
        disk.sync_error = errno.EIO
        with pytest.raises(InputOutputError):
            await journal.sync_records(0, journal.end)
        disk.sync_error = 0
        for attempt in (journal.sync(), journal.sync_records(0, 0)):
            with pytest.raises(InputOutputError):
                await attempt
    with pytest.raises(InputOutputError):
        write(journal, b"refused")


async def test_files_go_with_the_last_record_that_refers_to_them(tmp_path: Path) -> None:
    journal, _ = opened(tmp_path)
    places = [write(journal, bytes([n]) * 2048) for n in range(6)]
    first, second, third = files(tmp_path)
    identity = (first.stat().st_dev, first.stat().st_ino)
    journal.drop_before(places[1][0])
    assert files(tmp_path) == [first, second, third]
    journal.drop_before(places[2][0])
    assert files(tmp_path) == [second, third]
    with pytest.raises(InputOutputError):
        journal.read_at(places[1][1], 1)
    await journal.close_dropped()
    assert identity not in open_files()
    journal.drop_before(journal.end)
    assert files(tmp_path) == []
    _, position = write(journal, b"goes on")
    assert journal.read_at(position, 7) == b"goes on"
    journal.close()


async def test_a_full_disk_leaves_no_record_of_a_large_write(tmp_path: Path) -> None:
    journal, _ = opened(tmp_path)
    first = write(journal, b"x" * 2000)
    with failing(journal) as disk:
        disk.write_error = errno.ENOSPC
        with pytest.raises(NoSpaceLeftError):
            write(journal, b"y" * 2000)
    second = write(journal, b"z" * 2000)
    await journal.sync()
    journal.close()
    journal, found = bulks(tmp_path)
    assert [bulk.position for bulk in found] == [first[1], second[1]]
    assert all(journal.holds(bulk) for bulk in found)
    journal.close()


def test_a_file_without_a_record_goes(tmp_path: Path) -> None:
    """Its process was killed before it wrote the record."""
    journal, _ = opened(tmp_path)
    put(journal, b"first")
    journal.close()
    (tmp_path / f"{99:016x}.bulk").write_bytes(b"bytes")
    journal, _ = opened(tmp_path)
    journal.drop_before(journal.end)
    assert files(tmp_path) == []
    write(journal, b"more")
    assert int(files(tmp_path)[0].stem, 16) > 99, "a number is given once"
    journal.close()


@pytest.mark.logs_warnings
def test_the_bytes_of_segments_that_are_put_aside_are_kept_with_them(tmp_path: Path) -> None:
    journal, _ = opened(tmp_path)
    write(journal, b"kept" * 2000)
    for number in range(12):
        put(journal, bytes([number]) * 1000)
    write(journal, b"aside" * 2000)
    journal.close()
    journals = sorted(tmp_path.glob("*.journal"))
    journals[1].unlink()
    kept, aside = files(tmp_path)
    journal, _ = opened(tmp_path)
    assert files(tmp_path) == [kept]
    assert (tmp_path / "lost" / aside.name).read_bytes() == b"aside" * 2000
    journal.close()


@pytest.mark.parametrize("large", [False, True])
async def test_what_is_written_during_an_fdatasync_is_not_taken_for_synced(
    tmp_path: Path, large: bool
) -> None:
    journal, _ = opened(tmp_path)
    write(journal, b"first")
    disk = Waiting()
    with exchanged(journal.environment, disk):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(journal.sync)
            await trio.to_thread.run_sync(disk.begun.wait, 30)
            if large:
                write(journal, b"meanwhile")
            else:
                put(journal, b"meanwhile")
            disk.let_go.set()
        synced = len(disk.synced)
        await journal.sync()
    assert len(disk.synced) > synced
    if large:
        last = files(tmp_path)[-1].stat()
        assert (last.st_dev, last.st_ino) in disk.synced[synced:]
    journal.close()


async def test_what_a_killed_process_left_is_synced_by_the_next(tmp_path: Path) -> None:
    """It may have been in the page cache only."""
    journal, _ = opened(tmp_path)
    for number in range(4):
        write(journal, bytes([number]) * SEGMENT)
        put(journal, bytes([number]) * 3000)
    journal.close()
    journal, _ = opened(tmp_path)
    segments = len(list(tmp_path.glob("*.journal")))
    assert segments > 3
    with failing(journal) as disk:
        await journal.sync()
        assert disk.syncs == segments + 4
    journal.close()


@contextmanager
def folder_syncs(journal: Journal) -> Iterator[list[str]]:
    """The folders that are synced meanwhile."""

    class Noting(Durable):
        def sync_folder(self, path: str, *, folder: int | None = None) -> None:
            synced.append(path)
            super().sync_folder(path, folder=folder)

    synced: list[str] = []
    with exchanged(journal.environment, Noting()):
        yield synced


async def test_a_new_segment_and_its_name_are_synced_though_it_has_no_record(tmp_path: Path) -> None:
    journal, _ = opened(tmp_path)
    await journal.sync()
    journal.begin_segment(2)
    put(journal, b"one")
    with trio.CancelScope() as scope:
        scope.cancel()
        await journal.sync()
    with folder_syncs(journal) as synced:
        await journal.sync()
    assert synced == [str(tmp_path)], "a sync that was cancelled has synced nothing"
    journal.close()


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("record"), st.integers(0, 2000)),
            st.tuples(st.just("bulk"), st.integers(1, 5000)),
            st.tuples(st.just("refused bulk"), st.integers(1, 5000)),
            st.tuples(st.just("drop"), st.integers(0, 30)),
            st.tuples(st.just("reopen"), st.just(0)),
        ),
        max_size=40,
    )
)
def test_used_bytes_are_those_of_the_files(
    tmp_path_factory: pytest.TempPathFactory, actions: list[tuple[str, int]]
) -> None:
    """Each change asks for them, so they are counted on as files come, grow and go."""
    folder = tmp_path_factory.mktemp("journal")
    journal, _ = opened(folder)
    positions = list[int]()
    for action, number in actions:
        match action:
            case "record":
                positions.append(put(journal, bytes(number)))
            case "bulk":
                positions.append(write(journal, bytes(number))[0])
            case "refused bulk":
                before = journal.used_bytes
                with exchanged(journal.environment, RecordsRefused()), pytest.raises(InputOutputError):
                    write(journal, bytes(number))
                # A file of its own may be begun for bytes that are taken back, and so may a segment.
                assert before <= journal.used_bytes <= before + SEGMENT
                journal.close()
                journal, _ = opened(folder)
            case "drop" if positions:
                journal.drop_before(positions[number % len(positions)])
            case "reopen":
                journal.close()
                journal, _ = opened(folder)
        assert journal.used_bytes == on_disk(folder, journal)
    journal.close()


class RecordsRefused(Durable):
    """Takes one write, that of the bytes, and refuses that of their record."""

    def __init__(self) -> None:
        self._writes = 0

    def write(self, descriptor: int, parts: Sequence[Buffer], offset: int) -> int:
        self._writes += 1
        if self._writes > 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().write(descriptor, parts, offset)


def on_disk(folder: Path, journal: Journal) -> int:
    """Bytes of all files of the journal, of its newest segment only the records."""
    newest = max(folder.glob("*.journal"))
    rest = [path for path in (*folder.glob("*.journal"), *files(folder)) if path != newest]
    return (journal.end & OFFSET_MASK) + sum(path.stat().st_size for path in rest)
