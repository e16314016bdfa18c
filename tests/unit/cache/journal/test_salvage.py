"""A journal with sectors that cannot be read: what comes before is used, all else is kept and named."""

from __future__ import annotations

import struct
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.system import THIS_MACHINE
from cache.journal.format import OFFSET_BITS, RecordType, decode_bulk, encode_published
from cache.journal.journal import Journal
from cache.journal.needed import find_needed
from cache.journal.salvage import COPY_SUFFIX, LOST
from cache.journal.segments import SegmentFiles
from cache.local import LocalState
from cache.namespace.operations import ROOT_INODE
from tests.contents import content
from tests.drives import QUIET, content_of, make_file, opened
from tests.memory_upstream import MemoryUpstream
from tests.unreadable import Unreadable

pytestmark = pytest.mark.logs_warnings

SEGMENT = 32 << 10


def appended(folder: Path, sizes: list[int]) -> list[tuple[int, bytes]]:
    """Positions and payloads of records of a new journal."""
    journal = Journal(folder, SEGMENT)
    assert list(journal.replay()) == []
    journal.start(1)
    payloads = [bytes([number % 256]) * size for number, size in enumerate(sizes)]
    found = [(journal.append(RecordType.OPERATION, (payload,), 1), payload) for payload in payloads]
    journal.close()
    return found


def replayed(journal: Journal) -> list[bytes]:
    return [bytes(record.payload) for record in journal.replay()]


@given(st.lists(st.integers(1, 9000), min_size=1, max_size=40), st.data())
def test_what_comes_before_is_read_and_nothing_else_ever(sizes: list[int], data: st.DataObject) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name, "journal")
        unreadable = Unreadable(Path(name))
        records = appended(folder, sizes)
        position = data.draw(st.sampled_from(records))[0] + data.draw(st.integers(0, 9000))
        unreadable.break_at(position)
        page = position >> 12 << 12
        whole = [
            payload for at, payload in records if at + 1 < page or at >> OFFSET_BITS < page >> OFFSET_BITS
        ]
        with unreadable.installed():
            journal = Journal(folder, SEGMENT)
            found = replayed(journal)
            is_hit = bool(journal.problems)
            # One that reaches into the page is not whole; one that lies before it is.
            assert found in (whole, whole[:-1], [payload for _, payload in records])
            assert is_hit or found == [payload for _, payload in records]
            assert len(found) == len(records) or is_hit
            journal.start(1)
            journal.append(RecordType.OPERATION, (b"later",), 1)
            journal.close()
            assert replayed(Journal(folder, SEGMENT)) == [*found, b"later"]
        # The sector comes back: what was given up does not.
        assert replayed(Journal(folder, SEGMENT)) == [*found, b"later"]
        assert not is_hit or any((folder / "lost").iterdir())


def test_bytes_of_a_large_write_that_cannot_be_read_are_no_power_cut(tmp_path: Path) -> None:
    """Regression: the read that ends before the sector passed for a write that never reached the disk, and
    what was accepted after it was given up."""
    journal = Journal(tmp_path / "journal", SEGMENT)
    assert list(journal.replay()) == []
    journal.start(1)
    _, position = journal.append_bulk(5, 0, 0, content("random", 20_000), 1)
    journal.close()
    unreadable = Unreadable(tmp_path)
    unreadable.break_at(position + 9000)
    with unreadable.installed():
        journal = Journal(tmp_path / "journal", SEGMENT)
        (record,) = journal.replay()
        assert journal.holds(decode_bulk(record.payload))
        with pytest.raises(OSError, match="cannot be read"):
            journal.read_at(position, 20_000)
    journal.close()


def test_what_is_kept_aside_is_never_replaced(tmp_path: Path) -> None:
    """Regression: a segment that was salvaged, and is set aside later, took the place of the whole file."""
    folder = tmp_path / "journal"
    appended(folder, [9000] * 9)
    first, second, *_ = sorted(folder.glob("*.journal"))
    whole = second.read_bytes()
    unreadable = Unreadable(tmp_path)
    unreadable.break_at(2 << OFFSET_BITS | 20_000)
    with unreadable.installed():
        restarted(folder)
    first.write_bytes(first.read_bytes()[:100])
    restarted(folder)
    kept = {path.name: path.read_bytes() for path in (folder / LOST).iterdir()}
    assert kept[second.name] == whole
    assert kept[f"{second.stem}-2{second.suffix}"][:9000] == whole[:9000]


