"""The namespace's contract: what each operation does, what it refuses, and what is on disk when."""

from __future__ import annotations

import os
import resource
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

import cache.namespace.row_store
from backend.errors import (
    CorruptError,
    DriveError,
    FormatError,
    NotFoundError,
    ReadOnlyError,
    TransientError,
)
from backend.failpoints import OF_PROCESS
from backend.system import THIS_MACHINE, at_rest
from cache.history.history import History
from cache.namespace.namespace import Namespace
from cache.namespace.operations import (
    DEVICE_SHIFT,
    MAX_DEVICE,
    MAX_INODE,
    NEWEST_TIME,
    OLDEST_TIME,
    ROOT_INODE,
    AddDevice,
    Create,
    Delete,
    Link,
    NewEpoch,
    Operation,
    RemoveXattr,
    Rename,
    RenameLeavingWhiteout,
    RevokeDevice,
    SetAttributes,
    SetExtents,
    SetWriter,
    SetXattr,
    Unlink,
)
from cache.namespace.rows import FIRST_COOKIE, MAX_EXTENT, InodeRow
from cache.namespace.schema import LOCAL_META
from tests.block_references import block_references

FILE, FOLDER, LINK = 0o100644, 0o40755, 0o120777
BLOCK = b"b" * 32


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "namespace.db")


@pytest.fixture
def namespace(path: str) -> Iterator[Namespace]:
    namespace = Namespace(path)
    yield namespace
    namespace.close()


def make(namespace: Namespace, name: bytes, mode: int = FILE, parent: int = ROOT_INODE, time: int = 1) -> int:
    inode = namespace.allocate_inode()
    target = b"there" if mode == LINK else b""
    namespace.apply(Create(parent, name, inode, mode, 1, 2, 0, target, time))
    return inode


def row_of(namespace: Namespace, inode: int) -> InodeRow:
    row = namespace.inode(inode)
    assert row is not None
    return row


def test_a_new_namespace_is_a_root(path: str) -> None:
    namespace = Namespace(path, uid=5, gid=6, time_ns=7)
    expected = InodeRow(1, FOLDER, 2, 5, 6, 0, 0, 0, 7, 7, 7, 7, b"", 1, 0, FIRST_COOKIE, 0)
    assert namespace.inode(ROOT_INODE) == expected
    assert namespace.commit == 1
    assert namespace.journal_position() == 0
    assert namespace.statistics() == (1, 0, 0, 0, 0)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    namespace.close()


def test_create_makes_row_name_and_times(namespace: Namespace) -> None:
    inode = make(namespace, b"file", time=50)
    row = row_of(namespace, inode)
    assert (row.nlink, row.uid, row.gid, row.size, row.parent) == (1, 1, 2, 0, 0)
    assert row.atime_ns == row.mtime_ns == row.ctime_ns == row.btime_ns == 50
    root = row_of(namespace, ROOT_INODE)
    assert (root.size, root.nlink, root.mtime_ns, root.ctime_ns, root.atime_ns) == (1, 2, 50, 50, 0)
    entry = namespace.entry(ROOT_INODE, b"file")
    assert entry is not None
    assert (entry.inode, entry.cookie) == (inode, FIRST_COOKIE)


def push_out(namespace: Namespace) -> None:
    """Have a small cache forget the names that it knows."""
    for number in range(100):
        assert namespace.entry(ROOT_INODE, b"nothing %d" % number) is None


def test_what_is_absent_in_a_new_folder_is_known_without_sql(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    namespace = Namespace(path, cached_rows=1)
    queries: list[str] = []

    def note(_cursor: apsw.Cursor, query: str, _values: object) -> bool:
        queries.append(query)
        return True

    namespace.synced_connection().exec_trace = note
    folder = make(namespace, b"d", FOLDER)
    queries.clear()
    names = [b"%d" % number for number in range(10)]
    for name in names:
        assert namespace.entry(folder, name) is None
        make(namespace, name, parent=folder)
    assert queries == []
    entry = namespace.entry(folder, b"3")
    assert entry is not None
    namespace.apply(Unlink(folder, b"3", entry.inode, 9))
    namespace.save(1)
    push_out(namespace)
    assert [namespace.entry(folder, name) is None for name in names] == [name == b"3" for name in names]
    monkeypatch.setattr(cache.namespace.row_store, "MOST_NAMES", 25)
    for number in range(30):
        make(namespace, b"n%d" % number, parent=folder)
    namespace.save(1)
    push_out(namespace)
    queries.clear()
    assert namespace.entry(folder, b"absent") is None
    assert namespace.entry(folder, b"n29") is not None
    assert len(queries) == 2, "too many to be remembered: SQL is asked"
    namespace.close()


def test_statements_are_not_compiled_anew_for_each_value(namespace: Namespace) -> None:
    assert namespace.synced_connection().config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, -1)


