"""Queries of the past, and that each walks an index."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backend.errors import CorruptError
from cache.history import history as queries
from cache.history.history import History
from cache.namespace.namespace import Namespace
from cache.namespace.operations import (
    ROOT_INODE,
    Create,
    Delete,
    Link,
    Rename,
    SetAttributes,
    SetExtents,
    SetWriter,
    SetXattr,
    Unlink,
)
from cache.namespace.writers import CommitWriter

FILE, FOLDER = 0o100644, 0o40755
BLOCK = b"b" * 32


@pytest.fixture
def namespace(tmp_path: Path) -> Iterator[Namespace]:
    namespace = Namespace(str(tmp_path / "namespace.db"))
    yield namespace
    namespace.close()


@pytest.fixture
def history(namespace: Namespace) -> History:
    return History(namespace)


def make(namespace: Namespace, name: bytes, mode: int = FILE, time: int = 1) -> int:
    inode = namespace.allocate_inode()
    namespace.apply(Create(ROOT_INODE, name, inode, mode, 0, 0, 0, b"", time))
    return inode


def fill(namespace: Namespace, inode: int, size: int, mtime: int) -> None:
    namespace.apply(SetAttributes(inode, size=size, mtime_ns=mtime, ctime_ns=mtime))
    row = namespace.inode(inode)
    assert row is not None
    namespace.apply(SetExtents(inode, row.content_commit, ((0, 100),), ((0, size, BLOCK, mtime),)))


def save_over(namespace: Namespace, name: bytes, size: int, mtime: int) -> int:
    """Write new, rename over."""
    inode = make(namespace, b"new", time=mtime)
    fill(namespace, inode, size, mtime)
    old = namespace.entry(ROOT_INODE, name)
    replaced = old.inode if old else 0
    namespace.apply(Rename(ROOT_INODE, b"new", ROOT_INODE, name, inode, replaced, False, mtime))
    if replaced:
        namespace.apply(Delete(replaced))
    return inode


def test_a_file_is_what_it_was(namespace: Namespace, history: History) -> None:
    inode = make(namespace, b"f")
    fill(namespace, inode, 5, 10)
    namespace.apply(SetXattr(inode, b"user.a", b"1", 10))
    namespace.begin_commit(2)
    fill(namespace, inode, 7, 20)
    namespace.apply(SetXattr(inode, b"user.a", b"2", 20))
    namespace.begin_commit(3)
    namespace.apply(Unlink(ROOT_INODE, b"f", inode, 30))
    namespace.apply(Delete(inode))
    rows = [history.inode_at(inode, commit) for commit in range(5)]
    assert [row and (row.size, row.born, row.content_commit) for row in rows] == [
        None,
        (5, 1, 1),
        (7, 2, 2),
        None,
        None,
    ]
    assert rows[2] is not None
    assert rows[2].atime_ns == rows[2].mtime_ns == 20
    extents = [history.extents_at(inode, 0, 100, commit) for commit in range(4)]
    assert extents == [[], [(0, 5, BLOCK, 10, 1)], [(0, 7, BLOCK, 20, 2)], []]
    assert history.extents_at(inode, 5, 100, 1) == history.extents_at(inode, 3, 3, 1) == []
    assert [history.xattr_at(inode, b"user.a", commit) for commit in range(4)] == [None, b"1", b"2", None]
    assert [history.xattr_names_at(inode, commit) for commit in (1, 3)] == [[b"user.a"], []]
    entries = [history.entry_at(ROOT_INODE, b"f", commit) for commit in range(4)]
    assert [entry and entry.inode for entry in entries] == [None, inode, inode, None]


def test_a_folder_is_listed_as_it_was(namespace: Namespace, history: History) -> None:
    a, b = make(namespace, b"a"), make(namespace, b"b")
    namespace.begin_commit(2)
    namespace.apply(Unlink(ROOT_INODE, b"a", a, 5))
    c = make(namespace, b"c")
    namespace.begin_commit(3)
    namespace.apply(Rename(ROOT_INODE, b"b", ROOT_INODE, b"c", b, c, False, 6))
    listed = [
        [(entry.name, entry.inode) for entry in history.entries_at(ROOT_INODE, commit, 0, 10)]
        for commit in range(4)
    ]
    assert listed == [[], [(b"a", a), (b"b", b)], [(b"b", b), (b"c", c)], [(b"c", b)]]
    (second,) = history.entries_at(ROOT_INODE, 1, 16, 10)
    assert second.name == b"b"
    assert len(history.entries_at(ROOT_INODE, 1, 0, 1)) == 1


def test_what_is_returned_are_copies(namespace: Namespace, history: History) -> None:
    inode = make(namespace, b"f")
    row = history.inode_at(inode, 1)
    assert row == namespace.inode(inode)
    assert row is not namespace.inode(inode)


def test_commits_by_time(namespace: Namespace, history: History) -> None:
    for number, time in ((1, 100), (2, 200), (3, 200), (5, 300)):
        namespace.record_commit(number, bytes([number]) * 32, time)
    assert [history.commit_at(time) for time in (99, 100, 199, 200, 299, 10**18)] == [0, 1, 1, 3, 3, 5]
    assert [row.number for row in history.commits(2)] == [5, 3]
    assert [row.number for row in history.commits(10, before=3)] == [2, 1]
    assert history.commits(1)[0] == (5, bytes([5]) * 32, 300)


def test_versions_follow_the_path_through_rename_over(namespace: Namespace, history: History) -> None:
    first = save_over(namespace, b"f", 5, 10)
    namespace.begin_commit(2)
    second = save_over(namespace, b"f", 5, 20)
    namespace.begin_commit(3)
    namespace.apply(SetAttributes(second, mode=0o600, ctime_ns=30))
    namespace.begin_commit(4)
    fill(namespace, second, 9, 40)
    namespace.begin_commit(5)
    namespace.apply(Unlink(ROOT_INODE, b"f", second, 50))
    namespace.apply(Delete(second))
    namespace.begin_commit(6)
    third = make(namespace, b"f", time=60)
    versions = history.content_versions(ROOT_INODE, b"f")
    assert [version[:4] for version in versions] == [
        (1, first, 5, 10),
        (2, second, 5, 20),
        (4, second, 9, 40),
        (6, third, 0, 60),
    ]
    for version in versions:
        row = history.inode_at(version.inode, version.commit)
        assert row is not None
        assert (row.size, row.content_commit) == (version.size, version.content_commit)


def test_versions_are_of_the_time_at_the_path(namespace: Namespace, history: History) -> None:
    inode = make(namespace, b"elsewhere")
    fill(namespace, inode, 1, 10)
    namespace.begin_commit(2)
    fill(namespace, inode, 2, 20)
    namespace.begin_commit(3)
    namespace.apply(Link(inode, ROOT_INODE, b"f", 30))
    namespace.begin_commit(4)
    namespace.apply(Unlink(ROOT_INODE, b"f", inode, 40))
    namespace.begin_commit(5)
    fill(namespace, inode, 3, 50)
    assert [v[:4] for v in history.content_versions(ROOT_INODE, b"f")] == [(3, inode, 2, 20)]
    assert [v.size for v in history.content_versions(ROOT_INODE, b"elsewhere")] == [1, 2, 3]


def test_a_name_put_back_is_no_new_version_and_folders_have_none(
    namespace: Namespace, history: History
) -> None:
    inode = make(namespace, b"f")
    fill(namespace, inode, 1, 10)
    for commit in (2, 4):
        namespace.begin_commit(commit)
        namespace.apply(Rename(ROOT_INODE, b"f", ROOT_INODE, b"g", inode, 0, False, commit))
        namespace.begin_commit(commit + 1)
        namespace.apply(Rename(ROOT_INODE, b"g", ROOT_INODE, b"f", inode, 0, False, commit))
    assert len(history.content_versions(ROOT_INODE, b"f")) == 1
    make(namespace, b"d", FOLDER)
    assert history.content_versions(ROOT_INODE, b"d") == []
    assert history.content_versions(ROOT_INODE, b"never") == []


@pytest.mark.parametrize(
    "name",
    ["INODE_AT", "ENTRY_AT", "ENTRIES_AT", "EXTENTS_AT", "XATTR_AT", "XATTR_NAMES_AT", "NAMED", "VERSIONS"],
)
def test_each_query_walks_an_index_and_sorts_nothing(namespace: Namespace, name: str) -> None:
    numbers = dict.fromkeys(["inode", "at", "parent", "after", "limit", "low", "start", "end"], 1)
    check_plan(namespace, getattr(queries, name), {**numbers, "name": b"n"})


def test_looking_up_commits_walks_an_index(namespace: Namespace) -> None:
    check_plan(namespace, queries.COMMIT_AT, (1,))
    check_plan(namespace, queries.COMMITS, (1, 1))


def check_plan(namespace: Namespace, sql: str, bindings: Any) -> None:
    rows = namespace.synced_connection().execute("EXPLAIN QUERY PLAN " + sql, bindings)
    plan = [detail for *_, detail in rows]
    searches = [step for step in plan if step.startswith("SEARCH")]
    assert searches
    assert not [step for step in plan if "TEMP B-TREE" in step or step.startswith("SCAN past")], plan
    # The only scan allowed is of the one row that the sub-query over the past gives.
    assert all("subquery" in step.lower() for step in plan if step.startswith("SCAN")), plan


def test_a_look_up_does_not_slow_down_with_the_number_of_versions(
    namespace: Namespace, history: History
) -> None:
    """Counts SQLite's steps instead of time."""
    inode = make(namespace, b"f")
    steps = []
    for commit in (2, 20, 2000):
        for number in range(namespace.commit + 1, commit + 1):
            namespace.begin_commit(number)
            namespace.apply(SetAttributes(inode, mtime_ns=number))
        history.inode_at(inode, 1)
        steps.append(steps_of(namespace, queries.INODE_AT, {"inode": inode, "at": 1}))
    assert steps[1] == steps[2]