@pytest.mark.parametrize("needed", [1 << OFFSET_BITS | 10_000_000, 7 << OFFSET_BITS | 48, 0])
def test_what_is_needed_from_where_nothing_is_begins_at_the_beginning(tmp_path: Path, needed: int) -> None:
    """A file that was cut off, one that is gone, and a record of an earlier version."""
    folder, unreadable = tmp_path / "journal", Unreadable(tmp_path)
    journal = Journal(folder, SEGMENT)
    assert list(journal.replay()) == []
    journal.start(1)
    for _ in range(3):
        journal.append(RecordType.OPERATION, (b"x" * 5000,), 1)
    journal.append(RecordType.PUBLISHED, (encode_published(1, 0, b"", needed),), 1)
    journal.close()
    unreadable.break_at(1 << OFFSET_BITS | 6000)
    with unreadable.installed():
        journal = Journal(folder, SEGMENT)
        assert len(replayed(journal)) == 0
        assert journal.problems
        assert not journal.pass_over(1)
        assert len(replayed(journal)) == 0
        journal.close()


def test_content_that_looks_like_records_takes_no_time(tmp_path: Path) -> None:
    """Regression: numbers as programs keep them passed for headers of long PUBLISHED records, and each was
    read to its end: a mount beside a bad sector would have taken hours to begin."""
    folder = tmp_path / "journal"
    journal = Journal(folder, 2 << 20)
    assert list(journal.replay()) == []
    journal.start(1)
    journal.append(RecordType.OPERATION, (b"published",), 1)
    needed = journal.append(RecordType.OPERATION, (bytes(8000),), 1)
    journal.append(RecordType.PUBLISHED, (encode_published(1, 0, bytes(32), needed),), 1)
    for _ in range(60):
        journal.append(RecordType.OPERATION, (struct.pack("<II", 1 << 20, RecordType.PUBLISHED) * 4000,), 1)
    journal.close()
    begun = time.process_time()
    assert find_needed(SegmentFiles(folder, THIS_MACHINE), 1) == needed
    assert time.process_time() - begun < 3


def restarted(folder: Path) -> None:
    journal = Journal(folder, SEGMENT)
    replayed(journal)
    journal.start(1)
    journal.close()


def test_a_file_without_a_header_that_cannot_be_read_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "journal" / f"{1:016x}.journal"
    path.parent.mkdir()
    path.write_bytes(bytes(12_000))
    unreadable = Unreadable(tmp_path)
    unreadable.break_at(1 << OFFSET_BITS | 8192)
    with unreadable.installed():
        restarted(path.parent)
    assert (path.parent / LOST / path.name).stat().st_size == 12_000


def test_a_copy_that_a_crash_left_half_made_goes(tmp_path: Path) -> None:
    folder = tmp_path / "journal"
    appended(folder, [100])
    (left,) = (path.with_name(path.name + COPY_SUFFIX) for path in folder.glob("*.journal"))
    left.write_bytes(b"half of it")
    restarted(folder)
    assert not left.exists()


@pytest.mark.parametrize(("header", "is_damage"), [(b"drvfsjnX", True), (bytes(48), False)])
@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_segment_without_a_header_ends_the_journal(
    tmp_path: Path, header: bytes, is_damage: bool, number: int
) -> None:
    """One that rots is damage, one that was never written is not. Regression: it was moved away without a
    word, and where it was the oldest, what follows passed for the beginning."""
    records = [payload for _, payload in appended(tmp_path, [10_000] * 9)]
    paths = sorted(tmp_path.glob("*.journal"))
    paths[number].write_bytes(header + paths[number].read_bytes()[len(header) :])
    journal = Journal(tmp_path, SEGMENT)
    assert replayed(journal) == records[: 3 * number]
    assert bool(journal.problems) == is_damage
    journal.start(1)
    (told,) = journal.losses
    assert str(paths[number]) in told
    assert {path.name for path in (tmp_path / LOST).iterdir()} == {path.name for path in paths[number:]}
    journal.close()