def test_the_blocks_that_small_files_begin_with_are_found(namespace: Namespace) -> None:
    inodes = [make(namespace, b"%d" % number) for number in range(5)]
    blocks = [bytes([number]) * 32 for number in range(5)]
    places = [(0, 100), (0, 101), (50, 10), (0, 1), (0, 1)]
    for inode, block, (offset, size) in zip(inodes, blocks, places, strict=True):
        cleared = ((offset, offset + size),)
        namespace.apply(SetExtents(inode, 0, cleared, ((offset, size, block, 0),)))
    assert set(namespace.small_blocks(inodes[:4], 100)) == {blocks[0], blocks[3]}
    assert namespace.small_blocks([inodes[-1] + 1, inodes[-1] + 2], 100) == []


def test_a_folder_counts_its_sub_folders(namespace: Namespace) -> None:
    folder = make(namespace, b"d", FOLDER)
    inner = make(namespace, b"e", FOLDER, parent=folder)
    assert row_of(namespace, ROOT_INODE).nlink == 3
    assert row_of(namespace, folder).nlink == 3
    assert row_of(namespace, inner).parent == folder
    namespace.apply(Unlink(folder, b"e", inner, 9))
    assert row_of(namespace, folder).nlink == 2
    assert row_of(namespace, inner).nlink == 0


def test_a_symbolic_link_has_the_size_of_its_target(namespace: Namespace) -> None:
    assert row_of(namespace, make(namespace, b"l", LINK)).size == len(b"there")


def test_an_unlinked_file_is_an_orphan_until_deleted(namespace: Namespace) -> None:
    inode = make(namespace, b"file")
    namespace.apply(Unlink(ROOT_INODE, b"file", inode, 9))
    assert namespace.entry(ROOT_INODE, b"file") is None
    assert row_of(namespace, inode).ctime_ns == 9
    assert namespace.orphans() == [inode]
    namespace.apply(Delete(inode))
    assert namespace.inode(inode) is None
    assert namespace.orphans() == []
    assert namespace.statistics() == (1, 0, 0, 0, 0)


def test_a_rename_over_takes_the_name_and_a_new_cookie(namespace: Namespace) -> None:
    first, second = make(namespace, b"new"), make(namespace, b"old")
    namespace.apply(Rename(ROOT_INODE, b"new", ROOT_INODE, b"old", first, second, False, 33))
    entry = namespace.entry(ROOT_INODE, b"old")
    assert entry is not None
    assert (entry.inode, entry.cookie) == (first, FIRST_COOKIE + 2)
    assert namespace.entry(ROOT_INODE, b"new") is None
    assert row_of(namespace, second).nlink == 0
    assert [row_of(namespace, i).ctime_ns for i in (first, second, ROOT_INODE)] == [33, 33, 33]
    assert row_of(namespace, ROOT_INODE).size == 1


def test_a_rename_leaves_a_whiteout_in_the_same_moment(namespace: Namespace) -> None:
    folder, first, second = make(namespace, b"d", FOLDER), make(namespace, b"new"), make(namespace, b"old")
    whiteout = namespace.allocate_inode()
    names = ROOT_INODE, b"new", ROOT_INODE, b"old", first, second
    namespace.apply(RenameLeavingWhiteout(*names, whiteout, 5, 6, 33))
    left, moved = namespace.entry(ROOT_INODE, b"new"), namespace.entry(ROOT_INODE, b"old")
    assert left is not None
    assert moved is not None
    assert (left.inode, moved.inode, row_of(namespace, second).nlink) == (whiteout, first, 0)
    row = row_of(namespace, whiteout)
    assert (row.mode, row.rdev, row.uid, row.gid, row.nlink) == (stat.S_IFCHR, 0, 5, 6, 1)
    assert row_of(namespace, ROOT_INODE).size == 3
    names = ROOT_INODE, b"d", ROOT_INODE, b"e", folder, 0
    namespace.apply(RenameLeavingWhiteout(*names, namespace.allocate_inode(), 5, 6, 34))
    assert row_of(namespace, ROOT_INODE).nlink == 3


