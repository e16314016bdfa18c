"""Programs that ask much of a file system: git, SQLite, tar, rsync, an editor, CPython's test of mmap."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.mount.mounted import MountedDrive, differences, run
from tests.mount.trees import library_part, oddities

pytestmark = pytest.mark.mount

READER = (
    "import sqlite3, sys; database = sqlite3.connect(sys.argv[1])\n"
    "print(*database.execute('select count(*), sum(n) from t').fetchone())"
)
GIT = {
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
    "GIT_AUTHOR_NAME": "a",
    "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@example.org",
}


def git(folder: Path, *arguments: str | Path) -> str:
    return run("git", "-C", folder, *arguments, env=os.environ | GIT)


@pytest.fixture
def local(shared: MountedDrive, request: pytest.FixtureRequest) -> Path:
    """A new folder on the local disk."""
    folder = shared.folder / f"local-{abs(hash(request.node.name))}"
    folder.mkdir()
    return folder


def test_git_clone_commit_gc_fsck(place: Path, local: Path) -> None:
    library_part(local / "origin", 150)
    git(local / "origin", "init", "-q", "-b", "main")
    for number, name in enumerate(("json", "email", ".")):
        git(local / "origin", "add", name)
        git(local / "origin", "commit", "-q", "--allow-empty", "-m", f"commit {number}")
    git(place, "clone", "-q", "--no-local", local / "origin", place / "clone")
    for number in range(10):
        (place / "clone" / f"new {number}").write_text(f"{number}\n" * 1000)
        git(place / "clone", "add", "-A")
        git(place / "clone", "commit", "-q", "-m", f"mine {number}")
    git(place / "clone", "checkout", "-q", "-b", "side", "HEAD~5")
    git(place / "clone", "gc", "-q", "--prune=now")
    git(place / "clone", "fsck", "--full", "--strict")
    git(place / "clone", "checkout", "-q", "main")
    assert git(place / "clone", "status", "--porcelain") == ""
    assert git(place / "clone", "rev-list", "--count", "HEAD").strip() == "13"


def test_git_that_syncs_everything_outlives_the_mount(drive: MountedDrive) -> None:
    """With `core.fsync=all` what git said it did is there after a crash."""
    drive.mount()
    place = drive.mountpoint / "repository"
    library_part(place, 60)
    git(place, "init", "-q", "-b", "main")
    git(place, "config", "core.fsync", "all")
    git(place, "config", "core.fsyncMethod", "fsync")
    for number in range(3):
        (place / "new").write_text(f"{number}\n")
        git(place, "add", "-A")
        git(place, "commit", "-q", "-m", f"{number}")
    git(place, "repack", "-a", "-d", "-q")
    drive.kill()
    drive.remount()
    git(place, "fsck", "--full", "--strict")
    assert git(place, "status", "--porcelain") == ""
    assert git(place, "rev-list", "--count", "HEAD").strip() == "3"


@pytest.mark.parametrize("mode", ["wal", "delete", "truncate"])
def test_sqlite_with_a_second_process_reading(place: Path, mode: str) -> None:
    path = place / "database"
    with closing(sqlite3.connect(path)) as database:
        assert database.execute(f"pragma journal_mode={mode}").fetchone() == (mode,)
        database.execute("create table t (n integer, payload blob)")
        for batch in range(20):
            with database:
                rows = [(batch * 100 + number, os.urandom(500)) for number in range(100)]
                database.executemany("insert into t values (?, ?)", rows)
            if batch % 5 == 4:
                count = (batch + 1) * 100
                expected = f"{count} {count * (count - 1) // 2}"
                assert run(sys.executable, "-c", READER, path).strip() == expected
        with database:
            database.execute("delete from t where n % 3 = 0")
        database.execute("vacuum")
        assert database.execute("pragma integrity_check").fetchone() == ("ok",)
    assert run(sys.executable, "-c", READER, path).split()[0] == "1333"


def test_sqlite_processes_exclude_each_other(place: Path) -> None:
    path = place / "database"
    program = (
        "import sqlite3, sys\ndatabase = sqlite3.connect(sys.argv[1], timeout=60)\n"
        "for _ in range(50):\n    with database: database.execute('update t set n = n + 1')"
    )
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("create table t (n integer)")
        database.execute("insert into t values (0)")
    writers = [subprocess.Popen([sys.executable, "-c", program, path]) for _ in range(3)]
    assert [writer.wait(100) for writer in writers] == [0, 0, 0]
    assert run(sys.executable, "-c", READER, path).split() == ["1", "150"]


def test_tar_in_and_out_with_attributes(place: Path, local: Path) -> None:
    oddities(local / "tree")
    options = ("--xattrs", "--xattrs-include=*", "--sparse", "--numeric-owner")
    run("tar", "-C", local, *options, "-cf", place / "archive.tar", "tree")
    run("tar", "-C", place, *options, "-xpf", place / "archive.tar")
    assert differences(local / "tree", place / "tree") == ""
    run("tar", "-C", place, *options, "-cf", local / "again.tar", "tree")
    (local / "out").mkdir()
    run("tar", "-C", local / "out", *options, "-xpf", local / "again.tar")
    assert differences(local / "tree", local / "out" / "tree") == ""


def test_rsync_there_and_back(place: Path, local: Path) -> None:
    library_part(local / "tree" / "library", 120)
    oddities(local / "tree" / "odd")
    run("rsync", "-aHAX", f"{local}/tree/", place / "tree")
    (local / "tree" / "odd" / "file").write_bytes(b"changed")
    (local / "tree" / "odd" / "second name").unlink()
    run("rsync", "-aHAX", "--delete", "--inplace", f"{local}/tree/", place / "tree")
    assert differences(local / "tree", place / "tree") == ""
    run("rsync", "-aHAX", f"{place}/tree/", local / "back")
    assert differences(local / "tree", local / "back") == ""


def test_saving_as_editors_do(place: Path) -> None:
    path = place / "text"
    path.write_text("first\n")
    path.chmod(0o640)
    for number in range(20):
        backup, new = place / "text~", place / ".text.swp"
        with open(new, "w") as file:
            file.write(f"version {number}\n" * 100)
            file.flush()
            os.fsync(file.fileno())
        shutil.copymode(path, new)
        backup.unlink(missing_ok=True)
        os.link(path, backup)
        os.rename(new, path)
        assert path.read_text() == f"version {number}\n" * 100
    assert backup.read_text() == "version 18\n" * 100
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("backup", ["yes", "no", "auto"])
def test_vim(place: Path, backup: str) -> None:
    editor = shutil.which("vim") or shutil.which("vim.tiny")
    if editor is None:
        pytest.skip("vim is not installed")
    (place / "text").write_text("one\ntwo\n")
    command = f"set backup backupskip= backupcopy={backup}"
    run(editor, "-u", "NONE", "-es", "-c", command, "-c", "%s/two/three/", "-c", "wq", place / "text")
    assert (place / "text").read_text() == "one\nthree\n"
    assert (place / "text~").read_text() == "one\ntwo\n"


def test_mmap_tests_of_cpython(place: Path) -> None:
    if importlib.util.find_spec("test.test_mmap") is None:
        pytest.skip("this Python comes without its test folder")
    run(
        *(sys.executable, "-m", "test", "--tempdir", str(place), "test_mmap"),
        env=os.environ | {"TMPDIR": str(place)},
    )