def test_a_file_of_somebody_else_ends_no_journal(tmp_path: Path) -> None:
    records = [payload for _, payload in appended(tmp_path, [10_000] * 9)]
    first, *_ = sorted(tmp_path.glob("*.journal"))
    copy = first.with_stem(f"{first.stem} (copy)")
    copy.write_bytes(first.read_bytes())
    journal = Journal(tmp_path, SEGMENT)
    assert replayed(journal) == records
    assert not journal.problems
    journal.start(1)
    assert [path.name for path in (tmp_path / LOST).iterdir()] == [copy.name]
    journal.close()


async def test_an_opening_that_fails_forgets_nothing(tmp_path: Path) -> None:
    """Regression: the first, which found no nodes, moved the rest of the journal away. The second knew
    nothing of it, took the beginning for all there is, and told nobody."""
    upstream, unreadable = MemoryUpstream(), Unreadable(tmp_path / "here")
    async with opened(tmp_path / "here", upstream, crash=True) as drive:
        await make_file(drive, b"before", b"small")
        await drive.sync()
        await make_file(drive, b"pending", b"small")
        where = drive.ledger.journal.end
        await make_file(drive, b"after", content("random", 900))
    upstream.lose_unflushed()
    unreadable.break_at(where + 4096)
    with unreadable.installed():
        LocalState(tmp_path / "here").close()
        assert not (tmp_path / "here" / "journal" / LOST).exists()
        async with opened(tmp_path / "here", upstream) as drive:
            (loss,) = drive.notices
            assert str(tmp_path / "here" / "journal" / LOST) in loss


async def test_a_drive_opens_with_what_can_be_read(tmp_path: Path) -> None:
    upstream = MemoryUpstream()
    unreadable = Unreadable(tmp_path / "here")
    names = [b"%d" % number for number in range(40)]
    async with opened(tmp_path / "here", upstream, crash=True) as drive:
        positions = []
        for name in names:
            await make_file(drive, name, content("text", 900, int(name)))
            positions.append(drive.ledger.journal.end)
        await drive.fsync(drive.lookup(ROOT_INODE, names[-1]).inode)
    upstream.lose_unflushed()
    unreadable.break_at(positions[19])
    with unreadable.installed():
        async with opened(tmp_path / "here", upstream) as drive:
            (loss,) = drive.ledger.journal.losses
            assert "lost" in loss
            left = [entry.name for entry in drive.entries(ROOT_INODE, 0, 100)]
            assert left == names[: len(left)]
            assert 10 < len(left) <= 20
            for name in left[:-1]:
                assert await content_of(drive, name) == content("text", 900, int(name))
            await make_file(drive, b"after", b"content")
            await drive.sync()
    async with opened(tmp_path / "there", upstream, QUIET) as drive:
        assert [entry.name for entry in drive.entries(ROOT_INODE, 0, 100)] == [*left, b"after"]


@pytest.mark.parametrize("is_empty", [True, False])
async def test_a_sector_behind_all_records_sets_no_state_aside(tmp_path: Path, is_empty: bool) -> None:
    """Regression: of a journal without a record it was said that the log stands on what it lost."""
    upstream, unreadable = MemoryUpstream(), Unreadable(tmp_path / "here")
    async with opened(tmp_path / "here", upstream, crash=not is_empty) as drive:
        await make_file(drive, b"stored", b"content")
        await drive.sync()
        if not is_empty:
            await make_file(drive, b"pending", b"content")
        unreadable.break_at(drive.ledger.journal.end + 8192)
    with unreadable.installed():
        async with opened(tmp_path / "here", upstream) as drive:
            (loss,) = drive.notices
            assert str(tmp_path / "here" / "journal" / LOST) in loss
            expected = [b"stored"] if is_empty else [b"stored", b"pending"]
            assert [entry.name for entry in drive.entries(ROOT_INODE, 0, 9)] == expected