def test_an_exchange_keeps_cookies_and_moves_folders(namespace: Namespace) -> None:
    outer = make(namespace, b"outer", FOLDER)
    folder, file = make(namespace, b"d", FOLDER, parent=outer), make(namespace, b"f")
    namespace.apply(Rename(outer, b"d", ROOT_INODE, b"f", folder, file, True, 33))
    assert [entry.inode for entry in namespace.entries(ROOT_INODE, 0, 10)] == [outer, folder]
    assert [entry.inode for entry in namespace.entries(outer, 0, 10)] == [file]
    assert row_of(namespace, folder).parent == ROOT_INODE
    assert (row_of(namespace, ROOT_INODE).nlink, row_of(namespace, outer).nlink) == (4, 2)


def test_a_listing_goes_on_while_names_come_and_go(namespace: Namespace) -> None:
    inodes = [make(namespace, b"%d" % number) for number in range(10)]
    first = namespace.entries(ROOT_INODE, 0, 4)
    namespace.apply(Unlink(ROOT_INODE, b"2", inodes[2], 5))
    namespace.apply(Unlink(ROOT_INODE, b"6", inodes[6], 5))
    make(namespace, b"new")
    rest = namespace.entries(ROOT_INODE, first[-1].cookie, 100)
    assert [entry.name for entry in first] == [b"0", b"1", b"2", b"3"]
    assert [entry.name for entry in rest] == [b"4", b"5", b"7", b"8", b"9", b"new"]


def invalid_operations() -> list[Operation]:
    """On: 2 is the file `f` with 2 names (`f`, `g`), 3 the folder `d`, 4 the folder `d/e`."""
    return [
        Create(ROOT_INODE, b"f", 99, FILE, 0, 0, 0, b"", 1),
        Create(ROOT_INODE, b"x", 2, FILE, 0, 0, 0, b"", 1),
        Create(98, b"x", 99, FILE, 0, 0, 0, b"", 1),
        Create(2, b"x", 99, FILE, 0, 0, 0, b"", 1),
        Create(ROOT_INODE, b"x", 1 << 62, FILE, 0, 0, 0, b"", 1),
        Create(ROOT_INODE, b"x", 99, FILE, -1, 0, 0, b"", 1),
        Create(ROOT_INODE, b"x", 99, FILE, 0, 0, 1 << 32, b"", 1),
        Create(ROOT_INODE, b"x", 99, FILE, 0, 0, 0, b"", NEWEST_TIME + 1),
        *(
            Create(ROOT_INODE, name, 99, FILE, 0, 0, 0, b"", 1)
            for name in (b"", b".", b"..", b"a/b", b"a\0", b"n" * 256)
        ),
        Link(2, ROOT_INODE, b"x", NEWEST_TIME + 1),
        Unlink(ROOT_INODE, b"f", 2, NEWEST_TIME + 1),
        Rename(ROOT_INODE, b"f", ROOT_INODE, b"x", 2, 0, False, OLDEST_TIME - 1),
        Rename(ROOT_INODE, b"f", ROOT_INODE, b"d", 2, 3, True, NEWEST_TIME + 1),
        RenameLeavingWhiteout(ROOT_INODE, b"f", ROOT_INODE, b"x", 2, 0, 3, 0, 0, 1),
        RenameLeavingWhiteout(ROOT_INODE, b"f", ROOT_INODE, b"x", 2, 0, 1 << 62, 0, 0, 1),
        RenameLeavingWhiteout(ROOT_INODE, b"f", ROOT_INODE, b"x", 2, 0, 99, 1 << 32, 0, 1),
        RenameLeavingWhiteout(ROOT_INODE, b"f", ROOT_INODE, b"d", 2, 3, 99, 0, 0, 1),
        SetAttributes(2, size=1 << 63),
        SetAttributes(2, size=-1),
        SetAttributes(2, mtime_ns=NEWEST_TIME + 1),
        SetAttributes(2, uid=1 << 32),
        SetXattr(2, b"", b"", 1),
        SetXattr(2, b"n" * 256, b"", 1),
        SetXattr(2, b"user.x", b"", NEWEST_TIME + 1),
        SetWriter(MAX_DEVICE + 1, b"host"),
        *(AddDevice(number, bytes(32), b"host") for number in (-1, 0, MAX_DEVICE + 1)),
        AddDevice(1, bytes(31), b"host"),
        AddDevice(1, bytes(32), b""),
        RevokeDevice(0),
        RevokeDevice(7),
        *(NewEpoch(number, b"k" * 60, b"k" * 60) for number in (-1, 0, 2, 8193, 1 << 32)),
        NewEpoch(1, b"k" * 59, b""),
        NewEpoch(1, b"k" * 60, b"k" * 60),
        NewEpoch(2, b"k" * 60, b""),
        SetExtents(2, 0, ((0, 5),), ((0, 5, BLOCK, MAX_EXTENT - 4),)),
        Link(3, ROOT_INODE, b"x", 1),
        Link(2, ROOT_INODE, b"d", 1),
        Link(98, ROOT_INODE, b"x", 1),
        Unlink(ROOT_INODE, b"f", 3, 1),
        Unlink(ROOT_INODE, b"x", 2, 1),
        Unlink(ROOT_INODE, b"d", 3, 1),
        Rename(ROOT_INODE, b"f", ROOT_INODE, b"d", 2, 3, False, 1),
        Rename(ROOT_INODE, b"f", ROOT_INODE, b"g", 2, 2, False, 1),
        Rename(ROOT_INODE, b"f", ROOT_INODE, b"g", 2, 0, False, 1),
        Rename(ROOT_INODE, b"f", ROOT_INODE, b"x", 2, 3, False, 1),
        Rename(ROOT_INODE, b"f", ROOT_INODE, b"x", 3, 0, False, 1),
        Rename(ROOT_INODE, b"d", 4, b"x", 3, 0, False, 1),
        Rename(ROOT_INODE, b"d", 3, b"e", 3, 4, True, 1),
        Rename(3, b"e", ROOT_INODE, b"d", 4, 3, True, 1),
        SetAttributes(98, mode=0o600),
        SetAttributes(3, size=1),
        SetExtents(98, 0, (), ()),
        SetExtents(3, 0, (), ()),
        SetExtents(2, 0, ((0, 5), (4, 8)), ()),
        SetExtents(2, 0, ((5, 5),), ()),
        SetExtents(2, 0, ((0, 5),), ((0, 6, BLOCK, 0),)),
        SetExtents(2, 0, ((0, 5),), ((2, 2, BLOCK, 0), (3, 1, BLOCK, 0))),
        SetExtents(2, 0, ((0, 5),), ((0, 0, BLOCK, 0),)),
        SetExtents(2, 0, ((0, 5),), ((0, 1, BLOCK, -1),)),
        SetExtents(2, 0, ((0, 1 << 30),), ((0, MAX_EXTENT + 1, BLOCK, 0),)),
        SetExtents(2, 0, (), ((0, 1, BLOCK, 0),)),
        RemoveXattr(2, b"user.x", 1),
        SetXattr(98, b"user.x", b"", 1),
        Delete(2),
        Delete(98),
    ]


