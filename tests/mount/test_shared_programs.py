"""Programs as people use them on a drive that another device writes too."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from tests.contents import KINDS, content
from tests.mount.mounted import differences, run
from tests.mount.shared_drive import SharedDrive, shared_drive
from tests.waiting import wait_until

pytestmark = pytest.mark.mount


@pytest.fixture
def drive(fuse: None) -> Iterator[SharedDrive]:
    with shared_drive(interval=0.01) as drive:
        yield drive


def is_content(path: Path, data: bytes) -> bool:
    return path.read_bytes() == data


def git(repository: Path, *arguments: str) -> str:
    who = ["-c", "user.name=A", "-c", "user.email=a@b", "-c", "safe.directory=*"]
    return run("git", *who, "-C", repository, *arguments)


def test_git_sees_what_another_device_edits(drive: SharedDrive) -> None:
    repository = drive.mountpoint / "repository"
    repository.mkdir()
    git(repository, "init", "-q")
    for number in range(20):
        (repository / f"file{number}").write_bytes(content("text", 2000, number))
    git(repository, "add", ".")
    git(repository, "commit", "-qm", "first")
    assert git(repository, "status", "--porcelain") == ""
    for number in range(20):
        drive.peer(("wait_for", f"repository/file{number}", 2000))
    edited = content("text", 2000, "edited")
    drive.peer(("write", "repository/file3", edited), ("save", "repository/file4", edited))
    drive.peer(("unlink", "repository/file5"), ("write", "repository/new", b"new"))
    drive.soon(lambda: (repository / "new").exists())
    drive.soon(lambda: (repository / "file4").read_bytes() == edited)
    status = git(repository, "status", "--porcelain").splitlines()
    assert sorted(status) == [" D file5", " M file3", " M file4", "?? new"]
    git(repository, "add", "-A")
    git(repository, "commit", "-qm", "second")
    assert git(repository, "status", "--porcelain") == ""
    git(repository, "fsck", "--strict")
    assert git(repository, "show", "HEAD:file3").encode() == edited
    git(repository, "checkout", "-q", "HEAD~1")
    assert (repository / "file3").read_bytes() == content("text", 2000, 3)


def rows_of(database: sqlite3.Connection) -> list[int]:
    return [number for (number,) in database.execute("SELECT number FROM t ORDER BY number")]


def new_database(path: Path, numbers: range) -> bytes:
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE t (number INTEGER, text TEXT)")
        database.executemany("INSERT INTO t VALUES (?, ?)", [(number, "x" * 500) for number in numbers])
        database.commit()
    return path.read_bytes()


def wait_until_whole(drive: SharedDrive, data: bytes) -> None:
    """Return when the other device has the database, and its journal no more. SQLite plays any journal of
    the name back into the database that it finds (sqlite.org/howtocorrupt.html)."""
    drive.peer(("wait_for", "f.db", len(data)))
    wait_until(lambda: drive.peer_reads("f.db") == data)
    drive.peer(("wait_for_names", ["f.db"]))


def test_an_open_database_that_others_replace_stays_whole(drive: SharedDrive, tmp_path: Path) -> None:
    """SQLite itself refuses to write to a file that its name does not mean any more."""
    theirs = new_database(tmp_path / "theirs", range(1000, 1500))
    path = drive.mountpoint / "f.db"
    wait_until_whole(drive, new_database(path, range(500)))
    with closing(sqlite3.connect(path)) as database:
        assert rows_of(database) == list(range(500))
        drive.peer(("write", "f.db", theirs))
        drive.soon(lambda: path.read_bytes() == theirs)
        assert rows_of(database) == list(range(500))
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            database.execute("INSERT INTO t VALUES (1, 'y')")
    with closing(sqlite3.connect(path)) as database:
        assert rows_of(database) == list(range(1000, 1500))
        more = [(number, "y" * 500) for number in range(1500, 1700)]
        database.executemany("INSERT INTO t VALUES (?, ?)", more)
        database.commit()
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert os.listdir(drive.mountpoint) == ["f.db"]
    wait_until_whole(drive, path.read_bytes())


def test_a_database_works_while_others_change_the_folder(drive: SharedDrive) -> None:
    path = drive.mountpoint / "f.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("CREATE TABLE t (number INTEGER)")
        for number in range(30):
            database.execute("INSERT INTO t VALUES (?)", (number,))
            database.commit()
            drive.peer(("write", f"other{number % 3}", b"%d" % number))
        assert rows_of(database) == list(range(30))
    drive.soon(lambda: (drive.mountpoint / "other2").read_bytes() == b"29")
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert rows_of(database) == list(range(30))
    assert not [name for name in os.listdir(drive.mountpoint) if "conflict" in name]


def test_an_editor_that_saves_by_renaming(drive: SharedDrive) -> None:
    """As vim does. It warns where the time has changed since it read the file."""
    path = drive.mountpoint / "notes"
    drive.peer(("write", "notes", b"base"))
    drive.soon(path.exists)
    for number in range(10):
        read_at = path.stat()
        theirs = b"theirs %d" % number
        drive.peer(("save" if number % 2 else "write", "notes", theirs))
        drive.soon(partial(is_content, path, theirs))
        assert path.stat().st_mtime_ns != read_at.st_mtime_ns
        ours = b"ours %d, after theirs" % number
        path.rename(path.with_name("notes~"))
        path.write_bytes(ours)
        path.with_name("notes~").unlink()
        drive.peer(("wait_for", "notes", len(ours)))
        assert drive.peer_reads("notes") == ours
    assert os.listdir(drive.mountpoint) == ["notes"]


def test_rsync_takes_what_others_changed_and_nothing_twice(drive: SharedDrive, tmp_path: Path) -> None:
    mirror = tmp_path / "mirror"
    drive.peer(*(("write", f"{kind}.txt", content(kind, 5000)) for kind in KINDS), ("mkdir", "d"))
    drive.soon((drive.mountpoint / "d").is_dir)
    run("rsync", "-a", f"{drive.mountpoint}/", f"{mirror}/")
    for number in range(1, 6):
        changed = drive.mountpoint / f"{KINDS[number]}.txt"
        data = content(KINDS[number], 5000 + number, number)
        drive.peer(("write", changed.name, data), ("mkdir", f"d/{number}"))
        drive.soon((drive.mountpoint / f"d/{number}").is_dir)
        drive.soon(partial(is_content, changed, data))
        said = run("rsync", "-ai", "--out-format=%n", f"{drive.mountpoint}/", f"{mirror}/").split()
        assert changed.name in said
        assert not [name for name in said if name.endswith(".txt") and name != changed.name]
        assert differences(drive.mountpoint, mirror) == ""
