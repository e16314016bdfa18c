"""The durability model: hand-computed values, a simulation, and what `drivefs doctor --durability` says."""

from __future__ import annotations

import heapq
import os
import random
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.care import repair_record
from backend.errors import UsageError
from tests.small_drive import SmallDrive, copy_of, make_small_drive
from tools import drive_nodes
from tools.commands.durability import (
    YEAR,
    FatalSets,
    failures_per_year,
    fatal_sets,
    losses_per_year,
    nines,
    probability,
)
from tools.commands.durability_report import format_time
from tools.host import disks

AFR = 0.0157
DAY = 24 * 3600


@pytest.mark.parametrize(
    ("nodes", "spare", "hours", "expected"),
    [
        (6, 2, 24.0, 8.75),  # 60 L^3 T^2
        (3, 2, 24.0, 10.05),  # 3 L^3 T^2
        (6, 2, 1.8, 11.0),
        (1, 0, 24.0, 1.80),
    ],
)
def test_the_figures_that_the_project_states(nodes: int, spare: int, hours: float, expected: float) -> None:
    failures = failures_per_year(AFR)
    losses = losses_per_year(fatal_sets([1] * nodes, spare), failures, failures * hours * 3600 / YEAR)
    assert nines(probability(losses)) == pytest.approx(expected, abs=0.006)


def test_six_folders_on_one_disk_are_as_durable_as_the_disk() -> None:
    sets = fatal_sets([6], 2)
    assert sets == FatalSets(1, 1)
    assert probability(losses_per_year(sets, failures_per_year(AFR), 1e-5)) == pytest.approx(AFR)


def test_by_hand() -> None:
    assert failures_per_year(0.5) == pytest.approx(0.6931472)
    assert fatal_sets([1] * 6, 2) == FatalSets(3, 20)
    assert losses_per_year(FatalSets(3, 20), 0.1, 0.01) == pytest.approx(60 * 0.1 * 0.0001)
    assert fatal_sets([2, 2, 1, 1], 2) == FatalSets(2, 5)
    assert fatal_sets([3, 1, 1, 1], 2) == FatalSets(1, 1)
    assert fatal_sets([1, 1], 2) == FatalSets(0, 0)
    assert losses_per_year(FatalSets(0, 0), 1.0, 0.5) == 0
    assert nines(0.0) == float("inf")


@given(st.lists(st.integers(1, 4), min_size=1, max_size=8), st.integers(0, 6))
def test_fatal_sets_are_those_that_counting_finds(nodes: list[int], spare: int) -> None:
    for size in range(1, len(nodes) + 1):
        count = sum(sum(chosen) > spare for chosen in combinations(nodes, size))
        if count:
            assert fatal_sets(nodes, spare) == FatalSets(size, count)
            return
    assert fatal_sets(nodes, spare) == FatalSets(0, 0)


def simulate(on_disks: Sequence[int], spare: int, failures: float, window: float, years: float) -> float:
    """Losses a year of disks that live for random times and are down for `window`: counted, not computed."""
    source = random.Random(8)
    events = [(source.expovariate(failures), disk, True) for disk in range(len(on_disks))]
    heapq.heapify(events)
    down = losses = 0
    while events[0][0] < years:
        moment, disk, fails = heapq.heappop(events)
        before = down
        down += on_disks[disk] if fails else -on_disks[disk]
        losses += before <= spare < down
        after = window if fails else source.expovariate(failures)
        heapq.heappush(events, (moment + after, disk, not fails))
    return losses / years


@pytest.mark.parametrize(
    ("on_disks", "spare", "window"),
    [
        ([1] * 6, 1, 0.004),
        ([1] * 6, 2, 0.02),
        ([1] * 8, 2, 0.015),
        ([2, 2, 1, 1], 2, 0.004),
        ([6], 2, 0.01),
    ],
)
def test_a_simulation_agrees(on_disks: list[int], spare: int, window: float) -> None:
    """The formula leaves out that a disk which is down cannot fail: it says a little too much, never less."""
    counted = simulate(on_disks, spare, 1.0, window, 40_000)
    computed = losses_per_year(fatal_sets(on_disks, spare), 1.0, window)
    assert 0.82 * computed < counted < 1.06 * computed