@pytest.mark.parametrize("operation", invalid_operations(), ids=repr)
def test_what_does_not_fit_is_refused_and_changes_nothing(
    namespace: Namespace, path: str, operation: Operation
) -> None:
    make(namespace, b"f")
    folder = make(namespace, b"d", FOLDER)
    make(namespace, b"e", FOLDER, parent=folder)
    namespace.apply(Link(2, ROOT_INODE, b"g", 1))
    namespace.apply(SetExtents(2, 0, ((0, 5),), ((0, 5, BLOCK, 0),)))
    namespace.begin_commit(2)
    namespace.save(1)
    before = content_of(path)
    with pytest.raises(CorruptError):
        namespace.apply(operation)
    namespace.save(1)
    assert content_of(path) == before


def content_of(path: str) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table on disk."""
    connection = apsw.Connection(path)
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    rows = {name: sorted(connection.execute(f"SELECT * FROM {name}")) for name in tables}
    connection.close()
    return rows


def test_extents_are_cut_and_found(namespace: Namespace) -> None:
    inode = make(namespace, b"f")
    namespace.apply(SetExtents(inode, 0, ((0, 100),), ((0, 100, BLOCK, 7),)))
    namespace.apply(SetExtents(inode, 1, ((10, 20), (20, 30)), ((15, 10, b"c" * 32, 0),)))
    expected = [(0, 10, BLOCK, 7, 1), (15, 10, b"c" * 32, 0, 1), (30, 70, BLOCK, 37, 1)]
    assert namespace.extents(inode, 0, 1000) == expected
    assert namespace.extents(inode, 9, 15) == expected[:1]
    assert namespace.extents(inode, 10, 16) == expected[1:2]
    assert namespace.extents(inode, 25, 30) == []
    assert namespace.extents(inode, 5, 5) == []
    assert row_of(namespace, inode).allocated == 90
    assert namespace.statistics().allocated == 90


def test_extents_far_out_and_over_window_borders(namespace: Namespace) -> None:
    inode = make(namespace, b"f")
    far = (1 << 62) + 12345
    border = 64 << 20
    spots = (border - 10, far)
    cleared = tuple((spot, spot + 20) for spot in spots)
    namespace.apply(SetExtents(inode, 0, cleared, tuple((spot, 20, BLOCK, 0) for spot in spots)))
    assert [e.offset for e in namespace.extents(inode, border - 1, border)] == [border - 10]
    assert [e.offset for e in namespace.extents(inode, border, border + 1)] == [border - 10]
    assert [e.offset for e in namespace.extents(inode, border - 1, border + 1)] == [border - 10]
    assert [e.offset for e in namespace.extents(inode, far + 19, far + 40)] == [far]
    assert [e.offset for e in namespace.extents(inode, 0, (1 << 63) - 1)] == list(spots)


def test_a_change_of_atime_makes_no_version(namespace: Namespace, path: str) -> None:
    inode = make(namespace, b"f")
    namespace.begin_commit(2)
    namespace.apply(SetAttributes(inode, atime_ns=77))
    row = row_of(namespace, inode)
    assert (row.atime_ns, row.born) == (77, 1)
    namespace.save(1)
    namespace.close()
    with_atime = Namespace(path)
    assert row_of(with_atime, inode).atime_ns == 77
    with_atime.close()


def test_the_type_of_an_inode_cannot_be_changed(namespace: Namespace) -> None:
    inode = make(namespace, b"f")
    namespace.apply(SetAttributes(inode, mode=0o40000 | 0o4711))
    assert row_of(namespace, inode).mode == 0o104711


def test_what_came_and_went_in_one_commit_leaves_nothing(namespace: Namespace, path: str) -> None:
    namespace.save(0)
    inode = make(namespace, b"f")
    namespace.apply(SetXattr(inode, b"user.a", b"1", 2))
    namespace.apply(SetExtents(inode, 0, ((0, 5),), ((0, 5, BLOCK, 0),)))
    namespace.save(1)
    namespace.apply(Unlink(ROOT_INODE, b"f", inode, 3))
    namespace.apply(Delete(inode))
    namespace.save(2)
    rows = content_of(path)
    assert [len(rows[name]) for name in ("inode", "dentry", "xattr", "extent")] == [1, 0, 0, 0]
    past = [rows[f"past_{name}"] for name in ("inode", "dentry", "xattr", "extent")]
    assert [len(table) for table in past] == [1, 0, 0, 0]
    assert past[0][0][0] == ROOT_INODE


def test_late_content_splits_the_past(namespace: Namespace, path: str) -> None:
    inode = make(namespace, b"f")
    namespace.begin_commit(2)
    namespace.begin_commit(3)
    namespace.apply(SetAttributes(inode, mode=0o600))
    namespace.apply(SetExtents(inode, 0, ((0, 5),), ((0, 5, BLOCK, 0),)), commit=2)
    namespace.save(1)
    connection = apsw.Connection(path)
    past = list(
        connection.execute(
            "SELECT born, died, content, allocated, mode FROM past_inode WHERE inode = ? ORDER BY born",
            (inode,),
        )
    )
    connection.close()
    assert past == [(1, 2, 0, 0, FILE), (2, 3, 2, 5, FILE)]
    row = row_of(namespace, inode)
    assert (row.born, row.content_commit, row.allocated, row.mode) == (3, 2, 5, 0o100600)
    assert namespace.extents(inode, 0, 5)[0].born == 2


def test_content_must_come_in_the_order_of_commits(namespace: Namespace) -> None:
    inode = make(namespace, b"f")
    namespace.begin_commit(3)
    younger = make(namespace, b"g")
    namespace.apply(SetExtents(inode, 0, ((0, 5),), ()), commit=2)
    for late, commit in ((inode, 1), (inode, 4), (inode, 0), (younger, 2)):
        with pytest.raises(CorruptError):
            namespace.apply(SetExtents(late, 0, ((0, 5),), ()), commit=commit)
    with pytest.raises(CorruptError):
        namespace.apply(SetAttributes(inode, mode=0), commit=2)


def test_commits_do_not_go_backwards(namespace: Namespace) -> None:
    namespace.begin_commit(5)
    with pytest.raises(CorruptError):
        namespace.begin_commit(4)
    namespace.record_commit(4, b"h" * 32, 100)
    assert (namespace.head().number, namespace.head().hash, namespace.last_commit_time()) == (
        4,
        b"h" * 32,
        100,
    )
    for number, time in ((4, 101), (5, 99)):
        with pytest.raises(CorruptError):
            namespace.record_commit(number, b"h" * 32, time)


def test_a_flush_keeps_everything_and_its_position(namespace: Namespace, path: str) -> None:
    inode = make(namespace, b"\xff\x01name")
    namespace.apply(SetXattr(inode, b"user.b", b"\x00v", 2))
    namespace.apply(SetXattr(inode, b"user.a", b"", 2))
    namespace.begin_commit(7)
    namespace.record_commit(6, b"h" * 32, 100)
    namespace.save(1234)
    unsaved = make(namespace, b"unsaved")
    assert namespace.entries(ROOT_INODE, 0, 9)[-1].inode == unsaved
    namespace.close()
    again = Namespace(path)
    assert (again.journal_position(), again.commit, again.head().number) == (1234, 7, 6)
    assert row_of(again, inode).nlink == 1
    assert again.xattr_names(inode) == [b"user.a", b"user.b"]
    assert (again.xattr(inode, b"user.b"), again.xattr(inode, b"user.c")) == (b"\x00v", None)
    assert again.entry(ROOT_INODE, b"unsaved") is None
    assert again.statistics() == (2, 1, 1, 0, 0)
    again.close()


def test_numbers_are_not_given_twice(path: str) -> None:
    namespace = Namespace(path, device=3)
    first = make(namespace, b"a")
    assert first == 3 << DEVICE_SHIFT
    namespace.save(1)
    second = namespace.allocate_inode()
    namespace.close()
    again = Namespace(path)
    assert again.device == 3
    again.apply(Create(ROOT_INODE, b"b", second, FILE, 0, 0, 0, b"", 1))
    other = 4 << DEVICE_SHIFT | 17
    again.apply(Create(ROOT_INODE, b"c", other, FILE, 0, 0, 0, b"", 1))
    assert again.allocate_inode() == second + 1
    again.save(2)
    again.close()
    moved = Namespace(path, device=4)
    assert moved.allocate_inode() == other + 1
    moved.close()


def test_numbers_of_the_dead_are_not_given_again(path: str) -> None:
    namespace = Namespace(path)
    inode = make(namespace, b"a")
    namespace.begin_commit(2)
    namespace.apply(Unlink(ROOT_INODE, b"a", inode, 1))
    namespace.apply(Delete(inode))
    namespace.save(1)
    namespace.close()
    at_rest.unseal(path, THIS_MACHINE.disk)
    connection = apsw.Connection(path)
    connection.executemany("DELETE FROM meta WHERE key = ?", [(key,) for key in LOCAL_META])
    connection.close()
    again = Namespace(path, device=0)
    assert again.allocate_inode() == inode + 1
    again.close()


def test_the_highest_device_works(path: str) -> None:
    namespace = Namespace(path, device=MAX_DEVICE)
    assert make(namespace, b"a") == MAX_DEVICE << DEVICE_SHIFT
    namespace.apply(Create(ROOT_INODE, b"last", MAX_INODE, FILE, 0, 0, 0, b"", 1))
    with pytest.raises(CorruptError, match="all its inode numbers"):
        namespace.allocate_inode()
    namespace.save(1)
    namespace.close()
    again = Namespace(path)
    assert row_of(again, MAX_INODE).nlink == 1
    again.close()


def test_totals_may_exceed_64_bits(namespace: Namespace, path: str) -> None:
    huge = (1 << 63) - 1
    for name in (b"a", b"b", b"c"):
        namespace.apply(SetAttributes(make(namespace, name), size=huge))
    namespace.save(1)
    namespace.begin_commit(2)
    namespace.apply(SetAttributes(2, size=0))
    namespace.close()
    again = Namespace(path)
    assert again.statistics().bytes == 3 * huge
    again.undo(0)
    assert again.statistics() == (1, 0, 0, 0, 0)
    again.close()


def test_undo_is_on_disk_only_with_the_next_flush(namespace: Namespace, path: str) -> None:
    make(namespace, b"a")
    namespace.begin_commit(2)
    make(namespace, b"b")
    namespace.save(10)
    namespace.undo(1)
    assert namespace.entry(ROOT_INODE, b"b") is None
    namespace.close()
    again = Namespace(path)
    assert again.entry(ROOT_INODE, b"b") is not None
    again.undo(1)
    again.save(5)
    again.close()
    after = Namespace(path)
    assert [entry.name for entry in after.entries(ROOT_INODE, 0, 9)] == [b"a"]
    assert (after.commit, after.journal_position()) == (2, 5)
    after.close()


def test_a_full_disk_loses_nothing(namespace: Namespace, path: str) -> None:
    inode = make(namespace, b"before")
    namespace.apply(SetXattr(inode, b"user.a", b"1", 2))
    namespace.save(1)
    for number in range(200):
        make(namespace, b"%d" % number)
    namespace.apply(SetExtents(inode, 0, ((0, 5),), ((0, 5, BLOCK, 0),)))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (os.stat(path + "-wal").st_size + 1000, hard))
    try:
        for _ in range(2):
            with pytest.raises(DriveError):
                namespace.save(2)
        assert namespace.journal_position() == 1
        assert len(namespace.entries(ROOT_INODE, 0, 1000)) == 201
        assert len(namespace.extents(inode, 0, 5)) == 1
        make(namespace, b"during")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    namespace.save(3)
    namespace.close()
    again = Namespace(path)
    assert len(again.entries(ROOT_INODE, 0, 1000)) == 202
    assert again.journal_position() == 3
    assert again.xattr_names(inode) == [b"user.a"]
    again.close()


def test_a_commit_that_fails_can_be_repeated(namespace: Namespace, path: str) -> None:
    inode = make(namespace, b"a")
    OF_PROCESS.arm("namespace.committing", "eio")
    with pytest.raises(TransientError):
        namespace.save(1)
    OF_PROCESS.disarm_all()
    assert namespace.journal_position() == 0
    namespace.save(2)
    namespace.close()
    again = Namespace(path)
    assert (row_of(again, inode).nlink, again.journal_position()) == (1, 2)
    again.close()


def test_a_checkpoint_says_what_is_safe(namespace: Namespace, path: str) -> None:
    make(namespace, b"a")
    namespace.save(10)
    make(namespace, b"b")
    assert len(namespace.entries(ROOT_INODE, 0, 9)) == 2
    assert namespace.checkpoint() == 10
    namespace.save(20)
    reader = apsw.Connection(path)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM inode").fetchall()
    namespace.save(30)
    assert namespace.checkpoint() is None
    reader.close()
    assert namespace.checkpoint() == 30


CHECKPOINT_LOCK = """
import fcntl
with open({path!r}, "r+b") as file:
    fcntl.lockf(file, fcntl.LOCK_EX, 1, 121)  # WAL_CKPT_LOCK
    print("locked", flush=True)
    input()
