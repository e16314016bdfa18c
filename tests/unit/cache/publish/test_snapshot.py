"""Snapshot files: made beside a live namespace, refused when anything in them is not as expected."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import apsw
import pytest
import trio

from backend.errors import CorruptError, DriveError, FormatError, NotFoundError, UsageError
from backend.failpoints import OF_PROCESS
from cache.namespace.namespace import Namespace
from cache.namespace.operations import DEVICE_SHIFT, ROOT_INODE, Create, SetExtents
from cache.publish.snapshot import export, verify_hostile


@pytest.fixture
def namespace(tmp_path: Path) -> Iterator[Namespace]:
    namespace = Namespace(str(tmp_path / "namespace.db"), device=2)
    make(namespace, b"first")
    namespace.begin_commit(2)
    make(namespace, b"second")
    namespace.record_commit(1, b"1" * 32, 100)
    namespace.save(500)
    yield namespace
    namespace.close()


@pytest.fixture
def snapshot(namespace: Namespace, tmp_path: Path) -> str:
    path = str(tmp_path / "snapshot.db")
    export(namespace.path, path, 1)
    return path


def make(namespace: Namespace, name: bytes) -> int:
    inode = namespace.allocate_inode()
    namespace.apply(Create(ROOT_INODE, name, inode, 0o100644, 0, 0, 0, b"", 1))
    namespace.apply(SetExtents(inode, 0, ((0, 9),), ((0, 9, b"b" * 32, 0),)))
    return inode


def names(namespace: Namespace) -> list[bytes]:
    return [entry.name for entry in namespace.entries(ROOT_INODE, 0, 100)]


def test_a_snapshot_holds_one_commit_and_nothing_local(snapshot: str) -> None:
    verify_hostile(snapshot)
    assert not [name for name in os.listdir(os.path.dirname(snapshot)) if name.startswith("snapshot.db-")]
    loaded = Namespace(snapshot, device=5)
    assert names(loaded) == [b"first"]
    assert (loaded.journal_position(), loaded.commit, loaded.head().number) == (0, 2, 1)
    assert loaded.statistics() == (2, 1, 1, 0, 9)
    assert loaded.allocate_inode() == 5 << DEVICE_SHIFT
    loaded.close()


def test_the_same_commit_gives_the_same_bytes(namespace: Namespace, snapshot: str, tmp_path: Path) -> None:
    make(namespace, b"third")
    namespace.save(600)
    again = tmp_path / "again.db"
    export(namespace.path, str(again), 1)
    assert again.read_bytes()[100:] == Path(snapshot).read_bytes()[100:]


async def test_export_runs_in_a_thread_while_the_namespace_goes_on(
    namespace: Namespace, tmp_path: Path
) -> None:
    path = str(tmp_path / "snapshot.db")
    done = trio.Event()

    async def exporting() -> None:
        await trio.to_thread.run_sync(export, namespace.path, path, 2)
        done.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(exporting)
        number = 0
        while not done.is_set():
            make(namespace, b"%d" % number)
            namespace.save(501 + number)
            number += 1
            await trio.lowlevel.checkpoint()
    verify_hostile(path)
    loaded = Namespace(path)
    assert names(loaded)[:2] == [b"first", b"second"]
    assert loaded.statistics().entries == len(names(loaded))
    loaded.close()


def test_a_namespace_becomes_a_snapshot(namespace: Namespace, snapshot: str) -> None:
    namespace.apply(Create(ROOT_INODE, b"unsaved", namespace.allocate_inode(), 0o100644, 0, 0, 0, b"", 1))
    namespace.replace_from(snapshot, 900)
    assert names(namespace) == [b"first"]
    assert (namespace.device, namespace.journal_position()) == (2, 900)
    assert not os.path.exists(snapshot)
    make(namespace, b"later")
    namespace.save(901)
    namespace.close()
    again = Namespace(namespace.path)
    assert names(again) == [b"first", b"later"]
    again.close()


def test_a_replacement_that_fails_leaves_the_old_state(namespace: Namespace, snapshot: str) -> None:
    OF_PROCESS.arm("namespace.replacing", "eio")
    with pytest.raises(OSError, match="failpoint"):
        namespace.replace_from(snapshot, 900)
    again = Namespace(namespace.path)
    assert names(again) == [b"first", b"second"]
    assert again.journal_position() == 500
    again.close()


def test_an_old_write_ahead_log_does_not_reach_the_new_database(namespace: Namespace, snapshot: str) -> None:
    """A reader keeps SQLite from removing the log when the namespace closes."""
    reader = apsw.Connection(namespace.path)
    reader.execute("SELECT count(*) FROM inode").fetchall()
    namespace.replace_from(snapshot, 900)
    assert names(namespace) == [b"first"]
    reader.close()
    namespace.close()
    again = Namespace(namespace.path)
    assert names(again) == [b"first"]
    again.close()


def test_export_refuses_an_existing_target(namespace: Namespace, snapshot: str) -> None:
    with pytest.raises(UsageError):
        export(namespace.path, snapshot, 1)


HARM: dict[str, str] = {
    "a view": "CREATE VIEW v AS SELECT 1",
    "a trigger": "CREATE TRIGGER t AFTER INSERT ON inode BEGIN SELECT 1; END",
    "a table": "CREATE TABLE t (x)",
    "an index less": "DROP INDEX dentry_cookie",
    "a table less": "DROP TABLE past_xattr",
    "a column": "ALTER TABLE xattr ADD COLUMN x INTEGER",
    "no root": "DELETE FROM inode WHERE inode = 1",
    "a root that is a file": "UPDATE inode SET mode = 33188 WHERE inode = 1",
    "a total less": "DELETE FROM meta WHERE key = 'bytes'",
    "a total that is no number": "UPDATE meta SET value = '1e3' WHERE key = 'bytes'",
    "a local value": "INSERT INTO meta VALUES ('journal_position', '5')",
    "a table that takes any type": (
        "PRAGMA writable_schema = ON;"
        "UPDATE sqlite_schema SET sql = replace(sql, 'STRICT', '') WHERE name = 'commits';"
        "PRAGMA writable_schema = RESET"
    ),
}


@pytest.mark.parametrize("harm", HARM)
def test_a_snapshot_with_something_foreign_is_refused(snapshot: str, harm: str) -> None:
    connection = apsw.Connection(snapshot)
    connection.execute(HARM[harm])
    connection.close()
    with pytest.raises(CorruptError):
        verify_hostile(snapshot)


@pytest.mark.parametrize(
    ("pragma", "kind"),
    [("application_id = 5", FormatError), ("user_version = 9", FormatError)],
)
def test_a_snapshot_of_another_format_is_refused(snapshot: str, pragma: str, kind: type[DriveError]) -> None:
    connection = apsw.Connection(snapshot)
    connection.execute(f"PRAGMA {pragma}")
    connection.close()
    with pytest.raises(kind):
        verify_hostile(snapshot)


def overwrite_page(data: bytearray) -> None:
    data[4096 * 3 : 4096 * 4] = b"\xaa" * 4096


def cut_short(data: bytearray) -> None:
    del data[-4096:]


def scribble_on_header(data: bytearray) -> None:
    data[:16] = b"not a database!!"


def make_empty(data: bytearray) -> None:
    data.clear()


@pytest.mark.parametrize("harm", [overwrite_page, cut_short, scribble_on_header, make_empty])
def test_a_damaged_snapshot_is_refused(snapshot: str, harm: Callable[[bytearray], None]) -> None:
    data = bytearray(Path(snapshot).read_bytes())
    harm(data)
    Path(snapshot).write_bytes(data)
    with pytest.raises((CorruptError, FormatError)):
        verify_hostile(snapshot)


def test_a_journal_next_to_a_snapshot_is_not_read(namespace: Namespace, snapshot: str) -> None:
    shutil.copy(namespace.path + "-wal", snapshot + "-wal")
    before = Path(snapshot).read_bytes()
    verify_hostile(snapshot)
    assert Path(snapshot).read_bytes() == before
    assert os.path.exists(snapshot + "-wal")


def test_a_snapshot_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        verify_hostile(str(tmp_path / "none.db"))