# The drive, its disks and the report


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> SmallDrive:
    return make_small_drive(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def made(whole: SmallDrive, tmp_path: Path) -> SmallDrive:
    return copy_of(whole, tmp_path)


def durability(made: SmallDrive, *options: str) -> int:
    return made.drivefs("doctor", "--durability", *options, "--cache-dir", made.cache, made.drive)


def test_six_folders_on_one_disk_protect_against_no_disk_failure(
    made: SmallDrive, capsys: pytest.CaptureFixture[str]
) -> None:
    assert durability(made) == 0
    said = capsys.readouterr().out
    assert "profile 4+2, 6 nodes on 1 disk;" in said
    assert "ALL NODES ARE ON ONE DISK: they protect against no disk failure at all" in said
    assert "loss of data by failing disks: 1.6 % a year (1.8 nines)" in said
    assert "assumed: no repair was measured here yet" in said


def test_six_disks_with_the_last_repair(
    made: SmallDrive, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disks, "disks_of", lambda path: frozenset({path}))
    repair_record.keep(made.cache / made.unlocked().id_text, 1 << 30, 16.0)
    assert durability(made) == 0
    said = capsys.readouterr().out
    assert "6 nodes on 6 disks" in said
    assert "64.0 MiB/s (measured by the repair that ended 20" in said
    assert "loss of data by failing disks: 1.8e-07 % a year (8.7 nines)" in said
    assert "a scrub every 14 days finds it after 7 days on average" in said
    assert durability(made, "--replaced-after", "1.8h", "--repair-rate", "1T", "--scrub-interval", "0") == 0
    said = capsys.readouterr().out
    assert "(11.0 nines)" in said
    assert "1.0 TiB/s (as given)" in said
    assert "no scrub by itself" in said


def test_of_stores_each_scrub_reads_a_share(
    made: SmallDrive, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drive_nodes, "far_nodes", lambda _folder, file: file.nodes[:1])
    assert durability(made) == 0
    assert "a scrub every 14 days finds it after 182 days on average" in capsys.readouterr().out


def test_disks_that_several_nodes_share(
    made: SmallDrive, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disks, "disks_of", lambda path: frozenset({str(int(path[-1]) // 2)}))
    assert durability(made) == 0
    said = capsys.readouterr().out
    assert "6 nodes on 3 disks" in said
    assert "on one disk: node0, node1" in said
    assert "LOSES DATA" not in said
    monkeypatch.setattr(disks, "disks_of", lambda path: frozenset({str(int(path[-1]) // 3)}))
    assert durability(made) == 0
    assert "THE LOSS OF ONE DISK LOSES DATA: node0, node1, node2 are on one" in capsys.readouterr().out


@pytest.mark.parametrize(
    "options",
    [
        ["--durability"],
        ["--afr", "2", "."],
        ["--durability", "--afr", "100", "."],
        ["--durability", "--silent", "x", "."],
    ],
)
def test_what_is_no_question(made: SmallDrive, options: list[str]) -> None:
    with pytest.raises(UsageError):
        made.drivefs("doctor", *options)


def device(system: Path, number: str, name: str, parent: str = "") -> Path:
    """A block device in a made-up sysfs."""
    folder = system / "devices" / parent / name
    folder.mkdir(parents=True)
    if parent:
        (folder / "partition").write_text("1\n")
    links = system / "dev" / "block"
    links.mkdir(parents=True, exist_ok=True)
    (links / number).symlink_to(folder)
    return folder


def test_the_disk_below_partitions_volumes_and_images(tmp_path: Path) -> None:
    system, place = tmp_path / "sys", tmp_path / "place"
    place.mkdir()
    here = os.stat(place).st_dev
    own = f"{os.major(here)}:{os.minor(here)}"
    assert disks.disks_of(str(place), system) == {f"file system {own}"}
    device(system, "8:0", "sda")
    device(system, "8:16", "sdb")
    first, second = device(system, "8:1", "sda1", "sda"), device(system, "8:17", "sdb1", "sdb")
    volume = device(system, own, "dm-0")
    (volume / "slaves").mkdir()
    (volume / "slaves" / "sda1").symlink_to(first)
    assert disks.disks_of(str(place), system) == {"sda"}
    (volume / "slaves" / "sdb1").symlink_to(second)
    assert disks.disks_of(str(place), system) == {"sda", "sdb"}
    image = device(system, "7:0", "loop0")
    (image / "loop").mkdir()
    (image / "loop" / "backing_file").write_text(f"{place}\n")
    assert disks.disks_below(system / "dev" / "block" / "7:0", system) == {"sda", "sdb"}
    (image / "loop" / "backing_file").write_text("/not there\n")
    assert disks.disks_below(system / "dev" / "block" / "7:0", system) == {"loop0"}


def test_nodes_with_a_disk_in_common_fail_together() -> None:
    needed = {name: frozenset(on) for name, on in {"a": "x", "b": "y", "c": "z", "d": "xy"}.items()}
    assert sorted(map(sorted, disks.groups(needed))) == [["a", "b", "d"], ["c"]]


def test_a_repair_is_remembered_if_it_was_large(tmp_path: Path) -> None:
    repair_record.keep(tmp_path, repair_record.LEAST - 1, 1.0)
    assert repair_record.load(tmp_path) is None
    repair_record.keep(tmp_path, repair_record.LEAST, 2.0)
    record = repair_record.load(tmp_path)
    assert record is not None
    assert record.rate == repair_record.LEAST / 2
    for damage in (b"", b"[]", b'{"rebuilt": 0, "seconds": 1, "finished_ns": 1}', b'{"rebuilt": 1}'):
        (tmp_path / repair_record.FILE).write_bytes(damage)
        assert repair_record.load(tmp_path) is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.5, "0.5 s"),
        (90.0, "1.5 min"),
        (DAY, "24 h"),
        (14 * DAY, "14 days"),
        (12_240, "3.4 h"),
    ],
)
def test_times_for_people(seconds: float, text: str) -> None:
    assert format_time(seconds) == text