"""


def test_a_checkpoint_beside_another_makes_nothing_safe(namespace: Namespace, path: str) -> None:
    """Regression: SQLite answers (1, -1, -1), which passed for a log that is wholly in the database."""
    make(namespace, b"a")
    namespace.save(10)
    other = [sys.executable, "-c", CHECKPOINT_LOCK.format(path=path + "-shm")]
    with subprocess.Popen(other, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"locked\n"
        assert namespace.checkpoint() is None
        process.communicate(b"\n")
    assert namespace.checkpoint() == 10


def test_nothing_is_written_before_a_flush(namespace: Namespace, path: str) -> None:
    namespace.save(1)
    size = os.stat(path + "-wal").st_size
    for number in range(3000):
        make(namespace, b"%d" % number)
        if number % 1000 == 0:
            namespace.entries(ROOT_INODE, 0, 1)
    namespace.orphans()
    assert os.stat(path + "-wal").st_size == size
    namespace.save(2)
    assert os.stat(path + "-wal").st_size > size


def test_an_idle_flush_writes_nothing(namespace: Namespace, path: str) -> None:
    make(namespace, b"a")
    namespace.save(1)
    size = os.stat(path + "-wal").st_size
    namespace.save(1)
    assert os.stat(path + "-wal").st_size == size
    namespace.save(2)
    assert os.stat(path + "-wal").st_size > size


def test_the_write_ahead_log_is_bounded(
    namespace: Namespace, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when every checkpoint meets an open transaction."""
    monkeypatch.setattr("cache.namespace.row_store.WAL_PAGES", 100)
    for number in range(100):
        for name in range(10):
            make(namespace, b"%d-%d" % (number, name))
        namespace.entries(ROOT_INODE, 0, 1)
        assert namespace.checkpoint() == max(number - 1, 0)
        namespace.save(number)
    assert os.stat(path + "-wal").st_size < 200 * 4200


