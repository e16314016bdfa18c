"""The retention policy as a pure function, and the points of a namespace: pinning, forgetting, undoing."""

from __future__ import annotations

import calendar
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import apsw
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.errors import CorruptError
from backend.system import THIS_MACHINE, at_rest
from cache.history.history import History
from cache.namespace.namespace import Namespace
from cache.namespace.operations import (
    Create,
    Delete,
    Forget,
    Pin,
    Release,
    SetAttributes,
    SetExtents,
    SetRetention,
    Unlink,
    Unpin,
)
from cache.namespace.points import Point
from cache.publish.snapshot import export, verify_hostile
from cache.retention.retention import DAY, HOUR, SECOND, WEEK, Policy, gaps, held_back, retained
from tests.block_references import block_references

NOW = calendar.timegm((2026, 11, 20, 12, 0, 0, 0, 0, 0)) * SECOND
NONE = Policy(0, 0, 0, 0, 0)


def points(*ages: float) -> list[Point]:
    """Points that are so many seconds old, numbered from 1."""
    ordered = sorted(ages, reverse=True)
    return [Point(number, NOW - int(age * SECOND)) for number, age in enumerate(ordered, 1)]


def test_the_default_keeps_all_of_a_day_and_thins_what_is_older() -> None:
    minutes = points(*(minute * 60 for minute in range(0, 400 * 24 * 60, 7)))
    kept = retained(minutes, Policy(), NOW)
    ages = [(NOW - point.time_ns) / SECOND for point in minutes if point.number in kept]
    assert sum(age < DAY for age in ages) == pytest.approx(24 * 60 / 7, abs=1)
    assert sum(DAY <= age < WEEK for age in ages) == pytest.approx(6 * 24, abs=1)
    assert sum(WEEK + HOUR <= age < 30 * DAY for age in ages) == pytest.approx(23, abs=1)
    assert sum(31 * DAY <= age < 365 * DAY for age in ages) == pytest.approx(48, abs=1)
    assert max(ages) < 365 * DAY + WEEK