def steps_of(namespace: Namespace, sql: str, bindings: Any) -> int:
    """How many instructions of its virtual machine SQLite needed."""
    connection = namespace.synced_connection()
    count = 0

    def step() -> bool:
        nonlocal count
        count += 1
        return False

    connection.set_progress_handler(step, 1)
    list(connection.execute(sql, bindings))
    connection.set_progress_handler(None)
    return count


def test_who_made_a_commit(namespace: Namespace) -> None:
    """As of each commit, through undo, in a snapshot's words: the newest row not later."""
    history = History(namespace)
    assert history.writer_at(1) is None
    namespace.begin_commit(2)
    namespace.apply(SetWriter(1, b"desk"))
    namespace.apply(SetWriter(1, b"renamed at once"))
    namespace.begin_commit(4)
    namespace.apply(SetWriter(2, b"laptop"))
    expected = [
        None,
        CommitWriter(1, b"renamed at once"),
        CommitWriter(1, b"renamed at once"),
        CommitWriter(2, b"laptop"),
    ]
    assert [history.writer_at(commit) for commit in (1, 2, 3, 4)] == expected
    namespace.undo(3)
    assert namespace.writers.newest() == expected[2]
    for operation in (SetWriter(-1, b"x"), SetWriter(1, b""), SetWriter(1, b"\0"), SetWriter(1, b"x" * 256)):
        with pytest.raises(CorruptError):
            namespace.apply(operation)