def test_reading_only(path: str) -> None:
    with pytest.raises(NotFoundError):
        Namespace(path, read_only=True)
    namespace = Namespace(path)
    inode = make(namespace, b"a")
    namespace.save(1)
    namespace.close()
    reader = Namespace(path, read_only=True)
    assert row_of(reader, inode).nlink == 1
    assert [entry.inode for entry in reader.entries(ROOT_INODE, 0, 9)] == [inode]
    with pytest.raises(ReadOnlyError):
        reader.apply(Delete(inode))
    reader.close()


@pytest.mark.parametrize(
    "time_ns", [OLDEST_TIME, -1, 0, 1 << 31, (1 << 63) - 1, 1 << 63, (1 << 63) + 123_456_789, NEWEST_TIME]
)
def test_every_time_of_the_range_comes_back_now_and_from_the_past(path: str, time_ns: int) -> None:
    namespace = Namespace(path)
    inode = make(namespace, b"a", time=time_ns)
    namespace.record_commit(1, b"1" * 32, 1)
    namespace.begin_commit(2)
    namespace.apply(SetAttributes(inode, atime_ns=time_ns, mtime_ns=time_ns - 1 if time_ns > 0 else time_ns))
    namespace.save(1)
    namespace.close()
    namespace = Namespace(path)
    now, before = row_of(namespace, inode), History(namespace).inode_at(inode, 1)
    assert before is not None
    assert (now.atime_ns, now.ctime_ns, now.btime_ns) == (time_ns,) * 3
    assert now.mtime_ns == (time_ns - 1 if time_ns > 0 else time_ns)
    assert (before.mtime_ns, before.ctime_ns, before.btime_ns) == (time_ns,) * 3
    (version,) = History(namespace).content_versions(ROOT_INODE, b"a")
    assert version.mtime_ns == time_ns
    namespace.close()