def test_months_are_those_of_the_calendar() -> None:
    days = points(*(day * DAY for day in range(800)))
    kept = retained(days, Policy(0, 0, 0, 0, 10_000 * DAY), NOW)
    dates = [time.gmtime(point.time_ns // SECOND) for point in days if point.number in kept]
    assert len(dates) in (27, 28)
    assert all(time.gmtime(calendar.timegm(date) + DAY).tm_mday == 1 for date in dates[:-1])


def test_the_newest_and_what_is_pinned_stay() -> None:
    old = points(5000 * DAY, 4000 * DAY, 3000 * DAY, 2000 * DAY)
    assert gaps(old, NONE, set(), NOW) == [(0, 4)]
    assert gaps(old, NONE, {2}, NOW) == [(0, 2), (2, 4)]
    assert gaps(old, NONE, {1, 2, 3}, NOW) == []
    assert gaps([], NONE, set(), NOW) == []


@given(st.lists(st.integers(0, 500 * DAY), max_size=40), st.lists(st.integers(0, 400 * DAY), max_size=6))
def test_applying_it_often_ends_where_applying_it_once_does(ages: list[int], steps: list[int]) -> None:
    """Whatever was dropped earlier, and when: what stays in the end is the same."""
    whole = points(*ages)
    policy = Policy(DAY, WEEK, 30 * DAY, 365 * DAY, 800 * DAY)
    end = NOW + 400 * DAY * SECOND
    left = whole
    for step in sorted(steps):
        kept = retained(left, policy, NOW + step * SECOND)
        left = [point for point in left if point.number in kept]
    assert retained(left, policy, end) == retained(whole, policy, end)


@given(st.lists(st.integers(0, 500 * DAY), min_size=1, max_size=40), st.sets(st.integers(1, 40)))
def test_gaps_are_exactly_what_is_not_kept(ages: list[int], pinned: set[int]) -> None:
    whole = points(*ages)
    found = gaps(whole, Policy(), pinned, NOW)
    dropped = {point.number for point in whole for low, high in found if low < point.number < high}
    assert dropped == {point.number for point in whole} - retained(whole, Policy(), NOW) - pinned
    assert all(low < high - 1 for low, high in found)
    assert all(one[1] <= two[0] for one, two in pairwise(found))


def test_a_clock_that_jumped_drops_nothing() -> None:
    year = 365 * DAY * SECOND
    steady = points(*(hour * HOUR for hour in range(100)))
    assert held_back(steady, NOW) == ""
    assert held_back([], NOW) == ""
    assert "no commit" in held_back(steady, NOW + 10 * year)
    jumped = [*steady, Point(1000, NOW + 10 * year)]
    assert "no commit" in held_back(jumped, NOW + 10 * year + HOUR * SECOND)
    assert "future" in held_back(jumped, NOW)
    later = [*jumped, Point(1001, NOW + 10 * year + 8 * DAY * SECOND)]
    assert held_back(later, NOW + 10 * year + 8 * DAY * SECOND) == ""


# The namespace


@pytest.fixture
def namespace(tmp_path: Path) -> Iterator[Namespace]:
    opened = Namespace(str(tmp_path / "namespace.db"))
    yield opened
    opened.close()


def publish(namespace: Namespace) -> int:
    number = namespace.commit
    namespace.begin_commit(number + 1)
    namespace.record_commit(number, bytes(32), number * SECOND)
    return number


def file(namespace: Namespace, name: bytes) -> int:
    inode = namespace.allocate_inode()
    namespace.apply(Create(1, name, inode, 0o100644, 0, 0, 0, b"", namespace.commit))
    return inode


def block(number: int) -> bytes:
    return bytes([number]) * 32


def rows(
    namespace: Namespace, tables: tuple[str, ...] = ("inode", "dentry", "extent", "xattr")
) -> list[object]:
    connection = namespace.synced_connection()
    return [list(connection.execute(f"SELECT * FROM past_{table} ORDER BY 1, 2, 3")) for table in tables]


def forget_all(namespace: Namespace) -> None:
    while namespace.points.forget_some(1):
        pass


def edited(namespace: Namespace, commits: int) -> int:
    """A file with other content in each commit."""
    inode = file(namespace, b"f")
    for number in range(1, commits + 1):
        namespace.apply(SetExtents(inode, number - 1, ((0, 10),), ((0, 10, block(number), 0),)))
        namespace.apply(SetAttributes(inode, size=number))
        publish(namespace)
    return inode


def test_forgetting_drops_what_no_point_holds_and_only_when_it_is_published(namespace: Namespace) -> None:
    inode = edited(namespace, 6)
    history = History(namespace)
    before = {at: (history.inode_at(inode, at), history.extents_at(inode, 0, 10, at)) for at in (2, 5, 6)}
    namespace.apply(Forget(((0, 2), (2, 5))))
    assert not namespace.points.forget_some(100)
    assert [point.number for point in namespace.points.points()] == [1, 2, 3, 4, 5, 6]
    publish(namespace)
    assert not namespace.points.is_waiting
    assert [point.number for point in namespace.points.points()] == [2, 5, 6, 7]
    assert block_references(namespace) == {block(number) for number in range(1, 7)}
    forget_all(namespace)
    assert block_references(namespace) == {block(2), block(5), block(6)}
    found = {at: (history.inode_at(inode, at), history.extents_at(inode, 0, 10, at)) for at in (2, 5, 6)}
    assert found == before


def test_a_forget_that_is_taken_back_has_done_nothing(namespace: Namespace) -> None:
    edited(namespace, 5)
    kept = rows(namespace)
    namespace.apply(Forget(((0, 5),)))
    namespace.apply(Pin(b"p", 5))
    namespace.apply(SetRetention(1, 2, 3, 4, 5))
    namespace.undo(5)
    publish(namespace)
    forget_all(namespace)
    assert rows(namespace) == kept
    assert (namespace.points.pins(), namespace.points.policy()) == ({}, None)
    assert len(namespace.points.points()) == 6


def test_undo_needs_nothing_that_was_forgotten(tmp_path: Path) -> None:
    """Unpublished changes of every kind are taken back to the same rows, forgotten past or not."""
    results = []
    for name, forgetting in (("with.db", True), ("without.db", False)):
        namespace = Namespace(str(tmp_path / name))
        inode = edited(namespace, 5)
        namespace.apply(Forget(((0, 5),)) if forgetting else SetRetention(0, 0, 0, 0, 0))
        publish(namespace)
        if forgetting:
            forget_all(namespace)
        namespace.apply(SetExtents(inode, 5, ((0, 10),), ((0, 10, block(9), 0),)))
        namespace.apply(Unlink(1, b"f", inode, 9))
        namespace.begin_commit(8)
        namespace.apply(Delete(inode))
        namespace.undo(6)
        connection = namespace.synced_connection()
        results.append(
            [list(connection.execute(f"SELECT * FROM {table}")) for table in ("inode", "extent", "dentry")]
        )
        assert namespace.extents(inode, 0, 10)[0].block == block(5)
        namespace.close()
    assert results[0] == results[1]


def test_content_that_comes_late_meets_a_forget(namespace: Namespace) -> None:
    """Commit 4 is cut, 5 is open and forgets up to 3, then the content of 4 comes."""
    inode = edited(namespace, 3)
    namespace.apply(SetAttributes(inode, size=4))
    namespace.begin_commit(5)
    namespace.apply(Forget(((0, 3),)))
    namespace.apply(SetAttributes(inode, size=5))
    namespace.apply(SetExtents(inode, 3, ((0, 10),), ((0, 10, block(4), 0),)), commit=4)
    namespace.record_commit(4, bytes(32), 4 * SECOND)
    assert namespace.points.is_waiting
    assert [point.number for point in namespace.points.points()] == [1, 2, 3, 4]
    namespace.begin_commit(6)
    namespace.record_commit(5, bytes(32), 5 * SECOND)
    forget_all(namespace)
    history = History(namespace)
    assert [history.extents_at(inode, 0, 10, at)[0].block for at in (3, 4, 5)] == [
        block(3),
        block(4),
        block(4),
    ]
    assert [row.size for at in (3, 4, 5) if (row := history.inode_at(inode, at))] == [3, 4, 5]


def test_it_goes_on_after_a_restart(namespace: Namespace) -> None:
    edited(namespace, 20)
    namespace.apply(Forget(((0, 10), (10, 20))))
    namespace.save(1)
    again = Namespace(namespace.path)
    assert again.points.is_waiting
    publish(again)
    assert again.points.forget_some(3)
    again.save(2)
    again.close()
    last = Namespace(namespace.path)
    forget_all(last)
    assert block_references(last) == {block(10), block(20)}
    assert not list(last.synced_connection().execute("SELECT 1 FROM forgetting"))
    last.close()


def test_a_snapshot_carries_what_is_still_to_be_forgotten(namespace: Namespace, tmp_path: Path) -> None:
    edited(namespace, 10)
    namespace.apply(Pin(b"kept", 3))
    publish(namespace)
    namespace.apply(Forget(((0, 3), (3, 10))))
    publish(namespace)
    namespace.apply(Forget(((10, 12),)))
    namespace.points.forget_some(2)
    namespace.save(1)
    target = str(tmp_path / "snapshot.db")
    export(namespace.path, target, 12)
    verify_hostile(target)
    other = Namespace(target)
    forget_all(namespace)
    forget_all(other)
    assert not other.points.is_waiting
    assert rows(other) == rows(namespace)
    assert other.points.points() == namespace.points.points()
    assert other.points.pins() == {b"kept": 3}
    other.close()


@pytest.mark.parametrize(
    "operation",
    [
        Forget(((0, 9),)),
        Forget(((0, 1),)),
        Forget(((3, 5), (0, 3))),
        Forget(((0, 4),)),
        Forget(((-1, 2),)),
        Forget(((0, 2, 3),)),  # type: ignore[arg-type]
        Forget(((b"", 2),)),  # type: ignore[arg-type]
        Pin(b"", 2),
        Pin(b"a\0", 2),
        Pin(b"x" * 256, 2),
        Pin(b"three", 4),
        Pin(b"new", 9),
        Pin(b"new", 0),
        Unpin(b"unknown"),
        SetRetention(-1, 0, 0, 0, 0),
        Release((b"short",)),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(
    namespace: Namespace, operation: Forget | Pin | Unpin | SetRetention | Release
) -> None:
    edited(namespace, 5)
    namespace.apply(Pin(b"three", 3))
    publish(namespace)
    with pytest.raises(CorruptError):
        namespace.apply(operation)
    publish(namespace)
    assert [point.number for point in namespace.points.points()] == [1, 2, 3, 4, 5, 6, 7]


def test_what_is_going_cannot_be_pinned_nor_forgotten_again(namespace: Namespace) -> None:
    edited(namespace, 5)
    namespace.apply(Forget(((1, 4),)))
    for operation in (Pin(b"p", 2), Forget(((1, 3),)), Forget(((2, 5),))):
        with pytest.raises(CorruptError):
            namespace.apply(operation)
    namespace.apply(Pin(b"p", 4))


def test_pins_come_go_and_come_again(namespace: Namespace) -> None:
    edited(namespace, 3)
    namespace.apply(Pin(b"a", 1))
    namespace.apply(Pin(b"b", 2))
    publish(namespace)
    namespace.apply(Unpin(b"a"))
    namespace.apply(Pin(b"a", 3))
    assert namespace.points.pins() == {b"a": 3, b"b": 2}
    namespace.undo(4)
    assert namespace.points.pins() == {b"a": 1, b"b": 2}


def test_forgetting_looks_only_at_what_died_in_the_gap(namespace: Namespace) -> None:
    connection = namespace.synced_connection()
    for table, key in (
        ("inode", "inode, born"),
        ("extent", "inode, offset, born"),
        ("dentry", "parent, name, born"),
    ):
        where = "died > 1 AND died <= 2 AND born > 1 LIMIT 5"
        sql = f"EXPLAIN QUERY PLAN SELECT {key} FROM past_{table} WHERE {where}"
        plan = " ".join(row[3] for row in connection.execute(sql))
        assert f"past_{table}_died (died>? AND died<?)" in plan


RETENTION_TABLES = ("pin", "past_pin", "retention", "past_retention", "forgetting")
WRITER_TABLES = ("writer", "past_writer")
DEVICE_TABLES = ("device", "past_device", "device_sequence", "past_device_sequence")
EPOCH_TABLES = ("key_epoch",)


@pytest.mark.parametrize(
    ("version", "lacks"),
    [(1, (*RETENTION_TABLES, *WRITER_TABLES)), (2, WRITER_TABLES), (3, WRITER_TABLES), (4, ()), (5, ())],
)
def test_a_database_of_an_earlier_version_becomes_one_of_this_version(
    tmp_path: Path, namespace: Namespace, version: int, lacks: tuple[str, ...]
) -> None:
    inode = edited(namespace, 3)
    namespace.save(1)
    totals = namespace.statistics()
    namespace.close()
    at_rest.unseal(namespace.path, THIS_MACHINE.disk)
    connection = apsw.Connection(namespace.path)
    if version < 5:
        connection.execute("DELETE FROM meta WHERE key = 'files'")
    for table in (*lacks, *DEVICE_TABLES, *EPOCH_TABLES):
        connection.execute(f"DROP TABLE {table}")
    connection.execute(f"PRAGMA user_version = {version}")
    connection.close()
    again = Namespace(namespace.path)
    assert again.statistics() == totals
    assert again.extents(inode, 0, 10)[0].block == block(3)
    again.apply(Forget(((0, 3),)))
    publish(again)
    again.save(2)
    export(again.path, str(tmp_path / "snapshot"), 4)
    verify_hostile(str(tmp_path / "snapshot"))
    again.close()
