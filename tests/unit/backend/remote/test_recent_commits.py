"""Commits that are kept come back as a chain or not at all, whatever lies beside them, or became of the
file."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.commits import encode_commit
from backend.remote.recent_commits import FILE, MAGIC, OLDER, RecentCommits
from backend.system import Durable, Environment, plain_hash
from backend.upstream import NO_COMMIT, Commit, Head
from tests.contents import KINDS, Kind, content

START = Head(0, NO_COMMIT)


def commits(
    count: int, kind: Kind = "text", seed: int = 1, after: Head = START, size: int = 300
) -> list[bytes]:
    """So many commits that go on from `after`."""
    made, previous = [], after.hash
    for number in range(after.number + 1, after.number + 1 + count):
        payload = content(kind, size, seed + number)
        made.append(encode_commit(Commit(number, previous, 1, 0, number, (), (), payload)))
        previous = plain_hash(made[-1])
    return made


def head(log: list[bytes], number: int) -> Head:
    return Head(number, plain_hash(log[number - 1])) if number else START


@pytest.mark.parametrize("kind", KINDS)
def test_any_part_of_the_log_is_a_chain(tmp_path: Path, kind: Kind) -> None:
    log = commits(12, kind)
    RecentCommits(str(tmp_path)).add(log[:5])
    recent = RecentCommits(str(tmp_path))
    recent.add(log[5:6])
    recent.add(log[6:])
    for first in range(12):
        for last in range(first, 13):
            assert recent.chain(head(log, first), head(log, last)) == log[first:last]
    assert recent.chain(head(log, 7), head(log, 3)) == []


def test_what_does_not_lead_from_one_to_the_other_is_no_chain(tmp_path: Path) -> None:
    log = commits(9)
    other = commits(6, seed=50, after=head(log, 3))
    recent = RecentCommits(str(tmp_path))
    for each in (log[:4], other, log[5:], [b"no commit"]):
        recent.add(each)
    assert recent.chain(head(log, 3), head([*log[:3], *other], 9)) == other
    assert recent.chain(head(log, 3), head(log, 9)) == []
    assert recent.chain(head(log, 5), head(log, 9)) == log[5:]
    assert recent.chain(Head(5, b"x" * 32), head(log, 9)) == []
    assert recent.chain(head(log, 3), Head(9, b"x" * 32)) == []
    assert recent.chain(START, Head(1, plain_hash(b"no commit"))) == []


def test_there_is_an_end_to_what_is_kept(tmp_path: Path) -> None:
    log = commits(300, "random")
    recent = RecentCommits(str(tmp_path), limit=40_000)
    for each in log:
        recent.add([each])
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 41_000
    assert recent.chain(head(log, 250), head(log, 300)) == log[250:]
    assert recent.chain(START, head(log, 300)) == []


@given(cut=st.integers(0, 2000), junk=st.binary(max_size=40), zeros=st.integers(0, 500))
def test_a_file_that_was_cut_off_or_spoilt_is_written_on(
    tmp_path_factory: pytest.TempPathFactory, cut: int, junk: bytes, zeros: int
) -> None:
    """A kill in the middle of a write, a power cut after it."""
    folder, log = tmp_path_factory.mktemp("recent"), commits(8)
    RecentCommits(str(folder)).add(log[:5])
    path = folder / FILE
    path.write_bytes(path.read_bytes()[: max(0, path.stat().st_size - cut)] + junk + bytes(zeros))
    recent = RecentCommits(str(folder))
    recent.add(log[5:])
    assert recent.chain(head(log, 5), head(log, 8)) == log[5:]
    assert recent.chain(START, head(log, 8)) in ([], log)


def test_a_large_file_is_looked_through_record_by_record(tmp_path: Path) -> None:
    """Also one whose end says that gigabytes follow."""
    log = commits(40, "half-compressible", size=100_000)
    RecentCommits(str(tmp_path)).add(log)
    with open(tmp_path / FILE, "ab") as file:
        file.write(MAGIC + b"\xff" * 4)
    (more,) = commits(1, after=head(log, 40))
    tracemalloc.start()
    try:
        RecentCommits(str(tmp_path)).add([more])
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    assert RecentCommits(str(tmp_path)).chain(START, head([*log, more], 41)) == [*log, more]


def test_the_reserve_of_the_disk_is_left_to_others(tmp_path: Path) -> None:
    class SmallDisk(Durable):
        free = 0

        def free_space(self, path: str) -> tuple[int, int]:
            return 1 << 30, self.free

    log, disk = commits(4), SmallDisk()
    recent = RecentCommits(str(tmp_path), Environment(disk=disk), reserve=lambda total: total >> 3)
    disk.free = (1 << 27) + len(log[0])
    recent.add(log[:1])
    with pytest.raises(OSError, match="No space left"):
        recent.add(log[1:3])
    disk.free = 1 << 28
    recent.add(log[1:])
    assert recent.chain(START, head(log, 4)) == log


def test_files_that_are_gone_are_no_harm(tmp_path: Path) -> None:
    log = commits(3)
    recent = RecentCommits(str(tmp_path))
    assert recent.chain(START, head(log, 3)) == []
    recent.add(log)
    (tmp_path / FILE).unlink()
    assert recent.chain(START, head(log, 3)) == []
    assert not (tmp_path / OLDER).exists()
    recent.add(commits(2, after=head(log, 3)))
    again = RecentCommits(str(tmp_path))
    again.add(commits(1, seed=9))
    assert again.chain(head(log, 3), head(log + commits(2, after=head(log, 3)), 5))


@pytest.mark.parametrize("change", [b"", b"DFR1 spoilt", None], ids=["emptied", "shorter", "longer"])
def test_a_file_that_somebody_else_changed_is_written_on_from_its_good_part(
    tmp_path: Path, change: bytes | None
) -> None:
    log = commits(6)
    recent = RecentCommits(str(tmp_path))
    recent.add(log[:3])
    path = tmp_path / FILE
    path.write_bytes(path.read_bytes() + b"more" if change is None else change)
    recent.add(log[3:5])
    recent.add(log[5:])
    assert recent.chain(head(log, 3), head(log, 6)) == log[3:]