def test_times_before_1901_of_version_2_become_the_oldest(path: str) -> None:
    namespace = Namespace(path)
    inode = make(namespace, b"a", time=5)
    namespace.save(1)
    namespace.close()
    at_rest.unseal(path, THIS_MACHINE.disk)
    connection = apsw.Connection(path)
    connection.execute("UPDATE inode SET mtime_ns = ? WHERE inode = ?", (-(1 << 63), inode))
    connection.execute("DROP TABLE writer")
    connection.execute("DROP TABLE past_writer")
    connection.execute("DROP TABLE device")
    connection.execute("DROP TABLE past_device")
    connection.execute("DROP TABLE device_sequence")
    connection.execute("DROP TABLE past_device_sequence")
    connection.execute("DROP TABLE key_epoch")
    connection.execute("DELETE FROM meta WHERE key = 'files'")
    connection.execute("PRAGMA user_version = 2")
    connection.close()
    namespace = Namespace(path)
    assert (row_of(namespace, inode).mtime_ns, row_of(namespace, inode).ctime_ns) == (OLDEST_TIME, 5)
    namespace.close()


def test_foreign_and_newer_files_are_refused(tmp_path: Path, path: str) -> None:
    foreign = str(tmp_path / "foreign.db")
    connection = apsw.Connection(foreign)
    connection.execute("CREATE TABLE inode (inode)")
    connection.close()
    with pytest.raises(FormatError):
        Namespace(foreign)
    Namespace(path).close()
    at_rest.unseal(path, THIS_MACHINE.disk)
    connection = apsw.Connection(path)
    connection.execute("PRAGMA user_version = 9")
    connection.close()
    with pytest.raises(FormatError, match="version 9, this program knows 8"):
        Namespace(path)
    noise = tmp_path / "noise.db"
    noise.write_bytes(b"noise" * 1000)
    with pytest.raises(CorruptError):
        Namespace(str(noise))
    with pytest.raises(NotFoundError):
        Namespace(str(tmp_path / "missing" / "namespace.db"))


def test_block_references_are_of_the_living_and_the_past(namespace: Namespace) -> None:
    inode = make(namespace, b"a")
    namespace.apply(SetExtents(inode, 0, ((0, 9),), ((0, 5, BLOCK, 0), (5, 4, b"c" * 32, 0))))
    namespace.begin_commit(2)
    namespace.apply(SetExtents(inode, 1, ((0, 9),), ((0, 9, b"d" * 32, 0),)))
    assert sorted(block_references(namespace)) == [BLOCK, b"c" * 32, b"d" * 32]


def test_the_attributes_of_inodes_that_end_leave_sql_together(namespace: Namespace) -> None:
    """Objects of the S3 door have one each, and go when they are replaced."""
    inodes = [make(namespace, b"%d" % number) for number in range(50)]
    for number, inode in enumerate(inodes):
        namespace.apply(SetXattr(inode, b"user.name", b"value", 2))
        namespace.apply(Unlink(ROOT_INODE, b"%d" % number, inode, 3))
    before = namespace.savepoint().written
    for inode in inodes:
        namespace.apply(Delete(inode))
    assert namespace.savepoint().written - before < 10
    assert namespace.synced_connection().execute("SELECT * FROM xattr").fetchall() == []
